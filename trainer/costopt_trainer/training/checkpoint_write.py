"""Writing one checkpoint, all ranks together; complete on disk or absent.

write_checkpoint     each rank its part under a temporary name; then rank 0 the manifest, and the real name
together             an act of all ranks, or of the first, whose error is raised on all
"""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from costopt.files import sync_folder
from costopt_trainer.storage.checkpoint_files import (
    MANIFEST_FILE,
    manifest_content,
    write_tensors,
)
from costopt_trainer.storage.folders import not_writable, remove
from costopt_trainer.storage.tensor_file import FileRecord, write_file
from costopt_trainer.storage.tensor_pieces import KINDS, PlainTensors, merge_tensors
from costopt_trainer.training.process_group import ProcessGroup
from costopt_trainer.training.snapshot import Snapshot

STATE_FILE = "state.json"
OPTIMIZER_TENSORS = "optimizerTensors"
"""In state.json: how many the optimizer kept. None that has taken no step yet, as when FP16 overflowed, keeps some."""


def write_checkpoint(
    final: Path,
    step: int,
    take: Callable[[], Snapshot],
    *,
    job: str,
    gang: ProcessGroup,
    on_block: Callable[[], object] = lambda: None,
) -> None:
    """Write a checkpoint to the folder `final`; all ranks of `gang` must call it.

    `take` gives this rank's part, readable on the host, or raises why there is none. `on_block` is called after each
    block that is written. Raises NotRetryable("CheckpointNotWritable") if a rank may not write or the disk is full.
    """
    folder, rank = final.parent, gang.rank
    partial = folder / f".{final.name}.partial"
    files: dict[str, FileRecord] = {}
    held: PlainTensors = {}
    state: dict[str, Any] = {}

    def begin() -> None:
        remove(partial)
        partial.mkdir()

    def write_part() -> None:
        snapshot = take()
        state.update(snapshot.state)
        random = {f"{rank}/{name}": value for name, value in snapshot.random.items()}
        parts = (snapshot.model, snapshot.optimizer, random, snapshot.carried, snapshot.averages)
        for kind, tensors in zip(KINDS, parts, strict=True):
            records, table = write_tensors(partial, kind, rank, tensors, on_block)
            files.update(records)
            held.update(table)

    def finish() -> None:
        tensors = merge_tensors(table for _, table in written)
        records = {name: record for each, _ in written for name, record in each.items()}
        # The manifest alone would not miss what is no longer in it.
        state[OPTIMIZER_TENSORS] = len(tensors.get("optimizer", {}))
        records[STATE_FILE] = write_file(partial / STATE_FILE, to_json(state))
        write_file(partial / MANIFEST_FILE, manifest_content(step, job, records, tensors))
        sync_folder(partial)
        remove(final)  # only exists if it was skipped as damaged
        partial.rename(final)
        sync_folder(folder)

    try:
        together(gang, folder, begin, rank_0_only=True)
        together(gang, folder, write_part)
        written = gang.gather_on_first((files, held))
        together(gang, folder, finish, rank_0_only=True)
    except Exception:
        if rank == 0:
            with contextlib.suppress(OSError):
                remove(partial)  # frees its space on a full disk
        raise


def together(gang: ProcessGroup, folder: Path, act: Callable[[], None], *, rank_0_only: bool = False) -> None:
    """Run `act`, which writes below `folder`, on all ranks (or only on the first), and raise an error of one on all."""
    problem: Exception | None = None
    if gang.rank == 0 or not rank_0_only:
        try:
            act()
        except OSError as error:
            problem = not_writable(folder, error)
        except Exception as error:  # noqa: BLE001  whatever it is, the other ranks must not wait for this one
            problem = error
    gang.agree(problem)


def to_json(data: Any) -> bytes:
    """JSON data as it stands in our files: easy to read, and the same bytes for the same data."""
    return json.dumps(data, indent=1, sort_keys=True, allow_nan=False).encode()
