"""GPTQ (Frantar et al., arXiv 2210.17323): 4-bit weights that make up for each other's rounding.

    gptq    a matrix and what its inputs are like -> codes, scales and zero points
    pack    these -> what onnxruntime's MatMulNBits reads

onnxruntime has a function for it, but hands no error on: it takes the lower half of an upper triangular matrix, which
is zero, so that its weights are the nearest ones.

Shape suffixes: K = inputs, N = outputs, G = groups of inputs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST = 15
"""The largest code."""
DAMPING = 0.01
"""Added to the diagonal, as a share of its mean, so that it can be inverted (section 3.3 of the paper)."""


@dataclass(frozen=True)
class Codes:
    """A matrix of 4-bit weights: scales_GN * (codes_KN - zeros_GN), each group with its own."""

    codes_KN: Tensor
    scales_GN: Tensor
    zeros_GN: Tensor
    group_size: int


def gptq(weights_KN: Tensor, products_KK: Tensor, group_size: int) -> Codes:
    """Round `weights_KN`; `products_KK` are sums of inputs' products with each other, over samples."""
    left_KN, hessian_KK = weights_KN.double().clone(), products_KK.double().clone()
    diagonal = hessian_KK.diagonal()  # a view
    unused_K = diagonal == 0
    diagonal += torch.where(unused_K, 1.0, DAMPING * diagonal[~unused_K].mean() if not unused_K.all() else 0.0)
    inverse_KK = torch.cholesky_inverse(torch.linalg.cholesky(hessian_KK))
    passed_on_KK = torch.linalg.cholesky(inverse_KK, upper=True)
    codes_KN = torch.zeros_like(left_KN)
    scales, zeros = [], []
    for begin in range(0, len(left_KN), group_size):
        end = min(begin + group_size, len(left_KN))
        group_KN = left_KN[begin:end]  # a view
        lowest_N, highest_N = group_KN.amin(0).clamp(max=0), group_KN.amax(0).clamp(min=0)
        scale_N = (highest_N - lowest_N) / MOST
        scale_N = torch.where(scale_N == 0, 1.0, scale_N).float().double()
        zero_N = (-lowest_N / scale_N).round().clamp(0, MOST)
        errors_KN = torch.zeros_like(group_KN)
        for row in range(end - begin):
            here = passed_on_KK[begin + row]
            code_N = ((group_KN[row] / scale_N).round() + zero_N).clamp(0, MOST)
            error_N = (group_KN[row] - scale_N * (code_N - zero_N)) / here[begin + row]
            group_KN[row:] -= torch.outer(here[begin + row : end], error_N)
            codes_KN[begin + row], errors_KN[row] = code_N, error_N
        left_KN[end:] -= passed_on_KK[begin:end, end:].T @ errors_KN
        scales.append(scale_N)
        zeros.append(zero_N)
    return Codes(codes_KN, torch.stack(scales), torch.stack(zeros), group_size)


def pack(made: Codes) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """Codes (N, G, bytes of a group), scales (N, G) and zero points (N, bytes of all groups); two codes in a byte, the
    first in its lower half."""
    (inputs, outputs), groups = made.codes_KN.shape, len(made.zeros_GN)
    filled = np.zeros((groups * made.group_size, outputs), dtype=np.uint8)
    filled[:inputs] = made.codes_KN.numpy()
    codes = filled.reshape(groups, made.group_size, outputs).transpose(2, 0, 1)
    zeros = np.zeros((outputs, groups + groups % 2), dtype=np.uint8)
    zeros[:, :groups] = made.zeros_GN.T.numpy()
    return _halves(codes), made.scales_GN.T.contiguous().numpy().astype(np.float32), _halves(zeros)


def _halves(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(codes[..., 0::2] | codes[..., 1::2] << 4)
