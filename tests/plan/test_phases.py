"""What the status says while no step ends, how long start-up may take, and what a stop has lost."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from builders.plan import HEALED, INT8, World, running, spec, trained
from costopt.plan.actions import StopGang
from costopt.schema.replica import Phase, PhaseName, Progress


def is_at(world: World, name: PhaseName | None, *, seconds: int | None = None, index: int = 0) -> None:
    """A replica is in a phase, and had then been starting up for so long."""
    who = world.live()[index]
    phase = None if name is None else Phase(phase=name, percent=40)
    starting = None if seconds is None else timedelta(seconds=seconds)
    world.replicas[who.uid] = replace(who, phase=phase, starting_for=starting)
    world.stirred[who.uid] = world.now


def test_the_status_tells_the_phase_until_steps_are_taken() -> None:
    world = running(spec())
    is_at(world, "Tokenizing")
    world.look()
    assert world.stage().phase == "tokenizing 40 %"
    is_at(world, None)
    world.look()
    assert world.stage().phase is None


def test_a_variants_phase_is_told_too() -> None:
    world = trained(spec(INT8))
    world.look()
    is_at(world, "Measuring")
    world.look()
    assert (world.stage("train").phase, world.stage("int8").phase) == (None, "measuring 40 %")


def test_a_variant_of_which_a_step_trains_tells_the_step_that_it_takes() -> None:
    world = trained(spec(HEALED))
    world.look()
    first, _ = world.live()
    phase = Phase(phase="FineTuning", percent=4, step=40, total_steps=1000)
    world.replicas[first.uid] = replace(first, phase=phase)
    world.look()
    assert world.stage("healed").phase == "fine-tuning, step 40 of 1000"


def test_what_a_replica_waits_for_goes_before_what_another_does() -> None:
    world = running(spec())
    is_at(world, "MeetingRanks")
    world.waits(world.live()[1], "its container to start")
    world.look()
    assert world.stage().phase is None  # it mostly starts soon
    world.passes(10)
    world.look()
    assert world.stage().phase == "waiting for its container to start"


def test_a_stage_that_does_not_run_is_in_no_phase() -> None:
    world = running(spec())
    is_at(world, "Evaluating")
    world.look()
    world.edit(suspend=True)
    world.look()
    assert world.state()[0] == "Stopping"
    assert world.stage().phase is None


def test_what_a_stalled_gang_was_last_at_is_told() -> None:
    world = running(spec(restarts={"stallTimeoutSeconds": 60}))
    is_at(world, "Tokenizing")
    is_at(world, None, index=1)
    world.passes(60)
    world.look()
    assert world.status.failure is not None
    assert world.status.failure.message == (
        "no replica of train finished a step or logged a line for 60 s; its last phase was: tokenizing 40 %"
    )


IN_TIME: dict[str, Any] = {"restarts": {"startupTimeoutSeconds": 100}}


def test_a_start_up_that_takes_too_long_is_a_failure_that_names_its_phase() -> None:
    world = running(spec(**IN_TIME))
    is_at(world, "Tokenizing", seconds=99)
    decided = world.look()
    assert (decided.stop, decided.requeue_after) == ((), timedelta(seconds=1))
    is_at(world, "Tokenizing", seconds=100)
    assert world.look().stop == (StopGang("train", 0, "StartupTimedOut", checkpoint=False),)
    assert world.status.failure is not None
    assert world.status.failure.reason == "StartupTimedOut"
    assert world.status.failure.message == (
        "train took no step within startupTimeoutSeconds (100 s); its last phase was: tokenizing 40 %"
    )
    world.obey(143)
    world.look()
    assert (world.state(), world.stage().failures, world.stage().disruptions) == (("Starting", 1), 1, 0)


def test_one_replica_that_reports_steps_ends_the_start_up_of_all() -> None:
    world = running(spec(**IN_TIME))
    is_at(world, "Tokenizing", seconds=1000)
    world.stirs(world.live()[1], step=0)
    assert world.look().stop == ()


def test_without_a_limit_start_up_takes_as_long_as_it_takes() -> None:
    world = running(spec())
    is_at(world, "Tokenizing", seconds=10**6)
    assert world.look().stop == ()


def test_neither_variants_nor_a_users_program_start_up() -> None:
    world = trained(spec(INT8, **IN_TIME))
    world.look()
    is_at(world, "Importing", seconds=1000)
    assert world.look().stop == ()
    plain = spec(**IN_TIME).to_plain()
    plain["train"] = {**plain["train"], "command": ["train"]}
    del plain["train"]["recipe"]
    world = running(spec().model_validate(plain))
    is_at(world, "MeetingRanks", seconds=1000)
    assert world.look().stop == ()


def suspended_at(step: int, saved: int | None) -> str:
    world = running(spec())
    who = world.live()[0]
    progress = Progress(step=step, total_steps=100, last_checkpoint_step=saved)
    world.replicas[who.uid] = replace(who, progress=progress)
    world.edit(suspend=True)
    world.look()
    world.obey(137)
    world.look()
    suspended = world.status.condition("Suspended")
    assert suspended is not None
    assert suspended.status == "True"
    return suspended.message


def test_a_suspended_job_says_which_steps_it_has_lost() -> None:
    assert suspended_at(40, 40) == "suspend is true"
    assert suspended_at(47, 40) == (
        "suspend is true; 7 steps are lost, for replicas ended before they had saved them: "
        "the last checkpoint is that of step 40"
    )
    assert suspended_at(7, None).endswith("there is no checkpoint yet")


def test_a_suspended_job_says_which_variants_are_made_anew() -> None:
    world = trained(spec(INT8))
    world.look()
    world.look()
    world.edit(suspend=True)
    world.look()
    world.obey(143)
    world.look()
    suspended = world.status.condition("Suspended")
    assert suspended is not None
    assert suspended.message == "suspend is true; what was made of int8 is lost, for a variant is made anew"
    world.edit(suspend=False)
    world.look()
    assert "lost" not in str(world.status.condition("Suspended"))


def test_what_a_variant_has_trained_is_not_lost_with_a_suspension() -> None:
    world = trained(spec(INT8, HEALED))
    world.look()
    world.edit(suspend=True)
    world.look()
    world.obey(143)
    world.look()
    suspended = world.status.condition("Suspended")
    assert suspended is not None
    assert suspended.message == "suspend is true; what was made of int8 is lost, for a variant is made anew"


def test_a_job_suspended_before_a_variant_has_begun_has_lost_nothing() -> None:
    world = running(spec(INT8))
    world.end_all(0)
    world.edit(suspend=True)
    world.look()
    suspended = world.status.condition("Suspended")
    assert suspended is not None
    assert "lost" not in suspended.message
