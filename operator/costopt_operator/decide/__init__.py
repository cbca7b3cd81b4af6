"""Decisions about a job: pure, no API, no clock, no event loop.

reconcile             one reconcile: `reconcile(snapshot, history, now) -> Decision` (read first)
objects               the fields kept of each API object; shapes: validates what others wrote
kinship, ownership    which job a pod or an object belongs to: by uid
claims                which pods of an unknown batch Job a status claims
observe               objects -> input of the plan; pod_reasons: why a pod waits or ended, in words
holding, recording    who holds what, and the usage records that the bill counts
meters                what replicas spent their time on
node_pricing          node labels -> what a price depends on; effective_requests: what the scheduler reserves
events                two statuses -> Kubernetes Events
fitting               shrinks a status to fit its object
leftovers             batch Jobs of old attempts to delete
platform              what this platform allows a job
reading               a job and its status as models
keys                  work queue keys
"""
