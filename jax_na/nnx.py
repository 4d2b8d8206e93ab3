"""Neighborhood attention as a Flax NNX module, and as the attention_fn of Flax's own modules."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

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

_kernel_init = nnx.initializers.lecun_normal()
_bias_init = nnx.initializers.zeros_init()
_position_init = nnx.initializers.truncated_normal(0.02)
_NO_METADATA: Mapping[str, Any] = MappingProxyType({})


class NeighborhoodAttention(nnx.Module):
    """Multi-head self-attention in which every token of a grid sees its neighborhood.

    Projects x [..., *spatial, in_features] to queries, keys and values, attends within the window
    and projects back: [..., *spatial, out_features]. Any number of leading batch axes, 1 to 3
    spatial axes. Names and behaviour follow flax.nnx.MultiHeadAttention where the two overlap.

        layer = NeighborhoodAttention(4, 64, kernel_size=(7, 7), rngs=nnx.Rngs(0))
        y = layer(x)  # x [batch, height, width, 64]

    Args:
      num_heads: number of query heads.
      in_features: number of input channels.
      kernel_size: keys per query on each axis; its length is the number of spatial axes, and an
        integer means one: (7, 7) for images, not 7. None stands for the whole axis.
      stride, dilation, is_causal, boundary: the rest of the window, one value or one per axis;
        see :class:`jax_na.Window`.
      qkv_features: channels of all query heads together, `in_features` by default.
      out_features: output channels, `in_features` by default.
      num_kv_heads: number of key and value heads, a divisor of `num_heads`, which is the default.
      scale: factor of the scores, head_dim ** -0.5 by default.
      use_bias: add a bias in the projections.
      use_qkv_bias: the same for the query, key and value projections alone; `use_bias` by default.
      normalize_qk: RMS-normalise each head of query and key, with a learned scale per channel.
      use_relative_position_bias: learn a bias [num_heads, 2 * kernel_size - 1 per axis] that is
        added to the scores. Needs a kernel_size without None.
      rope: rotate query and key by their position, each axis a part of the head's channels. After
        `normalize_qk`.
      rope_dims: channels of each axis, even numbers (0 leaves an axis out); an even split by
        default.
      rope_base: base of the wavelengths, one value or one per axis.
      out_dropout_rate: dropout of the output. (Weights of the attention are never dropped.)
      deterministic: disables dropout. Here, by the argument of the call, or by `eval()`; one of
        them must say when out_dropout_rate > 0.
      clamp_window: on an axis shorter than kernel_size * dilation, shrink the dilation and then
        the kernel (and take the middle of the relative position bias) instead of raising.
      dtype: dtype of the computation (by default that of input and parameters together).
      param_dtype: dtype of the parameters.
      precision: see jax.lax.Precision.
      kernel_init, bias_init: initialisers of the projections.
      out_kernel_init, out_bias_init: of the output projection, if they differ.
      relative_position_bias_init: initialiser of the relative position bias.
      implementation: see :func:`jax_na.neighborhood_attention`.
      rngs: random keys: "params", and "dropout" when out_dropout_rate > 0.
      keep_rngs: keep a stream of dropout keys in the module; else pass `rngs` to the call.
      kernel_metadata, bias_metadata: metadata of the query, key and value parameters, such as
        ``{"out_sharding": (None, "model", None)}``. A kernel is [in_features, heads, head_dim], a
        bias [heads, head_dim]. Initialisers of nnx.with_partitioning work too.
      out_kernel_metadata, out_bias_metadata: of the output projection, [heads, head_dim,
        out_features] and [out_features]. They do not default to the former, whose axes differ.
      query_norm_scale_metadata, key_norm_scale_metadata: of the two scales [head_dim].
      relative_position_bias_metadata: of the relative position bias.

    Raises:
      ValueError: heads do not divide features, the window is illegal, a head cannot be split for
        `rope`, or `use_relative_position_bias` meets a None in kernel_size.

    Source: Hassani et al., "Neighborhood Attention Transformer" (CVPR 2023), section 3.
    """

    def __init__(
        self,
        num_heads: int,
        in_features: int,
        kernel_size: int | Sequence[int | None] | None,
        *,
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        is_causal: bool | Sequence[bool] = False,
        boundary: Boundary | Sequence[Boundary] = "shift",
        qkv_features: int | None = None,
        out_features: int | None = None,
        num_kv_heads: int | None = None,
        scale: float | None = None,
        use_bias: bool = True,
        use_qkv_bias: bool | None = None,
        normalize_qk: bool = False,
        use_relative_position_bias: bool = False,
        rope: bool = False,
        rope_dims: Sequence[int] | None = None,
        rope_base: float | Sequence[float] = 10000.0,
        out_dropout_rate: float = 0.0,
        deterministic: bool | None = None,
        clamp_window: bool = False,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: Any = None,
        kernel_init: nnx.Initializer = _kernel_init,
        out_kernel_init: nnx.Initializer | None = None,
        bias_init: nnx.Initializer = _bias_init,
        out_bias_init: nnx.Initializer | None = None,
        relative_position_bias_init: nnx.Initializer = _position_init,
        implementation: str | Sequence[str] | None = None,
        rngs: nnx.Rngs,
        keep_rngs: bool = True,
        kernel_metadata: Mapping[str, Any] = _NO_METADATA,
        out_kernel_metadata: Mapping[str, Any] = _NO_METADATA,
        bias_metadata: Mapping[str, Any] = _NO_METADATA,
        out_bias_metadata: Mapping[str, Any] = _NO_METADATA,
        query_norm_scale_metadata: Mapping[str, Any] = _NO_METADATA,
        key_norm_scale_metadata: Mapping[str, Any] = _NO_METADATA,
        relative_position_bias_metadata: Mapping[str, Any] = _NO_METADATA,
    ):
        self.num_heads = num_heads
        self.in_features = in_features
        self.qkv_features = in_features if qkv_features is None else qkv_features
        self.out_features = in_features if out_features is None else out_features
        self.head_dim, self.num_kv_heads = head_sizes(self.qkv_features, num_heads, num_kv_heads)
        self.window = Window(kernel_size, stride, dilation, is_causal, boundary)
        self.neighborhood = Neighborhood.build(
            self.window,
            self.head_dim,
            scale=scale,
            rope=rope,
            rope_dims=rope_dims,
            rope_base=rope_base,
            clamp_window=clamp_window,
            implementation=implementation,
        )
        self.dtype = dtype
        self.precision = precision

        linear = functools.partial(
            nnx.LinearGeneral,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            rngs=rngs,
        )
        project = functools.partial(
            linear,
            in_features,
            use_bias=use_bias if use_qkv_bias is None else use_qkv_bias,
            kernel_init=kernel_init,
            bias_init=bias_init,
            kernel_metadata=kernel_metadata,
            bias_metadata=bias_metadata,
        )
        self.query = project((num_heads, self.head_dim))
        self.key = project((self.num_kv_heads, self.head_dim))
        self.value = project((self.num_kv_heads, self.head_dim))
        self.out = linear(
            (num_heads, self.head_dim),
            self.out_features,
            axis=(-2, -1),
            use_bias=use_bias,
            kernel_init=out_kernel_init or kernel_init,
            bias_init=out_bias_init or bias_init,
            kernel_metadata=out_kernel_metadata,
            bias_metadata=out_bias_metadata,
        )

        self.query_norm_scale: nnx.Param[jax.Array] | None = nnx.data(None)
        self.key_norm_scale: nnx.Param[jax.Array] | None = nnx.data(None)
        if normalize_qk:
            # Two arrays: one that both parameters share could not be donated.
            ones = functools.partial(jnp.ones, (self.head_dim,), param_dtype)
            self.query_norm_scale = nnx.Param(ones(), **query_norm_scale_metadata)
            self.key_norm_scale = nnx.Param(ones(), **key_norm_scale_metadata)

        self.relative_position_bias: nnx.Param[jax.Array] | None = nnx.data(None)
        if use_relative_position_bias:
            shape = bias_shape(self.window, num_heads)
            self.relative_position_bias = nnx.Param(
                relative_position_bias_init(rngs.params(), shape, param_dtype),
                **relative_position_bias_metadata,
            )

        self.dropout: nnx.Dropout | None = nnx.data(None)
        if out_dropout_rate > 0.0:
            self.dropout = nnx.Dropout(
                out_dropout_rate, deterministic=deterministic, rngs=rngs if keep_rngs else None
            )

    def project(
        self, x: jax.Array, *, qkv_sharding: Any = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Query, key and value as attention sees them: projected, normalised and rotated.

        From x [..., *spatial, in_features] to [..., *spatial, heads, head_dim]; key and value have
        `num_kv_heads` heads.
        """
        check_input(x, self.window.rank, self.in_features)
        query = self.query(x, out_sharding=qkv_sharding)
        key = self.key(x, out_sharding=qkv_sharding)
        value = self.value(x, out_sharding=qkv_sharding)
        if self.query_norm_scale is not None and self.key_norm_scale is not None:
            query = rms_norm(query, self.query_norm_scale[...])
            key = rms_norm(key, self.key_norm_scale[...])
        return *self.neighborhood.rotate(query, key), value

    def __call__(
        self,
        x: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        out_sharding: Any = None,
        qkv_sharding: Any = None,
    ) -> jax.Array:
        """Attends within the neighborhoods of x [..., *spatial, in_features].

        Args:
          x: the grid of tokens.
          deterministic: disables dropout; takes precedence over the constructor's.
          rngs: dropout keys; take precedence over the module's own.
          out_sharding: sharding of the output, for meshes with explicit axes.
          qkv_sharding: likewise of query, key and value.

        Returns:
          An array [..., *spatial, out_features].

        Raises:
          ValueError: x has another number of features or too few axes, or an axis is too short for
            the window and `clamp_window` is off.
        """
        query, key, value = self.project(x, qkv_sharding=qkv_sharding)
        bias = self.relative_position_bias
        attended = self.neighborhood.attend(
            query,
            key,
            value,
            None if bias is None else bias[...],
            dtype=self.dtype,
            precision=self.precision,
        )
        out = self.out(attended, out_sharding=out_sharding)
        if self.dropout is not None:
            out = self.dropout(out, deterministic=deterministic, rngs=rngs)
        return out
