"""A pod's own way to its API server: the address in its environment, and the files of its service account.

Shared by the operator and by the commands, in place of the official client's reader, which keeps a line break at the
token's end, fails a request when the file is unreadable for a moment, and writes the scheme in lower case.
Only the standard library. Not for the core: it reads files and a clock.
"""

import contextlib
import os
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path

FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its token, its namespace and the API server's certificate authority."""

HOST, PORT = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"
DEFAULT_PORT = "443"

FRESH_SECONDS = 1.0
"""How long what was read is taken for what stands there. The kubelet replaces a token long before its end, and the file
is in memory: read this often, the new token is in use at once also where the old one was revoked."""


class NoServiceAccount(Exception):
    """This process has no service account that can be used; the text says what is missing."""


class ServiceAccount:
    """The service account of this pod; its token and certificate authority are followed as the kubelet renews them."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._clock = clock
        self.server = _server(environment)
        """URL of the API server."""
        self.authority = folder / "ca.crt"
        """The certificate authority's file."""
        token = _read(folder / "token")
        if not token:
            raise NoServiceAccount(f"{folder / 'token'} must hold the service account's token")
        if not _read(self.authority):
            raise NoServiceAccount(f"{self.authority} must hold the API server's certificate authority")
        self._token = token
        self._token_at = self._authority_at = clock()
        self._authority_mark = _mark(self.authority)

    @property
    def authorization(self) -> str:
        """The header of a request: the token that stands in the file now, or the last one that did."""
        if self._clock() - self._token_at >= FRESH_SECONDS:
            self._token = _read(self._folder / "token") or self._token
            self._token_at = self._clock()
        return f"Bearer {self._token}"

    @property
    def namespace(self) -> str | None:
        """The pod's namespace; None if the file is not there."""
        return _read(self._folder / "namespace") or None

    def renew(self, context: ssl.SSLContext) -> None:
        """Have connections from now on also trust a certificate authority that has taken the old one's place."""
        if self._clock() - self._authority_at < FRESH_SECONDS:
            return
        self._authority_at = self._clock()
        mark = _mark(self.authority)
        if mark is None or mark == self._authority_mark:
            return
        with contextlib.suppress(OSError):  # half a file, or none: the next look finds it whole
            context.load_verify_locations(self.authority)
            self._authority_mark = mark


def find_service_account(environment: Mapping[str, str] = os.environ) -> ServiceAccount | None:
    """This pod's service account; None where there is none. Raises NoServiceAccount if it is broken."""
    if not environment.get(HOST) or not exists(FOLDER / "token"):
        return None
    return ServiceAccount(FOLDER, environment)


def exists(path: Path) -> bool:
    """Whether the file can be seen; False also where its folder may not be entered."""
    try:
        return path.exists()
    except OSError:
        return False


def _server(environment: Mapping[str, str]) -> str:
    host, port = environment.get(HOST, ""), environment.get(PORT) or DEFAULT_PORT
    if not host:
        raise NoServiceAccount(f"{HOST} must be the address of the API server")
    return f"https://[{host}]:{port}" if ":" in host and not host.startswith("[") else f"https://{host}:{port}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _mark(path: Path) -> tuple[int, int, int] | None:
    """What changes when the kubelet puts another file in its place."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
