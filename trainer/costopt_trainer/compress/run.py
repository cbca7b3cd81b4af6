"""One variant, from the trained model to its report.

    load the trained model and the data     compress.origin, left_folder or given_folder
    -> find its steps, if it has `auto`     compress.auto, which makes many
    -> apply the variant's steps            compress.table; on all ranks, if one of them trains
    -> make its ONNX graph, if it may need one      compress.onnx_form
    -> save under a temporary name          artifact
    -> a fresh process must agree           compress.verify
    -> measure against the trained model    compress.measure
    -> write report.json and manifest.json, judge, rename into place   compress.judge

The variant's folder appears complete and verified, or not at all; while a variant is made again, the old folder stays.
Only what is accepted has its name in artifacts/. What is rejected lies in artifacts/rejected/, to be looked at, until a
week later a variant is made, or one of its name is accepted.
A killed run leaves only names that begin with a dot, which the next run removes, and the checkpoints of steps that
train, from which the next run resumes. (Other steps are applied again: they take moments and give the same bits.)
"""

import importlib
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from types import ModuleType

from costopt import names
from costopt.files import write_atomically
from costopt.schema.compression import Variant
from costopt.schema.evaluation import CommandEvaluation
from costopt.schema.given_model import GivenModel
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED, ReplicaSettings
from costopt.schema.variant_details import VariantReport
from costopt_trainer.compress.auto import Tell, find_steps
from costopt_trainer.compress.details import quality_change
from costopt_trainer.compress.engines import device_for, engines_for, named_engines
from costopt_trainer.compress.given_folder import of_given
from costopt_trainer.compress.judge import bounds_of, find_faults, refuse_metric
from costopt_trainer.compress.making import Making, say
from costopt_trainer.compress.measure import Measured
from costopt_trainer.compress.onnx_form import refuse_missing_packages
from costopt_trainer.compress.origin import Origin, of_recipe
from costopt_trainer.compress.points import Point, points_of
from costopt_trainer.compress.publish import describe_variant, publish, remove_old
from costopt_trainer.compress.table import trains
from costopt_trainer.compress.torch_export import add_program
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import drop_graph
from costopt_trainer.models.family import GraphScratch
from costopt_trainer.models.table import context_length_of
from costopt_trainer.phases import phase
from costopt_trainer.shutdown import STOP_SIGNALS, watch_for_stop
from costopt_trainer.storage.folders import not_writable, remove
from costopt_trainer.training.process_group import ALONE, ProcessGroup, join_process_group
from costopt_trainer.training.stopping import Stop


def main(settings: ReplicaSettings) -> None:
    """Make, verify and measure the variant of `settings`; its report is in the storage that the environment names.

    Raises NotRetryable for what no retry can mend: no model, other data, a step that the model
    cannot take, an artifact that does not load back, a full disk. SIGTERM ends the process with exit code 143: at once,
    or after a checkpoint while a step trains.
    """
    source = settings.recipe or settings.evaluation
    if settings.variant is None or source is None:
        raise NotRetryable("InvalidSettings", "settings must give the variant, and what its model is measured on")
    all_ranks = settings.variant.auto is not None or trains(settings.variant.steps)
    if int(os.environ.get("RANK", "0")) != 0 and not all_ranks:
        return
    storage = Path(os.environ[names.ENV_STORAGE_DIR])
    stop = Stop("ending before the variant is finished, which is made anew")
    with _hearing(stop):
        try:
            group = join_process_group() if all_ranks else ALONE
            given = settings.model
            make_variant(settings.variant, source, storage, given=given, group=group, stop=stop, job=settings.job_name)
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
    given: GivenModel | None = None,
    group: ProcessGroup = ALONE,
    stop: Stop | None = None,
    job: str = "",
) -> VariantReport | None:
    """Make `variant` of the model in `storage`, which the recipe `source` has trained or a command has left, or of one
    that is `given`, and return its report, which is then also in its folder.

    All ranks of `group` apply the steps; the first one does the rest, the others return None. Raises like `main`, and
    OSError if the storage cannot be written.
    """
    device_for(variant)  # what cannot be is told before anything is loaded
    refuse_missing_packages(variant)
    remove_old(storage / names.ARTIFACTS_DIR)
    origin = _origin(source, storage, given)
    refuse_metric(variant, tells_classes=origin.held_out.metric.accuracy)
    if "CompressedTensors" in variant.formats:
        _compressed_folder().refuse_model(origin.shape.settings.type)
    # Not among the machine's temporary files: those of a process that is killed would stay.
    scratch = storage / names.ARTIFACTS_DIR / f".{variant.name}.model-graph"
    making = Making(origin, storage, group, stop or Stop(), job, model_graph=GraphScratch(scratch))
    _points(variant, origin)
    say(variant, f"the trained model has {origin.weights_bytes:,} bytes")
    try:
        if variant.auto is None:
            report = _in_full(variant, making)
        else:
            report = find_steps(variant, making, _in_full)
    finally:
        if group.rank == 0:
            remove(scratch)
    if report is None:
        return None
    making.checkpoints(variant).remove()
    if report.faults and variant.required:
        told = "; ".join(fault.message for fault in report.faults)
        raise NotRetryable(
            "VariantRejected", f"{variant.name}, which is required, was rejected and lies in {report.artifact}: {told}"
        )
    return report


