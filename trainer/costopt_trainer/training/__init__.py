"""The training loop of the built-in recipes.

loop               the loop, on one page (read first)
training           what is done between steps: going on, losses read, evaluations, checkpoints, reports
learner            model and optimizer, and how they take a step
choosing           which samples are trained on, and in which order; references: models that tell it
first_epoch        which samples, by the training's own losses
divergence         figures that are no longer finite
process_group      this rank's place among the others; communication between ranks
parallel           how ranks share a batch or a model: a package
optimizers         the table of optimizers; their state by name; groups of parameters
averaged_weights   the average of the weights, which is evaluated and becomes the trained model
schedules          the table of learning-rate schedules
decisions          what follows from evaluations; patience: how long it is since they improved
early_stopping     ends a training for it; measures: by what one evaluation is better than another
noise_scale        the size of the global batch, by measuring
precision          number formats
memory             what layers keep for their backward pass
micro_batch        micro-batches as large as fit in memory
compiling          layers compiled, and kept for later attempts
carried_state      states that go from sample to sample
evaluation         the loss on held-out samples
snapshot           what goes into a checkpoint, copied to host memory
checkpoint         saving and resuming bit for bit; checkpoint_state: its JSON part; checkpoint_write: writing one
async_save         saving while training goes on
range_test         learning rates tried from low to high, by one rank; recipe_data: the samples of a recipe
trained_model      what a training leaves
stopping           this rank has been asked to end
"""
