"""A cluster's API server: one request, one answer as plain data, or one of the exceptions of refusals.py."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from costopt.cluster.refusals import LoginRefused, Unreachable, refusal, root_of, unreachable
from costopt.hostile import parse_json
from costopt.refused import Refused

Plain = dict[str, Any]

JSON = "application/json"
APPLY_PATCH = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"

FIELD_MANAGER = "costopt-cli"
"""Field manager: the API server records under it which fields the command line has set."""

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
"""The API server gives up on such a request after the same time."""

MAX_ANSWER_BYTES = 2**30
"""A page of 500 jobs, each of at most 1.5 MiB, has less."""

PIECE_BYTES = 2**16
LONGEST_LINE_BYTES = 2**20
"""A longer line comes in pieces: a program that never ends a line must not fill the memory."""

BUSY_PAUSES_SECONDS = (1.0, 2.0, 4.0)
"""Pauses before repeating a request to a busy server (429)."""


class RawAnswer(Protocol):
    """An HTTP response."""

    status: int

    def read(self) -> bytes:
        """The whole body."""

    def stream(self, amount: int) -> Iterator[bytes]:
        """The body in pieces, as they arrive."""

    def close(self) -> None:
        """Read no more of it."""


Wire = Callable[[str, str, Mapping[str, str], bytes | None, tuple[float, float | None]], RawAnswer]
"""Method, path with query, headers, body, (connect, read) timeouts in seconds -> answer. Adds the login."""


class Cluster:
    """One cluster, as one user of it; made by `connect`."""

    def __init__(
        self,
        wire: Wire,
        *,
        context: str,
        server: str,
        namespace: str,
        last_words: Callable[[], str] = str,
        refused_login: Callable[[BaseException], BaseException | None] = lambda _: None,
    ) -> None:
        self._wire = wire
        self._last_words = last_words
        self._refused_login = refused_login
        self.context = context
        """The kubeconfig's context; empty in a pod."""
        self.server = server
        """Where the API server is."""
        self.namespace = namespace
        """Namespace of jobs whose manifest names none."""

    def __str__(self) -> str:
        return f"the cluster of context {self.context}" if self.context else "this pod's cluster"

    def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Plain | None = None,
        *,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Plain:
        """The answer's document."""
        headers = {"Accept": accept, "Content-Type": content_type}
        content = None if body is None else json.dumps(body).encode()
        with self._sentences():
            for pause in (*BUSY_PAUSES_SECONDS, None):
                answer = self._wire(method, _url(path, query), headers, content, (CONNECT_SECONDS, READ_SECONDS))
                text = answer.read()
                if answer.status != 429 or pause is None:
                    break
                time.sleep(pause)
        if not 200 <= answer.status < 300:
            raise self._refusal(answer.status, text)
        try:
            document = parse_json(text, max_bytes=MAX_ANSWER_BYTES)
        except ValueError:
            document = None
        if not isinstance(document, dict) or not isinstance(document.get("metadata"), dict):
            raise Unreachable(
                f"{self} at {self.server} does not answer as an API server does, but as a login page or a proxy may; "
                "log in, or check the kubeconfig"
            )
        return document

    def lines(self, path: str, query: Mapping[str, str], *, patiently: bool) -> Iterator[bytes]:
        """The lines of a text answer, as they arrive; `patiently`: without a read timeout."""
        with self._sentences():
            limits = (CONNECT_SECONDS, None if patiently else READ_SECONDS)
            answer = self._wire("GET", _url(path, query), {"Accept": "*/*"}, None, limits)
            if not 200 <= answer.status < 300:
                raise self._refusal(answer.status, answer.read())
            with contextlib.closing(answer):
                rest = b""
                for piece in answer.stream(PIECE_BYTES):
                    *whole, rest = (rest + piece).split(b"\n")
                    yield from whole
                    if len(rest) >= LONGEST_LINE_BYTES:
                        yield rest
                        rest = b""
                if rest:
                    yield rest

    def _refusal(self, code: int, body: bytes) -> Refused:
        refused = refusal(code, body, str(self))
        words = self._last_words()
        return LoginRefused(f"{refused} ({words})") if isinstance(refused, LoginRefused) and words else refused

    @contextlib.contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turn every error on the way into a sentence."""
        from urllib3.exceptions import HTTPError  # noqa: PLC0415 -- in memory since `connect`

        try:
            yield
        except (HTTPError, OSError) as error:
            raise unreachable(self._refused_login(root_of(error)) or error, str(self), self.server) from None
        except ValueError:  # its text quotes the header, and so the token
            raise LoginRefused(
                f"the login of {self} has characters that no token may have; mend it in the kubeconfig"
            ) from None


def _url(path: str, query: Mapping[str, str] | None) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def segment(name: str) -> str:
    """A name as a path segment."""
    return quote(name, safe="")
