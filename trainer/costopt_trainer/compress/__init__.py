"""Variants: the trained model made smaller or faster, measured against what it was made from.

run         one variant from beginning to end (read first)
steps       the table of steps
quantize    8-bit weights; prune: fewer weights
measure     size, latency and validation loss of variant and baseline, side by side
verify      a fresh process loads the artifact and must get the same output
"""
