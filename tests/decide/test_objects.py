"""What is read off the objects of the API server."""

from hypothesis import given
from hypothesis import strategies as st

from builders.kubelet import IMAGE, unplaced_pod, waiting_pod
from builders.operator import Story, a_job, child, done, failed, pod, pod_json
from costopt.plan.evidence import NOTHING
from costopt_operator.decide.effective_requests import effective_requests_of
from costopt_operator.decide.node_pricing import classify
from costopt_operator.decide.objects import indexes, parse_pod


def container(cpu: str, **more: str) -> dict[str, object]:
    return {"name": "x", "resources": {"requests": {"cpu": cpu, **more}}}


def test_a_pod_asks_for_the_sum_of_its_containers() -> None:
    spec = {"containers": [container("500m", memory="1Gi"), container("1")]}
    assert dict(effective_requests_of(spec).quantities) == {"cpu": "1.5", "memory": "1073741824"}


def test_an_init_container_that_asks_for_more_than_all_of_them_counts_instead() -> None:
    spec = {"containers": [container("1")], "initContainers": [container("4"), container("2")]}
    assert dict(effective_requests_of(spec).quantities) == {"cpu": "4"}


def test_a_sidecar_counts_beside_the_containers() -> None:
    sidecar = {**container("500m"), "restartPolicy": "Always"}
    spec = {"containers": [container("1")], "initContainers": [sidecar, container("2")], "overhead": {"cpu": "250m"}}
    assert dict(effective_requests_of(spec).quantities) == {"cpu": "2.75"}


def test_a_limit_without_a_request_is_the_request() -> None:
    spec = {"containers": [{"name": "x", "resources": {"limits": {"nvidia.com/gpu": "8"}}}]}
    assert dict(effective_requests_of(spec).quantities) == {"nvidia.com/gpu": "8"}


def test_a_quantity_that_cannot_be_read_is_left_out_by_itself_and_named() -> None:
    spec = {"containers": [container("a lot", memory="1e9"), container("1", **{"example.com/nic": "2"})]}
    found = effective_requests_of(spec)
    assert dict(found.quantities) == {"cpu": "1", "memory": "1000000000", "example.com/nic": "2"}
    assert found.unread == {"cpu"}


def test_a_request_for_the_whole_pod_goes_before_its_containers() -> None:
    spec = {
        "containers": [container("1", memory="1Gi", **{"nvidia.com/gpu": "8"})],
        "resources": {"requests": {"cpu": "4", "nvidia.com/gpu": "9"}, "limits": {"memory": "9Gi"}},
        "overhead": {"cpu": "1"},
    }
    assert dict(effective_requests_of(spec).quantities) == {"cpu": "5", "memory": str(2**30), "nvidia.com/gpu": "8"}


def resized(asks: str, has: str, allocated: str | None = None, *, reason: str | None = None) -> dict[str, str]:
    """What counts of one container beside which another asks for 1 vCPU."""
    status: dict[str, object] = {"name": "x", "resources": {"requests": {"cpu": has}}}
    status |= {"allocatedResources": {"cpu": allocated}} if allocated else {}
    conditions = [{"type": "PodResizePending", "status": "True", "reason": reason}] if reason else []
    spec = {"containers": [container(asks), {**container("1"), "name": "y"}]}
    return dict(effective_requests_of(spec, {"containerStatuses": [status], "conditions": conditions}).quantities)


def test_while_a_container_is_resized_the_larger_of_what_it_asks_for_and_has_counts() -> None:
    assert resized("4", "4") == {"cpu": "5"}
    assert resized("1m", "4") == {"cpu": "5"}
    assert resized("4", "1m") == {"cpu": "5"}
    assert resized("1", "2", "3") == {"cpu": "4"}
    assert resized("4", "2", reason="Deferred") == {"cpu": "5"}
    assert resized("64", "2", reason="Infeasible") == {"cpu": "3"}


def test_everything_that_counts_of_a_request_is_read_off_the_object() -> None:
    data = pod_json()
    data["spec"] |= {"resources": {"requests": {"memory": "3"}}, "overhead": {"memory": "1"}}
    data["status"]["containerStatuses"][0]["allocatedResources"] = {"cpu": "7"}
    assert dict(parse_pod(data).requests.quantities) == {"cpu": "7", "memory": "4"}
    data["status"]["allocatedResources"] = {"cpu": "9", "memory": "2"}
    assert dict(parse_pod(data).requests.quantities) == {"cpu": "9", "memory": "4"}
    data["spec"]["containers"][0]["resources"]["requests"]["memory"] = "much"
    assert parse_pod(data).requests.unread == {"memory"}


def test_more_resources_than_a_record_holds_are_counted_as_one() -> None:
    many = {f"example.com/{number:02}": "2" for number in range(30)}
    long = {f"{'x' * 253}/{'y' * 60}": "3"}
    found = effective_requests_of({"containers": [container("1", **many, **long)]})
    assert len(found.quantities) == 16
    assert found.merged
    assert found.quantities["cpu"] == "1"
    assert found.quantities["other"] == str(2 * (30 - 14) + 3)


