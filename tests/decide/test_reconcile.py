"""What the operator decides about a job, from looks at its children; nothing here talks to anything."""

import dataclasses
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from builders.lives import REPORT
from builders.operator import UID, Story, a_book, a_given_job, a_job, at, child, done, failed, moment, pod, pod_json
from builders.plan import HEALED, INT8, PRUNED
from cases.mistakes import plain_job, plain_price_book
from costopt.plan.actions import StartGang
from costopt.schema.replica import MeteredMilliseconds, Progress
from costopt.schema.status import EarlierJob
from costopt.schema.usage import MAX_RECORDS
from costopt_operator.decide.node_pricing import classify
from costopt_operator.decide.objects import Pod, parse_pod
from costopt_operator.decide.observe import LogSight
from costopt_operator.decide.reconcile import FIGURES_EVERY, RECORDS_WITHIN, SOON


def begun() -> Story:
    """A story whose training attempt 0 has been decided."""
    story = Story()
    story.look(0)
    return story


def test_the_first_look_writes_the_attempt_down_and_starts_it() -> None:
    story = Story()
    todo = story.look(0)
    assert todo.start == (StartGang("train", 0),)
    assert story.state() == "Starting"


def test_a_look_that_finds_nothing_new_writes_nothing() -> None:
    story = begun()
    seen = (child(), pod(0), pod(1))
    story.look(10, *seen)
    story.look(10 + SOON.total_seconds(), *seen)
    assert story.state() == "Running"
    before = len(story.written)
    for second in range(13, 30):
        assert story.look(second, *seen).status is None
    assert len(story.written) == before


def test_growing_figures_are_written_twice_a_minute() -> None:
    story = begun()
    seen = (child(), pod(0), pod(1))
    before = len(story.written)
    for second in range(10, 310):
        story.look(second, *seen)
    assert len(story.written) - before == 300 / FIGURES_EVERY.total_seconds()


def test_the_record_of_a_pod_waits_some_seconds_for_those_of_its_gang() -> None:
    story = begun()
    seen = (child(), pod(0), pod(1))
    story.look(10, *seen)
    story.look(12, *seen)
    before = len(story.written)
    seen = (child(), done(0, finished=13), pod(1))
    for second in range(14, 24):
        assert not story.look(second, *seen).releases
    assert [item.index for item in story.look(14 + RECORDS_WITHIN.total_seconds(), *seen).releases] == [0]
    assert len(story.written) - before == 1


def test_the_life_of_a_gang_and_a_variant_takes_five_writes_of_the_status() -> None:
    int8 = {"name": "int8", "steps": [{"type": "Quantize", "quantize": {"scheme": "Int8WeightOnly"}}]}
    story = Story(a_job(compress=[int8]))
    trained = (child(), done(0, finished=12), done(1, finished=12))
    compressed = done(0, stage="int8", finished=24, message={"exitCode": 0, "variant": REPORT})
    story.look(0)
    for second in range(1, 12):
        story.look(second, child(), pod(0), pod(1))
    story.look(12, *trained)
    for second in range(13, 24):
        story.look(second, *trained, child("int8"), pod(0, stage="int8"))
    for second in range(24, 30):
        story.look(second, *trained, child("int8"), compressed)
    assert [tuple(stage.state for stage in status.stages) for status in story.written] == [
        ("Starting", "Waiting"),
        ("Running", "Waiting"),
        ("Succeeded", "Starting"),
        ("Succeeded", "Running"),
        ("Succeeded", "Succeeded"),
    ]


def test_the_life_of_a_job_without_a_training_is_that_of_its_variants() -> None:
    story = Story(a_given_job())
    todo = story.look(0)
    assert todo.start == (StartGang("int8", 0), StartGang("small", 0))
    running = (child("int8"), pod(0, stage="int8"), child("small"), pod(0, stage="small"))
    story.look(10, *running)
    story.look(12, *running)
    assert (story.reason(), story.state("int8"), story.state()) == ("Compressing", "Running", "")
    small = {**REPORT, "name": "small", "artifact": "artifacts/small"}
    made = done(0, stage="int8", finished=20, message={"exitCode": 0, "variant": REPORT})
    lost = pod(0, stage="small", phase="Failed", conditions=("DisruptionTarget",), exit_code=143, finished=20)
    todo = story.look(21, child("int8"), made, child("small", conditions=("Failed",)), lost)
    assert todo.start == (StartGang("small", 1),)
    again = done(0, stage="small", attempt=1, finished=40, message={"exitCode": 0, "variant": small})
    for second in (41, 60):
        story.look(second, child("small", 1), again)
    assert story.reason() == "Completed"
    assert [variant.name for variant in story.status.variants] == ["int8", "small"]
    assert story.status.bill is not None
    assert {line.stage for line in story.status.bill.lines} == {"int8", "small"}


