"""Labelled samples in one `.npz` file: plain arrays, read with pickle refused.

load_arrays        the file's arrays
checked_labels     one class for each sample
split_shuffled     which samples are held out
"""

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from costopt_trainer.data.files.found import one_file
from costopt_trainer.data.files.local import unreadable
from costopt_trainer.data.files.places import shown
from costopt_trainer.data.sampler import sample_indices
from costopt_trainer.errors import NotRetryable


def load_arrays(
    setting: str, place: str, wanted: Sequence[str], own_folder: Path | None, cache_dir: Path | None
) -> tuple[list[NDArray[np.generic]], str]:
    """The arrays of these names in the file at `place`, and the sha256 of it. `setting` is what names the place."""
    file = one_file(setting, place, "an .npz file", own_folder, cache_dir)
    name = f"{setting}: {shown(place)}"
    try:
        with file.path.open("rb") as stream:
            if not zipfile.is_zipfile(stream):  # before all of it is read: it may be of any size
                raise invalid(name, "must be a whole .npz file as numpy.savez writes it, but is not or is damaged")
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as arrays:
                told = " and ".join(f"`{array}`" for array in wanted)
                missing = [array for array in wanted if array not in arrays.files]
                if missing:
                    raise invalid(name, f"must hold arrays {told}, but lacks {' and '.join(missing)}")
                found = [arrays[array] for array in wanted]
                for array, content in zip(wanted, found, strict=True):
                    if not isinstance(content, np.ndarray):  # numpy gives the bytes of a member that is no array
                        raise invalid(name, f"must hold arrays, but `{array}` is not one")
                return found, digest
    except OSError as error:
        raise unreadable(name, error) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as error:
        raise invalid(
            name, f"must be a whole .npz file of plain arrays without pickles, but reading fails: {error}"
        ) from error


def split_shuffled(num_samples: int, validation_percent: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the samples to train on, and of those held out (at least one), in a fixed shuffled order."""
    order_N = sample_indices(seed=0, position=0, count=num_samples, num_samples=num_samples)
    num_train = num_samples - max(1, num_samples * validation_percent // 100)
    return order_N[:num_train], order_N[num_train:]


def checked_labels(labels: NDArray[np.generic], num_samples: int, name: str, thing: str) -> NDArray[np.int64]:
    """The labels (N,) of as many samples, each of which is a `thing`."""
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise invalid(name, f"must hold labels as whole numbers (N,), not {labels.dtype} of {labels.ndim} dimensions")
    if len(labels) != num_samples:
        raise invalid(
            name, f"must hold one label per {thing}, but holds {len(labels)} labels for {num_samples} {thing}s"
        )
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest == 0 or highest >= num_samples:
        raise invalid(
            name, f"must hold labels that count up from 0 in at least 2 classes, but they span {lowest} to {highest}"
        )
    return labels.astype(np.int64)


def invalid(name: str, demand: str) -> NotRetryable:
    """What to raise if the file `name` is not as it must be."""
    return NotRetryable("InvalidData", f"{name} {demand}")
