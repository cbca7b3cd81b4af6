"""The `.py` files of the standard library of the Python that trains, without packages that are installed beside it."""

import sysconfig
from pathlib import Path

from costopt.schema.data import DataSettings
from costopt_trainer.data.sources.text_files import TextFile, TextFiles, matching_files, take, unreadable

_NOT_THE_STANDARD_LIBRARY = frozenset({"site-packages", "dist-packages", "__pycache__"})


def standard_library(settings: DataSettings, _own_folder: Path | None = None) -> TextFiles:
    """The files to read, in order, up to the limit of the settings."""
    limits = settings.python_standard_library
    root = Path(sysconfig.get_paths()["stdlib"])
    found = (file for file in matching_files(root, "*.py", skip=_NOT_THE_STANDARD_LIBRARY) if _is_utf8(file))
    name = f"data.pythonStandardLibrary: {root}"
    return take(name, found, limits.max_bytes if limits else None, "must hold the .py files of the library")


def _is_utf8(file: TextFile) -> bool:
    """False for a file in another encoding; the standard library has a few, to test Python itself."""
    try:
        file.path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    except OSError as error:
        raise unreadable(str(file.path), error) from error
    return True
