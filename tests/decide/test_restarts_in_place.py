"""Ranks that were started anew in the same pods: counted from logs and last words, and billed by what they say."""

import json
from typing import Any

from builders.operator import Story, a_job, at, child, done, failed, pod
from costopt.accounting.goodput import split_by_cause
from costopt_operator.decide.observe import LogSight
from costopt_operator.watch.pod_log_reader import read_log

CAUSE = {"reason": "Stalled", "message": "rank 1 has been stopped (SIGSTOP) for 60 s", "rank": 1, "replicaIndex": 1}
METER = {"startup": 4000, "productive": 20_000, "recovery": 3000, "lost": 2000}


def report(**more: Any) -> dict[str, Any]:
    return {"step": 40, "totalSteps": 100, "metered": METER, "inPlaceRestarts": 1, "restartedFor": CAUSE} | more


def test_a_restart_in_place_is_read_from_the_log_and_is_no_failure() -> None:
    story = Story()
    story.look(0)
    sight = read_log([f"{at(40)} {json.dumps(report())}"], LogSight())
    story.look(20, child(), pod(0), pod(1))
    story.look(40, child(), pod(0), pod(1), logs={"pod-train-0-0": sight})
    stage = story.status.stages[0]
    assert (stage.state, stage.attempt, stage.failures, stage.in_place_restarts) == ("Running", 0, 0, 1)
    assert stage.restarted_for is not None
    assert (stage.restarted_for.reason, stage.restarted_for.rank) == ("Stalled", 1)
    assert story.status.failure is None


def ended(message: dict[str, Any], **spec: Any) -> tuple[Story, dict[str, int]]:
    """A job of one replica that ended well, 60 s after its start, with these last words; causes in milliseconds."""
    story = Story(a_job(**spec))
    story.look(0)
    story.look(5, child(completions=1), pod(0))
    last = done(0, finished=60, message={"exitCode": 0} | message)
    for seconds in (62, 75):
        story.look(seconds, child(completions=1), last)
    assert story.status.usage is not None
    (record,) = story.status.usage.records
    return story, {cause: time // 1000 for cause, time in split_by_cause(record).items()}


def test_what_restarts_in_place_took_is_recovery_and_lost_progress() -> None:
    story, causes = ended({"progress": report()})
    assert {cause: causes[cause] for cause in ("Startup", "Productive", "Recovery", "LostProgress")} == {
        "Startup": 4000, "Productive": 20_000, "Recovery": 3000, "LostProgress": 2000,
    }  # fmt: skip
    assert story.status.stages[0].in_place_restarts == 1


def test_a_program_that_keeps_no_account_has_its_launchers_word_for_what_was_lost() -> None:
    node = {"requests": {"cpu": 1, "memory": "1Gi"}}
    train = {"numNodes": 1, "resourcesPerNode": node, "command": ["train.sh"]}
    story, causes = ended({"earlierRounds": {"restarts": 2, "metered": {"lost": 7000}}}, train=train, compress=[])
    assert causes["LostProgress"] == 7000
    assert causes.keys() == {"LostProgress", "Productive"}
    assert story.status.stages[0].in_place_restarts == 2


def test_a_hang_that_no_restart_in_place_has_mended_is_the_failure_with_the_rank_that_was_behind() -> None:
    """Both launchers end with what replica 0 has decided: it is an echo on the one whose rank was not behind."""
    rounds = {"progress": report(inPlaceRestarts=3), "exitCode": 1, "reason": "Stalled"}
    said = {**rounds, "message": CAUSE["message"], "rank": 1, "replicaIndex": 1}
    story = Story(a_job())
    story.look(0)
    story.look(5, child(), pod(0), pod(1))
    gang = [failed(0, message=said | {"echo": True}, finished=300), failed(1, message=said, finished=301)]
    story.look(302, child(), *gang)
    failure = story.status.failure
    assert failure is not None
    assert (failure.reason, failure.rank, failure.replica_index) == ("Stalled", 1, 1)
    assert failure.message == CAUSE["message"]
    stage = story.status.stages[0]
    assert (stage.failures, stage.disruptions, stage.in_place_restarts) == (1, 0, 3)
