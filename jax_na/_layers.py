"""What the Flax NNX and Linen layers have in common, free of Flax and of parameters."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_na._arguments import read_scale
from jax_na._attention import neighborhood_attention
from jax_na._ffi import lse_dtype
from jax_na._implementations import candidates
from jax_na._window import Boundary, Window


def head_sizes(qkv_features: int, num_heads: int, num_kv_heads: int | None) -> tuple[int, int]:
    """Channels per head, and the number of key and value heads.

    Raises:
      ValueError: the heads do not divide the features, or the key heads do not divide the heads.
    """
    if num_heads < 1 or qkv_features % num_heads:
        raise ValueError(
            f"num_heads should be a divisor of qkv_features = {qkv_features}, but got {num_heads}"
        )
    kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    if kv_heads < 1 or num_heads % kv_heads:
        raise ValueError(
            f"num_kv_heads should be a divisor of num_heads = {num_heads}, but got {kv_heads}"
        )
    return qkv_features // num_heads, kv_heads


def bias_shape(window: Window, num_heads: int) -> tuple[int, ...]:
    """Shape of a relative position bias: [num_heads, 2 * w - 1 for each axis].

    Raises:
      ValueError: a kernel size is None, so that the number of offsets depends on the input.
    """
    for axis, size in enumerate(window.kernel_size):
        if size is None:
            raise ValueError(
                "use_relative_position_bias needs a fixed window: kernel_size"
                f"[{axis}] should be an integer, but got None (the whole axis)"
            )
    return (num_heads, *(2 * size - 1 for size in window.kernel_size if size is not None))


def rms_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Each head of x [..., head_dim] divided by its root mean square, times scale [head_dim].

    In float32, or float64 for a float64 input; the result has the dtype of `x`.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019), equation 4.
    """
    wide = x.astype(lse_dtype(x.dtype))
    mean = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(mean + 1e-6) * scale.astype(wide.dtype)).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Axial rotary position embedding: every spatial axis rotates channels of its own.

    Axis a turns the channel pair (i, i + dims[a] / 2) of its slice of the head by the angle
    position * base[a] ** (-2 * i / dims[a]); channels beyond sum(dims) stay as they are. The
    product of a rotated query and a rotated key then depends on their offset along each axis only.

    Args:
      dims: rotated channels per axis, even numbers whose sum is at most the size of a head.
      base: wavelengths of an axis run from 2 pi to 2 pi * base, in tokens.

    Source: Su et al., "RoFormer" (2021), equation 34, applied to each axis.
    """

    dims: tuple[int, ...]
    base: tuple[float, ...]

    @classmethod
    def split(
        cls,
        head_dim: int,
        window: Window,
        dims: Sequence[int] | None = None,
        base: float | Sequence[float] = 10000.0,
    ) -> Rotary:
        """Divides the channels of a head over the axes of a window, evenly unless `dims` says how.

        Raises:
          ValueError: the channels cannot be divided so, a base is not positive, or an axis wraps:
            its positions would have to be periodic, and rotary angles are not.
        """
        rank = window.rank
        if dims is None:
            if head_dim % (2 * rank):
                raise ValueError(
                    f"rope divides the channels of a head evenly over {rank} axes, in pairs: the "
                    f"head size should be a multiple of {2 * rank}, but got {head_dim}; rope_dims "
                    "sets the number of each axis instead"
                )
            dims = (head_dim // rank,) * rank
        if len(dims) != rank:
            raise ValueError(
                f"rope_dims should have {rank} entries, one per axis, but got {len(dims)}: "
                f"{tuple(dims)}"
            )
        for axis, size in enumerate(dims):
            if not isinstance(size, numbers.Integral) or size < 0 or size % 2:
                raise ValueError(
                    f"rope_dims[{axis}] should be an even integer of at least 0, but got {size!r}"
                )
            if size and window.boundary[axis] == "wrap":
                raise ValueError(
                    f"rope_dims[{axis}] should be 0 where boundary[{axis}] is 'wrap' (rotary "
                    f"angles are not periodic), but got {size}"
                )
        if not 2 <= sum(dims) <= head_dim:
            raise ValueError(
                f"rope_dims should sum to between 2 and the head size {head_dim}, but got "
                f"{tuple(dims)}, which sums to {sum(dims)}"
            )
        bases = tuple(base) if isinstance(base, (Sequence, np.ndarray)) else (base,) * rank
        if len(bases) != rank:
            raise ValueError(
                f"rope_base should be one value or {rank}, one per axis, but got {len(bases)}"
            )
        for axis, value in enumerate(bases):
            if not value > 0:
                raise ValueError(f"rope_base[{axis}] should be above 0, but got {value}")
        return cls(tuple(dims), tuple(float(value) for value in bases))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Rotates a query or key [..., *spatial, heads, head_dim] by its tokens' positions.

        Angles are float32, or float64 for a float64 input; the result has the dtype of `x`.
        """
        rank, real = len(self.dims), lse_dtype(x.dtype)
        parts, begin = [], 0
        for axis, (size, base) in enumerate(zip(self.dims, self.base, strict=True)):
            half = size // 2
            position = jnp.arange(x.shape[axis - rank - 2], dtype=real)
            frequency = jnp.asarray(base, real) ** (-jnp.arange(half, dtype=real) / max(half, 1))
            angle = position[:, None] * frequency
            # [length, half] against [..., length, (rank - 1 - axis) axes, heads, half]
            angle = angle.reshape(len(position), *(1,) * (rank - axis), half)
            cos, sin = jnp.cos(angle), jnp.sin(angle)
            first = x[..., begin : begin + half].astype(real)
            second = x[..., begin + half : begin + size].astype(real)
            parts += [first * cos - second * sin, second * cos + first * sin]
            begin += size
        return jnp.concatenate([*(part.astype(x.dtype) for part in parts), x[..., begin:]], axis=-1)


