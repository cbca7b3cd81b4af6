"""What is read off the objects of the API server."""

from hypothesis import given
from hypothesis import strategies as st

from builders_operator import done, failed, pod, pod_json
from costopt_operator.node_class import classify
from costopt_operator.pod_requests import effective_requests_of
from costopt_operator.sightings import indexes, parse_pod


def container(cpu: str, **more: str) -> dict[str, object]:
    return {"name": "x", "resources": {"requests": {"cpu": cpu, **more}}}


def test_a_pod_asks_for_the_sum_of_its_containers() -> None:
    spec = {"containers": [container("500m", memory="1Gi"), container("1")]}
    assert dict(effective_requests_of(spec)) == {"cpu": "1.5", "memory": "1073741824"}


def test_an_init_container_that_asks_for_more_than_all_of_them_counts_instead() -> None:
    spec = {"containers": [container("1")], "initContainers": [container("4"), container("2")]}
    assert dict(effective_requests_of(spec)) == {"cpu": "4"}


def test_a_sidecar_counts_beside_the_containers() -> None:
    sidecar = {**container("500m"), "restartPolicy": "Always"}
    spec = {"containers": [container("1")], "initContainers": [sidecar, container("2")], "overhead": {"cpu": "250m"}}
    assert dict(effective_requests_of(spec)) == {"cpu": "2.75"}


def test_a_limit_without_a_request_is_the_request() -> None:
    spec = {"containers": [{"name": "x", "resources": {"limits": {"nvidia.com/gpu": "8"}}}]}
    assert dict(effective_requests_of(spec)) == {"nvidia.com/gpu": "8"}


def test_a_quantity_that_cannot_be_read_makes_no_guess() -> None:
    assert dict(effective_requests_of({"containers": [container("a lot")]})) == {}


def test_a_pod_has_ended_when_nothing_of_it_can_run() -> None:
    assert done().ended
    assert failed().ended
    assert not pod().ended
    assert not pod(deleted=80).ended
    assert pod(phase="Pending", scheduled=None, deleted=80).ended
    assert pod(deleted=80, grace=0).ended


def test_a_container_beside_the_trainer_does_not_decide_its_exit_code() -> None:
    data = pod_json(phase="Failed", exit_code=78)
    end = {"terminated": {"exitCode": 0, "startedAt": "2026-03-01T12:00:01Z", "finishedAt": "2026-03-01T12:05:00Z"}}
    data["status"]["containerStatuses"].insert(0, {"name": "proxy", "state": end})
    seen = parse_pod(data)
    assert seen.exit_code == 78
    assert seen.finished == "2026-03-01T12:05:00Z"


def test_nodes_of_the_large_clouds_are_told_apart_by_what_they_cost() -> None:
    assert classify({}).capacity_type == "OnDemand"
    assert classify({"karpenter.sh/capacity-type": "spot"}).capacity_type == "Spot"
    assert classify({"eks.amazonaws.com/capacityType": "CAPACITY_BLOCK"}).capacity_type == "Reserved"
    assert classify({"cloud.google.com/gke-spot": "true"}).capacity_type == "Spot"
    assert classify({"nvidia.com/gpu.product": "NVIDIA-H200", "secret": "x"}).labels == {
        "nvidia.com/gpu.product": "NVIDIA-H200"
    }


@given(st.sets(st.integers(0, 300)))
def test_completed_indexes_are_read_as_the_job_controller_writes_them(numbers: set[int]) -> None:
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    text = ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
    assert indexes(text) == numbers
