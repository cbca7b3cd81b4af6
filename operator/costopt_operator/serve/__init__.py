"""What an operator process is to others: one of several, probed, measured, read and removed.

leader_election    of all operator processes one acts, the holder of a Lease
health             /healthz, /readyz and /metrics
metrics            what Prometheus is told
log_format         one JSON object a line, with the job that is looked at
uninstall          all finalizers of ours released
"""
