"""The search for a variant's steps: `auto`.

find_steps    tries lists of steps by halving.py, and makes the best in full
engines_of_trial    what a trial is measured under
figure_of     what is minimized; payback_batches: when the search has paid
with_pareto   the trials that no other of their rung beats; pareto_rows: the lists of steps that no other beats

A trial applies the steps to the trained model, stores what they make, and measures it as a variant is measured, with
its rung's share of optimizer steps, held-out samples and time; no fresh process loads it again. The last rung makes the
variant as if its steps had been in the manifest. The score of a trial is its distance from the variant's bounds, then
what `minimize` says: of trials that keep all bounds the best comes first, then the one that comes nearest. Latencies
are the trials' own and not ratios, since the model beside a trial runs under whichever engine is best for it.

Before the first trial each layer is quantized alone (sensitivity.py): what that does to the loss puts the candidates in
order, and says whether some layers are worth keeping in more bits.

Finished trials are remembered (trials.py). Steps that a model refuses, and losses that are no number, are trials that
say why.
"""

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from costopt.schema.compression import Auto, Quantize, Variant
from costopt.schema.variant_details import Trial, VariantReport
from costopt.schema.variant_report import MAX_PARETO, EngineName, Measurement, ParetoRow, Search
from costopt_trainer.compress.candidates import (
    Candidate,
    candidates_for,
    in_order,
    smallest_first,
    with_training,
)
from costopt_trainer.compress.engines import device_for, engines_for
from costopt_trainer.compress.halving import Rung, Score, halve, pareto, rungs
from costopt_trainer.compress.judge import bounds_of, distance, find_faults, quality_drop
from costopt_trainer.compress.making import Making, say
from costopt_trainer.compress.onnx_form import quantized_by
from costopt_trainer.compress.origin import HeldOut
from costopt_trainer.compress.sensitivity import Rises, measure_layers
from costopt_trainer.compress.table import wants_compile
from costopt_trainer.compress.trials import TrialMemory
from costopt_trainer.errors import NotRetryable, first_line
from costopt_trainer.machine import machine_here
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.phases import phase
from costopt_trainer.storage.folders import remove

Tell = Callable[[VariantReport, float], VariantReport]
"""Adds to a report; the seconds are those that the steps took."""
InFull = Callable[[Variant, Making, Tell], VariantReport | None]
"""Makes and publishes a variant whose steps are known."""

LEAST_SECONDS, LEAST_BATCHES = 3.0, 4
"""What any trial may measure in, and on how many micro-batches of held-out samples."""
TRAINING_SHARE = 10
"""One of so many of the recipe's optimizer steps, where `fineTuneSteps` does not say."""
_MOST_TOLD = 3
"""Layers in a line of the log."""
_OF_THE_STEPS = ("InvalidSettings", "LossNotFinite", "ArtifactMismatch")
"""Reasons for which a list of steps is refused; any other ends the variant."""


def find_steps(variant: Variant, making: Making, in_full: InFull) -> VariantReport | None:
    """Find steps for `variant`, which has `auto`, and make it by `in_full`; returns its report.

    None on other ranks than the first, which alone does this. Raises NotRetryable("InvalidSettings") if no list of
    steps can be applied to this model.
    """
    if making.group.rank != 0 or variant.auto is None:
        return None
    return _Searching(variant, variant.auto, making, in_full).run()


