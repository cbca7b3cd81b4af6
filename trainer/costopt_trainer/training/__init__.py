"""The training loop of the built-in recipes.

loop               the loop, on one page (read first)
training           what is done between steps: going on, losses read, evaluations, checkpoints, reports
learner            model and optimizer, and how they take a step
divergence         figures that are no longer finite
process_group      this rank's place among the others; communication between ranks
parallel           how ranks share a batch or a model: a package
optimizers         the table of optimizers; their state by name
schedules          the table of learning-rate schedules
precision          number formats
memory             what layers keep for their backward pass
micro_batch        micro-batches as large as fit in memory
compiling          layers compiled, and kept for later attempts
carried_state      states that go from sample to sample
evaluation         the loss on held-out samples
snapshot           what goes into a checkpoint, copied to host memory
checkpoint         saving and resuming bit for bit; checkpoint_state: its JSON part; checkpoint_write: writing one
async_save         saving while training goes on
stopping           this rank has been asked to end
"""
