"""What is left out of the random histories, because costopt is known to count it otherwise than its pages say.

Each flag names one such thing. It is opened, and then deleted, with the change that makes costopt right.
"""

PRICES_CHANGE_WHILE_HELD = True
"""A price that changes on a day on which a replica is held: each day's time is to be priced at that day's rate."""
ENDS_NOBODY_SAW = False
"""Pods whose end no kubelet dates: of containers that were lost, on nodes that were lost, deleted by force."""
ACCOUNTS_OF_GANGS = False
"""Replicas whose time only another of their gang has accounted for, in gangs and in attempts that a queue admits twice:
after the first replica's record its account is lost, and that of a later admission is used for an earlier."""
