"""The operator as a process of its own, with exactly the rights that the chart gives it, and what it uses."""

import os
import re
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from builders.ports import free_port
from cluster.clients import ROOT
from cluster.control_plane import ControlPlane
from cluster.processes import NotReadyError, Process

SYSTEM_NAMESPACE = "costopt-system"
ACCOUNT = "costopt-operator"
USER = f"system:serviceaccount:{SYSTEM_NAMESPACE}:{ACCOUNT}"
"""As the audit log names the operator."""

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Used:
    """What a process has used so far."""

    cpu_seconds: float
    peak_mib: float
    """Largest resident size."""
    resident_mib: float


def used_by(pid: int) -> Used:
    """From /proc: user and system time of all threads, and VmHWM, VmRSS."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    sizes = dict(re.findall(r"^(Vm\w+):\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text("ascii"), re.MULTILINE))
    return Used(
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
        peak_mib=int(sizes["VmHWM"]) / 1024,
        resident_mib=int(sizes["VmRSS"]) / 1024,
    )


def install(control_plane: ControlPlane) -> None:
    """The chart, by helm, with no pods: the program is started here, with their rights."""
    control_plane.kubectl("create", "namespace", SYSTEM_NAMESPACE)
    control_plane.helm(
        "install", "costopt", ROOT / "charts/costopt", "--wait=false", "--timeout=60s", namespace=SYSTEM_NAMESPACE
    )
    # A played operator ends after a second, and would be made again for ever.
    control_plane.kubectl("scale", "deployment/costopt-operator", "--replicas=0", namespace=SYSTEM_NAMESPACE)
    names = ("crd/costoptjobs.costopt.dev", "crd/pricebooks.costopt.dev")
    control_plane.kubectl("wait", "--for=condition=Established", *names, "--timeout=30s")


class Operator:
    """The operator's process. Its settings are the program's defaults."""

    def __init__(self, control_plane: ControlPlane, log: Path) -> None:
        kubeconfig = control_plane.kubeconfig_for_service_account(SYSTEM_NAMESPACE, ACCOUNT)
        self._port = free_port()
        paths = os.pathsep.join([str(ROOT), str(ROOT / "operator")])
        words = ["run", "--kubeconfig", str(kubeconfig), "--lease-namespace", SYSTEM_NAMESPACE]
        words += ["--listen", f"127.0.0.1:{self._port}"]
        command = ["/usr/bin/env", f"PYTHONPATH={paths}", sys.executable, "-m", "costopt_operator", *words]
        self._process = Process("costopt-operator", command, log)

    def start(self) -> float:
        """Start it; returns the seconds until it acts, from the exec on."""
        began = time.monotonic()
        self._process.start()
        self._process.wait_until(self._acts, seconds=120)
        return time.monotonic() - began

    def stop(self) -> None:
        """SIGTERM, as a node ends a pod; it gives its lease back."""
        self._process.stop()

    @property
    def pid(self) -> int:
        """Its process id; NotReadyError if it has ended."""
        pid = self._process.pid
        if pid is None:
            raise NotReadyError(f"the operator has ended:\n{self._process.log_tail()}")
        return pid

    def used(self) -> Used:
        """What it has used so far."""
        return used_by(self.pid)

    def metrics(self) -> dict[str, float]:
        """Its own metrics: the value of each by name, summed over labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=30) as answer:
            page = answer.read().decode()
        found: dict[str, float] = {}
        for name, value in re.findall(r"^(\w+)(?:\{[^}]*\})? (\S+)$", page, re.MULTILINE):
            found[name] = found.get(name, 0.0) + float(value)
        return found

    def _acts(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/readyz", timeout=5) as answer:
                return bool(answer.read() == b"acting")
        except OSError:
            return False
