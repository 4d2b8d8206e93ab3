"""NAT and DiNAT: hierarchical vision backbones of neighborhood attention blocks, in Flax NNX.

One model, two families of configurations: DiNAT dilates the windows of every second block.

Sources: Hassani et al., "Neighborhood Attention Transformer" (CVPR 2023); Hassani and Shi, "Dilated
Neighborhood Attention Transformer" (2022).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jax_na.nnx import NeighborhoodAttention

_EPSILON = 1e-5
_kernel_init = nnx.initializers.truncated_normal(0.02)


@dataclasses.dataclass(frozen=True)
class NATConfig:
    """Everything that shapes a :class:`NAT`.

    Args:
      depths: number of blocks of each stage.
      num_heads: attention heads of each stage.
      embed_dim: channels of the first stage; every later stage has twice as many.
      kernel_size: side of the window.
      dilations: dilation of each block of each stage; all 1 by default.
      mlp_ratio: hidden channels of a block's MLP over its channels.
      num_classes: outputs of the head; 0 for none (the model then returns pooled features).
      in_channels: channels of an image.
      tokenizer_strides: strides of the two 3x3 convolutions that make the tokens. (2, 2) reduces
        an image fourfold; (1, 1) suits tiny images.
      drop_path_rate: probability to skip the last block's branches; it grows linearly from 0.
      dropout_rate: dropout of the embeddings and of the outputs of attention and MLP.
      layer_scale: initial value of a learned scale per channel of each branch; None for no scale.
      use_qkv_bias: biases in the query, key and value projections.
      use_relative_position_bias: the learned bias of the original models.
      rope: axial rotary positions.
      clamp_window: what to do on a feature map smaller than kernel_size * dilation. False raises
        ValueError; True shrinks the dilation and then the kernel of that block to fit the map.
    """

    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    embed_dim: int
    kernel_size: int = 7
    dilations: tuple[tuple[int, ...], ...] | None = None
    mlp_ratio: float = 3.0
    num_classes: int = 1000
    in_channels: int = 3
    tokenizer_strides: tuple[int, int] = (2, 2)
    drop_path_rate: float = 0.0
    dropout_rate: float = 0.0
    layer_scale: float | None = None
    use_qkv_bias: bool = True
    use_relative_position_bias: bool = True
    rope: bool = False
    clamp_window: bool = False

    def __post_init__(self):
        for name in ("depths", "num_heads", "tokenizer_strides"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.dilations is not None:
            object.__setattr__(self, "dilations", tuple(map(tuple, self.dilations)))
        if not self.depths or len(self.num_heads) != len(self.depths):
            raise ValueError(
                "num_heads should have one entry per stage, as many as depths, but got "
                f"{self.num_heads} and {self.depths}"
            )
        if self.dilations is not None and tuple(map(len, self.dilations)) != self.depths:
            raise ValueError(
                f"dilations should have one entry per block, {self.depths} per stage, but got "
                f"{self.dilations}"
            )

    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.depths)))


def nat_mini(**changes: Any) -> NATConfig:
    """NAT-Mini: 20.0 M parameters, 2.7 GFLOPs at 224x224, 81.8 % on ImageNet-1K in the paper."""
    return dataclasses.replace(nat_tiny(depths=(3, 4, 6, 5)), **changes)


def nat_tiny(**changes: Any) -> NATConfig:
    """NAT-Tiny: 27.9 M parameters, 4.3 GFLOPs at 224x224, 83.2 % on ImageNet-1K in the paper."""
    config = NATConfig((3, 4, 18, 5), (2, 4, 8, 16), embed_dim=64, drop_path_rate=0.2)
    return dataclasses.replace(config, **changes)


def nat_small(**changes: Any) -> NATConfig:
    """NAT-Small: 50.7 M parameters, 7.8 GFLOPs at 224x224, 83.7 % on ImageNet-1K in the paper."""
    config = NATConfig(
        (3, 4, 18, 5),
        (3, 6, 12, 24),
        embed_dim=96,
        mlp_ratio=2.0,
        drop_path_rate=0.3,
        layer_scale=1e-5,
    )
    return dataclasses.replace(config, **changes)


def nat_base(**changes: Any) -> NATConfig:
    """NAT-Base: 89.8 M parameters, 13.7 GFLOPs at 224x224, 84.3 % on ImageNet-1K in the paper."""
    config = nat_small(num_heads=(4, 8, 16, 32), embed_dim=128, drop_path_rate=0.5)
    return dataclasses.replace(config, **changes)


def _dilated(config: NATConfig, changes: dict[str, Any]) -> NATConfig:
    """Every second block sees the whole map at 224x224, whose stages are 56, 28, 14 and 7 wide."""
    config = dataclasses.replace(config, **{"dilations": None, **changes})
    if config.dilations is not None:
        return config
    widest = (8, 4, 2) + (1,) * (len(config.depths) - 3)
    dilations = tuple(
        tuple(most if block % 2 else 1 for block in range(depth))
        for depth, most in zip(config.depths, widest, strict=False)
    )
    return dataclasses.replace(config, dilations=dilations)


def dinat_mini(**changes: Any) -> NATConfig:
    """DiNAT-Mini: NAT-Mini with dilations 8, 4, 2 and 1 in every second block of the stages."""
    return _dilated(nat_mini(), changes)


def dinat_tiny(**changes: Any) -> NATConfig:
    """DiNAT-Tiny: NAT-Tiny with the same dilations."""
    return _dilated(nat_tiny(), changes)


def dinat_small(**changes: Any) -> NATConfig:
    """DiNAT-Small: NAT-Small with the same dilations and no layer scale."""
    return _dilated(nat_small(layer_scale=None), changes)


def dinat_base(**changes: Any) -> NATConfig:
    """DiNAT-Base: NAT-Base with the same dilations."""
    return _dilated(nat_base(), changes)


def dinat_large(**changes: Any) -> NATConfig:
    """DiNAT-Large: 200.9 M parameters, the same dilations, no layer scale."""
    large = nat_small(
        num_heads=(6, 12, 24, 48), embed_dim=192, drop_path_rate=0.35, layer_scale=None
    )
    return _dilated(large, changes)


def _dropout(rate: float, rngs: nnx.Rngs, broadcast_dims: Sequence[int] = ()) -> Any:
    """A dropout module, or None where nothing is dropped: no mode has to be chosen there."""
    if rate == 0.0:
        return nnx.data(None)
    return nnx.Dropout(rate, broadcast_dims=broadcast_dims, deterministic=None, rngs=rngs)


def _drop(dropout: nnx.Dropout | None, x: jax.Array, deterministic: bool | None) -> jax.Array:
    return x if dropout is None else dropout(x, deterministic=deterministic)


def _norm_options(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "precision"}


class _Residual(nnx.Module):
    """x + drop_path(scale * branch): the joint of a block."""

    def __init__(self, width: int, drop_path: float, scale: float | None, param_dtype, rngs):
        self.scale: nnx.Param[jax.Array] | None = nnx.data(None)
        if scale is not None:
            self.scale = nnx.Param(jnp.full((width,), scale, param_dtype))
        # One draw per image: stochastic depth (Huang et al., 2016).
        self.drop_path = _dropout(drop_path, rngs, broadcast_dims=(-3, -2, -1))

    def __call__(self, x: jax.Array, branch: jax.Array, deterministic: bool | None) -> jax.Array:
        if self.scale is not None:
            branch = branch * self.scale[...].astype(branch.dtype)
        return x + _drop(self.drop_path, branch, deterministic)


class Block(nnx.Module):
    """LayerNorm, neighborhood attention, residual; LayerNorm, MLP, residual."""

    def __init__(
        self,
        config: NATConfig,
        width: int,
        num_heads: int,
        dilation: int,
        drop_path: float,
        *,
        kernel_init: nnx.Initializer,
        options: dict[str, Any],
        implementation: str | Sequence[str] | None,
        rngs: nnx.Rngs,
    ):
        norm = functools.partial(
            nnx.LayerNorm, width, epsilon=_EPSILON, rngs=rngs, **_norm_options(options)
        )
        linear = functools.partial(nnx.Linear, kernel_init=kernel_init, rngs=rngs, **options)
        residual = functools.partial(
            _Residual, width, drop_path, config.layer_scale, options["param_dtype"], rngs
        )
        self.norm1 = norm()
        self.attention = NeighborhoodAttention(
            num_heads,
            width,
            (config.kernel_size,) * 2,
            dilation=dilation,
            use_qkv_bias=config.use_qkv_bias,
            use_relative_position_bias=config.use_relative_position_bias,
            rope=config.rope,
            out_dropout_rate=config.dropout_rate,
            clamp_window=config.clamp_window,
            kernel_init=kernel_init,
            implementation=implementation,
            rngs=rngs,
            **options,
        )
        self.residual1 = residual()
        self.norm2 = norm()
        hidden = int(width * config.mlp_ratio)
        self.expand = linear(width, hidden)
        self.contract = linear(hidden, width)
        self.dropout = _dropout(config.dropout_rate, rngs)
        self.residual2 = residual()

    def __call__(self, x: jax.Array, *, deterministic: bool | None = None) -> jax.Array:
        """Maps [..., H, W, width] to the same shape."""
        branch = self.attention(self.norm1(x), deterministic=deterministic)
        x = self.residual1(x, branch, deterministic)
        branch = jax.nn.gelu(self.expand(self.norm2(x)), approximate=False)
        branch = self.contract(_drop(self.dropout, branch, deterministic))
        branch = _drop(self.dropout, branch, deterministic)
        return self.residual2(x, branch, deterministic)


class NAT(nnx.Module):
    """A pyramid of stages of neighborhood attention over an image.

    Two overlapping 3x3 convolutions make the tokens; between stages a 3x3 convolution of stride 2
    halves the map and doubles the channels. A norm, the mean over the map and a linear head follow.

        model = NAT(nat_tiny(num_classes=10), rngs=nnx.Rngs(0))
        logits = model(images, deterministic=True)             # [batch, 224, 224, 3] -> [batch, 10]
        maps = model.features(images, deterministic=True)      # strides 4, 8, 16 and 32

    Args:
      config: sizes and regularisation, such as :func:`nat_tiny` returns.
      deterministic: disables dropout and drop path. Here, by `train()` and `eval()`, or in the
        call, which takes precedence; one of them must say where there is anything to drop.
      dtype, param_dtype, precision: as in every Flax module.
      kernel_init: initialiser of the linear layers. The default is that of the original models; a
        model of few channels learns faster from one that scales with them, like lecun_normal.
      implementation: of the attention; see :func:`jax_na.neighborhood_attention`.
      rngs: random keys: "params" and "dropout".
    """

    def __init__(
        self,
        config: NATConfig,
        *,
        deterministic: bool | None = None,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: Any = None,
        kernel_init: nnx.Initializer = _kernel_init,
        implementation: str | Sequence[str] | None = None,
        rngs: nnx.Rngs,
    ):
        self.config = config
        self.deterministic = deterministic
        options = {"dtype": dtype, "param_dtype": param_dtype, "precision": precision}
        conv = functools.partial(
            nnx.Conv, kernel_size=(3, 3), padding=((1, 1), (1, 1)), rngs=rngs, **options
        )
        norm = functools.partial(
            nnx.LayerNorm, epsilon=_EPSILON, rngs=rngs, **_norm_options(options)
        )
        widths = config.widths()
        half = config.embed_dim // 2
        first, second = config.tokenizer_strides
        self.tokenizer = nnx.List(
            [
                conv(config.in_channels, half, strides=(first, first)),
                conv(half, config.embed_dim, strides=(second, second)),
            ]
        )
        self.tokenizer_norm = norm(config.embed_dim)
        self.dropout = _dropout(config.dropout_rate, rngs)

        blocks, last = 0, max(sum(config.depths) - 1, 1)
        self.stages = nnx.List()
        for stage, (depth, width) in enumerate(zip(config.depths, widths, strict=True)):
            members = nnx.List()
            for block in range(depth):
                members.append(
                    Block(
                        config,
                        width,
                        config.num_heads[stage],
                        1 if config.dilations is None else config.dilations[stage][block],
                        config.drop_path_rate * blocks / last,
                        kernel_init=kernel_init,
                        options=options,
                        implementation=implementation,
                        rngs=rngs,
                    )
                )
                blocks += 1
            self.stages.append(members)
        self.downsamplers = nnx.List(
            [conv(width, 2 * width, strides=(2, 2), use_bias=False) for width in widths[:-1]]
        )
        self.downsampler_norms = nnx.List([norm(2 * width) for width in widths[:-1]])
        self.norm = norm(widths[-1])
        self.head: nnx.Linear | None = nnx.data(None)
        if config.num_classes:
            self.head = nnx.Linear(
                widths[-1], config.num_classes, kernel_init=kernel_init, rngs=rngs, **options
            )

    def tokenize(self, images: jax.Array, *, deterministic: bool | None = None) -> jax.Array:
        """The input of the first stage, from images [batch, H, W, in_channels].

        Raises:
          ValueError: the images have another shape.
        """
        if images.ndim != 4 or images.shape[-1] != self.config.in_channels:
            raise ValueError(
                f"images should have shape [batch, H, W, {self.config.in_channels}], but got "
                f"{images.shape}"
            )
        deterministic = self.deterministic if deterministic is None else deterministic
        x = images
        for convolution in self.tokenizer:
            x = convolution(x)
        return _drop(self.dropout, self.tokenizer_norm(x), deterministic)

    def features(
        self, images: jax.Array, *, deterministic: bool | None = None
    ) -> tuple[jax.Array, ...]:
        """The feature maps of all stages, for detection and segmentation.

        Args:
          images: [batch, H, W, in_channels].
          deterministic: disables dropout and drop path.

        Returns:
          One array per stage, [batch, H_s, W_s, embed_dim * 2 ** s]; the last one is normalised.

        Raises:
          ValueError: a map is smaller than a window and `clamp_window` is off, or the images have
            another number of channels.
        """
        deterministic = self.deterministic if deterministic is None else deterministic
        x = self.tokenize(images, deterministic=deterministic)
        maps = []
        for stage, blocks in enumerate(self.stages):
            if stage:
                x = self.downsampler_norms[stage - 1](self.downsamplers[stage - 1](x))
            for block in blocks:
                x = block(x, deterministic=deterministic)
            maps.append(x)
        return *maps[:-1], self.norm(maps[-1])

    def __call__(self, images: jax.Array, *, deterministic: bool | None = None) -> jax.Array:
        """Logits [batch, num_classes], or the mean features where num_classes is 0."""
        pooled = self.features(images, deterministic=deterministic)[-1].mean((-3, -2))
        return pooled if self.head is None else self.head(pooled)
