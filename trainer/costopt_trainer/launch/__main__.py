"""One replica: `python -m costopt_trainer.launch`, the same in a pod and on a laptop.

    read the environment -> meet the other replicas -> start the ranks -> watch -> exit code and termination message

Exit codes: 0 done; 143 told to stop (SIGTERM, SIGINT, SIGHUP or the end of the lifeline) and stopped, after all ranks
had time to save; 78 not worth a retry; 1 anything else. `termination_message.py` decides.
"""

import argparse
import contextlib
import os
import shutil
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from costopt import names
from costopt.files import mark_storage
from costopt.schema.replica import (
    EXIT_DONE,
    EXIT_NOT_RETRYABLE,
    FailureReason,
    ReplicaSettings,
    TerminationMessage,
)
from costopt.schema.variant_report import VariantStatus
from costopt_trainer.cgroup import usable_processors
from costopt_trainer.errors import NotRetryable
from costopt_trainer.launch import user
from costopt_trainer.launch.foreign_degrees import refuse_uneven_split
from costopt_trainer.launch.log_relay import Sink
from costopt_trainer.launch.rank_processes import LocalRanks
from costopt_trainer.launch.termination_message import (
    EXIT_FAILED,
    MESSAGE_CHARACTERS,
    clean,
    last_checkpoint,
    read_progress,
    read_report,
    stopped_without_ranks,
    write,
)
from costopt_trainer.phases import VOICE, phase
from costopt_trainer.replica_settings import (
    Address,
    ReplicaEnvironment,
    check_index,
    optional_path,
    read_environment,
    read_settings,
)
from costopt_trainer.shutdown import watch_for_stop

_STARTED_NS = time.monotonic_ns()
"""By the monotonic clock, which all processes of a machine share."""


