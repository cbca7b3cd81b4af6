"""The programs of a Kubernetes control plane, built once from pinned sources into a cache folder.

`python -m cluster.build` (with `tests` on the path) builds what is missing and prints the folder. The sources are
small Go modules: `binaries` (etcd, the Kubernetes components, helm), `binaries/kwok`, which needs newer Kubernetes
libraries than the components, and `binaries/node`. `python -m cluster.build --node` also builds the programs of a
real node (tests/e2e).
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MODULES = (HERE / "binaries", HERE / "binaries" / "kwok", HERE / "binaries" / "node")


@dataclass(frozen=True)
class Program:
    """One program: the Go package it is built from, and the module that pins it."""

    package: str
    module: Path
    pinned_by: str
    """Module whose version in go.mod is the program's version."""
    static: bool = False
    """Linked to no C library, so that it runs in an image that holds nothing else."""


PROGRAMS: dict[str, Program] = {
    "etcd": Program("go.etcd.io/etcd/server/v3", MODULES[0], "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": Program("k8s.io/kubernetes/cmd/kube-apiserver", MODULES[0], "k8s.io/kubernetes"),
    "kube-controller-manager": Program(
        "k8s.io/kubernetes/cmd/kube-controller-manager", MODULES[0], "k8s.io/kubernetes"
    ),
    "kube-scheduler": Program("k8s.io/kubernetes/cmd/kube-scheduler", MODULES[0], "k8s.io/kubernetes"),
    "kubectl": Program("k8s.io/kubernetes/cmd/kubectl", MODULES[0], "k8s.io/kubernetes"),
    "helm": Program("helm.sh/helm/v3/cmd/helm", MODULES[0], "helm.sh/helm/v3"),
    "kwok": Program("sigs.k8s.io/kwok/cmd/kwok", MODULES[1], "sigs.k8s.io/kwok"),
}

NODE_PROGRAMS: dict[str, Program] = {
    "kubelet": Program("k8s.io/kubernetes/cmd/kubelet", MODULES[0], "k8s.io/kubernetes"),
    "kube-proxy": Program("k8s.io/kubernetes/cmd/kube-proxy", MODULES[0], "k8s.io/kubernetes"),
    "coredns": Program("./coredns", MODULES[2], "github.com/coredns/coredns"),
    "pause": Program("./pause", MODULES[2], "github.com/coredns/coredns", static=True),
}
"""What a real node runs besides: for `tests/e2e` only."""

FROM_ASSETS = ("etcd", "kube-apiserver", "kubectl")
"""What a folder named by KUBEBUILDER_ASSETS usually holds."""


GIVEN_CLUSTER = "COSTOPT_TEST_KUBECONFIG"
"""Environment variable: a kubeconfig file of a cluster to test on; kubectl and helm then come from the path."""


class CannotBuildError(Exception):
    """A program is missing and cannot be built; the message says what would help."""


def binaries_folder() -> Path:
    """Where built programs are: named after the pinned versions, so that a change of version builds anew."""
    digest = hashlib.sha256()
    for module in MODULES:
        for path in (*sorted(module.glob("go.*")), *sorted(module.glob("*/*.go"))):
            digest.update(path.read_bytes())
    digest.update(_link_flags().encode())
    cache = Path(os.environ.get("COSTOPT_CACHE") or ROOT / ".cache")
    return cache / "cluster" / digest.hexdigest()[:12]


def node_programs() -> dict[str, Program]:
    """All that a real cluster of one node is made of: no kwok, for its kubelet is real."""
    return {name: program for name, program in (PROGRAMS | NODE_PROGRAMS).items() if name != "kwok"}


def find_clients() -> dict[str, Path] | None:
    """kubectl and helm from the path, or those built; None if one is missing."""
    paths = {name: _find(name) or shutil.which(name) for name in ("kubectl", "helm")}
    found = {name: Path(path) for name, path in paths.items() if path is not None}
    return found if len(found) == len(paths) else None


def find_binaries(programs: Mapping[str, Program] = PROGRAMS) -> dict[str, Path] | None:
    """Every program's path, or None if one is missing. Builds nothing."""
    found = {name: path for name in programs if (path := _find(name)) is not None}
    return found if len(found) == len(programs) else None


def build_binaries(programs: Mapping[str, Program] = PROGRAMS) -> dict[str, Path]:
    """Every program's path, after building what is missing: about 10 minutes the first time, on two cores."""
    folder = binaries_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name, program in programs.items():
            if _find(name) is None:
                _build(name, program, folder)
    return {name: path for name in programs if (path := _find(name)) is not None}


def _find(name: str) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and name in FROM_ASSETS and os.access(given := Path(assets) / name, os.X_OK):
        return given
    built = binaries_folder() / name
    return built if built.exists() else None


def _build(name: str, program: Program, folder: Path) -> None:
    go = shutil.which("go")
    if go is None:
        raise CannotBuildError(
            f"{name} must be built once, which needs Go 1.26 or newer on the path (https://go.dev/dl); "
            f"or name a folder with {', '.join(FROM_ASSETS)} in KUBEBUILDER_ASSETS, "
            f"or a cluster to test on in {GIVEN_CLUSTER}"
        )
    sys.stderr.write(f"building {name} {_version(program)}\n")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        target = Path(scratch) / name
        command = [go, "build", "-p", "2", "-buildvcs=false", "-mod=readonly"]
        command += ["-ldflags", _link_flags(), "-o", str(target), program.package]
        environment = {**os.environ, **({"CGO_ENABLED": "0"} if program.static else {})}
        done = subprocess.run(command, cwd=program.module, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CannotBuildError(f"go build {program.package} failed:\n{done.stderr.strip()[-4000:]}")
        target.replace(folder / name)


def _version(program: Program) -> str:
    text = (program.module / "go.mod").read_text(encoding="utf-8")
    match = re.search(rf"^\s*(?:require )?{re.escape(program.pinned_by)} (v\S+)", text, re.MULTILINE)
    if match is None:
        raise CannotBuildError(f"{program.module / 'go.mod'} does not pin {program.pinned_by}")
    return match.group(1)


def _link_flags() -> str:
    """Versions as a release has them: without, the API server is v0.0.0 and charts with a kubeVersion are refused."""
    kubernetes = _version(PROGRAMS["kube-apiserver"])
    major, minor = kubernetes.removeprefix("v").split(".")[:2]
    stamps = {
        "sigs.k8s.io/kwok/pkg/consts.Version": _version(PROGRAMS["kwok"]),
        "helm.sh/helm/v3/internal/version.version": _version(PROGRAMS["helm"]),
        "helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor": major,
        "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor": minor,
        "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor": major,
        "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor": minor,
    }
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        stamps |= {
            f"{package}.gitVersion": kubernetes,
            f"{package}.gitMajor": major,
            f"{package}.gitMinor": minor,
            f"{package}.gitCommit": "0" * 40,
            f"{package}.gitTreeState": "clean",
            f"{package}.buildDate": "1970-01-01T00:00:00Z",
        }
    return " ".join(["-s", "-w", *(f"-X={key}={value}" for key, value in stamps.items())])


def main() -> int:
    """Build what is missing; print the folder. Nothing with a cluster given."""
    if GIVEN_CLUSTER in os.environ:
        sys.stderr.write(f"{GIVEN_CLUSTER} names a cluster; nothing is built\n")
        return 0
    programs = {**PROGRAMS, **NODE_PROGRAMS} if "--node" in sys.argv[1:] else PROGRAMS
    try:
        binaries = build_binaries(programs)
    except CannotBuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{binaries['kwok'].parent}\n")
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
