"""What runs inside a replica: the launcher, the training loop, and the compression of its result.

    launch       one per replica: starts the ranks, forwards SIGTERM, writes the termination message
    worker       one per rank: runs train, compress or the user's program, and records why it failed
    train        the training loop, one page
    models/      the networks; data/ the samples; compress/ the variants
    parallel, precision, checkpoint, evaluate, meter    what the loop is made of

Imports from costopt: schema and accounting only, and `costopt.names`.
"""
