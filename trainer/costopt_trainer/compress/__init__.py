"""Variants: the trained model made smaller or faster, measured against that model.

run         one variant from beginning to end (read first)
origin      the trained model, and the samples that all is measured on
left_folder the same of a command: the Hugging Face folder that it has left
table       the table of steps
step        the interface of a step, and what it may use
step_checkpoints    checkpoints of steps that train
quantize    8-bit weights; prune: fewer weights
engines     the ways to run a variant; the fastest is measured
measure     size and latency of variant and baseline, side by side
quality     their validation loss, and that of guessing
judge       why nobody would deploy it
overdue     ends a model run that takes too long
verify      a fresh process loads the artifact and must get the same output
"""
