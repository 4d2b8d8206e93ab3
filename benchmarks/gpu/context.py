"""The longest context that fits: how many tokens an implementation can take on this device.

    python -m benchmarks.gpu.context

One sequence, whose length is searched for: the compiled program says how much memory it needs
before anything is allocated. What was found is then run, on ones, whose attention is ones.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.gpu.device import free_bytes, prepare
from benchmarks.gpu.record import Record, arguments
from benchmarks.gpu.shapes import Shape
from benchmarks.gpu.variants import dense, ours, reason, window_of

SEQUENCE = Shape("sequence", "none", 1, (2048,), 16, 128, (512,))
QUICK = Shape("sequence", "none", 1, (64,), 2, 8, (16,), dtype="float32")
#: Rates in TFLOP/s so low that every kernel passes them: what may not be run.
SLOWEST = {"naive": 3.0, "gemm": 15.0, "dense": 300.0}
MOST_SECONDS = 8.0


def functions(shape: Shape, on_gpu: bool) -> dict[str, Callable[..., jax.Array]]:
    """What is compared, by name; "materialized" is dense attention that keeps all weights."""
    found = {name: ours(shape, name) for name in (("fused", "gemm", "naive") if on_gpu else ())}
    if not on_gpu:
        found["fused"] = ours(shape, "fused")
    else:
        found["dense"] = dense(shape, "cudnn")
    found["materialized"] = dense(shape, "xla")
    return found


def _both(attend: Callable[..., jax.Array], query: Any, key: Any, value: Any, cotangent: Any):
    out, transpose = jax.vjp(attend, query, key, value)
    return out, *transpose(cotangent)


def program(shape: Shape, name: str, which: str, on_gpu: bool) -> Any:
    """The compiled pass, "forward" or "training" (both)."""
    attend = functions(shape, on_gpu)[name]
    full = (shape.batch, *shape.spatial, shape.heads, shape.head_dim)
    count = 3 if which == "forward" else 4
    given = [jax.ShapeDtypeStruct(full, shape.dtype)] * count
    step = jax.jit(attend if which == "forward" else functools.partial(_both, attend))
    # Tuning a product would allocate it.
    options: Any = {"xla_gpu_autotune_level": 0} if on_gpu else {}
    return step.lower(*given).compile(compiler_options=options)


def needed(executable: Any) -> int:
    """Bytes of its arguments, its results and what is between them."""
    sizes = executable.memory_analysis()
    return sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes


def longest(fits: Callable[[int], bool], step: int) -> int:
    """The largest multiple of `step` that fits, up to 2^14 of them; 0 if none does."""
    if not fits(step):
        return 0
    low = 1
    while low < 2**14 and fits(2 * low * step):
        low *= 2
    high = 2 * low
    while high - low > max(1, low // 64):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * step) else (low, middle)
    return low * step


def search(base: Shape, name: str, which: str, on_gpu: bool, limit: int) -> dict[str, Any]:
    """The row of an implementation and pass."""
    last = ""

    def fits(length: int) -> bool:
        nonlocal last
        try:
            shape = dataclasses.replace(base, spatial=(length,))
            return needed(program(shape, name, which, on_gpu)) <= limit
        except (jax.errors.JaxRuntimeError, NotImplementedError, RuntimeError, ValueError) as error:
            last = reason(error)
            return False

    step = base.spatial[0]
    tokens = longest(fits, step)
    row: dict[str, Any] = {"variant": name, "pass": which, "tokens": tokens, "refused": last}
    if not tokens:
        return row
    shape = dataclasses.replace(base, spatial=(tokens,))
    executable = program(shape, name, which, on_gpu)
    row["gib"] = round(needed(executable) / 2**30, 2)
    pairs = tokens * tokens if name in ("dense", "materialized") else 0
    pairs = pairs or window_of(shape).pairs(shape.spatial)
    flops = 4 * pairs * shape.heads * shape.head_dim * (3.5 if which == "training" else 1)
    if flops / 1e12 / SLOWEST.get(name, 50.0) > MOST_SECONDS:
        return row | {"ran": "not tried: it would take too long"}
    full = (shape.batch, *shape.spatial, shape.heads, shape.head_dim)
    try:
        ones = [jnp.ones(full, shape.dtype) for _ in range(3 if which == "forward" else 4)]
        start = time.perf_counter()
        results = executable(*ones)
        out = results[0] if which == "training" else results
        out = jax.block_until_ready(out)
        seconds = time.perf_counter() - start
        right = bool(jnp.max(jnp.abs(out[0, :: max(1, tokens // 64)] - 1)) < 0.02)
    except jax.errors.JaxRuntimeError as error:
        return row | {"ran": reason(error)}
    return row | {"ran": "right" if right else "wrong", "seconds": round(seconds, 2)}


def main() -> None:
    parser = arguments("context", __doc__)
    options = parser.parse_args()
    on_gpu = prepare(exact_memory=True) == "gpu"
    base = QUICK if options.quick else SEQUENCE
    if on_gpu:
        jax.block_until_ready(jnp.ones(1))  # what JAX takes for itself
    # Kernels need some too, when they are loaded.
    limit = (free_bytes() or 2**32) - 2**30 if on_gpu else 2**22
    record = Record(
        "context", options.output, quick=options.quick, limit=limit, shape=dataclasses.asdict(base)
    )
    for name in functions(base, on_gpu):
        for which in ("forward", "training"):
            record.add(**search(base, name, which, on_gpu, limit))


if __name__ == "__main__":
    main()
