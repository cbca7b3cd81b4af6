"""Files that last, and whose damage shows.

checkpoint_files     a checkpoint's tensors and manifest
tensor_pieces        which part of which tensor lies in which file
quantized_tensors    tensors of 8-bit numbers as plain ones, and back
"""
