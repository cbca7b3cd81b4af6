"""One real cluster for all tests of this folder, with the chart installed in it by helm.

The tests run inside namespaces that `make e2e` makes; elsewhere they are skipped with the reason. With
COSTOPT_TEST_KUBECONFIG they run on that cluster: its nodes must be able to pull what COSTOPT_TEST_OPERATOR_IMAGE and
COSTOPT_TEST_TRAINER_IMAGE name, and what needs a hand on the node is skipped.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.build import GIVEN_CLUSTER, find_binaries, find_clients, node_programs
from cluster.clients import Cluster
from cluster.team import Team
from e2e.enter import INSIDE, why_not
from e2e.figures import FIGURES, as_table
from e2e.images import find_images
from e2e.installation import Installation
from e2e.jobs import SECONDS, submit, training
from e2e.real_cluster import RealCluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The real cluster: one started here, or the one that is given."""
    if given := os.environ.get(GIVEN_CLUSTER):
        clients = find_clients()
        if clients is None:
            pytest.skip(f"kubectl and helm must be on the path to test on the cluster that {GIVEN_CLUSTER} names")
        yield Cluster(clients, Path(given), tmp_path_factory.mktemp("cluster"))
        return
    if INSIDE not in os.environ:
        pytest.skip(why_not() or "a real node lives in namespaces of its own; `make e2e` makes them")
    binaries, images = find_binaries(node_programs()), find_images()
    if binaries is None or images is None:
        pytest.skip("the node's programs or images are not built; `make e2e` builds them")
    with RealCluster(binaries, images) as started:
        yield started


@pytest.fixture(scope="session")
def node(cluster: Cluster) -> RealCluster:
    """The cluster, for tests that kill, freeze and stop what runs on its node."""
    if not isinstance(cluster, RealCluster):
        pytest.skip(f"needs a hand on the node, and {GIVEN_CLUSTER} names a cluster of somebody else's")
    return cluster


@pytest.fixture(scope="session")
def installation(cluster: Cluster) -> Installation:
    """The chart, installed as docs/installing.md says."""
    installation = Installation(cluster)
    installation.install()
    return installation


@pytest.fixture
def team(installation: Installation) -> Iterator[Team]:
    """A fresh namespace and its jobs."""
    cluster = installation.cluster
    team = Team(cluster, cluster.make_namespace())
    yield team
    cluster.kubectl("delete", "namespace", team.namespace, "--wait=false")
    team.close()


@pytest.fixture(scope="session")
def undisturbed(node: RealCluster, installation: Installation) -> str:
    """SHA-256 of the weights of a training that nobody disturbed."""
    team = Team(installation.cluster, installation.cluster.make_namespace())
    job, storage = submit(node, team, training())
    job.wait_until_ended(seconds=SECONDS)
    team.close()
    return storage.weights()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell the figures of this run."""
    if FIGURES:
        terminalreporter.section("figures")
        terminalreporter.write_line(as_table())


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tell of a failure when it happens: the suite is long."""
    if report.failed:
        sys.stderr.write(f"\n{report.longreprtext}\n")
