"""Neighborhood attention as a Flax Linen module: the twin of jax_na.nnx, with the same results."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer

from jax_na._layers import (
    Neighborhood,
    NeighborhoodAttentionFn,
    bias_shape,
    check_input,
    head_sizes,
    neighborhood_attention_fn,
    rms_norm,
)
from jax_na._window import Boundary, Window

__all__ = ["NeighborhoodAttention", "NeighborhoodAttentionFn", "neighborhood_attention_fn"]


class NeighborhoodAttention(nn.Module):
    """Multi-head self-attention in which every token of a grid sees its neighborhood.

    Maps x [..., *spatial, C] to [..., *spatial, out_features]. The attributes are the arguments of
    :class:`jax_na.nnx.NeighborhoodAttention`, which documents them; the number of input channels is
    that of x. Parameters have the same names and shapes, so that they can be carried over:
    query, key, value and out (kernel, bias), query_norm_scale, key_norm_scale and
    relative_position_bias. Sharding metadata comes from the initialisers (nn.with_partitioning).

        layer = NeighborhoodAttention(num_heads=4, kernel_size=(7, 7))
        variables = layer.init(jax.random.key(0), x)
        y = layer.apply(variables, x)

    Raises (when called):
      ValueError: heads do not divide features, the window is illegal or too large for x, a head
        cannot be split for `rope`, or `use_relative_position_bias` meets a None in kernel_size.
    """

    num_heads: int
    kernel_size: int | Sequence[int | None] | None
    stride: int | Sequence[int] = 1
    dilation: int | Sequence[int] = 1
    is_causal: bool | Sequence[bool] = False
    boundary: Boundary | Sequence[Boundary] = "shift"
    qkv_features: int | None = None
    out_features: int | None = None
    num_kv_heads: int | None = None
    scale: float | None = None
    use_bias: bool = True
    use_qkv_bias: bool | None = None
    normalize_qk: bool = False
    use_relative_position_bias: bool = False
    rope: bool = False
    rope_dims: Sequence[int] | None = None
    rope_base: float | Sequence[float] = 10000.0
    out_dropout_rate: float = 0.0
    deterministic: bool | None = None
    clamp_window: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    out_kernel_init: Initializer | None = None
    bias_init: Initializer = nn.initializers.zeros_init()
    out_bias_init: Initializer | None = None
    relative_position_bias_init: Initializer = nn.initializers.truncated_normal(0.02)
    implementation: str | Sequence[str] | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool | None = None) -> jax.Array:
        """Attends within the neighborhoods of x [..., *spatial, C]; see the class.

        Args:
          x: the grid of tokens.
          deterministic: disables dropout; here or as an attribute, when out_dropout_rate > 0.
        """
        window = Window(self.kernel_size, self.stride, self.dilation, self.is_causal, self.boundary)
        check_input(x, window.rank)
        qkv_features = x.shape[-1] if self.qkv_features is None else self.qkv_features
        head_dim, kv_heads = head_sizes(qkv_features, self.num_heads, self.num_kv_heads)
        neighborhood = Neighborhood.build(
            window,
            head_dim,
            scale=self.scale,
            rope=self.rope,
            rope_dims=self.rope_dims,
            rope_base=self.rope_base,
            clamp_window=self.clamp_window,
            implementation=self.implementation,
        )

        dense = functools.partial(
            nn.DenseGeneral,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            precision=self.precision,
        )
        project = functools.partial(
            dense,
            use_bias=self.use_bias if self.use_qkv_bias is None else self.use_qkv_bias,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
        )
        query = project((self.num_heads, head_dim), name="query")(x)
        key = project((kv_heads, head_dim), name="key")(x)
        value = project((kv_heads, head_dim), name="value")(x)
        if self.normalize_qk:
            ones, shape = nn.initializers.ones_init(), (head_dim,)
            query_scale = self.param("query_norm_scale", ones, shape, self.param_dtype)
            key_scale = self.param("key_norm_scale", ones, shape, self.param_dtype)
            query, key = rms_norm(query, query_scale), rms_norm(key, key_scale)
        query, key = neighborhood.rotate(query, key)

        bias = None
        if self.use_relative_position_bias:
            bias = self.param(
                "relative_position_bias",
                self.relative_position_bias_init,
                bias_shape(window, self.num_heads),
                self.param_dtype,
            )
        attended = neighborhood.attend(
            query, key, value, bias, dtype=self.dtype, precision=self.precision
        )
        out = dense(
            x.shape[-1] if self.out_features is None else self.out_features,
            axis=(-2, -1),
            use_bias=self.use_bias,
            kernel_init=self.out_kernel_init or self.kernel_init,
            bias_init=self.out_bias_init or self.bias_init,
            name="out",
        )(attended)
        if self.out_dropout_rate > 0.0:
            out = nn.Dropout(self.out_dropout_rate, deterministic=self.deterministic)(
                out, deterministic=deterministic
            )
        return out
