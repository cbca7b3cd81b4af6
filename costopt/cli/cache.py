"""`costopt cache`: what a storage keeps so as not to make it twice, and the removal of what nobody needs."""

import json
import re
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from costopt.caches import Cache, caches_in, remove, too_many
from costopt.cli.inputs import Output
from costopt.cli.tables import table
from costopt.cli.variants import size
from costopt.cli.views import console
from costopt.hostile import Hostile
from costopt.names import CACHE_DIR, JOB_FILE, STORAGE_MARK
from costopt.refused import Refused
from costopt.schema.resources import parse_quantity

_UNITS = {"m": 60, "h": 3600, "d": 86400}

Action = Annotated[Literal["list", "clear"], typer.Argument(help="list what is there, or clear some of it.")]
Folder = Annotated[
    Path | None, typer.Argument(metavar="[RUN_DIR]", help="Run folder, such as runs/quickstart.", show_default=False)
]
Storage = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="Storage of a job, such as its folder on a claim.", show_default=False),
]
OlderThan = Annotated[
    str | None, typer.Option(metavar="AGE", help="Clear what was not used for so long: 30d, 12h.", show_default=False)
]
KeepBytes = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", help="Clear what was used longest ago until so much is left: 20Gi.", show_default=False
    ),
]
All = Annotated[bool, typer.Option("--all", help="Clear all that no process uses.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def cache(
    action: Action,
    run_dir: Folder = None,
    storage: Storage = None,
    older_than: OlderThan = None,
    keep_bytes: KeepBytes = None,
    *,
    all_: All = False,
    yes: Yes = False,
    output: Output = "text",
) -> None:
    """List what jobs have made once and keep: tokens of texts, decoded images, numbers of the samples that are kept,
    copies of remote files, compiled code, models of the hub; or clear some of it. All of it can be made again; what a
    process uses now stays.

    Exit codes: 0 done, 2 bad input.
    """
    found = _found(run_dir, storage)
    limits = _limits(older_than, keep_bytes)
    if action == "list":
        if limits or all_ or yes:
            raise Refused("--older-than, --keep-bytes, --all and --yes are for `costopt cache clear`")
        _print(found, output)
        return
    if bool(limits) == all_:
        raise Refused("what to clear must be said by --older-than and --keep-bytes, or by --all")
    chosen = found if all_ else too_many(found, **limits)
    if chosen and not yes:
        _ask(chosen)
    removed, kept = remove(chosen)
    if output == "json":
        _print(removed, output)
        return
    typer.echo(f"cleared {_told(removed)}")
    if kept:
        typer.echo(
            f"kept {_told(kept)}, which a process uses, or whose locks cannot be taken: "
            f"{', '.join(cache.name for cache in kept)}"
        )


def _found(run_dir: Path | None, storage: Path | None) -> list[Cache]:
    """Raises Refused for a folder that is no storage: its `cache` might be anybody's."""
    if (run_dir is None) == (storage is None):
        raise Refused("the storage must be named once: a run folder such as runs/<job>, or --storage PATH")
    folder = Path(run_dir or storage or "")
    if not any((folder / mark).is_file() for mark in (STORAGE_MARK, JOB_FILE)):
        raise Refused(
            f"{folder} must be a run folder or a job's storage, but has neither {JOB_FILE} nor {STORAGE_MARK}"
        )
    try:
        return caches_in(folder / CACHE_DIR)
    except Hostile as error:
        raise Refused(str(error)) from None
    except OSError as error:
        raise Refused(f"{folder} must be a folder that can be read, but reading fails: {error.strerror}") from None


def _limits(older_than: str | None, keep_bytes: str | None) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if older_than is not None:
        match = re.fullmatch(r"(\d{1,6})([mhd])", older_than)
        if match is None:
            raise Refused(f"--older-than must be a number with m, h or d, such as 30d, not {older_than!r}")
        limits["older_than"] = int(match[1]) * _UNITS[match[2]]
    if keep_bytes is not None:
        try:
            limits["keep_bytes"] = _positive(parse_quantity(keep_bytes))
        except (ValueError, ArithmeticError):
            raise Refused(f"--keep-bytes must be bytes, such as 20Gi, not {keep_bytes!r}") from None
    return limits


def _positive(number: Decimal) -> int:
    if number < 0:
        raise ValueError("must not be negative")
    return int(number)


def _ask(chosen: list[Cache]) -> None:
    if not sys.stdin.isatty():
        raise Refused(f"clearing {_told(chosen)} must be confirmed: at a terminal, or with --yes")
    console().print(_table(chosen))
    if not typer.confirm(f"Clear {_told(chosen)}?"):
        raise typer.Exit(0)


def _told(caches: list[Cache]) -> str:
    word = "cache" if len(caches) == 1 else "caches"
    return f"{len(caches)} {word} of {size(sum(cache.num_bytes for cache in caches))}"


def _print(found: list[Cache], output: str) -> None:
    if output == "json":
        typer.echo(json.dumps([_plain(cache) for cache in found], indent=2))
    elif found:
        console().print(_table(found))
    else:
        typer.echo("there are no caches")


def _table(found: list[Cache]) -> Any:
    rows = [
        (cache.kind, cache.of or "not known", _moment(cache).strftime("%Y-%m-%d %H:%M"), size(cache.num_bytes))
        for cache in found
    ]
    return table(f"{_told(found)}, the one used longest ago first", ("", "of", "last used", ""), rows, left=2)


def _moment(cache: Cache) -> datetime:
    return datetime.fromtimestamp(cache.last_used, UTC)


def _plain(cache: Cache) -> dict[str, Any]:
    return {
        "kind": cache.kind,
        "name": cache.name,
        "bytes": cache.num_bytes,
        "lastUsed": _moment(cache).isoformat(timespec="seconds"),
        "of": cache.of,
    }
