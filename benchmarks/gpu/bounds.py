"""What a pass costs at least, what the kernels visit for it, and how fast the device is."""

from __future__ import annotations

import math
import statistics
from typing import Any

import jax
import jax.numpy as jnp

import jax_na
from benchmarks.gpu.inputs import in_jax
from benchmarks.gpu.shapes import Shape
from benchmarks.gpu.timing import Timed, in_turns
from benchmarks.gpu.variants import compiled, window_of

_WARPGROUP_ROWS = 64


def work(shape: Shape, which: str) -> dict[str, float]:
    """Useful floating-point operations of a pass, in GFLOP, and the bytes it must move, in GB."""
    window, backward = window_of(shape), which == "backward"
    sizes: dict[str, Any] = {"batch": shape.batch, "heads": shape.heads}
    flops = window.flops(shape.spatial, head_dim=shape.head_dim, backward=backward, **sizes)
    moved = window.bytes(
        shape.spatial,
        head_dim=shape.head_dim,
        itemsize=shape.itemsize,
        backward=backward,
        **sizes,
    )
    return {"gflop": flops / 1e9, "gbyte": moved / 1e9}


def forward_traffic(shape: Shape, variant: str) -> dict[str, float]:
    """Useful operations of a forward pass in GFLOP, and those per byte that has to go through
    memory as the implementation is made: "gemm" also writes float32 scores, reads them, and writes
    and reads weights; "dense" attends to all tokens.
    """
    found = work(shape, "forward")
    moved = 1e9 * found["gbyte"]
    if variant == "gemm":
        rows = shape.batch * shape.tokens * shape.heads
        moved += rows * math.prod(shape.window) * (2 * 4 + 2 * shape.itemsize)
    if variant == "dense":
        pairs = shape.batch * shape.heads * shape.tokens**2
        causal = len(shape.spatial) == 1 and shape.causal[0]
        found["gflop"] = 4 * pairs * shape.head_dim / 1e9 / (2 if causal else 1)
    return {
        "gflop": round(found["gflop"], 4),
        "intensity": round(1e9 * found["gflop"] / moved, 2),
    }


def forward_plan(shape: Shape) -> jax_na.CudaPlan | None:
    """What runs the fused forward pass on this GPU, or on an H100 where there is none; None where
    no CUDA kernel can.
    """
    here: dict[str, Any] = {"multiprocessors": None} if jax.default_backend() == "gpu" else {}
    found = jax_na.cuda_plans(
        window_of(shape),
        shape.spatial,
        batch=shape.batch,
        heads=shape.heads,
        head_dim=shape.head_dim,
        dtype=shape.dtype,
        most=1,
        **here,
    )
    return found[0] if len(found) else None


def visited_gflop(shape: Shape, plan: jax_na.CudaPlan) -> float | None:
    """Operations on whole tiles that a forward plan makes; None where it does not say."""
    if not plan.tiles:
        return None
    rows = _WARPGROUP_ROWS * math.prod(plan.warpgroups)
    pairs = plan.launches * plan.tiles * rows * math.prod(plan.keys)
    return 4 * pairs * shape.head_dim / 1e9


def ceilings(quick: bool) -> dict[str, float]:
    """TFLOP/s of a large matrix product in bfloat16 and in float32 as JAX multiplies it by default,
    and GB/s of a copy, read and written.
    """
    side, length = (256, 2**16) if quick else (8192, 2**29)
    timed = {}
    for dtype in ("bfloat16", "float32"):
        left, right = (in_jax(name, 0, (side, side), dtype) for name in ("query", "key"))
        timed[dtype] = Timed(compiled(jnp.matmul, left, right))
    source = in_jax("value", 0, (length,), "bfloat16")
    timed["copy"] = Timed(compiled(jnp.negative, source))
    for one in timed.values():
        jax.block_until_ready(one.dispatch())
    # A sample is a difference of two times, and the shortest of them can be too short.
    seconds = {name: statistics.median(ms) / 1e3 for name, ms in in_turns(timed, 5).items()}
    return {
        "bfloat16_tflops": round(2 * side**3 / seconds["bfloat16"] / 1e12, 6),
        "float32_tflops": round(2 * side**3 / seconds["float32"] / 1e12, 6),
        "memory_gbs": round(2 * 2 * length / seconds["copy"] / 1e9, 3),
    }


def bound_ms(found: dict[str, float], dtype: str, ceiling: dict[str, float]) -> float:
    """Milliseconds that no implementation can beat: useful operations at the rate of a matrix
    product, or the bytes at that of a copy.
    """
    rate = ceiling["float32_tflops" if dtype == "float32" else "bfloat16_tflops"]
    return max(found["gflop"] / rate, 1e3 * found["gbyte"] / ceiling["memory_gbs"])
