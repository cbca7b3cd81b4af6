"""How long the library of a scheme waits for its server, and how often it tries itself before it says so.

client_options     what fsspec is given for a scheme

Their own limits are minutes, or forever: aiohttp ends a whole download after five minutes however well it goes, and
boto tries five times where s3fs has tried five times already. What the user has configured for fsspec goes before ours.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from costopt_trainer.data.files.extra import library

CONNECT_SECONDS = 15
"""Until a server has taken the connection."""
SILENT_SECONDS = 60
"""Without a byte from it."""


def client_options(scheme: str, name: str) -> dict[str, Any]:
    """Keywords for the file system of that scheme; none for others. `name` is the place in errors.

    Its library is to keep quiet from now on, unless the user has said how much it may tell: what fails is told by us.
    """
    for talkative in _TALKATIVE.get(scheme, ()):
        logger = logging.getLogger(talkative)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)
    make = _OPTIONS.get(scheme)
    if make is None:
        return {}
    configured = library("fsspec.config", name).conf.get(scheme, {})
    return {
        option: {**ours, **configured.get(option, {})} if isinstance(ours, Mapping) else configured.get(option, ours)
        for option, ours in make(name).items()
    }


def _waits(name: str) -> Any:
    return library("aiohttp", name).ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)


def _of_http(name: str) -> dict[str, Any]:
    return {"client_kwargs": {"timeout": _waits(name)}}


def _of_s3(_name: str) -> dict[str, Any]:
    return {"config_kwargs": {"connect_timeout": CONNECT_SECONDS, "retries": {"max_attempts": 0}}}


def _of_google(name: str) -> dict[str, Any]:
    return {"requests_timeout": _waits(name)}


_TALKATIVE = dict.fromkeys(("gs", "gcs"), ("gcsfs", "google.auth"))
"""Loggers that tell each failed try, some with a traceback."""

_OPTIONS: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "http": _of_http,
    "https": _of_http,
    "s3": _of_s3,
    "s3a": _of_s3,
    "gs": _of_google,
    "gcs": _of_google,
}