def test_the_gang_of_a_variant_needs_its_service_too() -> None:
    story = Story(a_job(compress=[HEALED]))
    story.look(0)
    trained = (child(conditions=("Complete",)), done(0, finished=5), done(1, finished=5))
    story.look(6, *trained)
    assert story.state("healed") == "Starting"
    gang = (child("healed", completions=2), pod(0, stage="healed"), pod(1, stage="healed"))
    assert [found.stage for found in story.look(20, *trained, *gang).ensure_service] == ["healed"]


def test_a_required_variant_that_was_rejected_is_reported_with_what_was_measured() -> None:
    story = Story(a_given_job())
    story.look(0)
    fault = {"reason": "Slower", "message": "it is 0.5x as fast as the model"}
    report = {**REPORT, "faults": [fault], "verdict": "Rejected", "artifact": "artifacts/rejected/int8"}
    said = {"exitCode": 78, "reason": "VariantRejected", "message": "int8 was rejected", "variant": report}
    rejected = failed(0, 78, stage="int8", finished=20, message=said)
    for second in (21, 40):
        story.look(second, child("int8", conditions=("Failed",)), rejected, child("small"), pod(0, stage="small"))
    assert story.state("int8") == "Failed"
    assert [variant.verdict for variant in story.status.variants] == ["Rejected"]


def test_the_batch_jobs_of_all_that_has_begun_are_written_down_within_two_seconds() -> None:
    int8 = {"name": "int8", "steps": [{"type": "Quantize", "quantize": {"scheme": "Int8WeightOnly"}}]}
    story = Story(a_job(compress=[int8]))
    story.look(0)
    for second in (1, 1 + SOON.total_seconds()):
        story.look(second, child())
    assert [entry.uid for entry in story.status.batch_jobs or []] == ["job-train-0"]
    trained = (child(conditions=("Complete",)), done(0, finished=12), done(1, finished=12))
    story.look(12, *trained)
    for second in (13, 13 + SOON.total_seconds()):
        story.look(second, *trained, child("int8"))
    assert "job-int8-0" in {entry.uid for entry in story.status.batch_jobs or []}


def test_a_gang_whose_pods_are_still_to_come_is_not_lost() -> None:
    story = begun()
    for second in (1, 2, 4, 6):
        todo = story.look(second, child())
        assert (todo.start, todo.delete_jobs) == ((), ())
    assert story.status.stages[0].disruptions == 0


def test_every_pod_is_recorded_before_its_finalizer_is_released() -> None:
    story = begun()
    todo = story.look(61, child(), done(0), pod(1))
    assert todo.releases == ()  # its record waits a moment for the others
    todo = story.look(63, child(), done(0), pod(1))
    assert [item.uid for item in todo.releases] == ["pod-train-0-0"]
    assert story.status.usage is not None
    assert [record.uid for record in story.status.usage.records] == ["pod-train-0-0"]


def test_a_record_holds_when_a_pod_was_placed_and_when_its_last_container_ended() -> None:
    story = begun()
    story.look(70, child(conditions=("Complete",)), done(0), done(1, finished=66))
    assert story.status.usage is not None
    records = {record.index: record for record in story.status.usage.records}
    assert (records[0].held_from, records[0].held_until) == (moment(1), moment(61))
    assert records[1].held_until == moment(66)
    assert records[0].resources == {"cpu": "0.5", "memory": "1073741824"}
    assert records[0].node == "node-1"


def test_a_training_that_ends_early_is_said_with_its_metric_steps_and_money() -> None:
    train = plain_job()["spec"]["train"]
    train["recipe"] |= {"totalSteps": 100, "earlyStopping": {"patienceEvaluations": 2}}
    story = Story(a_job(train=train))
    story.look(0)
    evaluations = {"metric": "ValidationLoss", "best": "1.25", "bestStep": 60, "evaluationsWaited": 2}
    for second in (10, 20):
        waiting = Progress.model_validate({"step": 70, "totalSteps": 100, "earlyStopping": evaluations})
        logs = {pod(0).uid: LogSight(timedelta(0), progress=waiting)}
        story.look(second, child(), pod(0), pod(1), logs=logs)
    assert story.status.early_stopped is None, "it goes on"
    metered = {"startup": 20_000, "productive": 40_000}
    stopped = {**evaluations, "stoppedAtStep": 80, "modelStep": 60}
    progress = {"step": 80, "totalSteps": 100, "earlyStopping": stopped, "metered": metered}
    ended = [done(index, message={"exitCode": 0, "progress": progress}) for index in (0, 1)]
    todo = story.look(70, child(conditions=("Complete",)), *ended)
    assert [(event.reason, event.type) for event in todo.events] == [("EarlyStopped", "Normal")]
    condition = story.status.condition("Succeeded")
    assert condition is not None
    assert (condition.status, condition.reason) == ("True", "EarlyStopped")
    assert "80 of 100 steps, as it was after step 60" in condition.message
    found = story.status.early_stopped
    assert found is not None
    assert (found.metric, found.best, found.best_step, found.model_step) == ("ValidationLoss", "1.25", 60, 60)
    assert (found.stopped_at_step, found.total_steps, found.steps_saved) == (80, 100, 20)
    # 40 s of 2 pods took 80 steps, so that 20 more would have taken 10 s: 0.5 vCPU at 0.04 and 1 GiB at 0.005 an hour
    assert found.list_cost_saved is not None
    assert abs(Decimal(found.list_cost_saved) - Decimal(2) * 10 / 3600 * Decimal("0.025")) < Decimal("1e-8")
    assert found.currency == "USD"
    before = len(story.written)
    story.look(200, child(conditions=("Complete",)), *(done(index, finalizer=False) for index in (0, 1)))
    assert story.status.early_stopped == found
    assert len(story.written) == before


