"""Logging: one JSON object a line, with the job that is being looked at. No secret is ever logged."""

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime

from costopt_operator.decide.keys import Key

_KEY: ContextVar[Key | None] = ContextVar("key", default=None)


@contextlib.contextmanager
def about(key: Key) -> Iterator[None]:
    """Everything logged inside is about this job."""
    token = _KEY.set(key)
    try:
        yield
    finally:
        _KEY.reset(token)


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, and the job if one is being looked at."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        key = _KEY.get()
        if key is not None:
            line |= {"namespace": key[0], "job": key[1]}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class Text(logging.Formatter):
    """The same for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        key = _KEY.get()
        where = f"{key[0]}/{key[1]}: " if key else ""
        text = f"{record.levelname:<7} {where}{record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def set_up(level: str, form: str) -> None:
    """Log to standard error, as `form` ("json" or "text") says."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("kopf", "aiohttp.access", "asyncio", "kubernetes"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
