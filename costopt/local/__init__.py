"""The shell for one machine: runs a job's plan as processes, in a run folder.

    runner          the loop: observe -> plan -> write status -> apply -> record
    run_folder      what lies in a run folder, and whose it is
    earlier_run     a run that has succeeded, while other settings are tried in its folder
    lock            one runner per run folder
    observe         replica folders -> what the plan and the bill need to know
    lost_replicas            an end for replicas whose supervisor was killed
    apply           starting and stopping gangs
    replica_folder  what lies in a replica's folder
    supervisor      the process above each launcher: watches, stops, writes down the end
    processes       which processes belong to a replica, and how they are killed
    metrics         metrics.jsonl of a run folder
    range_test      a learning-rate range test, by one process of the trainer
    artifact_copies copies of artifacts in folders and behind URLs
    devices         this machine's GPUs
    models          JSON files -> models, or a sentence about what is damaged
    files           files that are whole or not there

runner (holds the lock) --lifeline--> supervisor (one per replica) --lifeline--> launcher --> ranks

A lifeline is a pipe whose other end closes when its holder dies, however it dies. So whoever is killed, those below
save a checkpoint and end, and what is left of a replica is found by a mark in its environment.
"""
