"""vmap of the custom calls: the mapped axis goes into the batch that every operand has."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def fold(
    axis_size: int,
    in_batched: Sequence[bool],
    operands: Sequence[jax.Array],
    bias: int | None = None,
    origins: int | None = None,
) -> list[jax.Array]:
    """Moves the mapped axis of every operand into its batch, in front of what is there.

    Args:
      axis_size: of the mapped axis.
      in_batched: whether each operand has the mapped axis, as its first.
      operands: the first one's batch is that of all others, but for `bias`, which has 0 (none), 1
        (one for all) or the same, and `origins`, which has none.
      bias, origins: their positions among the operands.
    """
    batch = operands[0].shape[1 if in_batched[0] else 0]
    folded = []
    for i, (operand, batched) in enumerate(zip(operands, in_batched, strict=True)):
        if i == origins:
            if batched:
                raise NotImplementedError(
                    "jax_na: origins cannot be mapped by vmap; they belong to a device"
                )
            folded.append(operand)
            continue
        own = operand.shape[1 if batched else 0]
        if i == bias and own == 0:
            folded.append(operand[0] if batched else operand)
            continue
        if i == bias and own == 1 and not batched:
            folded.append(operand)  # one bias for all stays one
            continue
        if not batched:
            operand = jnp.broadcast_to(operand, (axis_size, *operand.shape))
        if own != batch:
            operand = jnp.broadcast_to(operand, (axis_size, batch, *operand.shape[2:]))
        folded.append(operand.reshape(axis_size * batch, *operand.shape[2:]))
    return folded


def unfold(axis_size: int, batch: int, results: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """The results for a folded batch, with the mapped axis in front again."""

    def one(result: jax.Array) -> jax.Array:
        if result.shape[0] == 0 and batch * axis_size:  # the gradient of a bias that is not there
            return jnp.broadcast_to(result, (axis_size, *result.shape))
        return result.reshape(axis_size, batch, *result.shape[1:])

    return tuple(one(result) for result in results)
