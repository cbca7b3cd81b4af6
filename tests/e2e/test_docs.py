"""The pages' way through a cluster, on a real one: every command as it stands, every output as shown."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from builders.docs_shell import Shell
from builders.docs_walk import JOURNEY, OF_A_LONGER_RUN, Leg, lay_out, walk
from e2e.real_cluster import RealCluster

WITHOUT_A_REGISTRY = {"images.example/": ""}
"""The images are on the node already."""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has in front of him."""
    return lay_out(tmp_path_factory.mktemp("docs") / "here", WITHOUT_A_REGISTRY, shorter=True)


@pytest.fixture(scope="module")
def shell(node: RealCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """His shell. Some commands last as long as a job, and longer beside other tests. At the end the definitions go,
    which kubectl has made."""
    yield Shell(tmp_path_factory.mktemp("programs"), node.environment, seconds=1500)
    definitions = ("costoptjobs.costopt.dev", "pricebooks.costopt.dev")
    node.kubectl("delete", "crd", *definitions, "--ignore-not-found", "--timeout=100s")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("leg", JOURNEY, ids=lambda leg: f"{leg.page} {leg.heading or ''}".strip())
def test_what_a_page_says_of_a_cluster_is_so(node: RealCluster, shell: Shell, here: Path, leg: Leg) -> None:
    for _ in range(3):
        node.add_volume()
    here_otherwise = {**WITHOUT_A_REGISTRY, OF_A_LONGER_RUN: ""}
    problems = [walked.problem for walked in walk(leg, shell, here, here_otherwise) if walked.problem]
    assert not problems, "\n\n".join(problems)
