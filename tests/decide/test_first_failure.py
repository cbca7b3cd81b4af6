"""Which pod of a gang is blamed when nobody looked while it fell."""

from builders.operator import Story, a_job, child, failed, pod


def begun() -> Story:
    """A job whose training runs."""
    story = Story(a_job())
    story.look(0)
    story.look(5, child(), pod(0), pod(1))
    return story


def test_pods_that_the_job_controller_ended_are_not_blamed_for_the_one_that_fell() -> None:
    said = {"exitCode": 1, "reason": "ProcessFailed", "message": "a crash"}
    ended = {"phase": "Failed", "exit_code": 143, "deleted": 182, "grace": 120}
    story = begun()
    story.look(200, child(conditions=("FailureTarget",)), pod(0, finished=62, **ended), failed(1, 1, message=said))
    stage = story.status.stages[0]
    assert (stage.failures, stage.disruptions) == (1, 0)
    assert story.status.failure is not None
    assert story.status.failure.message == "a crash"


def test_pods_that_somebody_deleted_are_disruptions() -> None:
    ended = {"phase": "Failed", "exit_code": 143, "deleted": 182, "grace": 120, "finished": 62}
    story = begun()
    story.look(200, child(conditions=("FailureTarget",)), pod(0, **ended), pod(1, **ended))
    stage = story.status.stages[0]
    assert (stage.failures, stage.disruptions) == (0, 1)


def test_a_pod_that_fell_before_it_was_deleted_too_is_still_the_one() -> None:
    ended = {"phase": "Failed", "deleted": 182, "grace": 120}
    story = begun()
    story.look(200, pod(0, exit_code=143, finished=62, **ended), pod(1, exit_code=1, finished=40, **ended))
    assert (story.status.stages[0].failures, story.status.stages[0].disruptions) == (1, 0)
