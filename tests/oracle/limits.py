"""What is left out of the random lives, because costopt is known to split its time by cause otherwise than the oracle.

Each flag names one such thing, in which hours and money are right. It is opened, and then deleted, with the change that
makes the causes right too.
"""

ACCOUNTS_OF_THE_VANISHED = False
"""Replicas with a meter that vanish. The status keeps one account for each gang, so what a vanished replica was known
to have spent its time on is forgotten, and it is taken to have done as its gang, or as its successor has."""
ACCOUNTS_OF_TWO_ADMISSIONS = False
"""Replicas with a meter in a queue. If the queue takes their Job back and admits it again between two looks, those of
the new admission are taken to have done as those of the earlier one until their first has reported."""
