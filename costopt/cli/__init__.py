"""The command line: one file per command, and one table of them.

A command's file is imported only when that command runs, so that `costopt --help` starts at once.

    inputs      manifests and price books -> one job and its prices, or every mistake
    views       status, variants, bill and failure as tables
    narrate     two statuses -> what has happened between them, in words
    live        what a user sees while a job runs
"""

import importlib
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("costopt.cli.run", "Run a job on this machine, or resume it."),
    "plan": ("costopt.cli.plan", "Print what a job would create, without creating it."),
    "validate": (
        "costopt.cli.validate",
        "Check manifests, and name every mistake with its line.",
    ),
    "status": ("costopt.cli.status", "Show where a run stands."),
    "logs": ("costopt.cli.logs", "Print what the processes of a run have written."),
    "cost": ("costopt.cli.cost", "Print what a run has cost."),
    "crd": ("costopt.cli.crd", "Print the CustomResourceDefinitions of CostOptJob and PriceBook."),
}
"""Name -> module (whose function of that name is the command), and the line in the list of commands."""

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def main() -> None:
    """The `costopt` program."""
    try:
        _main()
    except KeyboardInterrupt:  # before there is a job to suspend
        raise SystemExit(EXIT_INTERRUPTED) from None


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
        if name == asked:
            app.command(name)(getattr(importlib.import_module(module), name))
        else:
            app.command(name, help=line)(_not_asked_for)
    _answer(app, asked)


def _answer(app: Callable[[], Any], asked: str) -> None:
    """Run the command; a user's mistake ends in one sentence and exit code 2, never in a traceback."""
    try:
        app()
    except Exception as error:
        # Imported late, like everything else that not every command needs.
        from costopt.local.refused import Refused  # noqa: PLC0415

        if not isinstance(error, Refused):
            raise
        print(f"costopt {asked}: {error}", file=sys.stderr)
        raise SystemExit(EXIT_BAD_INPUT) from None


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

        try:
            typer.echo(f"costopt {version('costopt')}")
        except PackageNotFoundError:  # run from its sources, without an installation
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
