"""What this processor's instructions mean for models of few bits."""

import torch

_INT8_DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "dot")
"""Instructions that add up 8-bit products, named as in `torch.cpu.get_capabilities`."""


def has_int8_dot_products() -> bool:
    """Whether this processor adds up 8-bit products in one instruction."""
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in _INT8_DOT_PRODUCTS)
