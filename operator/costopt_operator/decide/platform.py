"""What this cluster's platform allows a job, beyond the schema. Pure."""

from dataclasses import dataclass

from costopt.schema.job import CostOptJob

SYSTEM_PRIORITY_PREFIX = "system-"
"""Kubernetes reserves PriorityClass names with this prefix for what keeps a node or the cluster running."""


@dataclass(frozen=True)
class Platform:
    """Settings of the operator's administrator."""

    closed_namespace: str | None = None
    """Where no jobs run: whoever creates jobs creates pods, which could use the operator's service account and Secrets.
    None: there is no such namespace."""
    system_priority: bool = False
    """Whether jobs may have the priority of system components, which no other pod may preempt."""

    def refusal(self, job: CostOptJob) -> str | None:
        """Why no pod of this job may be created, in a sentence with the remedy; None if it may."""
        if self.closed_namespace is not None and job.metadata.namespace == self.closed_namespace:
            return (
                f"jobs must not be in the namespace of the operator ({self.closed_namespace}), where their pods could "
                "use its service account: create the job in another namespace"
            )
        priority = job.spec.pods.priority_class_name if job.spec.pods else None
        if priority is not None and priority.startswith(SYSTEM_PRIORITY_PREFIX) and not self.system_priority:
            return (
                f"pods.priorityClassName must not be {priority}: this cluster keeps {SYSTEM_PRIORITY_PREFIX}* for its "
                "own parts; use a PriorityClass of your own"
            )
        return None
