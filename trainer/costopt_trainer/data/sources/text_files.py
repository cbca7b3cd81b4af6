"""Text files: one, or those of a folder that match, in which order and how much of them.

    text_files        settings -> the files to read
    matching_files    the files of a folder whose name matches, in reading order
    take              as many of them as a limit allows

Files come in the order of a hash of their relative path, so that the held-out end of the text is not "everything that
begins with z". Every error is the user's to mend and is a NotRetryable("InvalidData") of one sentence.
"""

import errno
import fnmatch
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from costopt.schema.data import DataSettings
from costopt_trainer.data.documents import Document, continues_character
from costopt_trainer.data.storages import is_storage, refuse_what_jobs_write, writing_job
from costopt_trainer.errors import NotRetryable

PIECE_BYTES = 1 << 20
"""Bytes read at once: bounds memory, whatever the size of a file."""


@dataclass(frozen=True)
class TextFile:
    """A file, or its beginning."""

    path: Path
    num_bytes: int
    """Bytes to read from its start."""


@dataclass(frozen=True)
class TextFiles:
    """A source of documents: each file is one."""

    name: str
    """How errors call it: the setting and its value."""
    files: tuple[TextFile, ...]
    """In reading order; at least one, none empty."""

    def documents(self) -> Iterator[Document]:
        """The files; reading one raises NotRetryable that names it, and the byte offset of what is not UTF-8."""
        return (Document(str(file.path), partial(_read, file)) for file in self.files)


def text_files(settings: DataSettings, own_folder: Path | None = None) -> TextFiles:
    """The files that settings of type Text ask for.

    `own_folder` is the job's own storage, which changes while it trains. What jobs write is no data, neither there
    nor in the storage of another job.
    """
    if settings.text is None:
        raise ValueError("data of type Text must have text settings")
    path = Path(settings.text.path)
    name = f"data.text.path: {path}"
    status = _stat(path, name)
    refuse_what_jobs_write(path, name, own_folder)
    if stat.S_ISREG(status.st_mode):
        return take(name, [TextFile(path, status.st_size)], settings.text.max_bytes, "must hold text, but is empty")
    if stat.S_ISDIR(status.st_mode):
        wanted = f"must hold files that match include {settings.text.include!r} and are not empty, but has none"
        return take(
            name, matching_files(path, settings.text.include, own_folder=own_folder), settings.text.max_bytes, wanted
        )
    raise NotRetryable("InvalidData", f"{name} must be a text file or a folder, not a device, pipe or socket")


def _read(file: TextFile) -> Iterator[bytes]:
    try:
        yield from _file_pieces(file)
    except OSError as error:
        raise unreadable(str(file.path), error) from error


def _file_pieces(file: TextFile) -> Iterator[bytes]:
    left, offset, rest = file.num_bytes, 0, b""
    with file.path.open("rb") as stream:
        while block := stream.read(min(left, PIECE_BYTES)):
            left -= len(block)
            piece, rest = _cut_whole_characters(rest + block, file.path, offset, at_end=left == 0)
            offset += len(piece)
            if piece:
                yield piece


def _cut_whole_characters(block: bytes, path: Path, offset: int, *, at_end: bool) -> tuple[bytes, bytes]:
    """`block` without a last character of which a part is still to come, and that part."""
    try:
        block.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and not at_end:
            return block[: error.start], block[error.start :]
        raise NotRetryable(
            "InvalidData",
            f"{path} must be UTF-8 text, but the byte at offset {offset + error.start} "
            f"(0x{block[error.start]:02x}) is not part of a UTF-8 character",
        ) from error
    return block, b""


def take(name: str, found: Iterable[TextFile], max_bytes: int | None, wanted: str) -> TextFiles:
    """Whole files until the limit; if the first alone exceeds it, its beginning."""
    files: list[TextFile] = []
    total = 0
    for file in found:
        if file.num_bytes == 0:
            continue
        if max_bytes is not None and total + file.num_bytes > max_bytes:
            if not files:
                files.append(_beginning(file, max_bytes))
            break
        files.append(file)
        total += file.num_bytes
    if not files or files[0].num_bytes == 0:
        raise NotRetryable("InvalidData", f"{name} {wanted}")
    return TextFiles(name, tuple(files))


def _beginning(file: TextFile, max_bytes: int) -> TextFile:
    """At most `max_bytes` of the file, cut between characters."""
    try:
        with file.path.open("rb") as stream:
            stream.seek(max(0, max_bytes - 3))
            around = stream.read(min(max_bytes, 3) + 1)
    except OSError as error:
        raise unreadable(str(file.path), error) from error
    while len(around) > 1 and continues_character(around[-1]):
        around, max_bytes = around[:-1], max_bytes - 1
    return TextFile(file.path, max_bytes)


def matching_files(
    root: Path, pattern: str, skip: frozenset[str] = frozenset(), own_folder: Path | None = None
) -> Iterator[TextFile]:
    """Files below `root` whose name matches, in reading order, sizes looked up as they are asked for.

    Hidden files and folders are passed over (a mounted ConfigMap keeps second copies in one), unless the pattern itself
    begins with a dot.
    """
    found = [
        path
        for path in _walk(root, skip, own_folder)
        if fnmatch.fnmatchcase(path.name, pattern) and (not path.name.startswith(".") or pattern.startswith("."))
    ]
    found.sort(key=lambda path: hashlib.sha256(os.fsencode(path.relative_to(root).as_posix())).digest())
    for path in found:
        status = _stat(path, str(path))
        if stat.S_ISREG(status.st_mode):
            yield TextFile(path, status.st_size)


def _walk(root: Path, skip: frozenset[str], own_folder: Path | None) -> Iterator[Path]:
    """Everything below `root` that is not a folder. Links are followed, each real folder is visited once.

    Storages of jobs are passed over, the job's own and those of others, and links to what a job writes.
    """
    visited = set() if own_folder is None else {os.path.realpath(own_folder)}
    pending = [root]
    while pending:
        folder = pending.pop()
        real = os.path.realpath(folder)
        if real in visited:
            continue
        visited.add(real)
        if is_storage(folder):
            continue
        try:
            entries = sorted(folder.iterdir())
            entries = [entry for entry in entries if not (entry.is_symlink() and writing_job(entry, own_folder))]
            folders = [entry for entry in entries if entry.is_dir()]
        except OSError as error:
            raise unreadable(str(folder), error) from error
        yield from sorted(set(entries) - set(folders))
        pending += [entry for entry in folders if not entry.name.startswith(".") and entry.name not in skip]


def _stat(path: Path, name: str) -> os.stat_result:
    try:
        return path.stat()
    except (OSError, ValueError) as error:
        raise unreadable(name, error) from error


def unreadable(name: str, error: OSError | ValueError) -> NotRetryable:
    """What to raise if opening or reading `name` has failed: it is not there, or may not be read."""
    if isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.ENOTDIR):
        why = error.strerror or type(error).__name__
        return NotRetryable("InvalidData", f"{name} must be readable by the user that trains, but reading fails: {why}")
    return NotRetryable(
        "InvalidData", f"{name} must exist on the machine (or in the pod) that trains, but does not{_looked_in(name)}"
    )


def _looked_in(name: str) -> str:
    """Where a relative path was looked for: a job may be resumed from another folder."""
    return "" if name.rpartition(": ")[2].startswith("/") else f"; a relative path begins at {Path.cwd()}"
