"""What a reconcile is about: one job, or a pod without one."""

Key = tuple[str, str]
"""Namespace and uid of a job; for a pod of no known job, the pod's uid."""