def fit_window(window: Window, spatial: Sequence[int]) -> Window:
    """Shrinks a window that is too large for axes of the given lengths; a legal window stays as is.

    On an axis with kernel_size * dilation > length the dilation shrinks first, to the largest legal
    one; when even dilation 1 is too much the kernel becomes the whole axis. Stride never exceeds
    the new kernel.
    """
    sizes: list[int | None] = []
    dilations, strides = [], []
    for axis, length in enumerate(spatial):
        size, dilation = window.kernel_size[axis], window.dilation[axis]
        periodic = window.boundary[axis] == "wrap"
        if size is not None and length > 0:  # else Window.resolve says what is wrong
            size = min(size, length)
            dilation = min(dilation, length // size)
            while periodic and length % dilation:
                dilation -= 1
        sizes.append(size)
        dilations.append(dilation)
        strides.append(min(window.stride[axis], size or max(length, 1)))
    return Window(tuple(sizes), tuple(strides), tuple(dilations), window.is_causal, window.boundary)


def crop_bias(bias: jax.Array, window: Window, fitted: Window) -> jax.Array:
    """The part of a bias [heads, 2 * w - 1, ...] of `window` whose offsets occur in `fitted`."""
    for axis, (old, new) in enumerate(zip(window.kernel_size, fitted.kernel_size, strict=True)):
        if old is not None and new is not None and new != old:
            bias = jax.lax.slice_in_dim(bias, old - new, old + new - 1, axis=axis + 1)
    return bias


def _promote(query, key, value, dtype):
    dtype = jnp.result_type(query, key, value) if dtype is None else dtype
    return query.astype(dtype), key.astype(dtype), value.astype(dtype)


@dataclasses.dataclass(frozen=True)
class Neighborhood:
    """The parameter-free middle of a layer: rotate, fit the window, attend. Hashable."""

    window: Window
    scale: float | None = None
    rotary: Rotary | None = None
    clamp_window: bool = False
    implementation: str | tuple[str, ...] | None = None

    @classmethod
    def build(
        cls,
        window: Window,
        head_dim: int,
        *,
        scale: float | None,
        rope: bool,
        rope_dims: Sequence[int] | None,
        rope_base: float | Sequence[float],
        clamp_window: bool,
        implementation: str | Sequence[str] | None,
    ) -> Neighborhood:
        if rope_dims is not None and not rope:
            raise ValueError(
                f"rope_dims should be None where rope is False, but got {tuple(rope_dims)}"
            )
        rotary = Rotary.split(head_dim, window, rope_dims, rope_base) if rope else None
        read_scale(scale, head_dim)
        candidates(implementation)
        if implementation is not None and not isinstance(implementation, str):
            implementation = tuple(implementation)
        return cls(window, scale, rotary, clamp_window, implementation)

    def rotate(self, query: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Query and key with their positions, if there is a rotary embedding."""
        return (query, key) if self.rotary is None else (self.rotary(query), self.rotary(key))

    def attend(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        bias: jax.Array | None = None,
        *,
        dtype: Any = None,
        precision: Any = None,
    ) -> jax.Array:
        """Attention of a rotated query and key, in `dtype` or else their common one."""
        query, key, value = _promote(query, key, value, dtype)
        window = self.window
        if self.clamp_window:
            rank = window.rank
            window = fit_window(window, query.shape[-2 - rank : -2])
            bias = None if bias is None else crop_bias(bias, self.window, window)
        out = neighborhood_attention(
            query,
            key,
            value,
            window.kernel_size,
            window.stride,
            window.dilation,
            window.is_causal,
            self.scale,
            boundary=window.boundary,
            relative_position_bias=bias,
            implementation=self.implementation,
            precision=precision,
        )
        assert isinstance(out, jax.Array)
        return out


def check_input(x: jax.Array, rank: int, features: int | None = None) -> None:
    """Raises ValueError unless x is [..., *spatial, features]."""
    if x.ndim < rank + 1:
        raise ValueError(
            f"x should have at least {rank + 1} axes, [..., {rank} spatial, features], but got "
            f"shape {x.shape}"
        )
    if features is not None and x.shape[-1] != features:
        raise ValueError(f"x should have {features} features, but got shape {x.shape}")


@dataclasses.dataclass(frozen=True)
class NeighborhoodAttentionFn:
    """An `attention_fn` for Flax's own attention modules; see :func:`neighborhood_attention_fn`.

    The call names every argument that Flax may pass. Linen drops the arguments that a function's
    signature does not name, so that one with only **kwargs would lose the mask without a word.
    """

    window: Window
    scale: float | None = None
    rope: bool = False
    rope_dims: tuple[int, ...] | None = None
    rope_base: float | tuple[float, ...] = 10000.0
    implementation: str | tuple[str, ...] | None = None

    def __call__(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        bias: jax.Array | None = None,
        mask: jax.Array | None = None,
        broadcast_dropout: bool = True,
        dropout_rng: jax.Array | None = None,
        dropout_rate: float = 0.0,
        deterministic: bool = False,
        dtype: Any = None,
        precision: Any = None,
        module: Any = None,
        promote_dtype: Callable[..., Any] | None = None,
        is_causal: bool = False,
        input_positions: jax.Array | None = None,
        force_fp32_for_softmax: bool = False,
        einsum_dot_general: Callable[..., jax.Array] | None = None,
        qk_attn_weights_einsum: Callable[..., jax.Array] | None = None,
        attn_weights_value_einsum: Callable[..., jax.Array] | None = None,
    ) -> jax.Array:
        """Attention of query [..., *spatial, heads, D] over key and value of the same grid.

        broadcast_dropout and dropout_rng say how to drop weights; they are void as no dropout may
        be active. The softmax is float32 (or wider) whatever force_fp32_for_softmax asks.
        """
        del broadcast_dropout, dropout_rng, force_fp32_for_softmax
        for value_given, what in (
            (mask, "a mask (decode=True makes one too, so there is no decoding either)"),
            (bias, "a bias of all pairs of query and key"),
            (input_positions, "input_positions (rope=True counts the tokens of each axis)"),
            (einsum_dot_general, "einsum_dot_general"),
            (qk_attn_weights_einsum, "qk_attn_weights_einsum"),
            (attn_weights_value_einsum, "attn_weights_value_einsum"),
        ):
            if value_given is not None:
                raise NotImplementedError(f"neighborhood_attention_fn cannot honour {what}")
        if module is not None:
            raise NotImplementedError(
                "neighborhood_attention_fn cannot sow attention weights: it never holds them; "
                "jax_na.na_qk computes them"
            )
        if dropout_rate > 0.0 and not deterministic:
            raise NotImplementedError(
                "neighborhood_attention_fn cannot drop attention weights: dropout_rate should be 0 "
                f"or deterministic True, but got {dropout_rate}"
            )
        if is_causal and not all(self.window.is_causal):
            raise ValueError(
                "is_causal was asked of a neighborhood_attention_fn built with is_causal = "
                f"{self.window.is_causal}; it should be set there, for each axis"
            )
        if promote_dtype is not None:
            query, key, value = promote_dtype((query, key, value), dtype=dtype)
        middle = Neighborhood.build(
            self.window,
            query.shape[-1],
            scale=self.scale,
            rope=self.rope,
            rope_dims=self.rope_dims,
            rope_base=self.rope_base,
            clamp_window=False,
            implementation=self.implementation,
        )
        query, key = middle.rotate(query, key)
        return middle.attend(query, key, value, dtype=dtype, precision=precision)


def neighborhood_attention_fn(
    kernel_size: int | Sequence[int | None] | None,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
    scale: float | None = None,
    *,
    boundary: Boundary | Sequence[Boundary] = "shift",
    rope: bool = False,
    rope_dims: Sequence[int] | None = None,
    rope_base: float | Sequence[float] = 10000.0,
    implementation: str | Sequence[str] | None = None,
) -> NeighborhoodAttentionFn:
    """Makes Flax's own attention modules attend to neighborhoods.

    Give the result as `attention_fn` to flax.nnx.MultiHeadAttention or to
    flax.linen.MultiHeadDotProductAttention and call the module with inputs [..., *spatial, C]:

        nnx.MultiHeadAttention(
            8, 64, attention_fn=neighborhood_attention_fn((7, 7)), decode=False, rngs=nnx.Rngs(0)
        )

    Args:
      kernel_size, stride, dilation, is_causal, boundary: the window, see :class:`jax_na.Window`;
        a kernel_size without axes means one, so that images need (7, 7).
      scale: factor of the scores, head_dim ** -0.5 by default.
      rope, rope_dims, rope_base: axial rotary positions, see the layer NeighborhoodAttention.
      implementation: see :func:`jax_na.neighborhood_attention`.

    Returns:
      A hashable callable; two made with equal arguments are equal, so that modules that hold them
      share compiled functions. When called, it raises NotImplementedError if Flax passes what a
      neighborhood cannot honour: a mask or a bias of all pairs, active dropout of attention weights
      (`dropout_rate` of the module while not deterministic), `sow_weights`, or decoding with a
      cache; and ValueError if `is_causal` is asked of a window that is not causal on all axes.

    Raises:
      ValueError: the window is illegal whatever the lengths are.
    """
    return NeighborhoodAttentionFn(
        Window(kernel_size, stride, dilation, is_causal, boundary),
        scale,
        rope,
        None if rope_dims is None else tuple(rope_dims),
        tuple(rope_base) if isinstance(rope_base, Sequence) else rope_base,
        implementation
        if implementation is None or isinstance(implementation, str)
        else tuple(implementation),
    )
