"""Inputs that JAX and PyTorch make alike: a hash of the position, from -sqrt(3) to sqrt(3).

Uniform with a variance of 1. Both make them on the device from whole numbers and round the same
float32 numbers, so that their results can be compared without sending tensors around.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

SEEDS = {"query": 1, "key": 2, "value": 3, "cotangent": 4}
_MIX = ((16, 0x7FEB352D), (15, 0x846CA68B))  # shifts and factors of a 32-bit mixing function
_GOLDEN = 0x9E3779B9
ROOT_3 = float(np.float32(math.sqrt(3)))


def start_of(name: str, which: int) -> int:
    """What the hash of set `which` of an array begins with."""
    return (SEEDS[name] + 16 * which) * _GOLDEN & 0xFFFFFFFF


def in_jax(name: str, which: int, shape: tuple[int, ...], dtype: str) -> Any:
    """The array on JAX's default device."""
    return _in_jax(start_of(name, which), shape, dtype)


@functools.cache
def _maker(shape: tuple[int, ...], dtype: str) -> Any:
    import jax
    import jax.numpy as jnp

    @jax.jit
    def make(start):
        x = jax.lax.iota(jnp.uint32, math.prod(shape)) ^ start
        for shift, factor in _MIX:
            x = (x ^ (x >> shift)) * jnp.uint32(factor)
        x = x ^ (x >> 16)
        unit = (x >> 8).astype(jnp.float32) * jnp.float32(2**-24)
        return ((2 * unit - 1) * jnp.float32(ROOT_3)).astype(dtype).reshape(shape)

    return make


def _in_jax(start: int, shape: tuple[int, ...], dtype: str) -> Any:
    return _maker(shape, dtype)(np.uint32(start))


def in_torch(name: str, which: int, shape: tuple[int, ...], dtype: str, device: str) -> Any:
    """The same array in PyTorch, whose unsigned integers cannot be multiplied everywhere."""
    import torch

    x = torch.arange(math.prod(shape), dtype=torch.int64, device=device) ^ start_of(name, which)
    for shift, factor in _MIX:
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    x = x ^ (x >> 16)
    unit = (x >> 8).to(torch.float32) * 2**-24
    return ((2 * unit - 1) * ROOT_3).to(getattr(torch, dtype)).reshape(shape)
