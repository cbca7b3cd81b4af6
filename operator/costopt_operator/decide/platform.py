"""What this cluster's platform allows of a job, beyond what its schema says. Pure."""

from dataclasses import dataclass

from costopt.schema.job import CostOptJob

SYSTEM_PRIORITY_PREFIX = "system-"
"""Kubernetes reserves names of PriorityClasses that begin so for what keeps a node or the cluster running."""


@dataclass(frozen=True)
class Platform:
    """Choices of whoever runs the operator."""

    closed_namespace: str | None = None
    """Where no jobs run: creating jobs means creating pods, which could use the operator's service account and Secrets.
    None: there is no such namespace."""
    system_priority: bool = False
    """Whether jobs may have the priority of the cluster's own parts, which no other pod may displace."""

    def refusal(self, job: CostOptJob) -> str | None:
        """Why no pod of this job may be made, in a sentence that says what would be right; None if it may."""
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
