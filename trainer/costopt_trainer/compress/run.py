"""One variant, from the trained model to its report.

    load the trained model and the data     compress.origin
    -> apply the variant's steps            compress.table; on all ranks, if one of them trains
    -> save under a temporary name          artifact
    -> a fresh process must agree           compress.verify
    -> measure against the trained model    compress.measure
    -> write report.json, rename into place

The variant's folder appears complete and verified, or not at all; while a variant is made again, the old folder stays.
A killed run leaves only names that begin with a dot, which the next run removes, and the checkpoints of steps that
train, from which the next run resumes. (Other steps are applied again: they take moments and give the same bits.)
"""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import torch

from costopt import names
from costopt.files import write_atomically
from costopt.schema.compression import Variant
from costopt.schema.evaluation import CommandEvaluation
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED, ReplicaSettings
from costopt.schema.variant_report import VariantStatus
from costopt_trainer.compress.engines import engines_for
from costopt_trainer.compress.judge import find_faults
from costopt_trainer.compress.measure import Measured, Subject, measure, measured_batch
from costopt_trainer.compress.origin import Origin, of_recipe
from costopt_trainer.compress.step import StepRun
from costopt_trainer.compress.step_checkpoints import StepCheckpoints
from costopt_trainer.compress.table import apply_steps, changes_shapes, step_of, trains, wants_speed
from costopt_trainer.compress.verify import verify_in_fresh_process, write_probe
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import save_model
from costopt_trainer.models.table import context_length_of
from costopt_trainer.phases import Pieces, phase
from costopt_trainer.shutdown import STOP_SIGNALS, watch_for_stop
from costopt_trainer.storage.folders import not_writable, remove, replace_folder
from costopt_trainer.training.process_group import ALONE, ProcessGroup, join_process_group
from costopt_trainer.training.stopping import Stop

PROBE_SAMPLES, PROBE_TOKENS = 2, 32
"""Size of the input for the fresh process: enough to use every weight, little to store."""


def main(settings: ReplicaSettings) -> None:
    """Make, verify and measure the variant of `settings`; its report is in the storage that the environment names.

    Raises NotRetryable for what no retry can mend: no model, other data, a step that the model
    cannot take, an artifact that does not load back, a full disk. SIGTERM ends the process with exit code 143: at once,
    or after a checkpoint while a step trains.
    """
    source = settings.recipe or settings.evaluation
    if settings.variant is None or source is None:
        raise NotRetryable("InvalidSettings", "settings must give the variant, and what its model is measured on")
    all_ranks = trains(settings.variant.steps)
    if int(os.environ.get("RANK", "0")) != 0 and not all_ranks:
        return
    storage = Path(os.environ[names.ENV_STORAGE_DIR])
    stop = Stop("ending before the variant is finished, which is made anew")
    with _hearing(stop):
        try:
            group = join_process_group() if all_ranks else ALONE
            make_variant(settings.variant, source, storage, group=group, stop=stop, job=settings.job_name)
        except OSError as error:
            raise not_writable(storage / names.ARTIFACTS_DIR, error) from error
        except RuntimeError as error:  # a rank that lost another was most likely asked to end as well
            if stop.asked:
                raise SystemExit(EXIT_PREEMPTED) from error
            raise
    group.leave()