@dataclass
class _Searching:
    variant: Variant
    auto: Auto
    making: Making
    in_full: InFull
    tried: list[Trial] = field(default_factory=list)
    """In order, remembered ones, too."""
    report: VariantReport | None = None
    """Of the variant in the last rung that lies in its place."""
    sensing_seconds: float = 0.0
    """What it took to find out how sensitive layers are."""

    def __post_init__(self) -> None:
        origin, recipe = self.making.origin, self.making.origin.recipe
        whole = 0 if recipe is None else recipe.steps // TRAINING_SHARE
        wanted = self.auto.fine_tune_steps
        self.training = whole if wanted is None or recipe is None else wanted
        device = device_for(self.variant)
        graphs = device.type == "cpu" and "TorchExport" not in self.variant.formats
        model = origin.load()
        candidates = candidates_for(model, may_train=self.training > 0, graphs=graphs)
        if self.auto.minimize == "Bytes":
            candidates = smallest_first(candidates, model)
        self.candidates = in_order(candidates, self.rises(model, candidates))
        settings = self.variant.to_plain()
        judged_by = [settings.get(key) for key in ("auto", "accept", "target", "formats", "measureSeconds")]
        made_from = [*origin.inputs, judged_by, machine_here(str(device)).to_plain()]
        self.memory = TrialMemory(self.making.checkpoints(self.variant).folder(), made_from)

    def run(self) -> VariantReport | None:
        sizes = rungs(len(self.candidates), self.auto.trials)
        say(self.variant, f"auto: {' + '.join(map(str, sizes))} trials, the last one in full")
        best = halve(len(self.candidates), self.auto.trials, self.judge, self.may_go_on)
        if best is None:
            told = next((trial.refused for trial in self.tried if trial.refused), "")
            raise NotRetryable("InvalidSettings", f"auto has found no steps that this model can take: {told}")
        if self.report is None:  # it was made before a restart, and lies among the rejected ones
            self.tried = [trial for trial in self.tried if trial.rung < len(sizes)]
            self.make(self.candidates[best], Rung(len(sizes), 1.0, is_last=True))
        return self.report

    def rises(self, model: LayeredModel, candidates: Sequence[Candidate]) -> dict[str, Rises]:
        """What fewer bits of single layers do to the loss of the trained model, by each scheme of the candidates."""
        begun = time.monotonic()
        found: dict[str, Rises] = {}
        settings = [quantized_by(candidate.steps) for candidate in candidates]
        for scheme in dict.fromkeys(each.scheme for each in settings if each is not None):
            with phase("Evaluating") as pieces:
                rises = measure_layers(model, Quantize(scheme=scheme), self.making.origin.held_out, pieces.done)
            found[scheme] = rises
            say(self.variant, f"auto: {_told_of(rises)}")
        self.sensing_seconds = time.monotonic() - begun
        return found

    def may_go_on(self) -> bool:
        """Whether seconds are left for another trial before the last one."""
        if self.auto.seconds is None:
            return True
        left = self.auto.seconds - self.seconds() - self.variant.measure_seconds
        return left > 0

    def seconds(self) -> float:
        """What all trials took, also in earlier attempts, and what was found out before them."""
        return self.sensing_seconds + sum(trial.milliseconds for trial in self.tried) / 1000

    def judge(self, number: int, rung: Rung) -> Score | None:
        """One trial: see halving.halve."""
        candidate = self.candidates[number]
        trial = self.memory.get(self.key(candidate, rung))
        where = f"trial {len(self.tried) + 1}, rung {rung.number}: {candidate.name}"
        if trial is not None:
            say(self.variant, f"{where}: as before the restart")
            self.tried.append(trial)
        else:
            say(self.variant, where)
            trial = self.make(candidate, rung) if rung.is_last else self.try_out(candidate, rung)
            say(self.variant, f"{where}: {_told(trial)}")
            # One that is accepted ends the search, and would have to be made again to be the variant.
            if not rung.is_last or trial.faults or trial.refused:
                self.memory.add(self.key(candidate, rung), trial)
        if trial.measured is None or trial.distance is None:
            return None
        share = rung.share if candidate.trains else 1.0
        return float(trial.distance), figure_of(trial, self.auto, share)

    def variant_of(self, candidate: Candidate, rung: Rung) -> Variant:
        """The variant with the candidate's steps, in this rung."""
        steps = with_training(candidate.steps, round(self.training * rung.share))
        return self.variant.model_copy(update={"steps": steps, "auto": None})

    def key(self, candidate: Candidate, rung: Rung) -> str:
        steps = [step.to_plain() for step in self.variant_of(candidate, rung).steps]
        return self.memory.key(steps, rung.number, rung.share)

    def try_out(self, candidate: Candidate, rung: Rung) -> Trial:
        """A trial that leaves nothing but its figures."""
        # Engines that the user names are for the report on the variant.
        variant = self.variant_of(candidate, rung).model_copy(update={"measure": None})
        making = self.making
        begun = time.monotonic()
        made = begun
        whole = making.origin.held_out
        try:
            device = device_for(variant)
            model = making.apply(variant)
            made = time.monotonic()
            saved = making.save(variant, model, engines_of_trial(variant, device, self.auto))
            seconds = max(LEAST_SECONDS, variant.measure_seconds * rung.share)
            both = making.measure(variant, saved, device, held_out=_part_of(whole, rung.share), seconds=seconds)
        except NotRetryable as error:
            if error.reason not in _OF_THE_STEPS:
                raise
            trial = self.trial(candidate, rung, variant, begun, made).model_copy(
                update={"refused": first_line(error)[:256]}
            )
        else:
            bounds, guessing = bounds_of(variant), both.comparison.trivial_loss
            trial = self.trial(candidate, rung, variant, begun, made).model_copy(
                update={
                    "measured": both.variant,
                    "baseline": both.baseline,
                    "faults": find_faults(
                        both.baseline, both.variant, bounds, trivial_loss=guessing, as_graph=both.as_graph
                    ),
                    "distance": _shown(distance(both.baseline, both.variant, bounds, trivial_loss=guessing)),
                }
            )
        self.clear(variant)  # a stop ends the process before, and keeps the checkpoints of steps
        self.tried.append(trial)
        return trial

    def make(self, candidate: Candidate, rung: Rung) -> Trial:
        """A trial whose model is the variant, with a report on the whole search."""
        variant = self.variant_of(candidate, rung)
        begun = time.monotonic()

        def tell(report: VariantReport, making_seconds: float) -> VariantReport:
            bounds, guessing = bounds_of(variant), float(report.trivial_loss or "inf")
            trial = self.trial(candidate, rung, variant, begun, begun + making_seconds).model_copy(
                update={
                    "measured": report.measured,
                    "baseline": report.baseline,
                    "faults": report.faults,
                    "distance": _shown(distance(report.baseline, report.measured, bounds, trivial_loss=guessing)),
                }
            )
            self.tried.append(trial)
            return self.told(report, candidate)

        try:
            self.report = self.in_full(variant, self.making, tell) or self.report
        except NotRetryable as error:
            if error.reason not in _OF_THE_STEPS:
                raise
            refused = self.trial(candidate, rung, variant, begun, begun)
            self.tried.append(refused.model_copy(update={"refused": first_line(error)[:256]}))
        self.clear(variant)
        return self.tried[-1]

    def trial(self, candidate: Candidate, rung: Rung, variant: Variant, begun: float, made: float) -> Trial:
        return Trial(
            recipe=candidate.name,
            steps=variant.steps,
            rung=rung.number,
            milliseconds=round(1000 * (time.monotonic() - begun)),
            making_milliseconds=round(1000 * (made - begun)),
        )

    def told(self, report: VariantReport, candidate: Candidate) -> VariantReport:
        """The report with all that was tried."""
        seconds = self.seconds()
        search = Search(
            trials=len(self.tried),
            seconds=math.ceil(seconds),
            chosen=candidate.name,
            payback_batches=payback_batches(seconds, report.baseline, report.measured),
            pareto=pareto_rows(self.tried),
        )
        return report.model_copy(update={"search": search, "tried": with_pareto(self.tried)})

    def clear(self, variant: Variant) -> None:
        """Remove what a trial has left in the storage and in memory."""
        self.making.checkpoints(variant).remove_steps()
        for kind in ("graph", "unverified"):
            remove(self.making.artifacts / f".{variant.name}.{kind}")
        gc.collect()


