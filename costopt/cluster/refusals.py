"""What the API server or the network said -> one sentence for the user. No sentence holds a token."""

import re
import socket
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from costopt.cluster.troubles import (
    OUR_CERTIFICATE,
    certificate_sentence,
    is_page,
    sentence_of,
    without_addresses,
)
from costopt.hostile import parse_json
from costopt.refused import Refused

INSTALL = (
    "install the chart: helm install costopt charts/costopt --namespace costopt-system --create-namespace "
    "(or only the resources: costopt crd | kubectl apply --server-side -f -)"
)

MAX_TEXT = 2000
"""Characters of the server's own words that are repeated."""

_BEFORE_RULE = re.compile(r'^Invalid value: "(object|array)": ')

_UNUSABLE_CERTIFICATE = ("[SSL] PEM lib", "KEY_VALUES_MISMATCH", "NO_START_LINE", "[X509")
"""What OpenSSL says about a client certificate or its key before it connects."""

_LONG_WORD = re.compile(r"[A-Za-z0-9+/_=.~-]{80,}")


class Unreachable(Refused):
    """No answer came, or not from the API server; asking again may help."""


class Expired(Unreachable):
    """A list has become too old to continue (410)."""


class LoginRefused(Refused):
    """The API server does not know who asks (401)."""


class Untrusted(Refused):
    """The server cannot prove that it is the cluster's; asking again does not help."""


class Forbidden(Refused):
    """This user may not do this (403)."""


class NotThere(Refused):
    """404, with the missing kind and name, both empty if the server does not know the resource."""

    def __init__(self, text: str, kind: str = "", name: str = "") -> None:
        super().__init__(text)
        self.kind = kind
        self.name = name


@dataclass(frozen=True)
class Cause:
    """One thing the API server found wrong with a document."""

    field: str
    """As the server names it: spec.compress[0].name. Empty: the whole document."""
    sentence: str
    """What the server says."""


class Conflict(Refused):
    """409: the fields of `causes` were set by others, or something has just changed."""

    def __init__(self, text: str, causes: list[Cause]) -> None:
        super().__init__(text)
        self.causes = causes


class Invalid(Refused):
    """The document was refused (422, or 400)."""

    def __init__(self, text: str, causes: list[Cause]) -> None:
        super().__init__(text)
        self.causes = causes


class NoLog(Invalid):
    """There is no log to read: the container has not started, or its log was removed."""


def refusal(code: int, body: bytes, cluster: str) -> Refused:
    """The exception for an answer that is not a success."""
    status = _status_of(body)
    heard = _words(status, body)
    said = without_addresses(heard)
    details = status.get("details")
    details = details if isinstance(details, dict) else {}
    causes = [_cause(entry) for entry in details.get("causes") or [] if isinstance(entry, dict)]
    known = None if code in (401, 403) or (code == 404 and details.get("name")) else sentence_of(code, heard)
    if known is not None and code in (400, 404):
        return NoLog(f"{cluster} {known}", [])
    if known is not None:
        return (Expired if code == 410 else Unreachable)(f"{cluster} {known}")
    match code:
        case 401:
            return LoginRefused(
                f"{cluster} does not accept your login, which may have expired; log in again as the cluster's "
                "provider says, then repeat the command"
            )
        case 403:
            return Forbidden(f"{cluster} does not allow this: {said}")
        case 404 if details.get("name"):
            return NotThere(f"{cluster} answered: {said}", str(details.get("kind", "")), str(details["name"]))
        case 404:
            return NotThere(f"{cluster} does not know CostOptJob; {INSTALL}")
        case 409:
            return Conflict(f"{cluster} answered: {said}; it has just changed, so repeat the command", causes)
        case 400 | 422:
            return Invalid(f"{cluster} refused it: {said}", causes)
        case _:
            return Unreachable(f"{cluster} has failed at it (code {code}: {said}); try again")


def unreachable(error: BaseException, cluster: str, server: str) -> Refused:
    """The exception for a request that got no answer."""
    if any(mark in str(error) for mark in _UNUSABLE_CERTIFICATE):
        return LoginRefused(
            f"your certificate or key for {cluster}, or its authority, cannot be read; mend the kubeconfig"
        )
    for link in _chain(error):
        if isinstance(link, ssl.SSLCertVerificationError):
            host = urlsplit(server).hostname or server
            why = certificate_sentence(one_line(str(link.verify_message or "it cannot be verified")), host)
            return Untrusted(f"{cluster} is not to be trusted: the certificate of the server {why}")
        if isinstance(link, ssl.SSLError) and re.search(OUR_CERTIFICATE, str(link.reason)):
            return LoginRefused(
                f"{cluster} does not accept your certificate; log in again as the cluster's provider says, then "
                "repeat the command"
            )
    return Unreachable(f"{cluster} cannot be reached at {server} ({_why(error)}); check that it runs, and the network")


def one_line(text: str) -> str:
    """The words of the server or a program on one line; possible tokens are left out."""
    return _LONG_WORD.sub("...", " ".join(text.split()))[:MAX_TEXT]


def _words(status: dict[str, Any], body: bytes) -> str:
    """What was said; repeat it only without addresses."""
    if is_page(body):
        return "a page for a browser"
    return one_line(str(status.get("message") or body.decode(errors="replace"))) or "nothing"


CUT_OFF = "the connection was cut in the middle of the answer"
EXCEPTIONS = {
    "IncompleteRead": CUT_OFF,
    "InvalidChunkLength": CUT_OFF,
    "ProtocolError": CUT_OFF,
    "RemoteDisconnected": "the connection was closed without an answer",
    "BadStatusLine": "what answers does not speak HTTP",
    "LineTooLong": "what answers does not speak HTTP",
    "DecodeError": "its answer cannot be decoded",
    "ProxyError": "the proxy does not let the request through",
    "LocationParseError": "its address is none",
    "NameResolutionError": "its name is not known",
}
"""What the network's exceptions mean."""


def _chain(error: BaseException) -> list[BaseException]:
    """The exception and what led to it, the first cause last."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def root_of(error: BaseException) -> BaseException:
    """The first cause."""
    return _chain(error)[-1]


def _why(error: BaseException) -> str:
    """The most telling of the exceptions that led to this one."""
    chain = _chain(error)
    for one in reversed(chain):
        if isinstance(one, TimeoutError) or "Timeout" in type(one).__name__:
            return "no answer in time"
        if isinstance(one, ssl.SSLError):
            return f"no secure connection could be made: {one.reason or 'it was closed at once'}"
        if isinstance(one, socket.gaierror):
            return EXCEPTIONS["NameResolutionError"]
        if isinstance(one, OSError) and one.strerror:
            return one.strerror
    # The exception's own text may quote the request, and with it its headers.
    return next(
        (EXCEPTIONS[type(one).__name__] for one in reversed(chain) if type(one).__name__ in EXCEPTIONS), CUT_OFF
    )


def _status_of(body: bytes) -> dict[str, Any]:
    try:
        status = parse_json(body)
    except ValueError:
        return {}
    return status if isinstance(status, dict) and status.get("kind") == "Status" else {}


def _cause(entry: dict[str, Any]) -> Cause:
    field = str(entry.get("field", ""))
    return Cause("" if field == "<nil>" else field, one_line(_as_here(str(entry.get("message", "")))))


def _as_here(message: str) -> str:
    """The sentence as `costopt validate` gives it: a rule's, without the server's prefix."""
    rule = _BEFORE_RULE.sub("", message)
    return message if " in body " in rule else rule
