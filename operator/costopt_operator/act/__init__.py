"""One look at a key: gather, decide, write the status, and only then do the rest.

controller       the loop (read first)
child_objects    making an attempt's Jobs, Services, ConfigMaps, NetworkPolicy and claim
departures       the ends of children, and what becomes of them when their job is deleted
strangers        pods with our label that are of no job that is known
failing          looks that fail: what they say of the job, and when it is enough
recent           the last things that were noted
rate_limiter     a bounded number of writes a second
concurrency      a bounded number of requests at a time
"""
