"""costopt: distributed training whose cost is known.

Rooms, and who may import whom (checked by import-linter):

    render -> plan -> accounting -> schema      pure: no clock, disk, network, kopf or torch
    local, cli                                  the shell for one machine, and the commands
    cluster                                     the client side of a cluster, for the commands
    names                                       every name that two rooms must agree on
    refused                                     what a user must mend, in one sentence
    files, hostile                              files written whole; files that anybody may have written
    artifacts                                   folders with a manifest that names their files: read, listed, verified
    report                                      pure: a status as a page of HTML
    caches                                      what a storage keeps so as not to make it twice: in use, or removed
    isolation                                   how every process of ours is kept from importing the user's files
    person, service_account                     what a pod's user lacks, and what a pod is given to reach its cluster
    oom_kills                                   whether the kernel killed for memory

Beside it: operator/costopt_operator, the shell for a cluster, and trainer/costopt_trainer, which runs inside a replica.
"""
