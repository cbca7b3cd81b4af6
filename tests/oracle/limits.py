"""What is left out of the random histories, because costopt is known to count it otherwise than its pages say.

Each flag names one such thing. It is opened, and then deleted, with the change that makes costopt right.
"""

ENDS_NOBODY_SAW = False
"""Pods whose end no kubelet dates: of containers that were lost, on nodes that were lost, deleted by force."""
ACCOUNTS_OF_GANGS = False
"""Replicas whose time only another of their gang has accounted for, in gangs and in attempts that a queue admits twice:
after the first replica's record its account is lost, and that of a later admission is used for an earlier."""
VANISHING = False
"""Pods that are gone at a look without having been seen to end, because somebody has removed their finalizer."""
NODE_CLOCKS_AHEAD = True
"""Nodes whose clock is an hour ahead, so that an end is dated in the future: it is now, and an estimate."""
RESIZES = True
"""Pods that are resized in place: what they held before is not priced anew."""
ODD_QUANTITIES = True
"""Quantities with exponents, in billionths, with a bare point; requests of a whole pod."""