@dataclass
class LastWords:
    """What is said of a stop at a moment when no rank runs: more, once there have been some."""

    of_a_stop: Callable[[str], TerminationMessage] = lambda why: stopped_without_ranks(why, None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run this replica to its end; the exit code."""
    options = _parser().parse_args(argv)
    scratch = Path(tempfile.mkdtemp(prefix="costopt-"))
    sink = Sink(sys.stdout.fileno())
    ranks = LocalRanks(scratch, sink)
    last_words = LastWords()
    try:
        environment = read_environment(os.environ)
        _speak(environment, sink)
        _watch(ranks, scratch, environment, last_words)
        settings = read_settings(environment.settings_file)
        check_index(environment, settings)
        if settings.recipe is not None and settings.variant is None:
            refuse_uneven_split(
                settings.recipe, num_nodes=settings.num_nodes, processes_per_node=settings.processes_per_node
            )
        if settings.num_nodes == 1:  # a gang of one only connects to itself, whatever its name resolves to
            environment = replace(environment, address=Address("127.0.0.1", environment.address.port))
        _set_defaults(environment, settings, scratch)
        _make_storage(environment)
        message = _run_ranks(
            ranks,
            environment,
            settings,
            rendezvous_timeout=options.rendezvous_timeout,
            sink=sink,
            last_words=last_words,
        )
    except NotRetryable as error:
        message = _without_ranks(EXIT_NOT_RETRYABLE, error.reason, str(error))
    except Exception as error:  # noqa: BLE001 - torch's agent may raise anything, and the exit code must show it
        traceback.print_exc()
        ranks.end()
        message = _without_ranks(EXIT_FAILED, "ProcessFailed", f"The launcher failed: {type(error).__name__}: {error}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return _finish(message)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m costopt_trainer.launch", description="Run one replica of a gang.")
    parser.add_argument(
        "--rendezvous-timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="how long replicas of a gang wait for each other; 600 because pods may start minutes apart",
    )
    return parser


def _run_ranks(
    ranks: LocalRanks,
    environment: ReplicaEnvironment,
    settings: ReplicaSettings,
    *,
    rendezvous_timeout: float,
    sink: Sink,
    last_words: LastWords,
) -> TerminationMessage:
    # These import torch, which takes seconds: by now SIGTERM is handled and settings are checked.
    with phase("Importing"):
        from costopt_trainer.launch.in_place import Replica  # noqa: PLC0415

    replica = Replica(
        ranks,
        environment,
        settings,
        rendezvous_timeout=rendezvous_timeout,
        started_ns=_STARTED_NS,
        speak=lambda: _speak(environment, sink),
    )
    last_words.of_a_stop = replica.stopped_without_ranks
    message = replica.run()
    # One that is required and was rejected has been made and measured, too.
    if message.exit_code != EXIT_DONE and message.reason != "VariantRejected":
        return message
    return message.model_copy(update={"variant": _report_on_variant(environment, settings)})


def _speak(environment: ReplicaEnvironment, sink: Sink) -> None:
    if environment.index == 0:  # it reports for its gang until its ranks do
        VOICE.speak_up(aloud=True, write=sink.write)


def _report_on_variant(environment: ReplicaEnvironment, settings: ReplicaSettings) -> VariantStatus | None:
    """The report of a variant's replica 0: the planner may not be able to read the storage."""
    if settings.variant is None or environment.index != 0 or environment.storage_dir is None:
        return None
    reports = (
        read_report(environment.storage_dir / folder / names.REPORT_FILE)
        for folder in names.variant_folders(settings.variant.name)
    )
    return next((report for report in reports if report is not None), None)


def _make_storage(environment: ReplicaEnvironment) -> None:
    """Create the job's folder, which a new claim lacks, also for the user's own program.

    Raises NotRetryable in a pod if a link has its name: others may write to the claim, too. On one machine, where there
    is a lifeline, the user may have put the run folder elsewhere.
    """
    folder = environment.storage_dir
    if folder is None:
        return
    if environment.lifeline_fd is None and folder.is_symlink():
        sentence = f"{folder} must be a folder, but is a link to another place: remove the link"
        raise NotRetryable("CheckpointNotWritable", sentence)
    with contextlib.suppress(OSError):  # whoever writes there reports the problem
        folder.mkdir(parents=True, exist_ok=True)
        mark_storage(folder)


def _watch(ranks: LocalRanks, scratch: Path, environment: ReplicaEnvironment, last_words: LastWords) -> None:
    def on_stop(why: str) -> None:
        _say(f"stopping on {why}; {last_checkpoint(read_progress(environment.progress_file))}")
        with ranks.stopping() as any_started:
            if not any_started:
                shutil.rmtree(scratch, ignore_errors=True)
                os._exit(_finish(last_words.of_a_stop(why)))

    try:
        watch_for_stop(on_stop, environment.lifeline_fd)
    except OSError as error:
        sentence = f"COSTOPT_LIFELINE_FD ({environment.lifeline_fd}) must be an open file: {error.strerror}."
        raise NotRetryable("InvalidSettings", sentence) from error


def _set_defaults(environment: ReplicaEnvironment, settings: ReplicaSettings, scratch: Path) -> None:
    """Set defaults of the libraries for all ranks, unless the user set them."""
    # Lines arrive when they are written, and are not lost with a killed rank.
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    user.set_defaults(scratch / "home")
    os.environ[names.ENV_LAUNCHER_STARTED] = str(_STARTED_NS)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_processors() // settings.processes_per_node)))
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if environment.address.is_loopback and loopback:
        # A laptop's host name may not resolve, or to an interface that comes and goes.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])


def _without_ranks(code: int, reason: FailureReason, sentence: str) -> TerminationMessage:
    return TerminationMessage(exit_code=code, reason=reason, message=clean(sentence, MESSAGE_CHARACTERS))


def _finish(message: TerminationMessage) -> int:
    write(optional_path(os.environ, names.ENV_TERMINATION_FILE), message)
    if message.exit_code != EXIT_DONE:
        where = "" if message.rank is None else f" (rank {message.rank} of replica {message.replica_index})"
        _say(f"{message.reason}: {message.message}{where}")
    return message.exit_code


def _say(sentence: str) -> None:
    print(f"costopt: {sentence}", file=sys.stderr, flush=True)


def run() -> NoReturn:
    """The program: `main`, then exit at once, because threads of torch's store may still be waiting."""
    code = main()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
