"""The program `costopt-operator`."""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
from aiohttp import web
from kubernetes.aio.config.config_exception import ConfigException

from costopt.render.manifests import DEFAULT_IMAGE
from costopt.service_account import NoServiceAccount, find_service_account
from costopt_operator.app import Choices, act
from costopt_operator.decide.platform import Platform
from costopt_operator.kube.connection import load_configuration
from costopt_operator.serve.health import Health
from costopt_operator.serve.leader_election import Leadership, lead
from costopt_operator.serve.log_format import set_up
from costopt_operator.serve.metrics import Metrics
from costopt_operator.serve.uninstall import release_finalizers

log = logging.getLogger(__name__)

EXIT_BAD_INPUT = 2
EXIT_NOT_LEADING = 3
"""Exit code after losing the lease. The restarted container begins anew."""

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)

Namespaces = Annotated[
    list[str] | None,
    typer.Option("--namespace", metavar="NS", help="Namespace to watch; may be repeated. [default: all]"),
]
Kubeconfig = Annotated[str | None, typer.Option(metavar="FILE", help="[default: the pod's own, else ~/.kube/config]")]
Context = Annotated[str | None, typer.Option(metavar="NAME", help="Context of the kubeconfig.")]
LogLevel = Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")]
LogFormat = Annotated[str, typer.Option(help="json for programs, text for people.")]


@app.command()
def run(
    *,
    namespace: Namespaces = None,
    lease_name: Annotated[str, typer.Option(help="Name of the Lease of which the holder acts.")] = "costopt-operator",
    lease_namespace: Annotated[
        str | None, typer.Option(help="Its namespace. [default: POD_NAMESPACE, else the pod's own, else default]")
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(help="Name of this process in the Lease. [default: the host's, and random letters]"),
    ] = None,
    leader_election: Annotated[bool, typer.Option(help="Act only while holding the Lease.")] = True,
    default_image: Annotated[str, typer.Option(help="Trainer image of jobs that name none.")] = DEFAULT_IMAGE,
    price_books: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of YAML files with PriceBooks, instead of the cluster's.")
    ] = None,
    allow_system_priority: Annotated[
        bool, typer.Option("--allow-system-priority", help="Let jobs name PriorityClasses that begin with system-.")
    ] = False,
    listen: Annotated[
        str,
        typer.Option(metavar="[HOST]:PORT", help="Where to serve metrics and probes. [HOST: all]"),
    ] = ":8080",
    metrics: Annotated[
        bool, typer.Option(help="Serve /metrics, which tell all who can connect the hours and money of all jobs.")
    ] = True,
    log_level: LogLevel = "INFO",
    log_format: LogFormat = "json",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Watch jobs and act on them, while this process holds the Lease."""
    set_up(_level(log_level), _form(log_format))
    if price_books is not None and not price_books.is_dir():
        raise typer.BadParameter(f"{price_books} must be a folder of YAML files with PriceBooks")
    choices = Choices(
        tuple(namespace or ()),
        default_image,
        price_books,
        _platform(namespace, allow_system_priority=allow_system_priority),
    )
    leadership = Leadership() if leader_election else None
    where = lease_namespace or os.environ.get("POD_NAMESPACE") or _own_namespace() or "default"
    who = identity or unique_identity(socket.gethostname())
    served = _serve(
        choices,
        leadership,
        lease=(lease_name, where, who),
        address=_address(listen),
        tells_metrics=metrics,
        kubeconfig=kubeconfig,
        context=context,
    )
    raise typer.Exit(_run(served))


@app.command("release-finalizers")
def release(
    namespace: Namespaces = None,
    log_level: LogLevel = "INFO",
    log_format: LogFormat = "json",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Release the finalizers on all pods of jobs: what is left to do before the operator is removed."""
    set_up(_level(log_level), _form(log_format))

    async def go() -> int:
        await release_finalizers(await load_configuration(kubeconfig, context), tuple(namespace or ()))
        return 0

    raise typer.Exit(_run(go()))


async def _serve(
    choices: Choices,
    leadership: Leadership | None,
    *,
    lease: tuple[str, str, str],
    address: tuple[str, int],
    tells_metrics: bool,
    kubeconfig: str | None,
    context: str | None,
) -> int:
    configuration = await load_configuration(kubeconfig, context)
    metrics = Metrics()
    health = Health(metrics, leadership, tells_metrics=tells_metrics)
    runner = web.AppRunner(health.application(), access_log=None)
    await runner.setup()
    await _listen(runner, *address)

    async def acting() -> None:
        await act(configuration, choices, metrics, health, leadership)

    async def working() -> bool:
        if leadership is None:
            await acting()
            return True
        name, namespace, identity = lease
        log.info("waiting for the lease %s/%s as %s", namespace, name, identity)
        return await lead(configuration, leadership, name=name, namespace=namespace, identity=identity, act=acting)

    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_stop.set)
    work = asyncio.ensure_future(working())
    stop = asyncio.ensure_future(told_to_stop.wait())
    await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
    asked = stop.done()
    work.cancel()
    stop.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        asked = await work or asked
    await runner.cleanup()
    log.info("ended")
    return 0 if asked else EXIT_NOT_LEADING


def _run(program: Coroutine[Any, Any, int]) -> int:
    """Run to the end; a user's mistake is one sentence and exit code 2."""
    try:
        return asyncio.run(program)
    except (ConfigException, NoServiceAccount) as error:
        print(f"costopt-operator: no way to the API server is known: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


def unique_identity(host: str) -> str:
    """A name that no other process has: a host's name may be cut (at 63 characters) or shared by all pods of a node."""
    return f"{host[:200]}_{secrets.token_hex(4)}"


def _platform(namespaces: list[str] | None, *, allow_system_priority: bool) -> Platform:
    """The operator's own namespace is closed to jobs, unless it was named as one to watch: then somebody meant it."""
    own = os.environ.get("POD_NAMESPACE") or _own_namespace()
    return Platform(None if own in (namespaces or ()) else own, system_priority=allow_system_priority)


def _own_namespace() -> str | None:
    try:
        account = find_service_account()
    except NoServiceAccount:  # which is said when the API server is to be reached
        return None
    return account.namespace if account else None


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    """Serve there; without a host on all addresses of either family, of which a machine may lack one."""
    failures: list[OSError] = []
    families = [host] if host else ["0.0.0.0", "::"]  # noqa: S104 -- probes and metrics are for others
    for family in families:
        try:
            await web.TCPSite(runner, family, port).start()
        except OSError as error:
            failures.append(error)
    if len(failures) == len(families):
        # The loop's own words name the address already.
        why = os.strerror(failures[0].errno) if failures[0].errno else str(failures[0])
        raise typer.BadParameter(f"--listen must be an address that is free here, and {host}:{port} is not: {why}")


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    plain = host.removeprefix("[").removesuffix("]")
    if not port.isdigit() or int(port) > 65535 or (":" in plain and plain == host):
        raise typer.BadParameter(f"--listen must be [HOST]:PORT, such as :8080 or [::1]:8080, and not {text!r}")
    return plain, int(port)


def _level(text: str) -> str:
    if text.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise typer.BadParameter(f"--log-level must be DEBUG, INFO, WARNING or ERROR, and not {text!r}")
    return text.upper()


def _form(text: str) -> str:
    if text not in ("json", "text"):
        raise typer.BadParameter(f"--log-format must be json or text, and not {text!r}")
    return text


def main() -> None:
    """The program."""
    app()


if __name__ == "__main__":
    main()
