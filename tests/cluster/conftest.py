"""A control plane for the tests of this folder: one per test process, started by the first test that needs it.

Two of them fit on a small machine (about 0.6 GiB each, 5 s to start), so no test process waits for another. With
COSTOPT_TEST_KUBECONFIG the fixture `cluster` is that cluster, and tests that need kwok's pods or the components'
processes are skipped.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders.operator_process import OperatorProcess, install
from cases.mistakes import plain_price_book
from cluster.build import GIVEN_CLUSTER, find_binaries, find_clients
from cluster.clients import Cluster
from cluster.components import Settings
from cluster.control_plane import ControlPlane
from cluster.credentials import has_openssl
from cluster.team import Team


@pytest.fixture(scope="session")
def binaries() -> dict[str, Path]:
    """Paths of etcd, the Kubernetes components, kubectl, helm and kwok; with a cluster given only of the clients."""
    if GIVEN_CLUSTER in os.environ:
        clients = find_clients()
        if clients is None:
            pytest.skip(f"kubectl and helm must be on the path to test on the cluster that {GIVEN_CLUSTER} names")
        return clients
    found = find_binaries()
    if found is None:
        pytest.skip("the control plane's programs are not built; run `make test-cluster` once, it builds them")
    if not has_openssl():
        pytest.skip("openssl is not on the path; the control plane's certificates are made with it")
    return found


@pytest.fixture(scope="session")
def control_plane(binaries: dict[str, Path]) -> Iterator[ControlPlane]:
    """This test process's control plane. Take a `namespace`; leave the components and nodes as they are."""
    if GIVEN_CLUSTER in os.environ:
        pytest.skip(f"needs a control plane of its own, and {GIVEN_CLUSTER} names another cluster")
    with ControlPlane(binaries) as started:
        yield started


@pytest.fixture(scope="session")
def cluster(
    binaries: dict[str, Path], request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Cluster:
    """The developer's cluster, if one is given, else the control plane: for tests that only talk to the API."""
    if given := os.environ.get(GIVEN_CLUSTER):
        return Cluster(binaries, Path(given), tmp_path_factory.mktemp("cluster"))
    started: ControlPlane = request.getfixturevalue("control_plane")
    return started


@pytest.fixture
def own_control_plane(binaries: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """One for this test alone, to kill components, silence nodes, compact; Settings by an indirect parameter."""
    if GIVEN_CLUSTER in os.environ:
        pytest.skip(f"needs a control plane of its own, and {GIVEN_CLUSTER} names another cluster")
    settings: Settings | None = getattr(request, "param", None)
    with ControlPlane(binaries, settings) as started:
        yield started


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A fresh namespace in `cluster`, with its default service account; deleted afterwards, not waited for."""
    name = cluster.make_namespace()
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def crds(cluster: Cluster) -> Cluster:
    """The cluster with our resource definitions, applied by kubectl and established."""
    cluster.install_crds()
    return cluster


@pytest.fixture(scope="session")
def operator_account(control_plane: ControlPlane) -> Path:
    """A kubeconfig with exactly the rights that the chart gives the operator in cluster mode; and a price book."""
    # Tests forge as administrators what the admission policy would refuse to an ordinary user.
    account = install(control_plane)
    control_plane.apply(plain_price_book())
    return account


@pytest.fixture(scope="module")
def operator(control_plane: ControlPlane, operator_account: Path) -> Iterator[OperatorProcess]:
    """One that acts on all namespaces while the tests of one file run: no test of another file has it."""
    with OperatorProcess(control_plane, operator_account) as started:
        yield started


@pytest.fixture
def team(control_plane: ControlPlane, namespace: str) -> Iterator[Team]:
    """A fresh namespace and its jobs."""
    team = Team(control_plane, namespace)
    yield team
    team.close()
