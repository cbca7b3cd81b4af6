"""What settings name -> files on this machine, in reading order.

DataFile      a file of data, as it lies here
find_files    places (files, folders, patterns, URLs) -> files
one_file      one place that is one file
"""

import glob
import stat
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from costopt_trainer.data.files.local import Wanted, globbed, matching_files, reading_order, status_of, unreadable
from costopt_trainer.data.files.packed import is_damage, packing_of, unpacked, unpacked_name
from costopt_trainer.data.files.places import is_remote, local_path, shown
from costopt_trainer.data.storages import refuse_what_jobs_write
from costopt_trainer.errors import NotRetryable


@dataclass(frozen=True)
class DataFile:
    """A file of data."""

    path: Path
    """Where it lies on this machine: of a URL, its copy."""
    name: str
    """What messages call it: the path as the settings have it, or the URL without a query."""
    relative: str
    """Its path below what the settings name, with `/`."""
    num_bytes: int
    """As it lies here, packed or not."""
    is_named: bool = False
    """Whether the settings name the file itself, and not a folder or pattern."""

    @property
    def packing(self) -> str | None:
        """How it is packed; None if it is not."""
        return packing_of(self.relative)

    @property
    def base(self) -> str:
        """The last part of its path, without what says that it is packed."""
        return unpacked_name(self.relative.rpartition("/")[2])

    @property
    def folder(self) -> str:
        """The name without its last part."""
        return self.name.rpartition("/")[0]

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """A stream of what is in it. Raises NotRetryable("InvalidData") also while it is read."""
        try:
            with unpacked(self.path, self.packing, self.name) as stream:
                yield stream
        except (OSError, EOFError, zlib.error) as error:
            if self.packing is None and is_damage(error):  # what a library says of the content, for its caller
                raise
            raise self.unreadable(error) from error

    def unreadable(self, error: Exception) -> NotRetryable:
        """What to raise if reading it has failed."""
        if self.packing is not None and is_damage(error):
            return NotRetryable(
                "InvalidData", f"{self.name} must be a whole {self.packing} file, but is cut short or damaged"
            )
        return unreadable(self.name, error if isinstance(error, OSError) else OSError(0, type(error).__name__))


def find_files(
    setting: str,
    places: Sequence[str],
    wanted: Wanted,
    *,
    own_folder: Path | None = None,
    cache_dir: Path | None = None,
) -> list[DataFile]:
    """The files that `places` name, in their order; of a folder or pattern in the order of their hashed paths.

    `setting` is what `places` stand under, such as `data.text.path`. `wanted` chooses among the files of a folder; what
    is named itself is always taken. `own_folder` is the job's storage: what it writes there is no data. What lies
    behind a URL is copied below `cache_dir`.
    """
    files: dict[str, DataFile] = {}
    names: Counter[str] = Counter()
    for place in places:
        if is_remote(place):
            from costopt_trainer.data.files.remote import fetch  # noqa: PLC0415 - only who has URLs needs it

            found = fetch(place, setting, wanted, cache_dir)
        else:
            found = _on_this_machine(place, f"{setting}: {place}", wanted, own_folder)
        for file in found:
            if str(file.path) in files:
                continue
            names[file.name] += 1
            # Two URLs may differ in what is not told of them, yet each file must have a name of its own.
            also = f" ({names[file.name]})" if names[file.name] > 1 else ""
            files[str(file.path)] = replace(file, name=file.name + also)
    return list(files.values())


def one_file(setting: str, place: str, kind: str, own_folder: Path | None, cache_dir: Path | None) -> DataFile:
    """The file at `place`, which must be one; `kind` is what it must be, such as "an .npz file"."""
    name = f"{setting}: {shown(place)}"
    if not is_remote(place):
        status_of(Path(local_path(place)), name)
        if not Path(local_path(place)).is_file():
            refuse_what_jobs_write(Path(local_path(place)), name, own_folder)
            raise NotRetryable("InvalidData", f"{name} must be {kind}, not a folder or device")
    files = find_files(setting, [place], lambda _name: True, own_folder=own_folder, cache_dir=cache_dir)
    if len(files) != 1 or not files[0].is_named:
        raise NotRetryable("InvalidData", f"{name} must be {kind}, not a folder")
    return files[0]


def _on_this_machine(place: str, name: str, wanted: Wanted, own_folder: Path | None) -> Iterator[DataFile]:
    text = local_path(place)
    path = Path(text)
    if glob.has_magic(text) and not path.exists():
        root, hits = globbed(text, own_folder)
        files = [_data_file(file, file.relative_to(root).as_posix()) for file in _hits(hits, wanted, own_folder)]
        if not files:
            raise NotRetryable(
                "InvalidData", f"{name} must match files on the machine (or in the pod) that trains, but matches none"
            )
        yield from sorted(files, key=lambda file: reading_order(file.relative))
        return
    mode = status_of(path, name).st_mode
    refuse_what_jobs_write(path, name, own_folder)
    if stat.S_ISREG(mode):
        yield replace(_data_file(path, path.name), is_named=True)
    elif stat.S_ISDIR(mode):
        for file in matching_files(path, wanted, own_folder=own_folder):
            yield _data_file(file, file.relative_to(path).as_posix())
    else:
        raise NotRetryable("InvalidData", f"{name} must be a file or a folder, not a device, pipe or socket")


def _hits(hits: Sequence[Path], wanted: Wanted, own_folder: Path | None) -> Iterable[Path]:
    """The plain files among `hits`, and those in the folders among them; each once."""
    found: dict[Path, None] = {}
    for hit in hits:
        if hit.is_dir():
            found |= dict.fromkeys(matching_files(hit, wanted, own_folder=own_folder))
        elif stat.S_ISREG(status_of(hit, str(hit)).st_mode):
            found[hit] = None
    return found


def _data_file(path: Path, relative: str) -> DataFile:
    return DataFile(path, str(path), relative, status_of(path, str(path)).st_size)
