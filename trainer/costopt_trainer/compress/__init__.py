"""Variants: the trained model made smaller or faster, measured against what it was made from.

run         one variant from beginning to end (read first)
table       the table of steps
step        what each row fulfils, and what it may use
step_checkpoints    those of steps that train
quantize    8-bit weights; prune: fewer weights
engines     the ways to run a variant, of which the fastest is measured
measure     size and latency of variant and baseline, side by side
quality     their validation loss, and what guessing gets
judge       why nobody would deploy it
overdue     a run that does not end
verify      a fresh process loads the artifact and must get the same output
"""
