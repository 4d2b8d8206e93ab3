"""Arrays whose axes have names, and how keys are cut into the slabs that tiles of queries meet."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_na._tiles import AxisTiles


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Labelled:
    """An array whose axes have names.

    "batch", "heads" (of the keys), "group" (query heads per key head), "dim"; "more" (additional
    keys); and for spatial axis a: "phase a" (dilation group), "block a" and "token a" (position in
    the block) of queries, "place a" (position in the dilation group) and, once cut, "block a" and
    "slab a" of keys.
    """

    array: jax.Array
    labels: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    def size(self, label: str) -> int:
        """Length of an axis, 1 if there is none."""
        return self.array.shape[self.labels.index(label)] if label in self.labels else 1

    def transposed(self, labels: Sequence[str]) -> Labelled:
        """The same with axes in this order."""
        return Labelled(self.ordered([[label] for label in labels]), tuple(labels))

    def ordered(self, groups: Sequence[Sequence[str]]) -> jax.Array:
        """Axes in this order, those of one group made one; an axis that is not there has length
        1.
        """
        order = [
            self.labels.index(label) for group in groups for label in group if label in self.labels
        ]
        shape = [math.prod(self.size(label) for label in group) for group in groups]
        return self.array.transpose(order).reshape(shape)


def labels_of(part: str, rank: int) -> list[str]:
    """Those of a part on every axis."""
    return [f"{part} {a}" for a in range(rank)]


def pad_end(x: jax.Array, tokens: Sequence[int]) -> jax.Array:
    """[B, *spatial, N, D] with zeros up to `tokens` per axis."""
    more = [(0, n - have) for n, have in zip(tokens, x.shape[1:-2], strict=True)]
    return jnp.pad(x, [(0, 0), *more, (0, 0), (0, 0)]) if any(n for _, n in more) else x


def by_phase(x: jax.Array, tiles: tuple[AxisTiles, ...]) -> Labelled:
    """[B, *spatial, K, D] by dilation group, repeated at the ends of periodic axes."""
    labels = [f"{part} {a}" for a in range(len(tiles)) for part in ("place", "phase")]
    sizes = [n for t in tiles for n in (t.positions, t.phases)]
    batch, (heads, dim) = x.shape[0], x.shape[-2:]
    x = pad_end(x, [t.positions * t.phases for t in tiles])
    x = x.reshape(batch, *sizes, heads, dim)
    for a, t in enumerate(tiles):
        at = 1 + 2 * a
        if t.left or t.right:
            front = lax.slice_in_dim(x, t.positions - t.left, t.positions, axis=at)
            back = lax.slice_in_dim(x, 0, t.right, axis=at)
            x = jnp.concatenate([front, x, back], axis=at)
    rank = len(tiles)
    order = ["batch", "heads", *labels_of("phase", rank), *labels_of("place", rank), "dim"]
    return Labelled(x, ("batch", *labels, "heads", "dim")).transposed(order)


def cut(x: Labelled, a: int, tiles: AxisTiles) -> Labelled:
    """Replaces "place a" by "block a" and "slab a"."""
    at = x.labels.index(f"place {a}")
    labels = (*x.labels[:at], f"block {a}", f"slab {a}", *x.labels[at + 1 :])
    starts, block, slab = tiles.starts, tiles.block, tiles.slab
    near = int(np.sum(starts == 0))
    spaced = starts[near : int(np.searchsorted(starts, tiles.padded - slab))]
    far = len(starts) - near - len(spaced)
    views = -(-slab // block)
    first, length = (int(spaced[0]), (len(spaced) - 1 + views) * block) if len(spaced) else (0, 0)
    # At least one row is added even if none is missing: it makes XLA lay down the padded array once
    # rather than look up each of its elements again for every slab.
    missing = [(0, 0)] * x.array.ndim
    missing[at] = (0, max(first + length - tiles.padded, 1))
    array = jnp.pad(x.array, missing)
    before, after = array.shape[:at], array.shape[at + 1 :]

    def repeat(first: int, times: int) -> jax.Array:
        one = jnp.expand_dims(lax.slice_in_dim(array, first, first + slab, axis=at), at)
        return jnp.broadcast_to(one, (*before, times, slab, *after))

    parts = [repeat(0, near)]
    if len(spaced):
        span = lax.slice_in_dim(array, first, first + length, axis=at)
        span = span.reshape(*before, len(spaced) - 1 + views, block, *after)
        shifted = [lax.slice_in_dim(span, v, v + len(spaced), axis=at) for v in range(views)]
        joined = jnp.concatenate(shifted, axis=at + 1)
        parts.append(lax.slice_in_dim(joined, 0, slab, axis=at + 1))
    parts.append(repeat(tiles.padded - slab, far))
    parts = [part for part in parts if part.shape[at]]
    return Labelled(parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=at), labels)


def cut_some(x: Labelled, a: int, slab: int, starts: jax.Array) -> Labelled:
    """As cut, but only the slabs that begin at `starts`."""
    at = x.labels.index(f"place {a}")
    labels = (*x.labels[:at], f"block {a}", f"slab {a}", *x.labels[at + 1 :])
    # Slices rather than a gather: their transposes add to the gradient in place.
    slabs = [
        lax.dynamic_slice_in_dim(x.array, start, slab, axis=at, allow_negative_indices=False)
        for start in starts
    ]
    return Labelled(jnp.stack(slabs, axis=at), labels)
