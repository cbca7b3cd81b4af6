"""The result of a job, for those who watched it: variants, bill, failure, and a last line."""

from collections.abc import Sequence

from costopt.cli.variants import variants_table
from costopt.cli.views import Place, bill_views, console, entropies_text, failure_text
from costopt.plan.decide import is_final
from costopt.schema.status import JobStatus

EXIT_SUCCEEDED = 0
EXIT_FAILED = 1


def has_succeeded(status: JobStatus) -> bool:
    """Whether the job has ended successfully."""
    succeeded = status.condition("Succeeded")
    return succeeded is not None and is_final(status) and succeeded.status == "True"


def print_result(status: JobStatus, place: Place, closing: Sequence[str]) -> None:
    """Everything worth keeping, then the `closing` lines."""
    out = console()
    succeeded = status.condition("Succeeded")
    out.print()
    if status.variants:
        out.print(variants_table(status.variants))
    entropies = entropies_text(status.progress)
    if entropies:
        out.print(entropies, markup=False)
        out.print()
    if status.bill is not None and status.bill.lines:
        for view in bill_views(status.bill):
            out.print(view)
    if succeeded is not None and succeeded.status == "False":
        if status.failure is not None:
            out.print(failure_text(status.failure, place), markup=False, soft_wrap=True)
        if status.failure is None or status.failure.message != succeeded.message:
            out.print(succeeded.message, markup=False, soft_wrap=True)
    for line in closing:
        out.print(line, markup=False, soft_wrap=True)
