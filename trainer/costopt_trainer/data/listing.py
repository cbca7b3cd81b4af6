"""The files of a text, kept beside its tokens, so that a refusal of another text can name what differs.

keep          store the files of a text under its key; keep_together: those of several
differences   two keys -> the files that are new, gone or changed, in words
"""

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from costopt.files import write_atomically
from costopt.hostile import read_json

MOST_FILES = 20_000
"""A text of more files gets no listing: it would be larger than its reader allows."""
NAMED = 5
"""Files named in one sentence."""
_KEY = re.compile("[0-9a-f]{32}")


def keep(cache_dir: Path, key: str, files: Mapping[str, str]) -> None:
    """Store the files, path -> checksum, unless already done. A full disk is no reason to fail."""
    path = _path(cache_dir, key)
    if len(files) <= MOST_FILES:
        with contextlib.suppress(OSError):
            if not path.exists():
                write_atomically(path, json.dumps(files, sort_keys=True).encode("utf-8", "replace"))


def keep_together(cache_dir: Path, key: str, keys: Iterable[str]) -> None:
    """Store the files of several texts, which have listings of their own, under one key, too."""
    files: dict[str, str] = {}
    for each in keys:
        files |= _kept(cache_dir, each) or {}
    keep(cache_dir, key, files)


def differences(cache_dir: Path, key_before: str, key_now: str) -> str:
    """Such as "a.txt is new, b.txt has changed and 3 more"; empty if unknown."""
    before, now = _kept(cache_dir, key_before), _kept(cache_dir, key_now)
    if before is None or now is None:
        return ""
    words = [f"{name} is new" for name in sorted(now.keys() - before.keys())]
    words += [f"{name} is gone" for name in sorted(before.keys() - now.keys())]
    words += [f"{name} has changed" for name in sorted(now.keys() & before.keys()) if now[name] != before[name]]
    more = f" and {len(words) - NAMED} more" if len(words) > NAMED else ""
    return ", ".join(words[:NAMED]) + more


def _path(cache_dir: Path, key: str) -> Path:
    return cache_dir / f"{key[:32]}.files.json"


def _kept(cache_dir: Path, key: str) -> dict[str, str] | None:
    if _KEY.match(key) is None:  # a checkpoint may hold anything
        return None
    try:
        files = read_json(_path(cache_dir, key))
    except (OSError, ValueError):
        return None
    if not isinstance(files, dict) or not all(isinstance(sum_, str) for sum_ in files.values()):
        return None
    return {_shown(name): sum_ for name, sum_ in files.items()}


def _shown(name: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in name[:200])
