"""What went wrong behind a URL, in one sentence without the words of a library, which may hold a secret.

Unreachable     what cannot be reached just now: another attempt may help
patiently       try a few times, wait longer each time, and say so in the log
"""

import contextlib
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from costopt_trainer.errors import NotRetryable, Retryable
from costopt_trainer.phases import phase

Result = TypeVar("Result")

PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""Before each further try. Half of a pause is drawn by chance, so that ranks do not come back all at once."""
NO_TRY_AFTER_SECONDS = 120.0
"""No try begins later than this after the first: a library may try several times itself, and wait long for each."""

CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "s3a": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "abfs": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "abfss": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "hf": "HF_TOKEN",
}
"""Scheme -> the variables that its library reads."""

_NO_CREDENTIALS = {
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"),
    *("ProfileNotFound", "DefaultCredentialsError", "RefreshError", "ClientAuthenticationError"),
}
"""Classes of boto, Google's and Azure's libraries, by name, for none of them need be installed."""
_MISSING, _DENIED = (404, 410), (401, 403)
_MAY_PASS = (408, 409, 423, 425, 429)
"""Of 400 to 499; the others say that the request is wrong, which another try does not mend."""

_SEEN: Mapping[str, str] = {
    "gaierror": "its name is not known here (DNS)",
    "ClientConnectorDNSError": "its name is not known here (DNS)",
    "NameResolutionError": "its name is not known here (DNS)",
    "SSLCertVerificationError": "its certificate is not trusted here",
    "ServerDisconnectedError": "it hung up without an answer",
    "IncompleteReadError": "it hung up before all had come",
    "IncompleteRead": "it hung up before all had come",
    "ClientPayloadError": "it hung up before all had come",
    "TimeoutError": "it did not answer in time",
    "FSTimeoutError": "it did not answer in time",
    "ConnectTimeoutError": "it did not answer in time",
    "ReadTimeoutError": "it did not answer in time",
    "ConnectError": "no connection could be made",
    "ConnectTimeout": "it did not answer in time",
    "ReadTimeout": "it did not answer in time",
}
"""Classes of Python's, aiohttp's, urllib3's, requests' and boto's errors, by name -> what was seen."""


class Unreachable(Retryable):
    """A place that cannot be reached just now. The attempt fails, and the next may find it back."""

    def __init__(self, message: str) -> None:
        super().__init__("DataUnreachable", message)


def patiently(name: str, scheme: str, work: Callable[[], Result]) -> Result:
    """What `work` gives, tried again after trouble that may pass. `name` is the place in errors.

    Raises NotRetryable("InvalidData") if it is not there or may not be read, and Unreachable after the last try.
    """
    began, tries = time.monotonic(), len(PAUSES_SECONDS) + 1
    with contextlib.ExitStack() as waiting:
        for number, pause in enumerate((*PAUSES_SECONDS, None), start=1):
            try:
                return work()
            except (NotRetryable, Unreachable):
                raise
            except Exception as error:  # noqa: BLE001 - libraries of any kind, each with errors of its own
                lasting = _lasting(name, scheme, error)
                if lasting is not None:
                    raise lasting from None
                seen = _told(error)
            if pause is None or time.monotonic() - began > NO_TRY_AFTER_SECONDS:
                break
            if number == 1:
                pieces = waiting.enter_context(phase("ReachingData"))
            drawn = pause * random.uniform(0.5, 1)  # noqa: S311 - no secret
            print(
                f"costopt: {name} cannot be reached: {seen}; try {number + 1} of {tries} follows in {drawn:.1f} s",
                file=sys.stderr,
                flush=True,
            )
            time.sleep(drawn)
            pieces.done()
    times = "one try has" if number == 1 else f"{number} tries have"
    raise Unreachable(
        f"{name} must be reachable from where the job trains, but {times} failed (the last: {seen}); "
        "check that its name is right, and that the network lets the job's processes reach it"
    )


def _lasting(name: str, scheme: str, error: BaseException) -> NotRetryable | None:
    """The error to raise if no further try can help."""
    chain = list(_causes(error))
    statuses = [status for one in chain if (status := _status(one)) is not None]
    kinds = {kind.__name__ for one in chain for kind in type(one).__mro__}
    what_to_set = CREDENTIALS.get(scheme)
    hint = f": set {what_to_set} in the pod's environment (spec.pods.env, from a Secret)" if what_to_set else ""
    if kinds & _NO_CREDENTIALS:
        return NotRetryable("InvalidData", f"{name} must be read with credentials, but there are none that work{hint}")
    if any(isinstance(one, PermissionError) for one in chain) or any(status in _DENIED for status in statuses):
        return NotRetryable("InvalidData", f"{name} must be readable with the credentials there are, but is not{hint}")
    missing = any(status in _MISSING for status in statuses)
    # Libraries also say "not found" of a server that does not answer; what is behind it says more.
    if missing or all(isinstance(one, FileNotFoundError) for one in chain):
        return NotRetryable("InvalidData", f"{name} must exist, but does not")
    refused = next((status for status in statuses if 400 <= status < 500 and status not in _MAY_PASS), None)
    if refused is not None:
        return NotRetryable(
            "InvalidData",
            f"{name} must be a place that can be asked for files, but its server refuses the request (status "
            f"{refused}): check the URL, the bucket's region and the credentials",
        )
    return None


def _status(error: BaseException) -> int | None:
    """The status with which a server answered, as aiohttp, Google's, Azure's, requests' and boto's errors have it."""
    if "HttpProcessingError" in {kind.__name__ for kind in type(error).__mro__}:
        return None  # aiohttp's own, of an answer that it could not read

    def told() -> Iterator[object]:  # one by one, for aiohttp warns of those that it has had under another name
        yield from (getattr(error, word, None) for word in ("status", "status_code", "code"))
        response: Any = getattr(error, "response", None)
        yield getattr(response, "status_code", None)
        if isinstance(response, Mapping):
            yield response.get("ResponseMetadata", {}).get("HTTPStatusCode")

    return next((one for one in told() if isinstance(one, int) and 300 <= one < 600), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


def _told(error: BaseException) -> str:
    """What was seen, without the error's own words."""
    chain = list(_causes(error))
    status = next((found for one in chain if (found := _status(one)) is not None), None)
    if status is not None:
        return f"it answers with status {status}"
    for one in reversed(chain):
        seen = next((_SEEN[kind.__name__] for kind in type(one).__mro__ if kind.__name__ in _SEEN), None)
        if seen is not None:
            return seen
    number = next((one.errno for one in chain if isinstance(one, OSError) and (one.errno or 0) > 0), None)
    return os.strerror(number) if number else type(chain[-1]).__name__
