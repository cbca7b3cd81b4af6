"""The result of a job, for those who watched it: variants, bill, failure, and a last line."""

from collections.abc import Sequence

from costopt.cli.variants import variants_table
from costopt.cli.views import Place, bill_views, console, early_stopped_text, entropies_text, failures_text
from costopt.schema.status import JobStatus

EXIT_SUCCEEDED = 0
EXIT_FAILED = 1


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
    if status.progress is not None and status.progress.bad_samples is not None:
        out.print(f"Data: {status.progress.bad_samples}", markup=False, soft_wrap=True)
    if status.progress is not None and status.progress.data_saved is not None:
        out.print(f"Data: {status.progress.data_saved}", markup=False, soft_wrap=True)
    if status.early_stopped is not None:
        out.print(early_stopped_text(status.early_stopped), markup=False, soft_wrap=True)
    if succeeded is not None and succeeded.status == "False":
        for text in failures_text(status, place):
            out.print(text, markup=False, soft_wrap=True)
        if status.failure is None or status.failure.message != succeeded.message:
            out.print(succeeded.message, markup=False, soft_wrap=True)
    for line in closing:
        out.print(line, markup=False, soft_wrap=True)
