"""What the custom calls should give: attention of a slab, dense, in NumPy, with its gradients.

In float64 it is the specification; in the arithmetic of a kernel (products of rounded operands,
sums in float32) it is a plain implementation to compare the kernel's errors with.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_na._ffi import Geometry
from jax_na._reference import window_interval


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """How sums are kept, and what products make of their operands."""

    real: Any = np.float64
    rounded: Callable[[np.ndarray], np.ndarray] = lambda x: x


def _tf32(x: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def arithmetic_of(dtype: str, exact: bool) -> Arithmetic:
    """That of kernels on tensors of `dtype`: float32 is multiplied in TF32 unless `exact`."""
    if dtype == "float64":
        return Arithmetic()
    if dtype == "float32":
        return Arithmetic(np.float32, (lambda x: x) if exact else _tf32)
    kind = jnp.dtype(dtype)
    return Arithmetic(np.float32, lambda x: x.astype(kind).astype(np.float32))


def bias_index(geometry: Geometry, axis: int, queries: int, keys: int, origins: Any) -> np.ndarray:
    """[queries, keys] of one axis: the index in the bias where the pair is visible, else -1."""
    length, w = geometry.length[axis], geometry.kernel_size[axis]
    d, boundary = geometry.dilation[axis], geometry.boundary[axis]
    whole_circle = boundary == "wrap" and queries == keys == length
    index = np.full((queries, keys), -1)
    key = int(origins[1][axis]) + np.arange(keys)
    for i in range(queries):
        token = int(origins[0][axis]) + i
        begin, end = window_interval(
            token, length, w, geometry.stride[axis], d, geometry.is_causal[axis], boundary
        )
        for turn in (-length, 0, length) if whole_circle else (0,):
            position, group = np.divmod(key + turn, d)
            seen = (group == token % d) & (begin <= position) & (position < end)
            index[i, seen] = position[seen] - token // d + w - 1
    return index


class Specification:
    """Attention of a slab: `out`, `lse`, and `gradients(dout, dlse)`.

    Operands are those of `jax_na._ffi.forward`; arrays inside are [batch, heads, tokens, ...].
    """

    def __init__(
        self, geometry: Geometry, *operands: Any, arithmetic: Arithmetic | None = None
    ) -> None:
        self.arithmetic = arithmetic or Arithmetic()
        real = self.arithmetic.real
        q, k, v, more_k, more_v, bias = (np.asarray(x).astype(real) for x in operands[:6])
        self.scale, self.shapes = real(geometry.scale), [x.shape for x in (q, k, v, more_k, more_v)]
        self.bias_shape = bias.shape
        (batch, *grid, heads, _), keys = q.shape, k.shape[1:4]
        pairs = [bias_index(geometry, a, grid[a], keys[a], operands[6]) for a in range(3)]
        z, y, x = (p.reshape([n if i % 3 == a else 1 for i, n in enumerate((*grid, *keys))])
                   for a, p in enumerate(pairs))  # fmt: skip
        self.visible, self.index = (z >= 0) & (y >= 0) & (x >= 0), (z, y, x)
        self.repeats, self.grid_keys = heads // k.shape[-2], math.prod(keys)
        self.q = self._rows(q)
        self.k, self.v = (
            np.repeat(np.concatenate([self._rows(a), self._rows(b)], 2), self.repeats, 1)
            for a, b in ((k, more_k), (v, more_v))
        )
        scores = self._product(self.q, self.k.swapaxes(2, 3))
        scores *= self.scale
        on_grid = scores[..., : self.grid_keys]
        seen = self.visible.reshape(math.prod(grid), self.grid_keys)
        if bias.shape[0]:
            add = bias[:, :, z, y, x].reshape(bias.shape[0], heads, *seen.shape)
            on_grid += np.where(seen, add, real(0))
        on_grid[:, :, ~seen] = -np.inf
        top = np.max(scores, -1, keepdims=True, initial=-np.inf)
        weights = scores  # in place: there may be gigabytes of them
        weights -= np.where(np.isfinite(top), top, real(0))
        np.exp(weights, out=weights)
        total = weights.sum(-1, keepdims=True)
        weights /= np.where(total == 0, real(1), total)  # a row of nothing: out 0
        self.weights = weights
        self.out = self._tokens(self._product(self.weights, self.v), (batch, *grid))
        with np.errstate(divide="ignore"):
            lse = (np.log(total) + top)[..., 0]
        self.lse = np.moveaxis(lse, 1, 2).reshape(q.shape[:-1])

    @staticmethod
    def _rows(x: np.ndarray) -> np.ndarray:
        """[batch, *tokens, heads, features] -> [batch, heads, tokens, features]."""
        tokens = math.prod(x.shape[1:-2])  # an empty batch says nothing about them
        return np.moveaxis(x.reshape(x.shape[0], tokens, *x.shape[-2:]), 1, 2)

    @staticmethod
    def _tokens(rows: np.ndarray, shape: Any) -> np.ndarray:
        """[batch, heads, tokens, features] -> [*shape, heads, features]."""
        return np.moveaxis(rows, 1, 2).reshape(*shape, rows.shape[1], rows.shape[3])

    def _product(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.matmul(self.arithmetic.rounded(a), self.arithmetic.rounded(b))

    def gradients(self, dout: Any, dlse: Any) -> list[np.ndarray]:
        """Those of the first six operands; of bias one for each batch entry."""
        real = self.arithmetic.real
        dout, dlse = np.asarray(dout).astype(real), np.asarray(dlse).astype(real)
        delta = self._rows(((dout * self.out).sum(-1) - dlse)[..., None])
        dout = self._rows(dout)
        dscores = self.weights * (self._product(dout, self.v.swapaxes(2, 3)) - delta)
        q_shape, k_shape, v_shape, more_k_shape, more_v_shape = self.shapes

        def of_keys(weights: np.ndarray, rows: np.ndarray, shape: Any, more_shape: Any):
            found = self._product(weights.swapaxes(2, 3), rows)
            batch, heads, tokens, features = found.shape
            found = found.reshape(batch, heads // self.repeats, self.repeats, tokens, features)
            summed = np.moveaxis(found.sum(2), 1, 2)
            return summed[:, : self.grid_keys].reshape(shape), summed[:, self.grid_keys :].reshape(
                more_shape
            )

        dquery = self.scale * self._tokens(self._product(dscores, self.k), q_shape[:-2])
        dk = of_keys(self.scale * dscores, self.q, k_shape, more_k_shape)
        dv = of_keys(self.weights, dout, v_shape, more_v_shape)
        batch, heads = q_shape[0], q_shape[-2]
        dbias = np.zeros((batch if self.bias_shape[0] else 0, *self.bias_shape[1:]), real)
        if self.bias_shape[0]:
            on_grid = dscores[..., : self.grid_keys].reshape(batch, heads, *self.visible.shape)
            z, y, x = (np.broadcast_to(i, self.visible.shape)[self.visible] for i in self.index)
            for b, n in np.ndindex(batch, heads):
                np.add.at(dbias[b, n], (z, y, x), on_grid[b, n][self.visible])
        return [dquery, dk[0], dv[0], dk[1], dv[1], dbias]
