"""The job's language: what a user may write, what a status may say, and what replicas tell their shell.

base         the strict model, scalar types and rules that both Python and the CRD enforce
resources    Kubernetes quantities as exact decimals
job          CostOptJob and its spec
recipe       the built-in trainer's settings
compression  variants and their steps
prices       PriceBook
status       what a job's status carries
replica      settings handed to a replica, and the messages that come back
document     YAML text -> validated documents, or every mistake with its line
crd          models -> CustomResourceDefinitions
reference    models -> docs/reference.md
"""