def test_all_done_succeeds_in_one_write_with_the_whole_bill() -> None:
    story = begun()
    todo = story.look(70, child(conditions=("Complete",)), done(0), done(1))
    assert story.reason() == "Completed"
    assert len(todo.releases) == 2
    assert [event.reason for event in todo.events] == ["Completed"]
    bill = story.status.bill
    assert bill is not None
    assert bill.list_cost is not None
    # 2 pods, 60 s each, 0.5 vCPU at 0.04 and 1 GiB at 0.005 an hour
    assert abs(Decimal(bill.list_cost) - Decimal(2) * 60 / 3600 * (Decimal("0.02") + Decimal("0.005"))) < Decimal(
        "1e-9"
    )


def test_a_look_after_the_end_changes_nothing_whatever_is_deleted() -> None:
    story = begun()
    story.look(70, child(conditions=("Complete",)), done(0), done(1))
    for seen in ((), (child(conditions=("Complete",)),), (done(0, finalizer=False),)):
        todo = story.look(100, *seen)
        assert (todo.status, todo.start, todo.delete) == (None, (), False)


def test_one_failed_pod_stops_the_gang_and_then_starts_the_next_attempt() -> None:
    story = begun()
    todo = story.look(61, child(conditions=("FailureTarget",)), failed(0), pod(1))
    assert story.state() == "Stopping"
    assert todo.delete_jobs == ()  # it fails by itself, and keeps its logs
    assert [(item.index, grace) for item, grace in todo.delete_pods] == [(1, 10)]
    todo = story.look(65, child(conditions=("Failed",)), failed(0), failed(1, 143))
    assert todo.start == (StartGang("train", 1),)
    stage = story.status.stages[0]
    assert (stage.attempt, stage.failures, stage.disruptions) == (1, 1, 0)
    assert [event.reason for event in todo.events] == ["Restarted"]


def test_a_job_one_of_whose_pods_has_failed_is_left_to_fail_by_itself_and_keeps_its_logs() -> None:
    story = begun()
    todo = story.look(61, child(), failed(0), pod(1))  # the Job controller has not said FailureTarget yet
    assert todo.delete_jobs == ()
    assert [item.index for item, _ in todo.delete_pods] == [1]


def test_a_gang_that_broke_and_was_stopped_while_nobody_looked_has_failed() -> None:
    story = begun()
    todo = story.look(65, child(conditions=("Failed",)), failed(0, 1), failed(1, 143, deleted=62, grace=10))
    assert todo.start == (StartGang("train", 1),)
    stage = story.status.stages[0]
    assert (stage.failures, stage.disruptions) == (1, 0)
    assert story.status.failure is not None
    assert story.status.failure.exit_code == 1


def test_a_pod_that_is_ending_already_is_not_deleted_again() -> None:
    story = begun()
    ending = pod(1, deleted=80, grace=10)
    assert story.look(61, child(conditions=("FailureTarget",)), failed(0), ending).delete_pods == ()


@pytest.mark.parametrize(
    "lost",
    [
        failed(0, 137, conditions=("DisruptionTarget",)),
        failed(0, 143),
    ],
    ids=["preempted by the scheduler", "ended by SIGTERM, with a checkpoint"],
)
def test_what_the_platform_ended_counts_as_a_disruption(lost: object) -> None:
    story = begun()
    story.look(61, child(conditions=("FailureTarget",)), lost, pod(1))  # type: ignore[arg-type]
    story.look(65, child(conditions=("Failed",)), lost, failed(1, 143))  # type: ignore[arg-type]
    stage = story.status.stages[0]
    assert (stage.attempt, stage.failures, stage.disruptions) == (1, 0, 1)


