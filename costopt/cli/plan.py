"""`costopt plan FILE`: the dry run, as a value."""

from pathlib import PurePath
from typing import Annotated, Literal

import typer

from costopt.cli.inputs import JobFile, read_one_job
from costopt.isolation import own_program
from costopt.render.manifests import DEFAULT_IMAGE, manifests
from costopt.render.processes import processes
from costopt.render.settings import LAUNCHER_MODULE
from costopt.render.text import manifests_json, process_document, processes_json, to_yaml

Target = Annotated[
    Literal["kubernetes", "local"],
    typer.Option(help="kubernetes: the objects the operator creates. local: the processes `costopt run` starts."),
]
Format = Annotated[Literal["yaml", "json"], typer.Option(help="yaml: a stream of documents. json: one list.")]


def plan(
    file: JobFile,
    target: Target = "kubernetes",
    output: Format = "yaml",
    image: Annotated[str, typer.Option(help="Trainer image where the job names none.")] = DEFAULT_IMAGE,
) -> None:
    """Print what a job would create, without creating it.

    Shown is the first attempt of each stage: training, if there is one, then each variant. A restart creates the same
    under the next attempt's number.
    """
    job, _ = read_one_job(file)  # prices may be in a cluster; what is created does not depend on them
    stages = job.spec.stages
    if target == "kubernetes":
        drawn_children = [child for stage in stages for child in manifests(job, stage, 0, default_image=image)]
        # A variant uses the settings of the training attempt: both need the same ConfigMap.
        children = list({(child["kind"], child["metadata"]["name"]): child for child in drawn_children}.values())
        text = to_yaml(children) if output == "yaml" else manifests_json(children)
    else:
        drawn = [
            process
            for stage in stages
            for process in processes(
                job,
                stage,
                0,
                run_dir=PurePath("runs", job.metadata.name),
                working_dir=PurePath(),
                launcher=own_program(LAUNCHER_MODULE),
                rendezvous_port="<a free port>",
            )
        ]
        text = to_yaml([process_document(process) for process in drawn]) if output == "yaml" else processes_json(drawn)
    typer.echo(text, nl=False)
