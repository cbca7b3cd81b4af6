"""Every decision about a job, made in one pure place.

    decide      plan(observed, now): read this first
    observed    what a shell saw
    actions     what a shell is to do
    backoff     pauses between attempts that are lost one soon after the other
    gang        what the replicas of one attempt amount to
    failures    which replica's end is the failure to report
    evidence    what others wrote down about a replica's end, and the cause that it shows
    causes      every cause: what it counts as, how often it is worth a retry, what would help
    waits       what a replica that does not run waits for
    foreign_text  words of others, made safe
    restarts    what an ended attempt means for its stage
    silence     how long a replica has been silent, as looks at it show
    ends        what attempts were counted as
    early_stop  what is said of a training that stopped early
    billed      a status with its bill, and what follows from it
    stages      which stages there are, and which are due
    under_way   what is told of a job that goes on: phases, and the reason of its condition
    halts       what asks for the job to be stopped: suspend, budget, deadline
    budget      what has been spent of what may be spent
    deadlines   deadline and time to live
    conditions  the status' conditions, with kept transition times

Nothing here reads a clock, a disk, an environment or a network: time is an argument, and CI checks it.
"""