def test_exit_code_78_ends_the_job_at_once() -> None:
    story = begun()
    message = {"exitCode": 78, "reason": "InvalidData", "message": "corpus.txt is empty"}
    story.look(61, child(conditions=("FailureTarget",)), failed(0, 78, message=message), failed(1, 143))
    assert story.reason() == "TrainingFailed"
    assert story.status.failure is not None
    assert story.status.failure.message == "corpus.txt is empty"


def test_a_job_that_the_api_server_refuses_fails_with_its_sentence() -> None:
    story = begun()
    story.look(1, refused={("train", 0): "spec.template.spec.affinity: must be one of those"})
    assert story.reason() == "TrainingFailed"
    assert story.status.failure is not None
    assert "must be one of those" in story.status.failure.message


def test_suspension_deletes_the_batch_job_and_leaves_its_pods_their_grace() -> None:
    story = begun()
    story.look(10, child(), pod(0), pod(1))
    story.job = a_job(suspend=True)
    todo = story.look(20, child(), pod(0), pod(1))
    assert [item.name for item in todo.delete_jobs] == ["tiny-train-a0"]
    assert todo.delete_pods == ()
    gone = [failed(index, 143, deleted=140) for index in (0, 1)]
    todo = story.look(30, *gone)
    assert story.status.condition("Suspended").status == "True"  # type: ignore[union-attr]
    assert {record.outcome for record in story.status.usage.records} == {"Suspended"}  # type: ignore[union-attr]
    assert [event.reason for event in todo.events] == ["Suspended"]
    story.job = a_job()
    assert story.look(40).start == (StartGang("train", 1),)
    assert story.status.stages[0].disruptions == 0


def test_a_queue_that_takes_the_job_back_costs_no_attempt() -> None:
    story = begun()
    story.look(10, child(), pod(0), pod(1))
    ended = [failed(index, 143, deleted=140) for index in (0, 1)]
    taken_back = child(suspend=True, status={"startTime": None})
    for second, seen in ((20, (*ended,)), (24, ())):
        todo = story.look(second, taken_back, *seen)
        assert (todo.start, todo.delete_jobs) == ((), ())
    again = child(status={"startTime": "2026-03-01T13:00:00Z"})
    assert story.look(3601, again, *ended).start == ()
    assert story.status.stages[0].attempt == 0
    assert len(story.status.usage.records) == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("seconds", [0, 60])
def test_of_a_silent_replica_that_a_queue_takes_back_its_gang_tells_however_long_it_takes_to_end(seconds: int) -> None:
    """Only the other one tells what they have spent their time on, at its end."""
    story = begun()
    for second in (5, 5 + SOON.total_seconds()):
        story.look(second, child(), pod(0), pod(1))
    taken_back = child(suspend=True, status={"startTime": None})
    silent = failed(0, 143, deleted=140)
    for second in range(62, 62 + seconds):
        assert story.look(second, taken_back, silent, pod(1, deleted=140)).releases == ()
    metered = {"startup": 1000, "productive": 4000}
    told = {"exitCode": 143, "progress": {"step": 3, "totalSteps": 40, "metered": metered}}
    other = failed(1, 143, deleted=140, finished=62 + seconds, message=told)
    for second in (63 + seconds, 64 + seconds + RECORDS_WITHIN.total_seconds()):
        story.look(second, taken_back, silent, other)
    assert story.status.usage is not None
    records = sorted(story.status.usage.records, key=lambda record: record.index)
    assert [record.index for record in records] == [0, 1]
    assert [record.metered and record.metered.productive for record in records] == [4000, 4000]


TRAIN_COMMAND = {"numNodes": 2, "resourcesPerNode": {"requests": {"cpu": 1, "memory": "1Gi"}}, "command": ["train.sh"]}


@pytest.mark.parametrize("reports", [True, False])
def test_of_a_silent_replica_of_a_command_its_gang_tells_only_if_the_command_keeps_a_meter(reports: bool) -> None:
    story = Story(a_job(train=TRAIN_COMMAND))
    story.look(0)
    early = Progress(step=1, total_steps=40, metered=MeteredMilliseconds(startup=1000, productive=2000))
    logs = {pod(1).uid: LogSight(timedelta(0), progress=early)} if reports else {}
    for second in (5, 5 + SOON.total_seconds()):
        story.look(second, child(), pod(0), pod(1), logs=logs)
    taken_back = child(suspend=True, status={"startTime": None})
    silent = failed(0, 143, deleted=140)
    for second in range(62, 80):
        releases = story.look(second, taken_back, silent, pod(1, deleted=140), logs=logs).releases
        assert not reports or releases == (), "the other one has more to tell"
    late = {"step": 3, "totalSteps": 40, "metered": {"startup": 1000, "productive": 4000}} if reports else None
    told = {"exitCode": 143, "progress": late}
    other = failed(1, 143, deleted=140, finished=80, message=told)
    for second in (82, 83 + RECORDS_WITHIN.total_seconds()):
        story.look(second, taken_back, silent, other, logs=logs)
    assert story.status.usage is not None
    records = sorted(story.status.usage.records, key=lambda record: record.index)
    found = [record.metered and record.metered.productive for record in records]
    assert found == ([4000, 4000] if reports else [None, None])


