"""The custom calls by themselves: operands of a slab, and what they should give, in NumPy.

Layouts are those of `jax_na._ffi.forward` and `backward`: three axes, and origins that say where on
the whole axis the tensors' first tokens lie.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import numpy as np

from jax_na import _ffi
from jax_na._ffi import Geometry
from jax_na._reference import window_interval

NOWHERE = np.zeros((2, 3), np.int32)


@functools.partial(jax.jit, static_argnums=0)
def forward(geometry: Geometry, *operands: Any):
    """out and lse of 7 operands, the origins traced like all others."""
    return _ffi.forward(geometry, "cpu", "fused", _ffi.Options(), *operands)


@functools.partial(jax.jit, static_argnums=0)
def backward(geometry: Geometry, *operands: Any):
    """The six gradients of 11 operands."""
    return _ffi.backward(geometry, "cpu", "fused", _ffi.Options(), *operands)


def bias_index(geometry: Geometry, axis: int, queries: int, keys: int, origins: Any) -> np.ndarray:
    """[queries, keys] of one axis: the index in the bias where the pair is visible, else -1."""
    length, w = geometry.length[axis], geometry.kernel_size[axis]
    d, boundary = geometry.dilation[axis], geometry.boundary[axis]
    whole_circle = boundary == "wrap" and queries == keys == length
    index = np.full((queries, keys), -1)
    for i in range(queries):
        token = int(origins[0][axis]) + i
        begin, end = window_interval(
            token, length, w, geometry.stride[axis], d, geometry.is_causal[axis], boundary
        )
        for j in range(keys):
            key = int(origins[1][axis]) + j
            turns = (-length, 0, length) if whole_circle else (0,)
            for position, group in (divmod(key + turn, d) for turn in turns):
                if group == token % d and begin <= position < end:
                    index[i, j] = position - token // d + w - 1
    return index


class Specification:
    """Attention of a slab in float64: `out`, `lse`, and `gradients(dout, dlse)`."""

    def __init__(self, geometry: Geometry, *operands: Any) -> None:
        q, k, v, more_k, more_v, bias = (np.asarray(x).astype(np.float64) for x in operands[:6])
        self.scale, self.shapes = geometry.scale, [x.shape for x in (q, k, v, more_k, more_v, bias)]
        (batch, *grid, heads, depth), keys = q.shape, k.shape[1:4]
        pairs = [bias_index(geometry, a, grid[a], keys[a], operands[6]) for a in range(3)]
        z, y, x = (p.reshape([n if i % 3 == a else 1 for i, n in enumerate((*grid, *keys))])
                   for a, p in enumerate(pairs))  # fmt: skip
        self.visible, self.index = (z >= 0) & (y >= 0) & (x >= 0), (z, y, x)
        self.repeats, self.grid_keys = heads // k.shape[-2], math.prod(keys)
        self.q = q.reshape(batch, math.prod(grid), heads, depth)
        flat = (batch, self.grid_keys)
        self.k, self.v = (
            np.repeat(np.concatenate([a.reshape(*flat, *a.shape[-2:]), b], 1), self.repeats, 2)
            for a, b in ((k, more_k), (v, more_v))
        )
        scores = self.scale * np.einsum("bqnd,bknd->bnqk", self.q, self.k)
        on_grid = scores[..., : self.grid_keys]
        if bias.shape[0]:
            add = bias[:, :, z, y, x].reshape(bias.shape[0], heads, *on_grid.shape[2:])
            on_grid += np.where(self.visible.reshape(on_grid.shape[2:]), add, 0)
        on_grid[:, :, ~self.visible.reshape(on_grid.shape[2:])] = -np.inf
        top = np.max(scores, -1, keepdims=True, initial=-np.inf)
        weights = np.exp(scores - np.where(np.isfinite(top), top, 0))
        total = weights.sum(-1, keepdims=True)
        self.weights = weights / np.where(total == 0, 1, total)  # a row that sees nothing: out 0
        self.out = self._rows("bnqk,bknd->bqnd", self.weights, self.v, (*q.shape[:-1], v.shape[-1]))
        with np.errstate(divide="ignore"):
            self.lse = np.moveaxis((np.log(total) + top)[..., 0], 1, 2).reshape(q.shape[:-1])

    @staticmethod
    def _rows(subscripts: str, a: Any, b: Any, shape: tuple[int, ...]) -> np.ndarray:
        return np.einsum(subscripts, a, b).reshape(shape)

    def gradients(self, dout: Any, dlse: Any) -> list[np.ndarray]:
        """Those of the first six operands; of bias one for each batch entry."""
        batch, tokens, heads, _ = self.q.shape
        dout, dlse = np.asarray(dout, np.float64), np.asarray(dlse, np.float64)
        delta = np.moveaxis((dout * self.out).sum(-1) - dlse, -1, 1).reshape(batch, heads, tokens)
        dout = dout.reshape(batch, tokens, heads, self.v.shape[-1])
        dweights = np.einsum("bqnd,bknd->bnqk", dout, self.v)
        dscores = self.weights * (dweights - delta[..., None])
        q_shape, k_shape, v_shape, more_k_shape, more_v_shape, bias_shape = self.shapes

        def of_keys(gradient: np.ndarray, shape: Any, more_shape: Any) -> list[np.ndarray]:
            summed = gradient.reshape(*gradient.shape[:2], shape[-2], self.repeats, shape[-1]).sum(
                3
            )
            parts = summed[:, : self.grid_keys], summed[:, self.grid_keys :]
            return [part.reshape(s) for part, s in zip(parts, (shape, more_shape), strict=True)]

        dquery = self.scale * self._rows("bnqk,bknd->bqnd", dscores, self.k, q_shape)
        dk = of_keys(
            self.scale * np.einsum("bnqk,bqnd->bknd", dscores, self.q), k_shape, more_k_shape
        )
        dv = of_keys(np.einsum("bnqk,bqnd->bknd", self.weights, dout), v_shape, more_v_shape)
        dbias = np.zeros((batch if bias_shape[0] else 0, *bias_shape[1:]))
        if bias_shape[0]:
            on_grid = dscores[..., : self.grid_keys].reshape(batch, heads, *self.visible.shape)
            z, y, x = (np.broadcast_to(i, self.visible.shape)[self.visible] for i in self.index)
            for b, n in np.ndindex(batch, heads):
                np.add.at(dbias[b, n], (z, y, x), on_grid[b, n][self.visible])
        return [dquery, dk[0], dv[0], dk[1], dv[1], dbias]
