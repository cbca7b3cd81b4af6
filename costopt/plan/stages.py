"""Which stages there are, which are due, and which replicas belong to none of them."""

from collections.abc import Sequence
from datetime import datetime

from costopt.names import TRAIN_STAGE
from costopt.plan.actions import StartGang, StopGang
from costopt.plan.backoff import starts_in
from costopt.plan.observed import Observed, Replica
from costopt.plan.restarts import begin
from costopt.schema.job import JobSpec
from costopt.schema.status import JobStatus, StageStatus

IN_FLIGHT = frozenset({"Starting", "Running", "Stopping"})
FINAL = frozenset({"Succeeded", "Failed"})


def stages_of(spec: JobSpec, status: JobStatus) -> list[StageStatus]:
    """Training if there is one, then the variants in order, each as last written or Waiting; a variant no longer asked
    for is gone."""
    return [status.stage(name) or StageStatus(name=name, state="Waiting") for name in spec.stages]


def parted(stages: Sequence[StageStatus]) -> tuple[StageStatus | None, list[StageStatus]]:
    """Training, or None where a model is given, and the variants."""
    if stages and stages[0].name == TRAIN_STAGE:
        return stages[0], list(stages[1:])
    return None, list(stages)


def begin_due(stages: Sequence[StageStatus], observed: Observed, now: datetime) -> list[StageStatus]:
    """The stages, those that are due begun: training at once, variants once there is a model, as many at a time as
    allowed."""
    training, variants = parted(stages)
    if training is not None and training.state == "Waiting":
        return [_begin_next(training, observed, now), *variants]
    if training is not None and training.state != "Succeeded":
        return list(stages)
    most = observed.max_parallel_variants
    places = len(variants) if most is None else max(0, most - sum(stage.state in IN_FLIGHT for stage in variants))
    begun = []
    for stage in variants:
        due = stage.state == "Waiting" and places > 0
        begun.append(_begin_next(stage, observed, now) if due else stage)
        places -= due
    return begun if training is None else [training, *begun]


def _begin_next(stage: StageStatus, observed: Observed, now: datetime) -> StageStatus:
    """The stage with its next attempt; never one that replicas were seen of, should a status have been lost."""
    seen = [replica.attempt for replica in observed.replicas if replica.stage == stage.name]
    after_own = stage.attempt + 1 if stage.start_time else 0
    return begin(stage, max([after_own, *(attempt + 1 for attempt in seen)]), now)


def gangs_to_start(stages: Sequence[StageStatus], observed: Observed, now: datetime) -> tuple[StartGang, ...]:
    """Attempts that were decided and of which nothing is seen, once no other attempt of their stage lives and the pause
    before them is over."""
    still_live = {replica.stage for replica in observed.replicas if replica.live}
    limits = observed.spec.restarts
    return tuple(
        StartGang(stage.name, stage.attempt)
        for stage in stages
        if stage.state == "Starting"
        and (stage.name, stage.attempt) not in observed.gangs
        and stage.name not in still_live
        and not starts_in(stage, limits, now)
    )


def strays_to_stop(stages: Sequence[StageStatus], replicas: Sequence[Replica]) -> tuple[StopGang, ...]:
    """Live gangs that no stage is waiting for: of an earlier attempt, of a removed variant, of a stage that is over."""
    wanted = {(stage.name, stage.attempt) for stage in stages if stage.state in IN_FLIGHT}
    live = {(replica.stage, replica.attempt) for replica in replicas if replica.live}
    return tuple(StopGang(stage, attempt, "NotWanted", checkpoint=False) for stage, attempt in sorted(live - wanted))
