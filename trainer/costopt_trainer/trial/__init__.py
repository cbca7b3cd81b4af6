"""An artifact at work: what `costopt try` shows.

process     the process that the command starts: a request in, an answer out (read first)
opening     a folder -> model, tokenizer and what it reads; without running any code of the folder's
answering   goes on with a text, tells hidden tokens, tells a class
inputs      a file with an image, or the numbers of a row, as the model wants them
"""
