"""Batch axes of the custom calls: vmap adds one, in front; the calls themselves get one for all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

#: Dimensions of a query, of slots and of a bias behind those of the batch.
QUERY_DIMS, BIAS_DIMS = 5, 4


def batch_axes(query: jax.Array) -> int:
    """How many batch axes operands have, given the first of them: a query, or slots."""
    return query.ndim - QUERY_DIMS


def bias_kind(bias: jax.Array, axes: int) -> str:
    """Whether a bias [0, ..], [1, ..] or [*batch, ..] of `axes` batch axes is "none", "shared" by
    the batch, or "each" entry's.
    """
    if bias.ndim == 1 + BIAS_DIMS and _at_most_one(bias.shape[0]):
        return ("none", "shared")[bias.shape[0]]
    assert bias.ndim == axes + BIAS_DIMS
    return "each"


def _at_most_one(size: int) -> bool:
    return isinstance(size, int) and size <= 1  # what is no int is symbolic


def _mapped_sharding(operands: Sequence[jax.Array], in_batched: Sequence[bool]) -> Any:
    """Over which explicit axes of a mesh the mapped axis is sharded."""
    for operand, batched in zip(operands, in_batched, strict=True):
        spec = jax.typeof(operand).sharding.spec
        if batched and spec and spec[0] is not None:
            return spec[0]
    return None


def _repeated(x: jax.Array, axis_size: int, sharded: Any) -> jax.Array:
    """[axis_size, *x.shape], sharded along the first axis."""
    shape, axes = (axis_size, *x.shape), tuple(range(1, x.ndim + 1))
    if sharded is None:
        return jax.lax.broadcast_in_dim(x, shape, axes)
    own = jax.typeof(x).sharding
    spec = P(sharded, *own.spec, *(None,) * (x.ndim - len(own.spec)))
    return jax.lax.broadcast_in_dim(x, shape, axes, out_sharding=own.update(spec=spec))


def add_axis(
    axis_size: int,
    in_batched: Sequence[bool],
    operands: Sequence[jax.Array],
    bias: int | None = None,
    origins: int | None = None,
) -> list[jax.Array]:
    """Makes the mapped axis of every operand the first of its batch axes.

    Args:
      axis_size: of the mapped axis.
      in_batched: whether each operand has the mapped axis, as its first.
      operands: all have the batch axes of the first one, but for `bias`, of any kind that
        :func:`bias_kind` names, and `origins`, which has none.
      bias, origins: their positions among the operands.
    """
    mapped = operands[0].shape[int(in_batched[0]) :]
    batch = mapped[: len(mapped) - QUERY_DIMS]
    sharded = _mapped_sharding(operands, in_batched)
    found = []
    for i, (operand, batched) in enumerate(zip(operands, in_batched, strict=True)):
        if i == origins:
            if batched:
                raise NotImplementedError(
                    "jax_na: origins cannot be mapped by vmap; they belong to a device"
                )
            found.append(operand)
            continue
        shape = operand.shape[int(batched) :]
        if i == bias and len(shape) == 1 + BIAS_DIMS and _at_most_one(shape[0]):
            if shape[0] == 0:
                found.append(operand.reshape(shape) if batched else operand)
                continue
            if not batched:
                found.append(operand)  # one bias for all stays one
                continue
            own = operand.reshape(axis_size, *(1,) * len(batch), *shape[1:])
            found.append(jnp.broadcast_to(own, (axis_size, *batch, *shape[1:])))
            continue
        found.append(operand if batched else _repeated(operand, axis_size, sharded))
    return found


def flat(x: jax.Array, axes: int) -> jax.Array:
    """[*batch, ..] with one axis for all of the batch."""
    return x.reshape(math.prod(x.shape[:axes]), *x.shape[axes:])
