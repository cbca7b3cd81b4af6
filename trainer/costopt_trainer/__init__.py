"""What runs inside a replica: the launcher, the training loop, and the compression of its result.

    launch        one per replica: starts the ranks, passes SIGTERM on, writes the termination message
      settings      environment and settings file -> what to start, or a sentence
      agent         torch's elastic agent, with our own stopping; rendezvous: replica 0 listens, the others try
      local_ranks   the ranks' processes; output: their lines; lifeline: who ends with whom
      phases        signs of life where no step ends
      failure, termination, memory    which rank failed first, why, and the message that says so
      processors                      how many this container may use, hence threads per rank
    worker        one per rank: ties it to its launcher, then rank: runs train, compress or the user's program
    train         the training loop, one page
      gang          the ranks' process group; parallel: how they share the work
      optimization, precision, evaluate, meter    what the loop is made of
      checkpoint, checkpoint_files    saving and resuming bit for bit
    models/       the networks
    data/         text and images -> samples by position
    compress/     the trained model -> variants; artifact: a model kept on disk
    files         a file is whole or not there; errors: the exception that says: do not try again

Imports from costopt: schema, names and files only.
"""
