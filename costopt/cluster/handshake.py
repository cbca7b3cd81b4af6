"""What a server thinks of the user's certificate.

It says so after the greeting (TLS 1.3), while the request is already on its way. The request then often fails first,
as a broken connection, and the reason is lost. So the greeting is repeated, and nothing is sent: the reason arrives.
"""

import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

LISTEN_SECONDS = 2.0
"""A server that has nothing against the certificate says nothing for as long."""

_CUT_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError, BrokenPipeError, ConnectionAbortedError)


def is_cut_off(error: BaseException) -> bool:
    """Whether the other side has closed the connection without a word."""
    return isinstance(error, _CUT_OFF)


def refused_greeting(server: str, context: ssl.SSLContext, name: str | None = None) -> ssl.SSLError | None:
    """Why the server at this URL refuses a greeting with the certificate of `context`; None: it does not, or is gone.

    Args:
        server: its URL.
        context: has the user's certificate and whom to trust.
        name: under which the server is to present itself, if it is not the URL's.
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
    """How a user greets: with this certificate, trusting only `authority` (None: the system's), or anyone."""
    context = ssl.create_default_context(cafile=authority)
    # As the kubernetes client has it: authorities of older clusters lack what the strict check wants.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if trusting:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(certificate, key)
    return context
