"""A user for a process that has none: a container's user id often has no entry in passwd, and no home.

Libraries ask for both, some while they are imported, and end in a KeyError or a RuntimeError.
Only the standard library.
"""

import os
from collections.abc import Mapping
from pathlib import Path

USER = "costopt"
NAME_VARIABLES = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""Where Python looks for a user's name before it asks passwd."""


def missing(environment: Mapping[str, str], home: str) -> dict[str, str]:
    """The variables that name a user and a home, where neither the environment nor passwd does.

    A home of "/" is what a container runtime says when it knows none.
    """
    found: dict[str, str] = {}
    if not any(environment.get(name) for name in NAME_VARIABLES) and not _has_name():
        found |= {"USER": USER, "LOGNAME": USER}
    if environment.get("HOME", "") in ("", "/") and not _has_home():
        found["HOME"] = home
    return found


def stand_in(home: str = "/") -> None:
    """Give this process a name and a home if it lacks them."""
    os.environ.update(missing(os.environ, home))


def _has_name() -> bool:
    import pwd  # noqa: PLC0415 -- not everywhere

    try:
        return bool(pwd.getpwuid(os.getuid()).pw_name)
    except KeyError:
        return False


def _has_home() -> bool:
    import pwd  # noqa: PLC0415 -- not everywhere

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir).is_dir()
    except (KeyError, OSError):
        return False