def make_variant(
    variant: Variant,
    source: Recipe | CommandEvaluation,
    storage: Path,
    *,
    group: ProcessGroup = ALONE,
    stop: Stop | None = None,
    job: str = "",
) -> VariantStatus | None:
    """Make `variant` of the model in `storage`, which the recipe `source` has trained or a command has left, and return
    its report, which is then also in its folder.

    All ranks of `group` apply the steps; the first one does the rest, the others return None. Raises like `main`, and
    OSError if the storage cannot be written.
    """
    artifacts = storage / names.ARTIFACTS_DIR
    origin = of_recipe(source, storage) if isinstance(source, Recipe) else _of_command(source, storage)
    with phase("LoadingModel"):
        baseline, model = origin.load(), origin.load()
    batch = measured_batch(origin.held_out)
    _say(variant, f"loaded the trained model, {origin.weights_bytes:,} bytes")

    stop = stop or Stop()
    checkpoints = StepCheckpoints(storage, variant, origin.inputs, group=group, job=job)

    def run_of(number: int, pieces: Pieces) -> StepRun:
        own = checkpoints.of(number) if step_of(variant.steps[number - 1]).trains else None
        data = origin.held_out.data
        return StepRun(batch[:1], pieces, origin.load, origin.recipe, data, group, stop, own)

    for line in apply_steps(model, variant.steps, run_of):
        _say(variant, line)
    stop.in_steps = False
    model.requires_grad_(False)
    if group.rank != 0:
        return None

    unverified = artifacts / f".{variant.name}.unverified"
    widths = {**(origin.widths or {}), **model.widths()} if changes_shapes(variant.steps) else origin.widths
    with phase("SavingModel"):
        size_bytes = save_model(unverified, model, origin.shape, widths=widths, steps=variant.steps)
    _say(variant, f"saved, {size_bytes:,} bytes")

    probe = artifacts / f".{variant.name}.probe"
    try:
        remove(probe)  # if it is a link, do not write through it
        inputs = batch[:PROBE_SAMPLES]
        are_tokens = context_length_of(origin.shape.settings) is not None
        write_probe(probe, model, inputs[:, :PROBE_TOKENS] if are_tokens else inputs)
        verify_in_fresh_process(unverified, probe)
    finally:
        probe.unlink(missing_ok=True)
    _say(variant, "a fresh process loaded it and gave the same output")

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    measured = measure(
        Subject(baseline, origin.weights_bytes),
        Subject(model, size_bytes),
        name=variant.name,
        held_out=origin.held_out,
        engines=engines_for(variant.steps, device),
        device=device,
    )
    report = compare(variant.name, measured, speed_is_wanted=wants_speed(variant.steps))
    content = json.dumps(report.to_plain(), indent=2) + "\n"
    write_atomically(unverified / names.REPORT_FILE, content.encode())
    replace_folder(unverified, artifacts / variant.name)
    checkpoints.remove()
    _say(
        variant,
        f"{report.size_ratio} times smaller, {report.speedup} times the speed, "
        f"validation loss {report.baseline.validation_loss} -> {report.measured.validation_loss}, "
        f"under {report.measured.engine}",
    )
    for fault in report.faults:
        _say(variant, f"not worth deploying: {fault.message}")
    return report


def _of_command(evaluation: CommandEvaluation, storage: Path) -> Origin:
    # It imports the Hugging Face library, which takes seconds and may not be installed where recipes run.
    from costopt_trainer.compress.left_folder import of_command  # noqa: PLC0415

    return of_command(evaluation, storage)


def compare(name: str, both: Measured, *, speed_is_wanted: bool) -> VariantStatus:
    """The report on a verified variant. Ratios and the difference use the figures as shown."""
    baseline, measured, trivial_loss = both.baseline, both.variant, both.comparison.trivial_loss
    bytes_per_token = both.comparison.bytes_per_token
    increase = Decimal(measured.validation_loss) - Decimal(baseline.validation_loss)
    return VariantStatus(
        name=name,
        measured=measured,
        baseline=baseline,
        size_ratio=f"{baseline.size_bytes / measured.size_bytes:.3f}",
        speedup=f"{baseline.latency_microseconds / max(measured.latency_microseconds, 1):.3f}",
        validation_loss_increase=f"{increase:f}",
        artifact=f"{names.ARTIFACTS_DIR}/{name}",
        reloaded=True,
        trivial_loss=f"{trivial_loss:.6g}",
        loss_per=both.comparison.loss_per,
        bytes_per_token=None if bytes_per_token is None else f"{bytes_per_token:.6f}",
        validation_samples=both.comparison.samples,
        faults=find_faults(baseline, measured, trivial_loss=trivial_loss, speed_is_wanted=speed_is_wanted),
    )


@contextmanager
def _hearing(stop: Stop) -> Iterator[None]:
    """A stop ends the process at once while no step trains: the disk is consistent, and the variant is made again.

    A thread receives it, because the main one may be in a compiler for minutes.
    """
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    watch_for_stop(stop, lifeline_fd=None)
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        for number, action in before.items():
            signal.signal(number, action)


def _say(variant: Variant, line: str) -> None:
    print(f"{variant.name}: {line}", flush=True)
