"""What a pod waits for: the same words at every try of its kubelet, and of its scheduler."""

import pytest

from costopt.plan import waits

IMAGE = "registry.invalid:5000/team/trainer:2"
REFERENCE = f'failed to pull and unpack image "{IMAGE}": failed to resolve reference "{IMAGE}"'

PULLS = [
    (f"{REFERENCE}: {IMAGE}: not found", "the registry has no such image"),
    (f"{REFERENCE}: unexpected status from HEAD request: 401 Unauthorized", "the registry refuses access"),
    (f"{REFERENCE}: pull access denied, repository does not exist or may require authorization", "refuses access"),
    (f"{REFERENCE}: dial tcp: lookup registry.invalid on 10.0.0.10:53: no such host", "name cannot be resolved"),
    (f"{REFERENCE}: dial tcp 10.1.2.3:5000: i/o timeout", "the registry cannot be reached"),
    (f"{REFERENCE}: dial tcp 10.1.2.3:5000: connect: connection refused", "the registry cannot be reached"),
    (f"{REFERENCE}: tls: failed to verify certificate: x509: certificate signed by unknown authority", "not trusted"),
    (f"{REFERENCE}: 429 Too Many Requests - toomanyrequests: limit reached", "rate limit"),
    ("failed to write layer: no space left on device", "the node's disk is full"),
    ("no match for platform in manifest: not found", "the registry has no such image"),
]


@pytest.mark.parametrize(("message", "why"), PULLS)
def test_an_image_is_told_by_name_and_with_the_registrys_reason(message: str, why: str) -> None:
    words = waits.container("ErrImagePull", message, IMAGE).words
    assert words.startswith(f'image "{IMAGE}", which cannot be pulled: ')
    assert why in words
    assert len(words) < 200


@pytest.mark.parametrize("message", [message for message, _ in PULLS])
def test_backing_off_is_told_as_the_failed_pull_before_it(message: str) -> None:
    tried = waits.container("ErrImagePull", message, IMAGE)
    backing_off = f'Back-off pulling image "{IMAGE}": ErrImagePull: {message}'
    assert waits.container("ImagePullBackOff", backing_off, IMAGE) == tried


def test_a_reason_that_is_not_known_is_told_without_what_changes_from_try_to_try() -> None:
    said = [
        f"{REFERENCE}: gremlins at 10.0.0.{number}:4{number} took it after {number}.5s (sha256:{number:064x})"
        for number in (1, 2)
    ]
    first, second = (waits.container("ErrImagePull", text, IMAGE).words for text in said)
    assert first == second
    assert "gremlins" in first


def test_a_back_off_without_a_reason_names_the_image() -> None:
    words = waits.container("ImagePullBackOff", f'Back-off pulling image "{IMAGE}"', IMAGE).words
    assert words == f'image "{IMAGE}", which cannot be pulled'


def test_a_name_that_looks_like_an_answer_is_not_taken_for_one() -> None:
    odd = "registry.invalid/unauthorized/not-found:403"
    words = waits.container("ImagePullBackOff", f'Back-off pulling image "{odd}"', odd).words
    assert words == f'image "{odd}", which cannot be pulled'


OTHERS = [
    ("CreateContainerConfigError", 'secret "db-1" not found', 'secret "db-1" not found (CreateContainerConfigError)'),
    ("CreateContainerConfigError", 'configmap "flags" not found', 'configmap "flags" not found'),
    ("CreateContainerConfigError", "couldn't find key token in Secret team/db", "key token in Secret team/db"),
    ("CreateContainerError", "failed to generate spec: no command specified", "no command specified"),
    ("RunContainerError", "context deadline exceeded", "context deadline exceeded (RunContainerError)"),
    ("SomethingNew", "", "its container to start: SomethingNew"),
    ("ContainerCreating", "", "its container to start"),
]


@pytest.mark.parametrize(("reason", "message", "words"), OTHERS)
def test_what_is_missing_is_told(reason: str, message: str, words: str) -> None:
    found = waits.container(reason, message, IMAGE)
    assert words in found.words
    assert not found.in_vain


def test_an_invalid_image_name_is_waited_for_in_vain() -> None:
    found = waits.container("InvalidImageName", 'Failed to apply default image tag "a b"', "a b")
    assert found == waits.Wait('a valid image name; "a b" is none', in_vain=True)


SCHEDULING = [
    (
        "0/5 nodes are available: 2 Insufficient cpu, 3 node(s) had untolerated taint {spot: true}. preemption: 0/5 …",
        "a node: Insufficient cpu, node(s) had untolerated taint {spot: true}",
    ),
    (
        "0/6 nodes are available: 1 node(s) had untolerated taint {spot: true}, 5 Insufficient cpu.",
        "a node: Insufficient cpu, node(s) had untolerated taint {spot: true}",
    ),
    (
        '0/1 nodes are available: persistentvolumeclaim "data" not found. not found',
        'a node: persistentvolumeclaim "data" not found',
    ),
    ("pod has unbound immediate PersistentVolumeClaims", "a node: pod has unbound immediate PersistentVolumeClaims"),
    ("no nodes available to schedule pods", "a node: no nodes available to schedule pods"),
    ("", "a node"),
]


@pytest.mark.parametrize(("message", "words"), SCHEDULING)
def test_the_schedulers_reasons_are_told_without_its_counts(message: str, words: str) -> None:
    assert waits.scheduling("Unschedulable", message).words == words


def test_a_gate_is_not_taken_for_a_missing_node() -> None:
    said = "Scheduling is blocked due to non-empty scheduling gates"
    assert waits.scheduling("SchedulingGated", said).words == "its scheduling gates to be removed"
