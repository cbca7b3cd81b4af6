"""Durable files with detectable damage.

checkpoint_files     a checkpoint's tensors and manifest
tensor_file          a file of tensors, written block by block
tensor_pieces        which part of which tensor is in which file
folders              made, replaced and removed whole; without torch
quantized_tensors    8-bit tensors as plain ones, and back
"""
