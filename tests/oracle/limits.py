"""What is left out of the random histories, because costopt is known to count it otherwise than its pages say.

Each flag names one such thing. It is opened, and then deleted, with the change that makes costopt right.
"""

PRICES_CHANGE_WHILE_HELD = False
"""A price that changes on a day on which a replica is held: each day's time is to be priced at that day's rate."""
