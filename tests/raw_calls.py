"""The custom calls by themselves, on operands of a slab.

Layouts are those of `jax_na._ffi.forward` and `backward`: three axes, and origins that say where on
the whole axis the tensors' first tokens lie.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from jax_na import _ffi
from jax_na._ffi import Geometry

NOWHERE = np.zeros((2, 3), np.int32)


@functools.partial(jax.jit, static_argnums=0)
def forward(geometry: Geometry, *operands: Any):
    """out and lse of 7 operands, the origins traced like all others."""
    return _ffi.forward(geometry, "cpu", "fused", _ffi.Options(), *operands)


@functools.partial(jax.jit, static_argnums=0)
def backward(geometry: Geometry, *operands: Any):
    """The six gradients of 11 operands."""
    return _ffi.backward(geometry, "cpu", "fused", _ffi.Options(), *operands)
