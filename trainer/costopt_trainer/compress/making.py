"""A variant as it comes to be: what a trial of `auto` and the variant itself have in common.

Making    the trained model and where variants of it are made: apply, save, verify, measure
Saved     a variant as it is stored, not published yet
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from costopt import names
from costopt.schema.compression import Variant
from costopt.schema.variant_report import EngineName
from costopt_trainer.compress.details import Subject, with_disk_bytes, with_notes
from costopt_trainer.compress.measure import Measured, measure, measured_batch
from costopt_trainer.compress.onnx_export import NotExportable, bytes_as_graph
from costopt_trainer.compress.onnx_form import (
    MOST_BYTES_TRIED,
    is_graph_only,
    is_worth_keeping,
    make_graph,
    must_have_graph,
)
from costopt_trainer.compress.origin import HeldOut, Origin
from costopt_trainer.compress.points import Point
from costopt_trainer.compress.step import StepRun
from costopt_trainer.compress.step_checkpoints import StepCheckpoints
from costopt_trainer.compress.step_reports import StepMeter
from costopt_trainer.compress.table import apply_steps, changes_shapes, step_trains, wants_compile
from costopt_trainer.compress.verify import verify_in_fresh_process, write_probe
from costopt_trainer.errors import NotRetryable, first_line
from costopt_trainer.instructions import has_int8_dot_products
from costopt_trainer.models.artifact import drop_graph, read_config, save_model, tokenizer_beside
from costopt_trainer.models.factors import ranks_of
from costopt_trainer.models.family import GraphScratch, LayeredModel
from costopt_trainer.models.onnx_model import OnnxModel
from costopt_trainer.models.table import context_length_of
from costopt_trainer.phases import Pieces, phase
from costopt_trainer.storage.folders import remove
from costopt_trainer.training.process_group import ALONE, ProcessGroup
from costopt_trainer.training.stopping import Stop

PROBE_SAMPLES, PROBE_TOKENS = 2, 32
"""Size of the input for the fresh process: enough to use every weight, little to store."""


@dataclass(frozen=True)
class Saved:
    """A variant as it is stored, not published yet."""

    folder: Path
    model: LayeredModel
    """In torch; or, of a graph alone, what runs that."""
    graph: OnnxModel | None
    weights_bytes: int
    """0 of a graph alone."""
    graph_bytes: int
    """0 without a graph."""
    engines: tuple[EngineName, ...]
    """Those that it may be judged under."""
    named: tuple[EngineName, ...] = ()
    """Those that the user wants figures of."""
    keeps_graph: bool = False
    """Whether its graph stays if that is the fastest."""
    notes: tuple[str, ...] = ()
    """What the report says of its forms."""

    def without_graph(self, note: str) -> "Saved":
        """The same of the weights alone; `note` says why."""
        self.model.graph_folder = None
        return replace(
            self,
            graph=None,
            graph_bytes=0,
            engines=_without_graph(self.engines, has_graph=False) or ("TorchEager",),
            named=_without_graph(self.named, has_graph=False),
            keeps_graph=False,
            notes=(*self.notes, note),
        )


@dataclass(frozen=True)
class Making:
    """The trained model, and where variants of it are made. The variant is an argument, for `auto` makes many."""

    origin: Origin
    storage: Path
    group: ProcessGroup = ALONE
    stop: Stop = field(default_factory=Stop)
    job: str = ""
    meter: StepMeter = field(default_factory=StepMeter)
    model_graph: GraphScratch | None = None
    """For the trained model's, which is the same beside each variant."""

    @property
    def artifacts(self) -> Path:
        """Where all artifacts lie."""
        return self.storage / names.ARTIFACTS_DIR

    @cached_property
    def batch(self) -> Tensor:
        """The inputs that are timed, on the CPU."""
        return measured_batch(self.origin.held_out)

    def checkpoints(self, variant: Variant) -> StepCheckpoints:
        """Of the variant's steps."""
        return StepCheckpoints(self.storage, variant, self.origin.inputs, group=self.group, job=self.job)

    def apply(self, variant: Variant) -> LayeredModel:
        """The trained model after the steps of `variant`, frozen. All ranks must call it. Raises NotRetryable."""
        origin = self.origin
        with phase("LoadingModel"):
            model = origin.load()
        checkpoints = self.checkpoints(variant)

        def run_of(number: int, pieces: Pieces) -> StepRun:
            step = variant.steps[number - 1]
            own = checkpoints.of(number) if step_trains(step) else None

            def tell(line: str) -> None:
                say(variant, f"{step.type}: {line}")

            return StepRun(
                self.batch[:1],
                pieces,
                origin.load,
                origin.recipe,
                origin.held_out.data,
                self.group,
                self.stop,
                own,
                number,
                tell,
                origin.shape,
                self.meter,
                origin.held_out,
            )

        for line in apply_steps(model, variant.steps, run_of):
            say(variant, line)
        self.stop.in_steps = False
        model.requires_grad_(False)
        return model

    def save(
        self,
        variant: Variant,
        model: LayeredModel,
        engines: Sequence[EngineName],
        named: Sequence[EngineName] = (),
    ) -> Saved:
        """Save `model`, with its ONNX graph if it may run as that; `named` are engines that are timed beside."""
        origin, artifacts = self.origin, self.artifacts
        made, folder = artifacts / f".{variant.name}.graph", artifacts / f".{variant.name}.unverified"
        graph_only = is_graph_only(variant.steps)
        begun = time.monotonic()
        lines, why = self._graph(variant, model, made, engines, named)
        seconds, has_graph = time.monotonic() - begun, lines is not None
        for line in lines or []:
            say(variant, line)
        notes = [f"OnnxRuntime is left out: {why}"[:256]] if why else []
        widths = origin.widths
        if changes_shapes(variant.steps):
            widths = {**(origin.widths or {}), **model.widths(), **ranks_of(model)}
        with phase("SavingModel"):
            weights_bytes = save_model(
                folder,
                model,
                model.built_as or origin.shape,
                widths=widths,
                steps=variant.steps,
                graph=made if has_graph else None,
                weights=not graph_only,
                beside=tokenizer_beside(origin.folder),
            )
        remove(made)
        graph_bytes = sum(int(record["size"]) for record in read_config(folder).graph.values())
        told = [(weights_bytes, "bytes"), (graph_bytes, "bytes as ONNX")]
        say(variant, "saved, " + ", ".join(f"{size:,} {what}" for size, what in told if size))
        if "Onnx" in variant.formats and 0 < weights_bytes < graph_bytes:
            say(variant, "its size is that of the ONNX graph, which holds zeros and shared weights like all others")
        for note in notes:
            say(variant, note)
        keeps = has_graph and is_worth_keeping(variant, weights_bytes=weights_bytes, graph_bytes=graph_bytes)
        model.graph_folder = folder if has_graph else None
        model.graph_seconds = 0.0 if keeps else seconds
        graph = OnnxModel(folder, made_from=model) if has_graph else None
        return Saved(
            folder,
            graph.eval() if graph is not None and graph_only else model,
            graph,
            weights_bytes,
            graph_bytes,
            _without_graph(engines, has_graph=has_graph) or ("TorchEager",),
            _without_graph(named, has_graph=has_graph),
            keeps,
            tuple(notes),
        )

    def _graph(
        self,
        variant: Variant,
        model: LayeredModel,
        folder: Path,
        engines: Sequence[EngineName],
        named: Sequence[EngineName],
    ) -> tuple[list[str] | None, str]:
        """Make the graph of `model` in `folder`, if it may run as that: lines for the log, None without a graph; and
        why there is none, if it might have been. Raises NotRetryable as `make_graph` does."""
        if "OnnxRuntime" not in (*engines, *named):
            return None, ""
        # Weights of few bits are whole on the way to a graph, and the model beside them is made one, too.
        weighs = max(bytes_as_graph(model), self.origin.weights_bytes)
        only_tried = not (must_have_graph(variant) or "OnnxRuntime" in named or wants_compile(variant.steps))
        if only_tried and weighs > MOST_BYTES_TRIED:
            return None, (
                f"making a graph of {weighs:,} bytes of weights takes several times that memory, so it is only tried "
                "if measure.engines or formats asks for it"
            )
        reduce_range = not has_int8_dot_products()
        try:
            lines = make_graph(variant, model, self.batch, self.origin.held_out, folder, reduce_range=reduce_range)
        except NotExportable as error:
            return None, f"the model {error}"
        return lines, ""

    def verify(self, variant: Variant, saved: Saved) -> Saved:
        """Have a fresh process load what was saved. Raises as `verify_in_fresh_process` does; but a graph that nobody
        has asked for is left out then, and the rest verified without it."""
        try:
            self._verify(variant, saved)
        except NotRetryable as error:
            if saved.graph is None or must_have_graph(variant):
                raise
            drop_graph(saved.folder)
            say(variant, first_line(error))
            note = "OnnxRuntime is left out: a fresh process did not get the same output of the graph, as the log says"
            say(variant, note)
            saved = saved.without_graph(note)
            self._verify(variant, saved)
        say(variant, "a fresh process loaded it and gave the same output")
        return saved

    def _verify(self, variant: Variant, saved: Saved) -> None:
        probe = saved.folder.with_name(f".{variant.name}.probe")
        try:
            remove(probe)  # if it is a link, do not write through it
            inputs = self.probe()
            inputs = inputs if saved.graph is None or saved.graph.fits(inputs) else self.batch[:PROBE_SAMPLES]
            write_probe(probe, None if saved.weights_bytes == 0 else saved.model, inputs, saved.graph)
            verify_in_fresh_process(saved.folder, probe)
        finally:
            probe.unlink(missing_ok=True)

    def probe(self) -> Tensor:
        """A small input of the model."""
        inputs = self.batch[:PROBE_SAMPLES]
        return inputs if context_length_of(self.origin.shape.settings) is None else inputs[:, :PROBE_TOKENS]

    def measure(
        self,
        variant: Variant,
        saved: Saved,
        device: torch.device,
        *,
        held_out: HeldOut | None = None,
        seconds: float | None = None,
        points: Sequence[Point] = (),
    ) -> Measured:
        """Measure it beside the trained model. A trial gives other `held_out` samples and other `seconds`: prefill and
        decode, by which nothing is chosen, are then left out."""
        with phase("LoadingModel"):
            baseline = self.origin.load()
        baseline.graph_scratch = self.model_graph
        measured = measure(
            Subject(baseline, self.origin.weights_bytes),
            Subject(saved.model, saved.weights_bytes or saved.graph_bytes),
            name=variant.name,
            held_out=held_out or self.origin.held_out,
            engines=saved.engines,
            named=saved.named,
            device=device,
            seconds=variant.measure_seconds if seconds is None else seconds,
            points=points,
            decoding=seconds is None,
        )
        notes = list(saved.notes)
        if measured.variant.engine != "OnnxRuntime":
            return replace(measured, details=with_notes(measured.details, notes))
        if not saved.keeps_graph:
            notes.append(
                f"as an ONNX graph it has {saved.graph_bytes:,} bytes and not {saved.weights_bytes:,}, so that is not "
                "kept: it is made of the weights before each use, unless formats has Onnx"
            )
            say(variant, notes[-1])
            return replace(measured, details=with_notes(measured.details, notes))
        in_onnx = measured.variant.model_copy(update={"size_bytes": saved.graph_bytes})
        details = with_notes(with_disk_bytes(measured.details, saved.graph_bytes), notes)
        return replace(measured, variant=in_onnx, details=details, as_graph=True)


def _without_graph(engines: Sequence[EngineName], *, has_graph: bool) -> tuple[EngineName, ...]:
    return tuple(engine for engine in engines if has_graph or engine != "OnnxRuntime")


def say(variant: Variant, line: str) -> None:
    """A line of the log."""
    print(f"{variant.name}: {line}", flush=True)
