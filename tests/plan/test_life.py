"""The life of a job: training, variants, its end."""

from dataclasses import replace
from datetime import timedelta

from builders.plan import INT8, PRUNED, START, World, bill, ended, replica, report, running, spec, trained
from costopt.plan.decide import StartGang, StopGang, is_final
from costopt.schema.replica import Progress
from costopt.schema.variant_report import VariantFault


def test_a_new_job_starts_its_training() -> None:
    world = World(spec())
    decided = world.look()
    assert decided.start == (StartGang("train", 0),)
    assert decided.stop == ()
    assert world.says("Succeeded") == ("Unknown", "Training")
    assert world.says("Suspended") == ("False", "NotSuspended")
    assert world.says("Stalled") == ("False", "Active")
    assert world.says("Priced") == ("False", "NoPriceBook")
    assert world.says("BudgetExceeded") == ("", "")
    assert (world.status.execution, world.status.start_time, world.status.active_since) == (1, START, START)
    assert world.status.observed_generation == 3


def test_a_start_is_said_again_until_a_replica_is_seen() -> None:
    world = World(spec())
    assert world.write().start == (StartGang("train", 0),)
    assert world.look().start == (StartGang("train", 0),)
    assert world.look().start == ()
    assert world.state() == ("Running", 0)


def test_a_job_without_variants_succeeds_with_its_training() -> None:
    world = trained(spec())
    assert world.state() == ("Succeeded", 0)
    assert world.says("Succeeded") == ("True", "Completed")
    assert world.status.completion_time == START
    assert world.status.active_since is None


def test_training_succeeds_only_when_all_its_replicas_have() -> None:
    world = running(spec())
    world.end(world.live()[0], 0)
    assert world.look().stop == ()
    assert world.state() == ("Running", 0)


def test_variants_start_after_training_all_at_once() -> None:
    world = World(spec(INT8, PRUNED))
    assert world.look().start == (StartGang("train", 0),)
    world.end_all(0)
    assert world.look().start == (StartGang("int8", 0), StartGang("pruned", 0))
    assert world.says("Succeeded") == ("Unknown", "Compressing")


def test_variants_take_turns_where_only_one_may_be_made_at_a_time() -> None:
    world = trained(spec(INT8, PRUNED), most_variants=1)
    assert [each.stage for each in world.live()] == ["int8"]
    assert world.look().start == ()
    world.end_all(0)
    assert world.look().start == (StartGang("pruned", 0),)
    world.end_all(0)
    world.look()
    assert world.says("Succeeded") == ("True", "Completed")
    assert [variant.name for variant in world.status.variants] == ["int8", "pruned"]


def test_a_variant_that_nobody_would_deploy_is_named_where_the_job_succeeds() -> None:
    world = trained(spec(INT8, PRUNED))
    world.end_all(0)
    slow = VariantFault(reason="Slower", message="it is 0.04x as fast as the model")
    world.reports["int8"] = report("int8").model_copy(update={"faults": [slow]})
    world.look()
    assert world.says("Succeeded") == ("True", "Completed")
    succeeded = world.status.condition("Succeeded")
    assert succeeded is not None
    assert succeeded.message.endswith("all its variants were made; rejected: int8 (Slower)")


def test_a_variant_that_left_no_report_has_failed() -> None:
    world = trained(spec(INT8, restarts={"maxFailures": 0}))
    world.end(world.live()[0], 0, reported=False)
    world.look()
    assert world.state("int8") == ("Failed", 0)
    assert world.says("Succeeded") == ("False", "VariantFailed")
    assert world.status.failure is not None
    assert "left no report" in world.status.failure.message


def test_a_report_counts_only_with_a_success() -> None:
    world = trained(spec(INT8))
    world.reports["int8"] = report("int8")
    world.look()
    assert world.status.variants == []


def test_a_required_variant_that_is_rejected_stands_among_those_that_were_measured() -> None:
    world = trained(spec({**INT8, "required": True}))
    said = {"reason": "VariantRejected", "message": "int8, which is required, was rejected"}
    world.end(world.live()[0], 78, said=said)
    world.look()
    assert world.state("int8") == ("Failed", 0)
    assert world.says("Succeeded") == ("False", "VariantFailed")
    assert [variant.name for variant in world.status.variants] == ["int8"]


def test_one_failed_variant_does_not_stop_the_others_but_fails_the_job() -> None:
    world = trained(spec(INT8, PRUNED, restarts={"maxFailures": 0}))
    world.end(world.live("int8")[0], 1)
    assert world.look().stop == ()
    assert world.state("int8") == ("Failed", 0)
    assert world.state("pruned") == ("Running", 0)
    world.end_all(0)
    world.look()
    assert world.says("Succeeded") == ("False", "VariantFailed")
    assert [variant.name for variant in world.status.variants] == ["pruned"]
    assert world.state() == ("Succeeded", 0)


def test_a_finished_job_starts_nothing_whatever_is_seen_later() -> None:
    world = trained(spec())
    world.replicas = {"train-a0-0": ended(0, 1), "train-a7-0": replica(0, attempt=7)}
    world.edit(suspend=True, compress=[INT8])
    world.passes(10)
    decided = world.look()
    assert decided.start == ()
    assert decided.stop == (StopGang("train", 7, "NotWanted", checkpoint=False),)
    assert world.says("Succeeded") == ("True", "Completed")


