"""A status with its bill, and all that follows from the bill: what an early stop has saved, what a search has cost.

with_bill    the status with them
"""

from costopt.accounting.payback import with_payback
from costopt.plan.early_stop import with_savings
from costopt.schema.job import JobSpec
from costopt.schema.status import Bill, JobStatus
from costopt.schema.variant_report import VariantStatus


def with_bill(status: JobStatus, bill: Bill | None, spec: JobSpec) -> JobStatus:
    """The status with this bill, and with what follows if the bill is right. Whoever makes a later bill of the same
    status calls this again."""

    def priced(report: VariantStatus) -> VariantStatus:
        if report.search is None or spec.variant(report.name) is None:
            return report
        return with_payback(report, spec.resources_of(report.name).effective(), bill)

    return status.model_copy(
        update={
            "bill": bill,
            "early_stopped": with_savings(status, bill),
            "variants": [priced(report) for report in status.variants],
        }
    )
