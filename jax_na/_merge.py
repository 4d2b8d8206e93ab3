"""Merging partial attentions: the same queries over disjoint sets of keys."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike


def merge(
    outs: Sequence[ArrayLike] | jax.Array, lses: Sequence[ArrayLike] | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Attention over the union of disjoint sets of keys, from the attention over each set.

        lse = log(sum_i exp(lses[i]))        out = sum_i exp(lses[i] - lse) * outs[i]

    Args:
      outs: partial outputs [..., N, Dv], one array per set, or one array with the sets along axis
        0.
      lses: their log-sum-exps [..., N], likewise, as returned with ``return_lse=True``. ``-inf``
        says that a set is empty for a query: whatever its output holds there is ignored.

    Returns:
      out [..., N, Dv] in the common type of `outs`, and lse [..., N] in float32 (float64 if any
      input is). Where every set is empty, out is 0 and lse is ``-inf``. Both are differentiable any
      number of times, in both arguments.

    Raises:
      ValueError: there is no set, or the numbers or shapes do not agree.

    Source: Dao et al., "FlashAttention" (NeurIPS 2022), section 3.1: the rescaling of partial
      softmaxes.
    """
    outs, lses = [jnp.asarray(x) for x in outs], [jnp.asarray(x) for x in lses]
    if not outs:
        raise ValueError("outs should hold at least 1 partial output, but got 0")
    if len(lses) != len(outs):
        raise ValueError(
            f"lses should hold one array for each of the {len(outs)} of outs, but got {len(lses)}"
        )
    for i, (out, lse) in enumerate(zip(outs, lses, strict=True)):
        for name, array in ((f"outs[{i}]", out), (f"lses[{i}]", lse)):
            if not jnp.issubdtype(array.dtype, jnp.floating):
                raise ValueError(
                    f"{name} should be of a floating-point type, but got {array.dtype}"
                )
        if out.ndim < 1 or out.shape != outs[0].shape:
            raise ValueError(
                f"outs[{i}] shape should be {outs[0].shape} (that of outs[0], at least 1 axis), "
                f"but got {out.shape}"
            )
        if lse.shape != out.shape[:-1]:
            raise ValueError(
                f"lses[{i}] shape should be {out.shape[:-1]} (outs without the last axis), "
                f"but got {lse.shape}"
            )

    kind = jnp.result_type(*outs)
    wide = any(x.dtype == jnp.float64 for x in (*outs, *lses))
    accumulator = jnp.dtype(jnp.float64 if wide else jnp.float32)
    scores = jnp.stack([lse.astype(accumulator) for lse in lses])
    # The result does not depend on what is subtracted, so no derivative goes there.
    largest = lax.stop_gradient(scores.max(0))
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    weights = jnp.exp(scores - largest)
    total = weights.sum(0)
    nothing = total == 0
    total = jnp.where(nothing, 1, total)
    lse = jnp.where(nothing, -jnp.inf, jnp.log(total) + largest)
    weights = weights / total
    out = jnp.zeros(outs[0].shape, accumulator)
    for part, weight, score in zip(outs, weights, scores, strict=True):
        part = jnp.where((score == -jnp.inf)[..., None], 0, part.astype(accumulator))
        out = out + weight[..., None] * part
    return out.astype(kind), lse
