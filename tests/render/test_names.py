"""No two children share a name, whatever their jobs, variants and attempts are called."""

import re
from collections.abc import Callable

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from costopt.names import MAX_CHILD_NAME, child_name, network_policy_name, service_name, storage_claim_name

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
JOB_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

Child = tuple[str, str, int]

# Names made of what our own names are made of, so that one ends where another begins.
PIECES = st.sampled_from(
    ["a", "x", "s", "9", "train", "int8", "a0", "a1", "peers", "storage", "0123456789", "deadbeef00", "job", "b" * 17]
)
STAGES = st.just("train") | st.lists(PIECES, min_size=1, max_size=4).map("-".join).filter(lambda name: len(name) <= 30)


def _joined(pieces: list[str], joints: list[str]) -> str:
    return "".join(piece + joint for piece, joint in zip(pieces, joints, strict=False)).rstrip("-.")


JOBS = st.builds(
    _joined, st.lists(PIECES, min_size=1, max_size=8), st.lists(st.sampled_from("--."), min_size=8, max_size=8)
).filter(lambda name: bool(JOB_NAME.fullmatch(name)))
CHILDREN = st.tuples(JOBS, STAGES, st.integers(0, 11) | st.integers(0, 10**15))


def names_of_its_own(child: Child) -> st.SearchStrategy[str]:
    """Job names that are made of the names of another job's children."""
    made = [child_name(*child), service_name(*child), storage_claim_name(child[0]), network_policy_name(child[0])]
    cut = [re.sub(r"(-a[0-9]+|-storage|-peers)$", "", name) for name in made]
    return st.sampled_from([*made, *cut, *(name.rpartition("-")[0] or name for name in cut)])


@st.composite
def two_children(draw: st.DrawFn) -> tuple[Child, Child]:
    first = draw(CHILDREN)
    job = draw(JOBS | names_of_its_own(first) | st.just(first[0].replace(".", "-")))
    second = (job, draw(STAGES | st.just(first[1])), draw(st.integers(0, 11) | st.just(first[2])))
    assume(first != second)
    return first, second


@example((("a", "x-train", 0), ("a-x", "train", 0)))
@example((("resnet", "pruned-int8", 0), ("resnet-pruned", "int8", 0)))
@example((("my.job", "train", 0), (child_name("my.job", "train", 0).removesuffix("-train-a0"), "train", 0)))
@example((("1x", "train", 0), ("s-1x", "train", 0)))
@example((("a", "0123456789", 0), ("a-0123456789", "train", 0)))
@given(two_children())
def test_no_two_children_of_a_kind_share_a_name(pair: tuple[Child, Child]) -> None:
    first, second = pair
    assert child_name(*first) != child_name(*second)
    assert service_name(*first) != service_name(*second)
    if first[0] != second[0]:
        assert storage_claim_name(first[0]) != storage_claim_name(second[0])
        assert network_policy_name(first[0]) != network_policy_name(second[0])


@given(CHILDREN)
def test_every_name_is_a_label_that_the_host_names_of_a_gang_fit_on(child: Child) -> None:
    for name in (child_name(*child), service_name(*child), storage_claim_name(child[0]), network_policy_name(child[0])):
        assert DNS_LABEL.fullmatch(name)
        assert len(name) <= MAX_CHILD_NAME
    assert service_name(*child)[0].isalpha()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (child_name("quickstart", "train", 0), "quickstart-train-a0"),
        (child_name("my-job", "int8", 12), "my-job-int8-a12"),
        (service_name("my-job", "train", 1), "my-job-train-a1"),
        (storage_claim_name("my-job"), "my-job-storage"),
        (network_policy_name("default-deny"), "default-deny-peers"),
    ],
)
def test_ordinary_names_are_those_that_a_person_would_expect(name: str, expected: str) -> None:
    assert name == expected


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        (child_name("resnet", "pruned-int8", 0), "resnet-pruned-int8-"),
        (child_name("my.job", "train", 0), "my-job-train-"),
        (child_name("j" * 253, "train", 0), "j" * 38 + "-"),
        (service_name("9lives", "train", 0), "s-9lives-train-"),
        (storage_claim_name("my.job"), "my-job-"),
    ],
)
def test_others_have_a_digest_behind_what_a_person_would_look_for(name: str, begins: str) -> None:
    assert name.startswith(begins)
    assert re.search(r"-[0-9a-f]{10}-(a0|storage)$", name)


@pytest.mark.parametrize("named", [storage_claim_name, network_policy_name])
def test_a_job_that_is_named_as_the_digested_name_of_another_gets_another(named: Callable[[str], str]) -> None:
    taken = named("my.job").rpartition("-")[0]
    assert named(taken) != named("my.job")
