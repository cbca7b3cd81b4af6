"""The command line: one file per command, and one table of them.

A command's file is imported only when that command runs, so that `costopt --help` starts at once.

    lr_find     the command lr-find
    inputs      manifests and price books -> one job and its prices, or all mistakes
    target      a name -> a local run folder, or a job on a cluster
    on_cluster  options and sentences of the commands on a cluster
    views       status, bill and failure as text and tables
    variants    variants beside the model they were made of
    trainer_program    what a program of the trainer's answers
    tables      rows of figures, which are never cropped
    data_views  what `costopt data` shows, as tables
    artifact_views     artifacts as rows
    try_artifact       the command try
    status_changes     two statuses -> the changes between them, in words
    live        what a user sees while a job runs
    result      what a user sees when it has ended
    replicas    selects the replicas whose logs logs_of_run and logs_of_job print
    generate    writes the CRDs and docs/reference.md (`make generate`)
    outlet      everything that is printed, made safe for any terminal; safe_console is rich's part of it

`kubectl-costopt` is the same program under the name that kubectl expects of a plugin.
"""

# The user's own modules must not be imported, so the search path is set before anything else.
import os
import sys

from costopt.isolation import use_import_path

if os.path.basename(sys.argv[0]) in ("costopt", "kubectl-costopt", "-m"):  # noqa: PTH119 -- this program, and no other
    use_import_path()

import errno
import importlib
import keyword
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from costopt.cli.outlet import safe_output

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("costopt.cli.run", "Run a job on this machine, or resume it."),
    "lr-find": ("costopt.cli.lr_find", "Try learning rates on this machine, and suggest one."),
    "plan": ("costopt.cli.plan", "Print what a job would create, without creating it."),
    "data": ("costopt.cli.data", "Show what becomes of a job's data before it is trained on."),
    "cache": ("costopt.cli.cache", "List or clear what jobs have made once and keep."),
    "validate": (
        "costopt.cli.validate",
        "Check manifests, and name every mistake with its line.",
    ),
    "submit": ("costopt.cli.submit", "Submit a job to a cluster."),
    "status": ("costopt.cli.status", "Show where a run, or a job on a cluster, stands."),
    "watch": ("costopt.cli.watch", "Watch a job on a cluster until it ends."),
    "logs": ("costopt.cli.logs", "Print what the processes of a run or job have written."),
    "cost": ("costopt.cli.cost", "Print what a run or job has cost."),
    "artifacts": ("costopt.cli.artifacts", "List, check and copy the models that a run has left."),
    "try": ("costopt.cli.try_artifact", "Have a model say what it makes of an input."),
    "report": ("costopt.cli.report", "Write what a run was and cost as a page of HTML."),
    "suspend": ("costopt.cli.suspend", "Stop a job on a cluster after a checkpoint."),
    "resume": ("costopt.cli.resume", "Let a suspended job on a cluster go on."),
    "delete": ("costopt.cli.delete", "Remove a job from a cluster."),
    "crd": ("costopt.cli.crd", "Print the CustomResourceDefinitions of costopt's kinds."),
}
"""Name -> module (its function of that name, with _ for - and behind a word of Python's, is the command), and the line
in the list of commands."""

PLUGIN = "kubectl-costopt"
NOT_IN_PLUGIN = ("run", "lr-find", "data", "cache", "try")
"""Commands that never use a cluster."""

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_OUTPUT_LOST = 1


def is_plugin() -> bool:
    """Whether kubectl started this program; then a cluster is always meant."""
    return Path(sys.argv[0]).stem == PLUGIN


def function_name(command: str) -> str:
    """How the function of a command is called in its module."""
    return f"{command}_" if keyword.iskeyword(command) else command.replace("-", "_")


def program_name() -> str:
    """The command name that the user typed."""
    return "kubectl costopt" if is_plugin() else "costopt"


def main() -> None:
    """The `costopt` program, also under its name as a kubectl plugin."""
    try:
        with safe_output():
            _main()
    except KeyboardInterrupt:  # before there is a job to suspend
        raise SystemExit(EXIT_INTERRUPTED) from None
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        sys.stderr.write(f"{program_name()}: the output cannot be written: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(EXIT_OUTPUT_LOST)  # Python would try again to write the rest


def _main() -> None:
    arguments = sys.argv[1:]
    asked = arguments[0] if arguments else ""
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,  # plain help needs no rich, and looks the same everywhere
        pretty_exceptions_enable=False,
    )
    app.callback()(_costopt)
    for name, (module, line) in COMMANDS.items():
        if is_plugin() and name in NOT_IN_PLUGIN:
            continue
        if name == asked:
            app.command(name)(getattr(importlib.import_module(module), function_name(name)))
        else:
            app.command(name, help=line)(_not_asked_for)
    _answer(app, asked)


def _answer(app: Callable[..., Any], asked: str) -> None:
    """Run the command; a user's mistake ends in one sentence and exit code 2, never in a traceback."""
    try:
        app(prog_name=program_name())
    except Exception as error:
        # Imported late, like everything that not every command needs.
        from costopt.refused import Refused  # noqa: PLC0415

        if not isinstance(error, Refused):
            raise
        sentence = " ".join(str(error).splitlines())  # it may quote foreign text
        print(f"{program_name()} {asked}: {sentence}", file=sys.stderr)
        raise SystemExit(EXIT_BAD_INPUT) from None


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

        try:
            typer.echo(f"costopt {version('costopt')}")
        except PackageNotFoundError:  # runs from source, not installed
            typer.echo("costopt (not installed)")
        raise typer.Exit


def _costopt(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Distributed training whose cost is known: train a model, compress it, and say what it cost."""


def _not_asked_for() -> None:
    """Stands in the list of commands for one that does not run."""
