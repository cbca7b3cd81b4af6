"""Decisions about a job: pure, no API, no clock, no event loop.

reconcile             one reconcile: `reconcile(snapshot, history, now) -> Decision` (read first)
objects               what is kept of each object of the API server; shapes: what others wrote, brought into shape
kinship, ownership    which job a pod is of, and whose an object is: by uid
claims                which pods of an unknown batch Job a status claims
observe               objects -> what the plan needs to know; pod_reasons: why a pod waits or ended, in words
holding, recording    who holds what, and the usage records that the bill counts
meters                what replicas have spent their time on
node_pricing          node labels -> what a price depends on; effective_requests: what the scheduler sets aside
events                two statuses -> Kubernetes Events
fitting               a status made small enough for its object
leftovers             batch Jobs of old attempts that may go
platform              what this platform allows of a job
reading               a job and its status as models
keys                  what a look is at
"""
