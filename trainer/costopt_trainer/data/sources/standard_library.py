"""The `.py` files of the standard library of the Python that trains, without packages that are installed beside it."""

import sysconfig
from pathlib import Path

from costopt.schema.data import SourceSettings
from costopt_trainer.data.files.found import DataFile
from costopt_trainer.data.files.local import matching_files, named_like, status_of, unreadable
from costopt_trainer.data.sources.text_files import TextFile, TextFiles, take

_NOT_THE_STANDARD_LIBRARY = frozenset({"site-packages", "dist-packages", "__pycache__"})


def standard_library(
    settings: SourceSettings, _own_folder: Path | None = None, _cache_dir: Path | None = None
) -> TextFiles:
    """The files to read, in order, up to the limit of the settings."""
    limits = settings.python_standard_library
    root = Path(sysconfig.get_paths()["stdlib"])
    found = list(matching_files(root, named_like("*.py"), skip=_NOT_THE_STANDARD_LIBRARY))
    name = f"data.pythonStandardLibrary: {root}"
    files = (_text_file(path) if _is_utf8(path) else None for path in found)
    most = limits.max_bytes if limits else None
    return take(name, files, most, "must hold the .py files of the library", num_files=len(found))


def _text_file(path: Path) -> TextFile:
    num_bytes = status_of(path, str(path)).st_size
    return TextFile(DataFile(path, str(path), path.name, num_bytes), num_bytes)


def _is_utf8(path: Path) -> bool:
    """False for a file in another encoding; the standard library has a few, to test Python itself."""
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    except OSError as error:
        raise unreadable(str(path), error) from error
    return True
