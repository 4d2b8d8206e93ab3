"""The models whose training steps are timed: backbones of jax_na, and one transformer block."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from benchmarks.gpu.inputs import in_jax
from jax_na.models import NAT, NATConfig, dinat_tiny, nat_tiny
from jax_na.nnx import NeighborhoodAttention


@dataclasses.dataclass(frozen=True)
class DenseAttention:
    """Stands in for the neighborhood of a layer: every token sees all tokens, by JAX's own
    attention. A relative position bias is left out, which is in its favour.
    """

    neighborhood: Any
    implementation: str

    def rotate(self, query: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """As the neighborhood does."""
        return self.neighborhood.rotate(query, key)

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
        """Of [B, *spatial, heads, head_dim]."""
        del bias, precision
        dtype = jnp.result_type(query, key, value) if dtype is None else dtype
        heads, features = query.shape[-2:]
        flat = (query.shape[0], math.prod(query.shape[1:-2]), heads, features)
        q, k, v = (x.astype(dtype).reshape(flat) for x in (query, key, value))
        # JAX refuses to train an odd number of tokens by cuDNN, such as those of 7 x 7 maps.
        implementation: Any = "xla" if flat[1] % 2 else self.implementation
        out = jax.nn.dot_product_attention(q, k, v, implementation=implementation)
        return out.reshape(*query.shape[:-1], value.shape[-1])


def make_dense(model: nnx.Module, implementation: str) -> nnx.Module:
    """The model with all its neighborhoods replaced."""
    for _, module in nnx.iter_modules(model):
        if isinstance(module, NeighborhoodAttention):
            stand_in: Any = DenseAttention(module.neighborhood, implementation)
            module.neighborhood = stand_in
    return model


class Block(nnx.Module):
    """A block of a diffusion transformer on a grid of tokens: norms modulated by a condition,
    attention with normalised, rotated queries and keys, an MLP.

    Source: Peebles and Xie, "Scalable Diffusion Models with Transformers" (2023), figure 3.
    """

    def __init__(
        self,
        heads: int,
        head_dim: int,
        window: tuple[int, ...],
        hidden: int,
        implementation: str | None,
        *,
        rngs: nnx.Rngs,
    ):
        width = heads * head_dim
        pairs = head_dim // 2
        parts = [2 * (pairs // len(window))] * len(window)
        parts[0] += head_dim - sum(parts)
        self.attention = NeighborhoodAttention(
            heads,
            width,
            window,
            normalize_qk=True,
            rope=True,
            rope_dims=parts,
            dtype=jnp.bfloat16,
            implementation=implementation,
            rngs=rngs,
        )
        self.norms = nnx.List(
            [
                nnx.LayerNorm(width, use_bias=False, use_scale=False, dtype=jnp.bfloat16, rngs=rngs)
                for _ in range(2)
            ]
        )
        self.modulation = nnx.Linear(width, 6 * width, dtype=jnp.bfloat16, rngs=rngs)
        self.expand = nnx.Linear(width, hidden, dtype=jnp.bfloat16, rngs=rngs)
        self.contract = nnx.Linear(hidden, width, dtype=jnp.bfloat16, rngs=rngs)

    def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        """Maps x [B, *spatial, width], given a condition [B, width], to the same shape."""
        shape = (x.shape[0], *(1,) * (x.ndim - 2), -1)
        six = jnp.split(self.modulation(jax.nn.silu(condition)).reshape(shape), 6, -1)
        branch = self.attention(self.norms[0](x) * (1 + six[0]) + six[1])
        x = x + six[2] * branch
        branch = jax.nn.gelu(self.expand(self.norms[1](x) * (1 + six[3]) + six[4]))
        return x + six[5] * self.contract(branch)


@dataclasses.dataclass(frozen=True)
class Task:
    """Something to train: how to make it, its batch, and what is counted."""

    name: str
    unit: str
    count: int  # of units in a batch
    make: Callable[[str | None], nnx.Module]
    batch: Callable[[], tuple[jax.Array, ...]]
    loss: Callable[..., jax.Array]
    infer: Callable[..., jax.Array]


def classifier(name: str, config: NATConfig, batch: int, side: int) -> Task:
    """A backbone on random images."""

    def make(implementation: str | None) -> nnx.Module:
        return NAT(config, dtype=jnp.bfloat16, implementation=implementation, rngs=nnx.Rngs(0))

    def data() -> tuple[jax.Array, ...]:
        images = in_jax("query", 0, (batch, side, side, 3), "bfloat16")
        return images, jnp.arange(batch) % config.num_classes

    def loss(model: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits = model(images, deterministic=True).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def infer(model: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        del labels
        return model(images, deterministic=True)

    return Task(name, "images", batch, make, data, loss, infer)


def block(
    name: str,
    batch: int,
    spatial: tuple[int, ...],
    heads: int,
    head_dim: int,
    window: tuple[int, ...],
    ratio: int,
) -> Task:
    """One block on random tokens, which learns other random tokens."""
    width = heads * head_dim

    def make(implementation: str | None) -> nnx.Module:
        return Block(heads, head_dim, window, ratio * width, implementation, rngs=nnx.Rngs(0))

    def data() -> tuple[jax.Array, ...]:
        full = (batch, *spatial, width)
        tokens = (in_jax(name, 0, full, "bfloat16") for name in ("query", "cotangent"))
        return *tokens, in_jax("key", 0, (batch, width), "bfloat16")

    def loss(model: Any, x: jax.Array, target: jax.Array, condition: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square((model(x, condition) - target).astype(jnp.float32)))

    def infer(model: Any, x: jax.Array, target: jax.Array, condition: jax.Array) -> jax.Array:
        del target
        return model(x, condition)

    return Task(name, "tokens", batch * math.prod(spatial), make, data, loss, infer)


def tasks(quick: bool) -> list[Task]:
    """What is trained."""
    if quick:
        small: dict[str, Any] = {
            "depths": (1, 1),
            "num_heads": (1, 2),
            "embed_dim": 8,
            "kernel_size": 3,
            "num_classes": 4,
            "drop_path_rate": 0.0,
        }
        return [
            classifier("tiny classifier", nat_tiny(**small), 2, 32),
            block("tiny block", 1, (2, 4, 6), 2, 8, (1, 3, 3), 2),
        ]
    # Nothing is dropped: what is random would be drawn by all alike.
    return [
        classifier("NAT-Tiny, 224 px", nat_tiny(drop_path_rate=0.0), 128, 224),
        classifier("DiNAT-Tiny, 224 px", dinat_tiny(drop_path_rate=0.0), 128, 224),
        block("HDiT-like block, 256 x 256", 4, (256, 256), 2, 64, (7, 7), 3),
        block("video DiT block, 30 x 48 x 80", 1, (30, 48, 80), 24, 128, (18, 24, 24), 4),
    ]
