"""The figures as tables, each beside what it is meant to be."""

from typing import Any

from operator_load.baseline import Step
from operator_load.rounds import Round

MAX_START_SECONDS = 5
MAX_WRITES_PER_JOB = 15
MAX_PEAK_MIB = 200
MAX_IDLE_CORE_SHARE = 0.02
MAX_STARTUP_SECONDS = 15


def show_baseline(steps: list[Step]) -> None:
    """Rising rates without the operator."""
    print("\nplain objects, without the operator")
    for step in steps:
        verdict = "sustained" if step.sustained else "not sustained"
        times = f"{step.p50_seconds:.0f} s, {step.p99_seconds:.0f} s"
        _row(f"{step.rate:g} a second: Job created -> complete, p50, p99", times, verdict)


def show_climb(rounds: list[Round]) -> None:
    """Rising rates with it."""
    print("\njobs, with the operator")
    for done in rounds:
        verdict = "sustained" if done.sustained else "not sustained"
        times = f"{done.start_p50_seconds:.2f} s, {done.start_p99_seconds:.2f} s"
        _row(f"{done.rate:g} a second: applied -> child Job created, p50, p99", times, "")
        _row("the same, last submission -> last end", f"{done.drain_seconds:.0f} s", verdict)


def show_round(done: Round) -> None:
    """One round."""
    print(
        f"\n{done.jobs} jobs of 4 pods and a variant, {done.rate:g} a second asked, {done.submitted_rate:.1f} reached"
    )
    _row("job applied -> child Job created, p50", f"{done.start_p50_seconds:.2f} s")
    _row("the same, p99", f"{done.start_p99_seconds:.2f} s", f"under {MAX_START_SECONDS} s")
    _row("jobs finished a second", f"{done.finished_rate:.2f}")
    _row("last submission -> last end", f"{done.drain_seconds:.1f} s")
    _row("operator's writes per job", f"{done.operator_writes_per_job:.2f}", f"at most {MAX_WRITES_PER_JOB}")
    _row("most writes of any job", f"{done.most_writes_of_one_job}")
    _row("looks per job, failed looks", f"{done.looks_per_job:.1f}, {done.failed_looks}")
    _row("operator's CPU seconds per job", f"{done.operator_cpu_seconds_per_job:.3f}")
    _row("operator's peak memory", f"{done.operator_peak_mib:.0f} MiB", f"under {MAX_PEAK_MIB} MiB")
    for name, cores in sorted(done.cores.items(), key=lambda item: -item[1]):
        _row(f"cores used by {name}", f"{cores:.2f}")
    for what, count in done.operator_requests_per_job.items():
        _row(f"operator's requests per job: {what}", f"{count:.2f}")
    for verb, count in done.server_requests_per_job.items():
        _row(f"everybody's requests per job: {verb}", f"{count:.2f}")


def show_idle(figures: dict[str, Any]) -> None:
    """The minute of doing nothing."""
    print(f"\nidle for {figures['seconds']:.0f} s with {figures['finished_jobs']} finished jobs")
    _row("writes", str(figures["writes"]), "none")
    _row("requests", str(figures["requests"]))
    _row("share of a core", f"{100 * figures['core_share']:.2f} %", f"under {100 * MAX_IDLE_CORE_SHARE:.0f} %")


def show_starts(figures: dict[str, Any]) -> None:
    """Fresh starts."""
    print(f"\nstarted with {figures['jobs']} jobs and {figures['pods']} pods present")
    seconds = ", ".join(f"{each:.1f}" for each in figures["seconds"])
    _row("process started -> acting", f"{seconds} s", f"under {MAX_STARTUP_SECONDS} s")
    _row("peak memory", ", ".join(f"{each:.0f}" for each in figures["peak_mib"]) + " MiB", f"under {MAX_PEAK_MIB} MiB")


def _row(what: str, figure: str, aim: str = "") -> None:
    print(f"  {what:<55} {figure:>18}  {aim}", flush=True)
