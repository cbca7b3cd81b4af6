"""What others have written, made whole: an artifact, and checkpoints that a kill may have cut off.

publish_folder     a copy of a folder under its final name, whole or not at all
publish_path       a file or folder from its temporary name to its final one
mark_complete      say in a checkpoint's folder that all of it is there
damage_of          what is missing in a folder, in words
newest_complete    the newest checkpoint that is whole, and what is wrong with newer ones
"""

import json
import os
import re
import shutil
from pathlib import Path

from costopt.files import sync_folder, write_atomically
from costopt.hostile import Hostile, open_file, read_json
from costopt_trainer.storage.folders import remove, replace_folder, storage_folder, sync_tree
from costopt_trainer.storage.manifests import Describe

MARK_FILE = "costopt-complete.json"
"""Written last: the size of every other file. A hash of gigabytes would cost more than it finds."""


def publish_folder(folder: Path, target: Path, describe: Describe) -> None:
    """Copy `folder`, links as what they lead to, to `target`, in place of an older one; `describe` writes its manifest.

    Raises ValueError if `folder` is not a folder with something in it, apart from `target`; OSError if it cannot be
    copied.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        raise ValueError(f"the artifact must be a folder with the trained model in it, but {folder} is none")
    source, parent = folder.resolve(), storage_folder(target.parent).resolve()
    if source.is_relative_to(parent) or parent.is_relative_to(source):
        raise ValueError(f"the artifact is copied to {target.parent}: it must be saved neither in there nor above it")
    partial = target.with_name(f".{target.name}.partial")
    remove(partial)
    shutil.copytree(source, partial)
    try:
        describe(partial, {})
    except Hostile as error:
        raise ValueError(f"the artifact {folder} {error}") from error
    replace_folder(partial, target)


def publish_path(partial: Path, target: Path) -> None:
    """Give `partial`, a finished file or folder beside `target`, its name, and flush it to disk."""
    if partial.is_dir():
        replace_folder(partial, target)
        return
    with open_file(partial) as file:
        os.fsync(file.fileno())
    partial.replace(target)
    sync_folder(target.parent)


def mark_complete(folder: Path) -> None:
    """Flush a checkpoint to disk and list its files in its mark. Raises OSError, and Hostile for a link in it."""
    (folder / MARK_FILE).unlink(missing_ok=True)
    sync_tree(folder)
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    write_atomically(folder / MARK_FILE, json.dumps({"files": sizes}, indent=1).encode())


def damage_of(folder: Path) -> str | None:
    """What is wrong with a checkpoint's folder; None: it is as it was marked."""
    try:
        sizes = read_json(folder / MARK_FILE)["files"]
        for name, size in sizes.items():
            if ".." in Path(name).parts or Path(name).is_absolute():
                return f"its {MARK_FILE} names {name!r}"
            if (folder / name).stat().st_size != size:
                return f"{name} has another size than when it was saved"
    except FileNotFoundError as error:
        lost = Path(str(error.filename)).name
        return "it was not saved to its end" if lost == MARK_FILE else f"{lost} is missing"
    except (OSError, Hostile, AttributeError, KeyError, TypeError) as error:
        return f"its {MARK_FILE} cannot be read ({error})"
    return None


def newest_complete(parent: Path, prefix: str) -> tuple[tuple[int, Path] | None, list[str]]:
    """Step and folder of the newest whole checkpoint among `<prefix><step>` in `parent`; and, in words, newer ones
    that are not."""
    named = re.compile(re.escape(prefix) + r"([0-9]{1,15})")
    found = [(int(match[1]), path) for path in _children(parent) if (match := named.fullmatch(path.name))]
    passed_over: list[str] = []
    for step, path in sorted(found, reverse=True):
        damage = damage_of(path)
        if damage is None:
            return (step, path), passed_over
        passed_over.append(f"{path.name}: {damage}")
    return None, passed_over


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