def test_a_silent_replica_does_not_wait_for_ever_for_one_whose_node_is_lost() -> None:
    story = begun()
    for second in (5, 5 + SOON.total_seconds()):
        story.look(second, child(), pod(0), pod(1))
    taken_back = child(suspend=True, status={"startTime": None})
    seen = (taken_back, failed(0, 143, deleted=140), pod(1, deleted=140))
    assert story.look(190, *seen).releases == ()
    released = [story.look(second, *seen).releases for second in (201, 201 + RECORDS_WITHIN.total_seconds())]
    assert {item.index for releases in released for item in releases} == {0}


STUCK = pod(0, deleted=140)
"""On a lost node since a queue took its Job back."""


@pytest.mark.parametrize("ends", [(failed(0, 137, deleted=140, conditions=("DisruptionTarget",)),), ()])
def test_a_pod_that_was_stuck_since_a_queue_took_its_job_back_says_nothing_of_the_gang_that_is_done(
    ends: tuple[Pod, ...],
) -> None:
    """It is given up, or vanishes, when the Job is complete: what is done is not done again."""
    story = begun()
    story.look(10, child(), pod(0), pod(1))
    story.look(62, child(suspend=True, status={"startTime": None}), STUCK, failed(1, 143, deleted=140))
    again = {"startTime": "2026-03-01T13:00:00Z"}
    later = [
        dataclasses.replace(done(index, scheduled=3601, finished=3661), uid=f"later-{index}", created=at(3600))
        for index in (0, 1)
    ]
    running = [
        dataclasses.replace(pod(index, scheduled=3601), uid=each.uid, created=at(3600))
        for index, each in enumerate(later)
    ]
    story.look(3610, child(status=again), STUCK, *running)
    complete = child(conditions=("Complete",), status={**again, "completedIndexes": "0-1"})
    for second in (3670, 3700):
        todo = story.look(second, complete, *ends, *later)
        assert todo.start == ()
    assert story.reason() == "Completed"
    assert (story.status.stages[0].failures, story.status.stages[0].disruptions) == (0, 0)
    assert story.status.usage is not None
    outcomes = sorted((record.held_from, record.index, record.outcome) for record in story.status.usage.records)
    assert [(index, outcome) for _, index, outcome in outcomes] == [
        (0, "Suspended"), (1, "Suspended"), (0, "Succeeded"), (1, "Succeeded")
    ]  # fmt: skip


def test_an_admitted_gang_of_fewer_replicas_is_whole_without_the_others() -> None:
    story = Story(a_job(labels={"kueue.x-k8s.io/queue-name": "main"}))
    story.look(0)
    assert story.look(1, child(suspend=True, completions=1)).publish_admitted_settings == ()
    assert story.look(2, child(completions=1), pod(0)).publish_admitted_settings != ()
    story.look(70, child(completions=1, conditions=("Complete",)), done(0))
    assert story.reason() == "Completed"


def test_a_pod_that_never_reached_a_node_is_released_without_a_record() -> None:
    story = begun()
    never = pod(0, phase="Pending", scheduled=None, deleted=5, grace=0)
    todo = story.look(10, child(), never, pod(1))
    assert [item.uid for item in todo.releases] == [never.uid]
    assert story.status.stages[0].disruptions == 0


def test_a_completed_pod_that_somebody_deleted_still_counts() -> None:
    story = begun()
    finished = child(conditions=("Complete",), status={"completedIndexes": "0-1"})
    story.look(70, finished, done(0))
    assert story.reason() == "Completed"


def test_a_batch_job_deleted_by_hand_is_a_disruption() -> None:
    story = begun()
    story.look(10, child(), pod(0), pod(1))
    story.look(14, child(), pod(0), pod(1))
    todo = story.look(20)
    assert todo.start == (StartGang("train", 1),)
    assert story.status.stages[0].disruptions == 1


def test_a_pod_whose_end_nobody_saw_is_estimated_and_flagged() -> None:
    story = begun()
    lost = pod(0, deleted=80, grace=0)
    story.look(200, child(conditions=("FailureTarget",)), lost, failed(1, 143))
    records = {record.index: record for record in story.status.usage.records}  # type: ignore[union-attr]
    assert records[0].end_estimated
    assert records[0].held_until == moment(80)
    assert not records[1].end_estimated


