"""What runs inside a replica: the launcher, the ranks, the training loop, and the compression of its result.

launch/             one process per replica: starts the ranks, passes SIGTERM on, writes the termination message
worker              one process per rank: ties it to its launcher, then becomes rank
rank                runs the training, a variant or the user's program, and says why it failed
lr_find             the process of `costopt lr-find`
compress/           the trained model -> variants
session/            reports, stops and artifacts of programs of the user's own; without torch
training/           the training loop and what it is made of (read `training/loop.py` first)
models/             the networks, and a model kept on disk
data/               text and images -> samples by position
reporting/          where time goes, and its reports; without torch
storage/            files of a checkpoint
agreement           all ranks agree to end
replica_settings    environment and settings file -> what to do, or a sentence
phases              signs of life where no step ends
heartbeat           what a rank leaves for its launcher to see: signs of work, and where its time went
shutdown            who ends with whom
show_data           what a recipe's data becomes, for `costopt data`
trial/              an artifact at work, for `costopt try`
foreign_config      what config.json of a Hugging Face model says, read without the library
machine             what is said of this machine beside an artifact
instructions        whether this processor adds up products of 8 bits in one instruction
cgroup              how many processors this container may use
tables              from a word in the manifest to the code that it names
errors              the exception that says: do not try again

`launch` imports none of the other rooms; they may import those below them. Imports from costopt: schema, names, files,
hostile, artifacts, caches, isolation, oom_kills.
"""
