"""Attention by every implementation there is in JAX, and its two passes as calls to be timed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

import jax_na
from benchmarks.gpu.inputs import in_jax
from benchmarks.gpu.shapes import Shape
from benchmarks.gpu.timing import Timed, first_seconds_of, input_sets


class Skipped(Exception):
    """Why something was not measured."""


def reason(error: Exception) -> str:
    """An error in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]


def window_of(shape: Shape) -> jax_na.Window:
    """The window of a shape."""
    return jax_na.Window(shape.window, shape.stride, shape.dilation, shape.causal)


def ours(shape: Shape, implementation: str) -> Callable[..., jax.Array]:
    """Neighborhood attention by one of our implementations, on [B, *spatial, heads, head_dim]."""
    return functools.partial(
        jax_na.neighborhood_attention,
        kernel_size=shape.window,
        stride=shape.stride,
        dilation=shape.dilation,
        is_causal=shape.causal,
        implementation=implementation,
    )


def dense(shape: Shape, implementation: Any) -> Callable[..., jax.Array]:
    """JAX's attention of every token to all tokens (to those before it where the sequence is
    causal), on the same arrays.
    """
    causal = len(shape.spatial) == 1 and shape.causal[0]

    def attend(query, key, value):
        flat = (shape.batch, shape.tokens, shape.heads, shape.head_dim)
        q, k, v = (x.reshape(flat) for x in (query, key, value))
        out = jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation=implementation)
        return out.reshape(query.shape)

    return attend


def variants(shape: Shape) -> dict[str, Callable[..., jax.Array]]:
    """What there is on JAX's default platform, by name; "dense" is cuDNN's on a GPU."""
    listed = [each.name for each in jax_na.implementations() if each.available]
    on_gpu = jax.default_backend() == "gpu"
    # Plain JAX computes all pairs of a tile of queries: on a GPU it is no candidate.
    chosen = [name for name in listed if name != "xla" or not on_gpu]
    found = {name: ours(shape, name) for name in chosen}
    return {**found, "dense": dense(shape, "cudnn" if on_gpu else "xla")}


def make_sets(shape: Shape) -> list[tuple[jax.Array, ...]]:
    """Sets of query, key, value and cotangent, enough that the cache holds none of them long."""
    full = (shape.batch, *shape.spatial, shape.heads, shape.head_dim)
    names = ("query", "key", "value", "cotangent")
    return [
        tuple(in_jax(name, i, full, shape.dtype) for name in names)
        for i in range(input_sets(4 * shape.tensor_bytes))
    ]


def compiled(function: Callable[..., Any], *operands: Any) -> Any:
    """The compiled function, which is called on the leaves of `operands`.

    Raises:
      Skipped: the device has not the memory for it.
    """
    leaves, tree = jax.tree.flatten(operands)
    step = jax.jit(lambda *leaves: function(*jax.tree.unflatten(tree, leaves)))
    executable = step.lower(*leaves).compile()
    stats = jax.devices()[0].memory_stats()
    sizes = executable.memory_analysis()
    if stats and sizes is not None:
        # A second dispatch has results of its own while those of the first are there.
        need = sizes.temp_size_in_bytes + 2 * sizes.output_size_in_bytes
        free = stats["bytes_limit"] - stats["bytes_in_use"]
        if need > free:
            raise Skipped(f"needs {need / 2**30:.1f} GiB, and {free / 2**30:.1f} are free")
    return functools.partial(executable, *leaves)


def forward(function: Callable[..., Any], sets: Sequence[tuple[jax.Array, ...]]) -> Timed:
    """The forward pass on every set, one call after the other."""

    def every(sets):
        return [function(*inputs[:3]) for inputs in sets]

    return Timed(compiled(every, list(sets)), len(sets))


def backward(function: Callable[..., Any], sets: Sequence[tuple[jax.Array, ...]]) -> Timed:
    """The backward pass alone on every set, on what the forward passes have kept."""

    def kept(sets):
        return [jax.vjp(function, *inputs[:3])[1] for inputs in sets]

    leaves, tree = jax.tree.flatten((list(sets),))
    transposes = jax.jit(lambda *leaves: kept(*jax.tree.unflatten(tree, leaves)))(*leaves)

    def every(transposes, cotangents):
        return [transpose(c) for transpose, c in zip(transposes, cotangents, strict=True)]

    return Timed(compiled(every, transposes, [inputs[3] for inputs in sets]), len(sets))


def attempt(build: Callable[[], Timed]) -> Timed | str:
    """What was built, or why it was not: too large, or refused by what should run it."""
    try:
        timed = build()
        timed = timed._replace(first=first_seconds_of(timed.dispatch))
    except Skipped as skipped:
        return str(skipped)
    except (jax.errors.JaxRuntimeError, NotImplementedError, RuntimeError, ValueError) as error:
        return reason(error)
    return timed