def test_the_bill_of_a_finished_job_is_still_brought_up_to_date() -> None:
    world = trained(spec())
    world.bill = bill("7.5")
    world.look()
    assert world.status.bill == world.bill
    world.bill = None
    world.look()
    assert world.status.bill == bill("7.5")


def test_a_finished_job_is_deleted_when_its_time_to_live_is_over() -> None:
    world = running(spec(ttlSecondsAfterFinished=60))
    world.end_all(0)
    decided = world.look()
    assert (decided.delete, decided.requeue_after) == (False, timedelta(seconds=60))
    world.passes(59)
    assert world.look().requeue_after == timedelta(seconds=1)
    world.passes(1)
    decided = world.look()
    assert (decided.delete, decided.requeue_after) == (True, None)


def test_a_job_with_no_time_to_live_after_its_end_is_deleted_at_its_end() -> None:
    world = running(spec(ttlSecondsAfterFinished=0))
    world.end_all(0)
    assert world.look().delete


def test_a_job_without_a_time_to_live_is_kept() -> None:
    world = trained(spec())
    world.passes(10**8)
    decided = world.look()
    assert (decided.delete, decided.requeue_after) == (False, None)


def test_progress_is_that_of_the_first_replica_of_the_latest_attempt_and_is_kept() -> None:
    world = running(spec())
    for each in world.live():
        world.stirs(each, step=7 + each.index)
    world.look()
    assert world.status.progress is not None
    assert world.status.progress.step == 7
    world.end_all(1)
    world.look()
    world.replicas = {uid: each for uid, each in world.replicas.items() if each.attempt == 1}
    world.look()
    assert world.status.progress.step == 7
    world.stirs(world.live()[0], step=3)
    world.look()
    assert world.status.progress.step == 3


def test_a_live_gang_of_another_attempt_is_stopped_before_the_next_one_starts() -> None:
    world = World(spec())
    world.replicas = {"train-a4-0": replica(0, attempt=4)}
    decided = world.look()
    assert decided.start == ()
    assert decided.stop == (StopGang("train", 4, "NotWanted", checkpoint=False),)
    world.end_all(143)
    assert world.look().start == (StartGang("train", 5),)


def test_a_variant_added_while_others_are_made_is_made_too() -> None:
    world = trained(spec(INT8))
    world.edit(compress=[INT8, PRUNED])
    assert world.look().start == (StartGang("pruned", 0),)


def test_a_variant_taken_away_is_stopped_and_forgotten() -> None:
    world = trained(spec(INT8, PRUNED))
    world.edit(compress=[INT8])
    assert world.look().stop == (StopGang("pruned", 0, "NotWanted", checkpoint=False),)
    assert [stage.name for stage in world.status.stages] == ["train", "int8"]
    world.end_all(0, "int8")
    world.look()
    assert is_final(world.status)


def test_training_that_fails_for_good_leaves_its_variants_waiting() -> None:
    world = running(spec(INT8, restarts={"maxFailures": 0}))
    world.end_all(1)
    world.look()
    assert world.says("Succeeded") == ("False", "TrainingFailed")
    assert world.state() == ("Failed", 0)
    assert world.state("int8") == ("Waiting", 0)


def test_a_transition_time_changes_only_with_its_status_and_never_goes_back() -> None:
    world = running(spec())
    world.passes(5)
    world.edit(suspend=True)
    world.look()
    world.obey()
    world.passes(5)
    world.look()
    suspended = world.status.condition("Suspended")
    succeeded = world.status.condition("Succeeded")
    assert suspended is not None
    assert succeeded is not None
    assert suspended.last_transition_time == START + timedelta(seconds=10)
    assert succeeded.last_transition_time == START
    world.edit(suspend=False)
    world.passes(-3600)
    world.look()
    resumed = world.status.condition("Suspended")
    assert resumed is not None
    assert resumed.status == "False"
    assert resumed.last_transition_time == suspended.last_transition_time


def test_a_first_report_that_went_on_from_a_checkpoint_went_on_from_an_earlier_jobs() -> None:
    world = running(spec())
    world.look()
    assert world.status.continues_from_step is None
    first = world.live()[0]
    world.replicas[first.uid] = replace(first, progress=Progress(step=410, total_steps=1000, resumed_from_step=400))
    world.look()
    assert world.status.continues_from_step == 400
    world.end_all(1)
    world.look()
    world.look()
    first = world.live()[0]
    world.replicas[first.uid] = replace(first, progress=Progress(step=510, total_steps=1000, resumed_from_step=500))
    world.look()
    assert world.status.continues_from_step == 400


def test_a_restart_goes_on_from_the_jobs_own_checkpoint() -> None:
    world = running(spec())
    world.stirs(world.live()[0], 10)
    world.look()
    world.end_all(1)
    world.look()
    world.look()
    first = world.live()[0]
    world.replicas[first.uid] = replace(first, progress=Progress(step=12, total_steps=100, resumed_from_step=8))
    world.look()
    assert world.status.continues_from_step is None
