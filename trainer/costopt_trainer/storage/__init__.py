"""Durable files with detectable damage.

checkpoint_files     a checkpoint's tensors and manifest
tensor_file          a file of tensors, written block by block
tensor_pieces        which part of which tensor is in which file
manifests            what is said of an artifact beside it; without torch
folders              made, replaced and removed whole; without torch
packed_zeros         tensors with many zeros in fewer bytes, and back; codebooks: those of few values
quantized_tensors    8-bit tensors as plain ones, and back
"""
