"""For programs with transformers' Trainer, or with Accelerate alone.

    trainer = Trainer(..., callbacks=[CostOptCallback()])
    trainer.train(resume_from_checkpoint=newest_checkpoint(args.output_dir))

CostOptCallback      progress, causes of time, a checkpoint and exit code 143 after SIGTERM
newest_checkpoint    the newest of Trainer's checkpoints that is whole
save_state           Accelerate's state as a checkpoint, whole or not at all
load_newest_state    the newest of those, loaded
batches_after        a prepared loader's batches from there on

Trainer writes its checkpoints in place, file by file, so a kill leaves one that looks like any other. The callback
marks those that are complete, also when not under costopt, where it does nothing else.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, skip_first_batches
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from costopt_trainer.session import SESSION
from costopt_trainer.session.complete import mark_complete, newest_complete, publish_path
from costopt_trainer.storage.folders import remove

TRAINER_PREFIX = f"{PREFIX_CHECKPOINT_DIR}-"
STATE_PREFIX = "step-"
FIGURES = {"loss": "loss", "learning_rate": "learning_rate", "eval_loss": "validation_loss"}
"""Trainer's names of figures, and ours."""


class CostOptCallback(TrainerCallback):
    """Give it to Trainer as one of its `callbacks`. One for each Trainer."""

    def __init__(self) -> None:
        self._figures: dict[str, Any] = {}
        self._evaluating = contextlib.ExitStack()
        self._is_evaluating = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start-up is over."""
        SESSION.listen()
        if state.global_step:
            SESSION.resumed(state.global_step)
            for logs in state.log_history:
                self._take(logs)
        self._report(args, state)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The batch is there."""
        SESSION.lap("data_wait")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """One more step; all ranks agree here whether to save and stop. An evaluation that is due is left out then."""
        self._report(args, state)
        if SESSION.should_stop():
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Trainer has read its figures from the device, for which it waited until the step was done."""
        SESSION.lap("training")
        self._take(logs or {})

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """One more batch of an evaluation, which has begun with the first."""
        if not self._is_evaluating:
            self._is_evaluating = True
            self._pieces = self._evaluating.enter_context(SESSION.evaluation())
        self._pieces.done()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The evaluation is over."""
        self._end_evaluation()
        if state.max_steps:
            self._report(args, state)

    def on_predict(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Predicting counts as evaluation."""
        self._end_evaluation()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A checkpoint is written: it is marked once all ranks have written their part, and then a stop may end."""
        SESSION.ranks.wait_for_all()
        folder = Path(args.output_dir) / f"{TRAINER_PREFIX}{state.global_step}"
        if args.should_save and folder.is_dir():
            mark_complete(folder)
        SESSION.lap("checkpoint")
        SESSION.checkpoint_saved(state.global_step)
        if SESSION.stopping:
            SESSION.leave()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The last step is told."""
        self._report(args, state)

    def _take(self, logs: Mapping[str, Any]) -> None:
        """The figures of one of Trainer's logs."""
        self._figures |= {name: logs[key] for key, name in FIGURES.items() if key in logs}

    def _end_evaluation(self) -> None:
        self._evaluating.close()
        self._is_evaluating = False

    def _report(self, args: TrainingArguments, state: TrainerState) -> None:
        samples_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        SESSION.report(
            step=state.global_step,
            total_steps=state.max_steps,
            samples_consumed=state.global_step * samples_per_step,
            **self._figures,
        )


def newest_checkpoint(output_dir: str | Path) -> str | None:
    """The newest checkpoint of Trainer's in `output_dir` that CostOptCallback has marked as complete; None: there is
    none. For `resume_from_checkpoint`."""
    newest, SESSION.passed_over = newest_complete(Path(output_dir), TRAINER_PREFIX)
    SESSION.tell_passed_over()
    return str(newest[1]) if newest is not None else None


def save_state(accelerator: Accelerator, step: int, folder: str | Path | None = None, *, keep_last: int = 2) -> Path:
    """Save `accelerator.save_state` as the checkpoint of `step` in `folder` (the session's `checkpoints()`).

    All ranks call it. Of older ones `keep_last` minus one stay. Returns where it is.
    """
    parent = Path(folder) if folder is not None else SESSION.checkpoints()
    target = parent / f"{STATE_PREFIX}{step:08d}"
    partial = target.with_name(f".{target.name}.partial")
    with SESSION.checkpoint():
        if accelerator.is_main_process:
            remove(partial)
        SESSION.ranks.wait_for_all()
        accelerator.save_state(str(partial))
        SESSION.ranks.wait_for_all()
        if accelerator.is_main_process:
            mark_complete(partial)
            publish_path(partial, target)
            for old in sorted(parent.glob(f"{STATE_PREFIX}*"))[:-keep_last]:
                remove(old)
    SESSION.checkpoint_saved(step)
    return target


def load_newest_state(accelerator: Accelerator, folder: str | Path | None = None) -> int:
    """Load the newest whole checkpoint of `save_state` into what `accelerator` has prepared; its step, or 0."""
    parent = Path(folder) if folder is not None else SESSION.checkpoints()
    newest, SESSION.passed_over = newest_complete(parent, STATE_PREFIX)
    SESSION.tell_passed_over()
    if newest is None:
        return 0
    step, path = newest
    accelerator.load_state(str(path))
    SESSION.resumed(step)
    return step


def batches_after(loader: Any, step: int) -> Iterator[Any]:
    """The batches of a loader that `accelerator.prepare` has made, epoch after epoch without an end, from the one after
    the first `step` batches.

    The order must follow from the epoch: `DataLoaderConfiguration(use_seedable_sampler=True)`. Call it after
    `load_newest_state`. Beginning in the midst of an epoch draws a number from torch, which the training that was
    stopped has not drawn there: it is put back, so that dropout goes on as it would have. Raises ValueError for a
    loader that cannot be gone on with.
    """
    if not (hasattr(loader, "set_epoch") and hasattr(getattr(loader, "dataset", None), "__len__") and len(loader)):
        raise ValueError(
            "batches_after needs a loader that accelerator.prepare has made, of a dataset that has a length, with one "
            "batch at least"
        )
    first, given = divmod(step, len(loader))
    for epoch in itertools.count(first):
        loader.set_epoch(epoch)
        if epoch > first or given == 0:
            yield from loader
            continue
        drawn = torch.get_rng_state()
        rest = iter(skip_first_batches(loader, given))
        batch = next(rest)  # only now the loader begins
        torch.set_rng_state(drawn)
        yield batch
        yield from rest