def engines_of_trial(variant: Variant, device: torch.device, auto: Auto) -> tuple[EngineName, ...]:
    """Without what takes longer than the rest of a trial: on a CPU compiling; and a graph, of steps that are as fast
    without one, where the smallest is sought."""
    engines = engines_for(variant, device)
    if device.type != "cpu" or len(engines) == 1:
        return engines
    left_out = {"TorchCompiled"}
    if auto.minimize == "Bytes" and not wants_compile(variant.steps):
        left_out.add("OnnxRuntime")
    return tuple(engine for engine in engines if engine not in left_out)


def figure_of(trial: Trial, auto: Auto, share: float) -> float:
    """What of a trial, which was measured, is to be as small as it can be: microseconds of a pass, bytes, or the
    seconds that making it in full and all passes take. `share` is the part of its training that it took."""
    assert trial.measured is not None  # noqa: S101  the caller has looked
    if auto.minimize == "Bytes":
        return float(trial.measured.size_bytes)
    if auto.minimize == "Latency":
        return float(trial.measured.latency_microseconds)
    making = trial.making_milliseconds / 1000 / share
    return making + (auto.batches or 1) * trial.measured.latency_microseconds / 1e6


def payback_batches(seconds: float, baseline: Measurement, measured: Measurement) -> int | None:
    """Passes of the measured batch after which the time that they save is that of a search of `seconds`: seconds /
    (the model's latency - the variant's). The same holds of money, if a second has one price. None: none are saved."""
    saved = (baseline.latency_microseconds - measured.latency_microseconds) / 1e6
    return math.ceil(seconds / saved) if saved > 0 else None


