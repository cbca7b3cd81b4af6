"""In which order training samples come, where they are not just shuffled: pure functions of (seed, position).

table              words of data.order, and what they name
curriculum         easy samples first
all_first          a part of the samples, once it is known which
mixed              samples of several sources, by weights
length_buckets     samples of like length together
"""
