"""Why a server refuses the user's certificate.

It says so after the handshake (TLS 1.3), while the request is already on its way. The request then often fails first,
as a broken connection, and the reason is lost. So the handshake is repeated without a request: the reason arrives.
"""

import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

LISTEN_SECONDS = 2.0
"""A server that accepts the certificate stays silent for this long."""

_CUT_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError, BrokenPipeError, ConnectionAbortedError)


def is_cut_off(error: BaseException) -> bool:
    """Whether the other side closed the connection without a reason."""
    return isinstance(error, _CUT_OFF)


def refused_greeting(server: str, context: ssl.SSLContext, name: str | None = None) -> ssl.SSLError | None:
    """Why the server at this URL refuses the certificate of `context` in a handshake; None: it does not, or is gone.

    Args:
        server: its URL.
        context: has the user's certificate and whom to trust.
        name: expected in the server's certificate, if it is not the URL's.
    """
    address = urlsplit(server)
    host = address.hostname or ""
    try:
        with (
            socket.create_connection((host, address.port or 443), timeout=LISTEN_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=name or host) as secure,
        ):
            secure.recv(1)
    except ssl.SSLError as error:
        return None if is_cut_off(error) else error
    except OSError:
        pass
    return None


def user_context(authority: Path | None, certificate: Path, key: Path | None, *, trusting: bool) -> ssl.SSLContext:
    """A user's TLS context: this certificate, trusting only `authority` (None: the system's), or anyone."""
    context = ssl.create_default_context(cafile=authority)
    # As in the kubernetes client: CAs of older clusters do not pass the strict check.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if trusting:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(certificate, key)
    return context
