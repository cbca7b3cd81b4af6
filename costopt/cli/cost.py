"""`costopt cost`: what a run has cost, at list prices."""

import json

import typer

from costopt.cli.inputs import Output
from costopt.cli.status import RunDirArgument, RunDirOption, find_run_folder
from costopt.cli.views import bill_views, console


def cost(run_dir: RunDirArgument = None, run_dir_option: RunDirOption = None, output: Output = "text") -> None:
    """Print what a run has cost: hours and money by stage and resource, each with its price and the price's source."""
    bill = find_run_folder(run_dir, run_dir_option).status().bill
    if output == "json":
        typer.echo(json.dumps(bill.to_plain() if bill else None, indent=2))
        return
    out = console()
    if bill is None or not bill.lines:
        out.print("Nothing has been counted yet.")
        return
    for view in bill_views(bill):
        out.print(view)