def test_a_job_that_is_being_deleted_is_stopped_with_a_checkpoint_and_recorded_at_once_and_then_rests() -> None:
    story = begun()
    story.look(5, child(), pod(0), pod(1))
    todo = story.look(10, child(), pod(0), pod(1), deleting=True)
    assert ([item.name for item in todo.delete_jobs], todo.delete_pods) == (["tiny-train-a0"], ())
    assert todo.status is not None
    condition = story.status.condition("Suspended")
    assert condition is not None
    assert condition.message == "replicas save their work and end: the job is being deleted"
    ending = child(metadata={"deletionTimestamp": at(10)})
    assert story.look(11, ending, failed(0, 143, finished=11), pod(1), deleting=True).releases == ()
    todo = story.look(12, failed(0, 143, finished=11), failed(1, 143, finished=12), deleting=True)
    assert [item.index for item in todo.releases] == [0, 1]
    assert [record.outcome for record in story.status.usage.records] == ["Suspended"] * 2  # type: ignore[union-attr]
    assert (story.reason(), story.state()) == ("Suspended", "Waiting")
    condition = story.status.condition("Suspended")
    assert condition is not None
    assert (condition.status, condition.reason) == ("True", "DeletionRequested")
    for second in (20, 60, 600):
        todo = story.look(second, deleting=True)
        assert (todo.status, todo.start, todo.requeue_after) == (None, (), None)


def test_the_record_of_a_pod_of_a_job_that_is_being_deleted_waits_for_no_other() -> None:
    """Somebody waits for the job to go."""
    story = begun()
    for second in (5, 5 + SOON.total_seconds()):
        story.look(second, child(), pod(0), pod(1))
    story.look(10, child(), pod(0), pod(1), deleting=True)
    assert [item.index for item in story.look(13, child(), done(0, finished=12), pod(1), deleting=True).releases] == [0]


def test_a_new_job_that_is_being_deleted_begins_nothing() -> None:
    story = Story()
    todo = story.look(0, deleting=True)
    assert (todo.start, story.state()) == ((), "Waiting")
    assert story.look(1, deleting=True).status is None


@pytest.mark.parametrize(("owners", "stopped"), [(None, [0, 1]), ("a batch Job", [])])
def test_of_a_job_that_is_being_deleted_only_pods_that_nobody_owns_are_stopped_one_by_one(
    owners: str | None, stopped: list[int]
) -> None:
    """A batch Job that is gone ends its pods, and one that has lost its owner keeps them."""
    story = begun()
    story.look(5, child(), pod(0), pod(1))
    data = [pod_json(0), pod_json(1)]
    for each in data:
        if owners is None:
            del each["metadata"]["ownerReferences"]
    gang = child().gang
    todo = story.look(10, *(parse_pod(each).of_gang(gang) for each in data), deleting=True)
    assert [item.index for item, _ in todo.delete_pods] == stopped


def test_a_finished_job_that_is_being_deleted_is_not_deleted_again_and_writes_nothing() -> None:
    story = Story(a_job(ttlSecondsAfterFinished=10))
    story.look(0)
    story.look(70, child(conditions=("Complete",)), done(0), done(1))
    todo = story.look(90, done(0, finalizer=False), deleting=True)
    assert (todo.delete, todo.status) == (False, None)


def test_a_job_is_deleted_after_its_time_to_live_once_all_is_released() -> None:
    story = Story(a_job(ttlSecondsAfterFinished=100))
    story.look(0)
    story.look(70, child(conditions=("Complete",)), done(0), done(1))
    assert story.look(80, done(0, finalizer=False)).requeue_after == timedelta(seconds=90)
    assert not story.look(171, done(0)).delete
    assert story.look(171, done(0, finalizer=False)).delete


@pytest.mark.parametrize(("setting", "due"), [(None, []), (60, []), (30, [0])])
def test_a_pod_that_does_not_end_is_given_up_only_where_asked_for(setting: int | None, due: list[int]) -> None:
    restarts = {} if setting is None else {"forceDeleteAfterSeconds": setting}
    story = Story(a_job(restarts=restarts))
    story.look(0)
    stuck = pod(0, deleted=100)
    todo = story.look(140, child(conditions=("FailureTarget",)), stuck, failed(1, 143))
    assert [item.index for item in todo.force_delete] == due


def test_the_same_world_gives_the_same_answer_after_a_crash() -> None:
    story = begun()
    story.look(61, child(), done(0), pod(1))
    twin = Story()
    twin.status = story.status
    seen = (child(conditions=("Complete",)), done(0), done(1))
    assert story.look(70, *seen).status == twin.look(70, *seen).status


