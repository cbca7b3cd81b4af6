"""Which run folder, or which job on a cluster, a command for both is about.

The rules in order; the first that applies decides, and nothing else is tried:

1. --run-dir: that run folder.
2. --context, --namespace or --kubeconfig, or called as `kubectl costopt`: the job of that name on the cluster.
3. A name with a slash, or the name of something that exists here: that run folder.
4. Any other name: the job of that name on the cluster, if there is a kubeconfig (or a pod's service account).
5. Nothing: the newest run folder in runs/.
"""

from pathlib import Path
from typing import Annotated

import typer

from costopt.cli import is_plugin
from costopt.cli.views import Place, local_place
from costopt.cluster.access import Access, knows_a_cluster
from costopt.local.run_folder import RunFolder
from costopt.names import JOB_FILE
from costopt.refused import Refused
from costopt.service_account import exists

RUNS = Path("runs")

JobArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN_DIR|JOB]",
        help="Run folder, or else a job on the cluster. [default: the newest in runs/]",
        show_default=False,
    ),
]
RunDirOption = Annotated[
    Path | None, typer.Option("--run-dir", metavar="DIR", help="Run folder, as RUN_DIR.", show_default=False)
]


def find_target(argument: str | None, run_dir: Path | None, access: Access) -> RunFolder | str | None:
    """The run folder, or the name of the job on the cluster; None: the cluster, but no job was named.

    Raises Refused if neither exists, or if the arguments contradict each other.
    """
    on_cluster = access.is_named or is_plugin()
    if run_dir is not None:
        if on_cluster:
            raise Refused("--run-dir is about this machine; leave it out to ask a cluster")
        if argument is not None and Path(argument) != run_dir:
            raise Refused("the run folder must be given once: as RUN_DIR or with --run-dir")
        return _checked(run_dir)
    if on_cluster:
        return argument
    if argument is None:
        return _newest()
    if "/" in argument or exists(Path(argument)):
        return _checked(Path(argument))
    return _job_name(argument)


def _checked(path: Path) -> RunFolder:
    run_folder = RunFolder(path)
    run_folder.check()
    return run_folder


def _newest() -> RunFolder | None:
    found = [path.parent for path in RUNS.glob(f"*/{JOB_FILE}")]
    if found:
        return _checked(max(found, key=lambda path: path.stat().st_mtime_ns))
    if knows_a_cluster(Access()):
        return None
    raise Refused(
        f"there is no run folder in {RUNS}/ here, and no kubeconfig; name a folder, as printed by `costopt run`, "
        "or a kubeconfig with --kubeconfig"
    )


def _job_name(name: str) -> str:
    if knows_a_cluster(Access()):
        return name
    runs = RUNS / name
    if exists(runs / JOB_FILE):
        raise Refused(f"{name} does not exist; the run folder of that job is {runs}")
    raise Refused(
        f"{name} does not exist; name the folder that `costopt run` made, such as runs/<job>, "
        "or a kubeconfig with --kubeconfig if it is a job on a cluster"
    )


def required(name: str | None) -> str:
    """The name of a job, for commands that are about one. Raises Refused without one."""
    if name is None:
        raise Refused("name the job; `costopt status` lists those on the cluster")
    return name


def run_place(run_folder: RunFolder, said: str) -> Place:
    """Where the run is; `said`: its folder, as the user calls it."""
    trains = run_folder.job().spec.train is not None
    return local_place(said, saved=run_folder.has_checkpoint(), trains=trains)
