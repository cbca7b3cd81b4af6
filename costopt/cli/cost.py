"""`costopt cost`: what a run, or a job on a cluster, has cost at list prices."""

import json

import typer

from costopt.cli.inputs import Output
from costopt.cli.on_cluster import Context, Kubeconfig, Namespace, jobs_of
from costopt.cli.target import JobArgument, RunDirOption, find_target, required
from costopt.cli.views import bill_views, console, early_stopped_text
from costopt.cluster.access import Access
from costopt.local.run_folder import RunFolder


def cost(
    job: JobArgument = None,
    run_dir: RunDirOption = None,
    *,
    output: Output = "text",
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print what a run has cost: hours and money by stage and resource, each with its price and the price's source."""
    access = Access(kubeconfig, context, namespace)
    target = find_target(job, run_dir, access)
    if isinstance(target, RunFolder):
        status = target.status()
    else:
        status = jobs_of(access).get(required(target)).status
    bill = status.bill
    if output == "json":
        typer.echo(json.dumps(bill.to_plain() if bill else None, indent=2))
        return
    out = console()
    if bill is None or not bill.lines:
        out.print("Nothing has been counted yet.")
        return
    for view in bill_views(bill):
        out.print(view)
    if status.early_stopped is not None:
        out.print(early_stopped_text(status.early_stopped), markup=False, soft_wrap=True)
