"""One reconcile of a key: gather, decide, write the status, then carry out the rest.

controller       the loop (read first)
child_objects    making an attempt's Jobs, Services, ConfigMaps, NetworkPolicy and claim
departures       deleting children, and releasing their pods when the job is deleted
strangers        pods with our label that belong to no known job
failing          failed reconciles: what they mean for the job, and when its gangs are stopped
recent           a bounded set of recently added texts
rate_limiter     a bounded number of writes a second
concurrency      a bounded number of requests at a time
"""
