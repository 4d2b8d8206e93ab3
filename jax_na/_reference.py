"""The specification of neighborhood attention as NumPy code, written from docs/semantics.md line by
line.

Everything here is slow and obvious. It shares nothing with the compiled geometry: no closed form of
the inverse, no tiles, no masks. Tests hold every implementation against it.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from jax_na._window import Boundary, Window


def window_interval(
    i: int,
    length: int,
    kernel_size: int,
    stride: int,
    dilation: int,
    is_causal: bool,
    boundary: Boundary,
) -> tuple[int, int]:
    """The keys that token `i` of one axis sees: positions [start, end) of the token's dilation
    group.

    On a periodic axis positions are not reduced modulo the group: start may be negative, and end
    may exceed the group.
    """
    group = i % dilation
    j = i // dilation
    group_length = len(range(group, length, dilation))
    if is_causal:
        lead = min((j // stride) * stride + stride - 1, group_length - 1)
        return max(lead - kernel_size + 1, 0), min(j + 1, group_length)
    left = kernel_size // 2
    right = kernel_size - 1 - left
    lead = min((j // stride) * stride + stride // 2, group_length - 1)
    if boundary == "shift":
        start = min(max(lead - left, 0), group_length - kernel_size)
        return start, start + kernel_size
    if boundary == "clip":
        return max(lead - left, 0), min(lead + right + 1, group_length)
    return lead - left, lead - left + kernel_size


def visible_keys(
    i: int,
    length: int,
    kernel_size: int,
    stride: int,
    dilation: int,
    is_causal: bool,
    boundary: Boundary,
) -> list[int]:
    """The tokens that token `i` of an axis of `length` tokens sees, in the order of the window's
    slots.
    """
    group_tokens = list(range(i % dilation, length, dilation))
    start, end = window_interval(i, length, kernel_size, stride, dilation, is_causal, boundary)
    return [group_tokens[position % len(group_tokens)] for position in range(start, end)]


def seeing_queries(
    k: int,
    length: int,
    kernel_size: int,
    stride: int,
    dilation: int,
    is_causal: bool,
    boundary: Boundary,
) -> list[int]:
    """The tokens that see token `k`, ascending: every token of the axis is asked."""
    rule = (length, kernel_size, stride, dilation, is_causal, boundary)
    return [i for i in range(length) if k in visible_keys(i, *rule)]


def reference_attention(
    query: Any,
    key: Any,
    value: Any,
    window: Window,
    *,
    scale: float | None = None,
    additional_keys: Any = None,
    additional_values: Any = None,
    relative_position_bias: Any = None,
    dtype: Any = np.float64,
) -> tuple[np.ndarray, np.ndarray]:
    """Attention of every query to the tokens it sees, one query after the other.

    Args:
      query: [..., *spatial, N, D] with any number of leading batch axes.
      key: [..., *spatial, K, D] where K divides N; query head n reads key head n // (N // K).
      value: [..., *spatial, K, Dv].
      window: the parameters; its rank says how many axes are spatial.
      scale: factor of the scores, D ** -0.5 if None.
      additional_keys: [..., S, K, D] that every query sees besides its window, or None.
      additional_values: [..., S, K, Dv], or None.
      relative_position_bias: [N, 2 * w - 1 per axis], or None.
      dtype: in which everything is computed and returned.

    Returns:
      out [..., *spatial, N, Dv] and lse [..., *spatial, N], the logarithm of the sum of the
      exponentiated scores.
    """
    query, key, value = (np.asarray(x).astype(dtype) for x in (query, key, value))
    rank = window.rank
    batch_shape, spatial = query.shape[: -rank - 2], query.shape[-rank - 2 : -2]
    heads, head_dim = query.shape[-2:]
    repeats = heads // key.shape[-2]
    window = window.resolve(spatial)
    scale = head_dim**-0.5 if scale is None else scale

    batch = math.prod(batch_shape)
    query = query.reshape(batch, *spatial, heads, head_dim)
    key = np.repeat(key.reshape(batch, *spatial, *key.shape[-2:]), repeats, axis=-2)
    value = np.repeat(value.reshape(batch, *spatial, *value.shape[-2:]), repeats, axis=-2)
    value_dim = value.shape[-1]
    if additional_keys is not None:
        more_keys = np.asarray(additional_keys).astype(dtype)
        more_values = np.asarray(additional_values).astype(dtype)
        tokens = more_keys.shape[-3]
        more_keys = more_keys.reshape(batch, tokens, heads // repeats, head_dim)
        more_values = more_values.reshape(batch, tokens, heads // repeats, value_dim)
        more_keys = np.repeat(more_keys, repeats, axis=-2)
        more_values = np.repeat(more_values, repeats, axis=-2)
    if relative_position_bias is not None:
        bias = np.asarray(relative_position_bias).astype(dtype)

    # Per axis and token: the tokens it sees, and the index of each of them in the bias.
    seen, bias_index = [], []
    for axis, length in enumerate(spatial):
        w, d = window.sizes[axis], window.dilation[axis]
        rule = (length, w, window.stride[axis], d, window.is_causal[axis], window.boundary[axis])
        seen.append([visible_keys(i, *rule) for i in range(length)])
        intervals = [window_interval(i, *rule) for i in range(length)]
        bias_index.append(
            [[k - i // d + w - 1 for k in range(*interval)] for i, interval in enumerate(intervals)]
        )

    out = np.zeros((batch, *spatial, heads, value_dim), dtype)
    lse = np.zeros((batch, *spatial, heads), dtype)
    for b in range(batch):
        for token in itertools.product(*map(range, spatial)):
            box = np.ix_(*(seen[axis][i] for axis, i in enumerate(token)))
            keys = key[b][box].reshape(-1, heads, head_dim)
            values = value[b][box].reshape(-1, heads, value_dim)
            scores = scale * np.einsum("nd,knd->nk", query[b][token], keys)
            if relative_position_bias is not None:
                index = np.ix_(range(heads), *(bias_index[axis][i] for axis, i in enumerate(token)))
                scores = scores + bias[index].reshape(heads, -1)
            if additional_keys is not None:
                more = scale * np.einsum("nd,knd->nk", query[b][token], more_keys[b])
                scores = np.concatenate([scores, more], axis=1)
                values = np.concatenate([values, more_values[b]], axis=0)
            largest = scores.max(axis=1, keepdims=True)
            exponentials = np.exp(scores - largest)
            total = exponentials.sum(axis=1, keepdims=True)
            out[b][token] = np.einsum("nk,knd->nd", exponentials / total, values)
            lse[b][token] = (largest + np.log(total))[:, 0]
    return (
        out.reshape(*batch_shape, *spatial, heads, value_dim),
        lse.reshape(*batch_shape, *spatial, heads),
    )
