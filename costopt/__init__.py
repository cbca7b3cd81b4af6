"""costopt: distributed training whose cost is known.

Rooms, and who may import whom (checked by import-linter):

    render -> plan -> accounting -> schema      pure: no clock, disk, network, kopf or torch
    local, cli                                  the shell for one machine
    isolation                                   how every process of ours is kept from importing the user's files
    costopt_operator                            the shell for a cluster
    costopt_trainer                             runs inside a replica; imports schema and accounting only
"""