def test_hundreds_of_pods_are_recorded_in_portions_and_folded_into_the_same_bill() -> None:
    number = 600
    story = Story(a_job(train={**_train(), "numNodes": number, "recipe": _recipe(number)}))
    story.look(0)
    finished = child(completions=number, conditions=("Complete",), status={"completedIndexes": f"0-{number - 1}"})
    pods = {item.uid: item for item in (done(index) for index in range(number))}
    released: set[str] = set()
    for turn in range(12):
        for item in story.look(100 + 3 * turn, finished, *pods.values()).releases:
            released.add(item.uid)
            pods[item.uid] = dataclasses.replace(item, has_finalizer=False)
    usage = story.status.usage
    assert len(released) == number
    assert usage is not None
    assert usage.folded_records + len(usage.records) == number
    assert len(usage.records) <= 256
    hours = sum(Decimal(line.consumed_quantity) for line in story.status.bill.lines if line.resource == "cpu")  # type: ignore[union-attr]
    assert abs(hours - Decimal(number) * 60 / 3600 / 2) < Decimal("1e-6")


def _train() -> dict[str, object]:
    return {"resourcesPerNode": {"requests": {"cpu": "500m", "memory": "1Gi"}}}


def _recipe(number: int) -> dict[str, object]:
    return {
        "model": {"type": "DecoderLM"},
        "data": {"type": "Text", "text": {"path": "corpus.txt"}},
        "batch": {"globalBatchSize": 2 * number, "microBatchSize": 2},
        "totalSteps": 40,
    }


def test_a_job_that_goes_on_from_an_earlier_ones_checkpoint_says_so_also_if_that_ones_cost_is_not_known() -> None:
    story = begun()
    pods = (pod(0), pod(1))
    goes_on = Progress(step=410, total_steps=1000, resumed_from_step=400)
    logs = {each.uid: LogSight(timedelta(0), progress=goes_on) for each in pods}
    for second in (10, 10 + SOON.total_seconds()):
        story.look(second, child(), *pods, logs=logs)
    assert story.status.continues_from_step == 400
    assert story.status.earlier_job == EarlierJob(known=False)
    assert story.status.to_plain()["earlierJob"] == {"known": False}
    known = EarlierJob(uid="earlier", priced_cost="12.5", currency="USD")
    story.look(60, child(), *pods, logs=logs, earlier=known)
    assert story.status.earlier_job == EarlierJob(known=False)


def test_pods_of_an_earlier_job_of_the_same_name_are_told_apart() -> None:
    assert pod(0, uid="another").job_uid == "another"
    assert pod(0).job_uid == UID


def test_a_gang_whose_pods_the_kubelet_turned_away_is_lost_and_not_awaited_for_ever() -> None:
    story = begun()
    away = [pod(index, phase="Failed", scheduled=None) for index in (0, 1)]
    away = [dataclasses.replace(item, node="node-1") for item in away]
    story.look(3, child(conditions=("Failed",)), *away)
    assert (story.status.stages[0].attempt, story.status.stages[0].disruptions) == (1, 1)


def test_a_batch_job_that_failed_without_a_trace_of_its_pods_is_lost_and_not_awaited_for_ever() -> None:
    story = begun()
    story.look(3, child(conditions=("Failed",)))
    assert (story.status.stages[0].attempt, story.status.stages[0].disruptions) == (1, 1)


def test_a_stop_for_the_budget_is_told_once_however_long_it_takes() -> None:
    story = Story(a_job(budget={"amount": "0.000001"}))
    story.look(0)
    ending = [pod(index, deleted=300) for index in (0, 1)]
    seen = (child(metadata={"deletionTimestamp": "2026-03-01T12:05:00Z"}), *ending)
    for second in range(60, 180):
        story.look(second, *seen)
    assert len(story.written) < 8


GPU = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"nvidia.com/gpu": "1"}}
BUDGET = {"amount": "10"}


def test_a_job_that_asks_for_what_has_no_price_starts_nothing_until_it_has_one() -> None:
    train = {**plain_job()["spec"]["train"], "resourcesPerNode": GPU}
    prices = plain_price_book()["spec"]["prices"]
    story = Story(
        a_job(budget=BUDGET, train=train), a_book(prices=[row for row in prices if row["resource"] != "nvidia.com/gpu"])
    )
    assert story.look(0).start == ()
    condition = story.status.condition("Suspended")
    assert condition is not None
    assert (condition.status, condition.reason) == ("True", "PriceUnknown")
    assert "nvidia.com/gpu has no price" in condition.message
    gpu = {"resource": "nvidia.com/gpu", "unit": "GPU-Hours", "listUnitPrice": "0", "source": "free"}
    story.book = a_book(prices=[*prices, {**gpu, "effectiveFrom": "2026-01-01", "product": "another"}])
    assert [gang.stage for gang in story.look(60).start] == ["train"]


