"""The operator under load, on a real control plane started here, with kwok playing the kubelets.

    make bench-operator, or: PYTHONPATH=.:operator:tests:benchmarks python -m operator_load [--jobs 100 1000] [--rate 5]

Rising rates, each for half a minute: of plain objects without the operator, then of jobs with it, up to 5 a second and
on until one is not sustained. Then 100 jobs, and 1,000 jobs, at the highest rate that control plane, kwok and operator
sustained together. The last of these rounds is followed by a minute of doing nothing, with all those finished jobs
present, and by three fresh starts. Each part has a fresh control plane. Prints tables; writes everything as JSON. Takes
about 20 minutes on 2 cores.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.build import CannotBuildError, build_binaries
from cluster.clients import ROOT
from cluster.components import Settings
from cluster.control_plane import ControlPlane
from operator_load import baseline, documents, report
from operator_load.figures import read_timed
from operator_load.program import USER, Operator, install
from operator_load.rounds import climb, run_round

SETTINGS = Settings(nodes=16)
IDLE_SECONDS = 60
STARTS = 3


@dataclass(frozen=True)
class Idle:
    """The operator with nothing to do."""

    seconds: float
    finished_jobs: int
    writes: int
    """Without those that renew its lease."""
    requests: int
    """Likewise."""
    core_share: float


async def idle(control_plane: ControlPlane, operator: Operator) -> Idle:
    """Watch it do nothing."""
    offset, used, began = control_plane.audit_offset(), operator.used(), time.monotonic()
    await asyncio.sleep(IDLE_SECONDS)
    spent, after = time.monotonic() - began, operator.used()
    ours = [
        each
        for each in read_timed(control_plane.folder / "audit.jsonl", offset)
        if each.user == USER and each.resource != "leases"
    ]
    return Idle(
        seconds=spent,
        finished_jobs=int(operator.metrics()["costopt_jobs"]),
        writes=sum(each.is_write for each in ours),
        requests=len(ours),
        core_share=(after.cpu_seconds - used.cpu_seconds) / spent,
    )


def starts(operator: Operator) -> dict[str, Any]:
    """Seconds from the process' start until it acts, with all that the round before has left present."""
    seconds, peaks = [], []
    for _ in range(STARTS):
        operator.stop()
        seconds.append(operator.start())
        peaks.append(operator.used().peak_mib)
    metrics = operator.metrics()
    return {
        "jobs": int(metrics["costopt_jobs"]),
        "pods": int(metrics["costopt_pods"]),
        "seconds": seconds,
        "peak_mib": peaks,
    }


@contextlib.contextmanager
def operated(log: Path) -> Iterator[tuple[ControlPlane, Operator]]:
    """A fresh control plane with the operator acting on it."""
    with ControlPlane(build_binaries(), SETTINGS) as control_plane:
        install(control_plane)
        control_plane.apply(*documents.namespaces())
        control_plane.apply(documents.price_book())
        operator = Operator(control_plane, log)
        operator.start()
        try:
            yield control_plane, operator
        finally:
            operator.stop()


async def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything that was asked for."""
    results: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
        "load_before": os.getloadavg(),
    }
    rate = options.rate
    if rate is None:
        with ControlPlane(build_binaries(), SETTINGS) as control_plane:
            control_plane.apply(*documents.namespaces())
            steps = await baseline.climb(control_plane)
        results["without_operator"] = [{**asdict(step), "sustained": step.sustained} for step in steps]
        report.show_baseline(steps)
        with operated(folder / "climb.log") as (control_plane, operator):
            rounds = await climb(control_plane, operator, baseline.RATES)
        results["with_operator"] = [{**asdict(done), "sustained": done.sustained} for done in rounds]
        report.show_climb(rounds)
        rate = max((done.rate for done in rounds if done.sustained), default=baseline.RATES[0])
    results["rounds"] = []
    for num_jobs in options.jobs:
        with operated(folder / f"{num_jobs}.log") as (control_plane, operator):
            done = await run_round(control_plane, operator, num_jobs, rate, "job")
            results["rounds"].append(asdict(done))
            report.show_round(done)
            if num_jobs == max(options.jobs):
                await asyncio.sleep(10)
                results["idle"] = asdict(await idle(control_plane, operator))
                report.show_idle(results["idle"])
                results["starts"] = starts(operator)
                report.show_starts(results["starts"])
    results["load_after"] = os.getloadavg()
    return results


def main() -> int:
    """Measure, print, write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--jobs", type=int, nargs="+", default=[100, 1000], help="sizes of the rounds")
    options.add_argument("--rate", type=float, help="jobs a second [default: the highest sustained one]")
    cache = Path(os.environ.get("COSTOPT_CACHE") or ROOT / ".cache")
    options.add_argument("--output", type=Path, default=cache / "bench-operator.json", help="[default: %(default)s]")
    given = options.parse_args()
    try:
        build_binaries()
    except CannotBuildError as error:
        print(error, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="costopt-bench-") as folder:
        results = asyncio.run(measure(given, Path(folder)))
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"all figures are in {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
