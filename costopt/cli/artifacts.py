"""`costopt artifacts`: what models a run, or a job on a cluster, has left; checked, and copied elsewhere."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from costopt.artifacts import find_difference, is_artifact
from costopt.cli import is_plugin
from costopt.cli.artifact_views import Found, artifacts_table, found_in, of_status, refuse_damaged
from costopt.cli.inputs import Output
from costopt.cli.on_cluster import Context, Kubeconfig, Namespace, jobs_of
from costopt.cli.target import JobArgument, RunDirOption, find_target, required
from costopt.cli.variants import size
from costopt.cli.views import console
from costopt.cluster.access import Access
from costopt.cluster.jobs import ClusterJob
from costopt.hostile import Hostile
from costopt.local.artifact_copies import check_place, copy_artifact
from costopt.local.run_folder import RunFolder
from costopt.names import ARTIFACTS_DIR, MANIFEST_FILE, STORAGE_MARK, STORAGE_MOUNT
from costopt.refused import Refused

EXIT_DIFFERENT = 1

Verify = Annotated[bool, typer.Option("--verify", help="Compare every file with the hash in its manifest.")]
CopyTo = Annotated[
    str | None,
    typer.Option(
        "--copy-to", metavar="URL", help="Copy them to a folder, or a URL such as s3://bucket/folder; each whole."
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only", metavar="NAME", help="This one alone; may be given again. [default: all, to copy: accepted]"
    ),
]


def artifacts(
    job: JobArgument = None,
    run_dir: RunDirOption = None,
    *,
    verify: Verify = False,
    copy_to: CopyTo = None,
    only: Only = None,
    output: Output = "text",
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List the models that a run has left: format, size, verdict, quality and speed.

    RUN_DIR may also be a job's storage, one artifact, or a folder of copies. Credentials for a copy come from the
    environment. Exit codes: 0 done, 1 with --verify: a file differs, 2 bad input.
    """
    access = Access(kubeconfig, context, namespace)
    place = _place(job, run_dir, access)
    if not isinstance(place, Path):
        _of_job(jobs_of(access).get(required(place)), output, moves=verify or bool(copy_to))
        return
    if copy_to is not None:
        check_place(copy_to)
    found = _chosen(found_in(place), only, place)
    if output == "json":
        typer.echo(json.dumps([each.to_plain() for each in found], indent=2))
    elif found:
        console().print(artifacts_table(found))
    else:
        typer.echo(f"There is no artifact in {place} yet.")
    if verify:
        _verify(found)
    if copy_to is not None:
        if not found:
            raise Refused(f"--copy-to needs an artifact to copy, and {place} has none yet")
        _copy(found if only else [each for each in found if not each.is_rejected], copy_to)
    for each in found:
        refuse_damaged(each)


def _place(job: str | None, run_dir: Path | None, access: Access) -> Path | str | None:
    """The folder that is meant, or the name of a job on a cluster (None: it was not named). Raises Refused as
    `find_target` does."""
    named = run_dir if run_dir is not None else None if job is None else Path(job)
    on_cluster = access.is_named or is_plugin()
    if named is not None and not on_cluster and (run_dir is None or job is None):
        marks = (STORAGE_MARK, ARTIFACTS_DIR, f"*/{MANIFEST_FILE}")
        try:
            if is_artifact(named) or any(next(named.glob(mark), None) for mark in marks):
                return named
        except OSError as error:
            raise Refused(f"{named} cannot be read ({error.strerror}); it must be a folder you may read") from None
    target = find_target(job, run_dir, access)
    return target.path if isinstance(target, RunFolder) else target


def _chosen(found: Sequence[Found], only: Sequence[str] | None, place: Path) -> list[Found]:
    if not only:
        return list(found)
    there = {each.name for each in found}
    for name in only:
        if name not in there:
            known = f"there are {', '.join(sorted(there))}" if there else "there is none"
            raise Refused(f"--only must name an artifact in {place}: {known}; it is {name}")
    return [each for each in found if each.name in only]


def _verify(found: Sequence[Found]) -> None:
    """Say that all is as it was written, or end with the first file that is not."""
    for each in found:
        refuse_damaged(each)
        if each.manifest is None:
            _end(f"{each.folder} has no {MANIFEST_FILE}, so nothing says what its files should be")
            return
        try:
            difference = find_difference(each.folder, each.manifest)
        except OSError as error:
            raise Refused(
                f"{error.filename} cannot be read ({error.strerror}); it must be a file you may read"
            ) from None
        except Hostile as error:
            difference = str(error)
        if difference is not None:
            _end(f"{each.folder} {difference}")
    files = sum(len(each.manifest.files) for each in found if each.manifest)
    total = size(sum(each.size_bytes for each in found))
    what = "1 artifact" if len(found) == 1 else f"{len(found)} artifacts"
    typer.echo(f"Verified: {what}, {files} files, {total}.", err=True)


def _end(sentence: str) -> None:
    typer.echo(f"costopt artifacts: {sentence}", err=True)
    raise typer.Exit(EXIT_DIFFERENT)


def _copy(found: Sequence[Found], place: str) -> None:
    for each in found:
        refuse_damaged(each)
        if each.manifest is None:
            raise Refused(f"{each.folder} must have a {MANIFEST_FILE} to be copied: have it made anew")
        where = copy_artifact(each.folder, each.manifest, place)
        typer.echo(f"Copied {each.name} ({size(each.size_bytes)}) to {where}", err=True)


def _of_job(job: ClusterJob, output: str, *, moves: bool) -> None:
    """What the status of a job on a cluster says of its artifacts, and where their files are."""
    where = _where(job)
    if moves:
        raise Refused(f"--verify and --copy-to need the files of the artifacts: {where}")
    found = of_status(job.status)
    if output == "json":
        typer.echo(json.dumps([each.to_plain() for each in found], indent=2))
        return
    if found:
        console().print(artifacts_table(found))
    else:
        typer.echo(f"Job {job.name} tells of no variants yet.")
    console().print(f"{where[0].upper()}{where[1:]}.", markup=False, soft_wrap=True)


def _where(job: ClusterJob) -> str:
    claim = job.claim
    if claim is None:
        return "they are gone with the pods that made them, for the job has no storage; set spec.storage"
    copying = f"costopt artifacts {STORAGE_MOUNT}/{job.name} --copy-to URL"
    return (
        f"they lie in the claim {claim} (namespace {job.namespace}), in its folder {job.name}/{ARTIFACTS_DIR}; in a "
        f"pod of the trainer's image that mounts it at {STORAGE_MOUNT}, `{copying}` copies them"
    )