def test_a_kind_of_capacity_without_a_price_stops_the_gang_that_came_to_it() -> None:
    story = Story(a_job(budget=BUDGET))
    story.look(0)
    nodes = {"node-1": classify({"karpenter.sh/capacity-type": "spot"})}
    todo = story.look(60, child(), pod(0), pod(1), nodes=nodes)
    assert todo.delete_jobs == (child(),)
    condition = story.status.condition("Succeeded")
    assert condition is not None
    assert "cpu (capacityType Spot) and memory (capacityType Spot) have no price" in condition.message


def test_a_price_book_that_vanishes_stops_a_job_with_a_budget() -> None:
    story = Story(a_job(budget=BUDGET))
    story.look(0)
    assert story.look(30, child(), pod(0), pod(1)).delete_jobs == ()
    assert story.look(60, child(), pod(0), pod(1), book=None).delete_jobs == (child(),)
    free = Story(a_job(budget={**BUDGET, "onUnknownPrice": "Continue"}))
    free.look(0)
    assert free.look(60, child(), pod(0), pod(1), book=None).delete_jobs == ()


@pytest.mark.parametrize("spec", [{"budget": {"amount": "0.000001"}}, {"activeDeadlineSeconds": 1}], ids=str)
@pytest.mark.parametrize(
    ("own", "deleted", "graces"),
    [
        (86400, {}, [600, 600]),
        (601, {"deleted": 300, "grace": 601}, [600, 600]),
        (86400, {"deleted": 300, "grace": 600}, []),
        (600, {}, []),
        (None, {}, []),
    ],
)
def test_a_stop_for_money_or_time_cuts_a_long_grace_period(
    spec: dict[str, Any], own: int | None, deleted: dict[str, Any], graces: list[int]
) -> None:
    story = Story(a_job(**spec, **({"pods": {"terminationGracePeriodSeconds": own}} if own else {})))
    story.look(0)
    todo = story.look(60, child(), pod(0, **deleted), pod(1, **deleted))
    assert [grace for _, grace in todo.delete_pods] == graces
    assert todo.delete_jobs == (child(),)


def test_a_suspension_leaves_the_grace_period_to_the_user() -> None:
    story = Story(a_job(pods={"terminationGracePeriodSeconds": 86400}))
    story.look(0)
    story.job = a_job(pods={"terminationGracePeriodSeconds": 86400}, suspend=True)
    todo = story.look(60, child(), pod(0), pod(1))
    assert (todo.delete_pods, todo.delete_jobs) == ((), (child(),))


def test_pods_of_a_job_that_calls_itself_complete_are_deleted_one_by_one() -> None:
    story = Story(a_job(activeDeadlineSeconds=1))
    story.look(0)
    todo = story.look(60, child(conditions=("Complete",)), pod(0), pod(1))
    assert (todo.delete_jobs, todo.delete_pods) == ((), ((pod(0), None), (pod(1), None)))


@pytest.mark.parametrize(
    "limit", [{"suspend": True}, {"activeDeadlineSeconds": 30}, {"budget": {"amount": "0.000001"}}]
)
def test_limits_are_kept_while_no_record_can_be_written_for_finalizers_that_do_not_go(limit: dict[str, Any]) -> None:
    story = Story(a_job(compress=[INT8, PRUNED]))
    story.look(0)
    trained = [done(index) for index in (0, 1)]
    for second in (70, 90):
        story.look(second, child(conditions=("Complete",)), *trained)
    kept = [failed(index, stage="int8", scheduled=1) for index in range(MAX_RECORDS)]
    kept = [dataclasses.replace(pod, uid=f"kept-{index}") for index, pod in enumerate(kept)]
    usage = story.status.usage
    assert usage is not None
    records = [usage.records[0].model_copy(update={"uid": pod.uid, "stage": "int8"}) for pod in kept]
    story.status = story.status.model_copy(update={"usage": usage.model_copy(update={"records": records})})
    story.job = a_job(compress=[INT8, PRUNED], **limit)
    gangs = (child("int8", conditions=("Failed",)), child("pruned"))
    ended = dataclasses.replace(kept[0], uid="one more")
    todo = story.look(200, *gangs, *kept, ended, pod(stage="pruned"))
    assert todo.status is None
    assert todo.delete_jobs == (child("pruned"),)


def test_the_next_attempt_is_started_when_its_pause_is_over_and_looked_at_then() -> None:
    story = Story(a_job(restarts={"backoffSeconds": 60}))
    story.look(0)
    broken = (child(conditions=("Failed",)), failed(0), failed(1))
    todo = story.look(70, *broken)
    assert (todo.start, story.reason(), len(todo.releases)) == ((), "BackingOff", 2)
    assert todo.requeue_after is not None
    pause = todo.requeue_after.total_seconds()
    assert 30 <= pause <= 60
    assert story.look(70 + pause - 0.001, *broken).start == ()
    assert story.look(70 + pause, *broken).start == (StartGang("train", 1),)
