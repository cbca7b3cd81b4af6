"""For programs with Lightning's Trainer.

    trainer = Trainer(..., callbacks=[CostOptCallback(every_n_steps=500)])
    trainer.fit(model, ckpt_path=newest_checkpoint())

CostOptCallback      progress, causes of time, checkpoints, and exit code 143 with a checkpoint after SIGTERM
newest_checkpoint    the newest of its checkpoints
ResumableDataLoader  goes on within an epoch: Lightning alone begins the epoch's samples anew

The callback saves by itself: it writes each checkpoint beside its place and renames it when all ranks are done, so that
none is cut off. Lightning's ModelCheckpoint may be there besides, for the best; its time counts as that of steps.
"""

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from costopt_trainer.session import SESSION
from costopt_trainer.session.complete import publish_path
from costopt_trainer.storage.folders import remove

_NAME = re.compile(r"step-([0-9]{8,15})\.ckpt")


class CostOptCallback(Callback):
    """Give it to Trainer as one of its `callbacks`."""

    def __init__(
        self, every_n_steps: int | None = None, *, folder: str | Path | None = None, keep_last: int = 2
    ) -> None:
        """Save every `every_n_steps` optimizer steps (None: only when stopped) to `folder` (the session's
        `checkpoints()`), of which the last `keep_last` stay."""
        self._every_n_steps = every_n_steps
        self._folder = Path(folder) if folder is not None else SESSION.checkpoints()
        self._keep_last = keep_last
        self._saved_step: int | None = None
        self._evaluating = contextlib.ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start-up is over. Lightning's own handler of SIGTERM sends to other ranks whatever they are doing."""
        SESSION.listen()
        if trainer.global_step:
            SESSION.resumed(trainer.global_step)
            self._saved_step = trainer.global_step
        self._report(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The batch is there."""
        SESSION.lap("data_wait")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One more micro-batch; all ranks agree here whether to save and leave."""
        self._report(trainer)
        stop, step = SESSION.should_stop(), trainer.global_step
        due = self._every_n_steps is not None and step > 0 and step % self._every_n_steps == 0
        if (stop or due) and step != self._saved_step:
            self._save(trainer, step)
        if stop:
            SESSION.leave()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An evaluation begins, unless it is the rehearsal before the first step."""
        if not trainer.sanity_checking:
            self._pieces = self._evaluating.enter_context(SESSION.evaluation())

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """One more batch of it."""
        if not trainer.sanity_checking:
            self._pieces.done()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """It is over."""
        if not trainer.sanity_checking:
            self._evaluating.close()
            self._report(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last step is told."""
        self._report(trainer)

    def _save(self, trainer: Trainer, step: int) -> None:
        target = self._folder / f"step-{step:08d}.ckpt"
        partial = target.with_name(f".{target.name}.partial")
        with SESSION.checkpoint():
            trainer.save_checkpoint(partial)  # returns when all ranks are done
            if trainer.is_global_zero:
                publish_path(partial, target)
                for _, old in _checkpoints(self._folder)[: -self._keep_last]:
                    remove(old)
        self._saved_step = step
        SESSION.checkpoint_saved(step)

    def _report(self, trainer: Trainer) -> None:
        total = trainer.estimated_stepping_batches
        figures = {name: trainer.callback_metrics.get(name) for name in ("loss", "train_loss", "val_loss")}
        SESSION.report(
            step=trainer.global_step,
            total_steps=int(total) if math.isfinite(total) else 0,
            loss=figures["loss"] if figures["loss"] is not None else figures["train_loss"],
            validation_loss=figures["val_loss"],
        )


class ResumableDataLoader(DataLoader[Any]):
    """A DataLoader whose place is in Lightning's checkpoints: training goes on with the batch after the last one.

    The batches before it are read again and dropped. The order must follow from seed and epoch, as it does on several
    ranks.
    """

    _given = 0
    """Batches of this epoch so far."""
    _to_drop = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """The batches of an epoch, or the rest of one."""
        self._given, self._to_drop = self._to_drop, 0
        batches = super().__iter__()
        for _ in range(self._given):
            next(batches, None)
        for batch in batches:
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """What Lightning puts in its checkpoint."""
        try:
            is_whole = self._given == len(self)
        except TypeError:  # the samples have no number
            is_whole = False
        return {"batches": 0 if is_whole else self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """What it gives back."""
        self._to_drop = int(state["batches"])


def newest_checkpoint(folder: str | Path | None = None) -> Path | None:
    """The newest checkpoint of CostOptCallback in `folder` (the session's `checkpoints()`); None: there is none."""
    found = _checkpoints(Path(folder) if folder is not None else SESSION.checkpoints())
    return found[-1][1] if found else None


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    return sorted((int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)))
