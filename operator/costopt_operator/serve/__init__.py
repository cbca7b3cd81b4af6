"""The operator process as seen from outside: leader election, probes, metrics, logs, uninstalling.

leader_election    of all operator processes one acts, the holder of a Lease
health             /healthz, /readyz and /metrics
metrics            what Prometheus is told
log_format         one JSON object a line, with the job that is looked at
uninstall          all finalizers of ours released
"""