def test_a_figure_that_is_too_long_is_rounded_up() -> None:
    spec = {"containers": [container("1n"), *(container("9Ei") for _ in range(2000))]}
    assert effective_requests_of(spec).quantities["cpu"] == str(2000 * (2**63 - 1) + 1)


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


NOT_FOUND = f'failed to resolve reference "{IMAGE}": {IMAGE}: not found'


def test_an_image_that_cannot_be_pulled_is_told_in_words_that_stay() -> None:
    tried = parse_pod(waiting_pod("ErrImagePull", NOT_FOUND))
    backing_off = f'Back-off pulling image "{IMAGE}": ErrImagePull: {NOT_FOUND}'
    again = parse_pod(waiting_pod("ImagePullBackOff", backing_off))
    assert tried.waiting_for == f'image "{IMAGE}", which cannot be pulled: the registry has no such image'
    assert again.waiting_for == tried.waiting_for
    assert not again.waits_in_vain


def test_the_image_is_told_as_it_was_asked_for_and_not_as_what_it_stands_for() -> None:
    data = waiting_pod("ImagePullBackOff", "")
    data["status"]["containerStatuses"][0]["image"] = "sha256:1234"
    assert IMAGE in parse_pod(data).waiting_for


def test_a_sidecar_without_an_image_is_what_the_trainer_waits_for() -> None:
    data = waiting_pod("PodInitializing")
    state = {"waiting": {"reason": "ImagePullBackOff", "message": "x"}}
    data["spec"]["initContainers"] = [{"name": "mesh", "image": "registry.invalid/mesh:1"}]
    data["status"]["initContainerStatuses"] = [{"name": "mesh", "image": "", "state": state}]
    assert 'image "registry.invalid/mesh:1"' in parse_pod(data).waiting_for


def test_a_missing_secret_is_told() -> None:
    seen = parse_pod(waiting_pod("CreateContainerConfigError", 'secret "hub" not found'))
    assert seen.waiting_for == 'its container to start: secret "hub" not found (CreateContainerConfigError)'


def test_an_image_name_that_is_none_is_waited_for_in_vain() -> None:
    seen = parse_pod(waiting_pod("InvalidImageName", "x", image="Not A Name"))
    assert seen.waits_in_vain
    assert '"Not A Name"' in seen.waiting_for


def test_a_pod_without_its_volumes_says_that_it_waits_for_them() -> None:
    data = waiting_pod("ContainerCreating")
    assert parse_pod(data).waiting_for == "its container to start"
    data["status"]["conditions"].append({"type": "PodReadyToStartContainers", "status": "False"})
    assert parse_pod(data).waiting_for == "its volumes to be mounted and its network to be set up"


def test_a_pod_without_a_node_repeats_what_the_scheduler_says() -> None:
    said = (
        "0/4 nodes are available: 1 Insufficient nvidia.com/gpu, 3 node(s) didn't match Pod's node affinity/selector."
    )
    seen = parse_pod(unplaced_pod(said))
    assert seen.waiting_for == "a node: Insufficient nvidia.com/gpu, node(s) didn't match Pod's node affinity/selector"


def test_a_pod_that_runs_waits_for_nothing_and_carries_no_evidence() -> None:
    seen = pod()
    assert (seen.waiting_for, seen.evidence) == ("", NOTHING)


def test_an_image_that_cannot_be_pulled_and_then_can_costs_no_attempt() -> None:
    story = Story(a_job(restarts={"maxFailures": 0, "maxDisruptions": 0}))
    gang = child(completions=1)
    story.look(0)
    story.look(5, gang, parse_pod(waiting_pod("ErrImagePull", NOT_FOUND)))
    said = []
    for seconds, reason in ((30, "ImagePullBackOff"), (33, "ErrImagePull"), (63, "ImagePullBackOff")):
        story.look(seconds, gang, parse_pod(waiting_pod(reason, NOT_FOUND)))
        said += [story.status.condition("Succeeded")]
    assert said[-1] is not None
    assert said[-1].reason == "Pending"
    assert "the registry has no such image" in said[-1].message
    assert said[-1] == said[-2], "the same is told in other words"
    story.look(120, gang, pod())
    story.look(130, gang, pod())
    stage = story.status.stages[0]
    assert (story.reason(), stage.attempt, stage.failures, stage.disruptions) == ("Training", 0, 0, 0)
    assert story.status.failure is None


def test_an_image_that_cannot_be_pulled_in_time_is_in_the_failure() -> None:
    story = Story(a_job(restarts={"startTimeoutSeconds": 60}))
    gang = child(completions=1)
    story.look(0)
    story.look(5, gang, parse_pod(waiting_pod("ErrImagePull", NOT_FOUND)))
    story.look(70, gang, parse_pod(waiting_pod("ImagePullBackOff", NOT_FOUND)))
    assert story.status.failure is not None
    assert story.status.failure.reason == "NotStarted"
    assert story.status.failure.message.endswith("which cannot be pulled: the registry has no such image")