def with_pareto(tried: list[Trial]) -> list[Trial]:
    """The trials, those marked that no other of their rung beats in quality, latency and bytes together."""
    marked = list(tried)
    for rung in {trial.rung for trial in tried}:
        places = [place for place, trial in enumerate(tried) if trial.rung == rung and trial.measured is not None]
        points = [_point(tried[place]) for place in places]
        for place, stays in zip(places, pareto(points), strict=True):
            marked[place] = tried[place].model_copy(update={"pareto": stays})
    return marked


def pareto_rows(tried: Sequence[Trial]) -> list[ParetoRow]:
    """What no other list of steps is as good as in quality, latency and bytes, each by its last trial; at most
    MAX_PARETO of them: those that come nearest to their bounds, then the fastest. In order of latency."""
    last = {trial.recipe: trial for trial in tried if trial.measured is not None}
    stays = pareto([_point(trial) for trial in last.values()])
    best = [trial for trial, is_best in zip(last.values(), stays, strict=True) if is_best]
    nearest = sorted(best, key=lambda trial: (float(trial.distance or "inf"), _point(trial)[1]))[:MAX_PARETO]
    rows = [
        ParetoRow(
            steps=trial.recipe,
            latency_microseconds=trial.measured.latency_microseconds,
            size_bytes=trial.measured.size_bytes,
            quality_drop_percent=_shown(_point(trial)[0]),
        )
        for trial in nearest
        if trial.measured is not None
    ]
    return sorted(rows, key=lambda row: row.latency_microseconds)


def _point(trial: Trial) -> tuple[float, float, float]:
    assert trial.measured is not None and trial.baseline is not None  # noqa: S101, PT018  the caller has looked
    lost = quality_drop(trial.baseline, trial.measured)
    return float(lost), float(trial.measured.latency_microseconds), float(trial.measured.size_bytes)


def _part_of(whole: HeldOut, share: float) -> HeldOut:
    """A part of the held-out samples, evenly spread over all that the last rung has."""
    count = max(LEAST_BATCHES * whole.batch_size, math.ceil(whole.max_samples * share))
    return replace(whole, part=count)


def _told(trial: Trial) -> str:
    if trial.measured is None:
        return f"refused: {trial.refused}"
    measured = trial.measured
    accuracy = measured.validation_accuracy_permille
    also = "" if accuracy is None else f", accuracy {accuracy / 10:.1f} %"
    kept = "keeps its bounds" if not trial.faults else trial.faults[0].message
    return (
        f"{measured.latency_microseconds / 1000:.3f} ms, {measured.size_bytes:,} bytes, validation loss "
        f"{measured.validation_loss}{also}: {kept}"
    )


def _told_of(rises: Rises) -> str:
    of = {"HeldOut": "held-out", "Training": "training"}[rises.samples_of]
    most = ", ".join(f"{name} ({rises.of_layers[name]:+.3g})" for name in rises.ranked()[:_MOST_TOLD])
    return (
        f"{rises.scheme} is expected to raise the loss, {rises.loss:.4g} on {rises.samples} {of} samples, by "
        f"{rises.together():.3g}; most by {most}"
    )


def _shown(value: float) -> str:
    return f"{value:.6g}"
