"""Every word by which a kubelet, or a controller, says why a pod ended: told as it stands, and whose doing it was."""

import pytest

from builders.plan import running, spec
from costopt.plan.evidence import DISRUPTIONS, POD_REASONS, REJECTIONS, Evidence, is_disruption

NO_ROOM = ("OutOfcpu", "OutOfmemory", "OutOfpods", "OutOfephemeral-storage", "OutOfnvidia.com/gpu")


def told(evidence: Evidence, code: int | None) -> tuple[str, str, int, int]:
    """The failure's reason and message, and what the attempt was counted as, once its pod has ended so."""
    world = running(spec(numNodes=1))
    world.end(world.live()[0], code, evidence=evidence, disrupted=is_disruption(evidence))
    world.look()
    world.look()
    failure = world.stage().failure or world.status.failure
    assert failure is not None
    return failure.reason, failure.message, world.stage().failures, world.stage().disruptions


@pytest.mark.parametrize("reason", [*sorted(REJECTIONS), *NO_ROOM])
def test_a_node_that_refuses_a_pod_is_named_with_its_words_and_it_was_not_the_jobs_doing(reason: str) -> None:
    evidence = Evidence(pod_reason=reason, pod_message="Pod was rejected: for the reason of today")
    said = told(evidence, None)
    assert said[0] == "Rejected"
    assert f"({reason}): for the reason of today" in said[1]
    assert said[2:] == (0, 1)


@pytest.mark.parametrize("reason", sorted(POD_REASONS))
def test_a_node_that_ends_a_pod_is_named_and_it_was_not_the_jobs_doing(reason: str) -> None:
    said = told(Evidence(pod_reason=reason, pod_message="words of the node"), 137)
    assert said[0] == POD_REASONS[reason].reason
    assert "words of the node" in said[1] or reason == "DeadlineExceeded"
    assert said[2:] == (0, 1)


@pytest.mark.parametrize("reason", [*sorted(DISRUPTIONS), "SomethingNew"])
def test_a_controller_that_ends_a_pod_is_named_and_it_was_not_the_jobs_doing(reason: str) -> None:
    said = told(Evidence(disruption_reason=reason, disruption_message="words of it"), 143)
    assert "words of it" in said[1] or reason == "EvictionByEvictionAPI"
    assert said[2:] == (0, 1)


@pytest.mark.parametrize(
    ("evidence", "code", "reason", "words"),
    [
        (
            Evidence(container_reason="OOMKilled", memory_limit="2Gi"),
            137,
            "OutOfMemory",
            "limit of its container is 2Gi",
        ),
        (
            Evidence(
                pod_reason="Evicted", pod_message="Pod ephemeral local storage usage exceeds the total limit of 1Gi."
            ),
            137,
            "StorageLimitExceeded",
            "usage exceeds the total limit of 1Gi",
        ),
        (
            Evidence(pod_reason="Evicted", pod_message='Usage of EmptyDir volume "tmp" exceeds the limit "1Gi".'),
            137,
            "StorageLimitExceeded",
            'EmptyDir volume "tmp" exceeds',
        ),
        (
            Evidence(pod_reason="Evicted", pod_message="Container x exceeded its local ephemeral storage limit 1Gi."),
            137,
            "StorageLimitExceeded",
            "exceeded its local ephemeral storage limit",
        ),
        (
            Evidence(container_reason="StartError", container_message="failed to start: no such device"),
            128,
            "StartFailed",
            "no such device",
        ),
        (
            Evidence(container_reason="ContainerCannotRun", container_message="mount failed"),
            128,
            "StartFailed",
            "mount failed",
        ),
    ],
)
def test_what_a_pod_did_itself_is_a_failure_with_the_kubelets_words(
    evidence: Evidence, code: int, reason: str, words: str
) -> None:
    said = told(evidence, code)
    assert said[0] == reason
    assert words in said[1]
    assert said[2:] == (1, 0)
