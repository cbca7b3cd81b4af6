"""The shell of a cluster: applies what `costopt.plan` decides and `costopt.render` draws.

__main__    the program `costopt-operator`; app: its watches, workers and kopf, which live and end together
act/        the loop over keys, and the writes it makes (read `act/controller.py` first)
serve/      leadership, probes, metrics, log lines, uninstalling
watch/      what the cluster holds, as it changes: objects, nodes, logs; the queue of keys to look at
kube/       requests to the API server
decide/     everything above becomes decisions here: pure (read `decide/reconcile.py` first)

A room may import those below it.
"""

from costopt.person import stand_in

stand_in()  # before anything else: the official client asks for a home while it is imported