def _as_it_is(report: VariantReport, _making_seconds: float) -> VariantReport:
    return report


def _in_full(variant: Variant, making: Making, tell: Tell = _as_it_is) -> VariantReport | None:
    """Make, verify, measure, judge and publish `variant`, whose steps are known; `tell` may add to its report."""
    origin, device = making.origin, device_for(variant)
    begun = time.monotonic()
    model = making.apply(variant)
    seconds = time.monotonic() - begun
    if making.group.rank != 0:
        return None
    saved = making.save(variant, model, engines_for(variant, device), named_engines(variant, device))
    saved = making.verify(variant, saved)
    if "TorchExport" in variant.formats:
        num_bytes = add_program(saved.model, making.probe(), saved.folder)
        say(variant, f"a program of torch.export, {num_bytes:,} bytes, which a fresh process loaded")
    if "CompressedTensors" in variant.formats:
        num_bytes = _compressed_folder().add_folder(saved.model, making.probe(), saved.folder)
        say(variant, f"a folder for compressed-tensors, {num_bytes:,} bytes, which the library loaded")
    measured = making.measure(variant, saved, device, points=_points(variant, origin))
    if not measured.as_graph and "Onnx" not in variant.formats:
        drop_graph(saved.folder)
    report = tell(compare(variant, measured).model_copy(update={"sensitivity": model.sensitivity}), seconds)
    content = json.dumps(report.to_plain(), indent=2) + "\n"
    write_atomically(saved.folder / names.REPORT_FILE, content.encode())
    with phase("SavingModel"):
        describe_variant(saved.folder, variant, origin, report, job=making.job)
    publish(saved.folder, variant.name, accepted=report.verdict == "Accepted")
    say(
        variant,
        f"{report.size_ratio} times smaller, {report.speedup} times the speed, "
        f"validation loss {report.baseline.validation_loss} -> {report.measured.validation_loss}, "
        f"under {report.measured.engine}",
    )
    say(variant, f"{report.verdict}: {report.artifact}")
    for fault in report.faults:
        say(variant, f"rejected: {fault.message}")
    return report


def _compressed_folder() -> ModuleType:
    # As of `left_folder`: nobody else needs that library.
    return importlib.import_module("costopt_trainer.compress.compressed_folder")


def _points(variant: Variant, origin: Origin) -> list[Point]:
    """The further sizes to time it at. Raises NotRetryable as `points_of` does."""
    context_length = context_length_of(origin.shape.settings)
    return points_of(variant.measure, batch_size=origin.held_out.batch_size, context_length=context_length)


def _origin(source: Recipe | CommandEvaluation, storage: Path, given: GivenModel | None) -> Origin:
    if isinstance(source, Recipe):
        return of_recipe(source, storage)
    if given is not None:
        return of_given(given, source, storage)
    # It imports the Hugging Face library, which takes seconds and may not be installed where recipes run.
    from costopt_trainer.compress.left_folder import of_command  # noqa: PLC0415

    return of_command(source, storage)


def compare(variant: Variant, both: Measured) -> VariantReport:
    """The report on a verified variant. Ratios and the difference use the figures as shown."""
    baseline, measured, trivial_loss = both.baseline, both.variant, both.comparison.trivial_loss
    bytes_per_token = both.comparison.bytes_per_token
    increase = Decimal(measured.validation_loss) - Decimal(baseline.validation_loss)
    faults = find_faults(baseline, measured, bounds_of(variant), trivial_loss=trivial_loss, as_graph=both.as_graph)
    accepted, rejected = names.variant_folders(variant.name)
    return VariantReport(
        name=variant.name,
        measured=measured,
        baseline=baseline,
        size_ratio=f"{baseline.size_bytes / measured.size_bytes:.3f}",
        speedup=f"{baseline.latency_microseconds / max(measured.latency_microseconds, 1):.3f}",
        validation_loss_increase=f"{increase:f}",
        artifact=rejected if faults else accepted,
        reloaded=True,
        trivial_loss=f"{trivial_loss:.6g}",
        loss_per=both.comparison.loss_per,
        bytes_per_token=None if bytes_per_token is None else f"{bytes_per_token:.6f}",
        quality_change=quality_change(both.comparison),
        validation_samples=both.comparison.samples,
        faults=faults,
        verdict="Rejected" if faults else "Accepted",
        details=both.details,
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
