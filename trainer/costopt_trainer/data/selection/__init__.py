"""Which training samples are kept: a table of their numbers, made once.

table             what chooses samples, and the table of that
stratified, by_loss, representative     what chooses
samples           the training samples as those see them: block by block
bigram            a reference for the loss of tokens
embeddings        where samples lie near to each other
numbers           a table of numbers in the cache, for all ranks
"""
