"""What a look is at: one job, or a pod of none."""

Key = tuple[str, str]
"""Namespace, and the uid of a job; of a pod that is of no job that we know, its own."""
