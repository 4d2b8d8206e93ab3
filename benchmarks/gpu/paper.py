"""The comparison of "Faster Neighborhood Attention": fused and gemm over naive, forward.

    python -m benchmarks.gpu.paper [--rank 2] [--count 200] [--first 0]

Half precision is float16. Full precision is float32 arrays: the naive kernels multiply in float32,
gemm and fused in TF32 as JAX does by default ("float32"), and to float32's accuracy ("highest").
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import time
from typing import Any

import jax
import numpy as np

from benchmarks.gpu.device import prepare
from benchmarks.gpu.record import Record, arguments
from benchmarks.gpu.sample import draw
from benchmarks.gpu.shapes import Shape
from benchmarks.gpu.timing import Timed, in_turns, input_sets
from benchmarks.gpu.variants import attempt, compiled, ours

KINDS = {"half": ("float16", None), "float32": ("float32", None), "highest": ("float32", "highest")}
AT_ONCE = 16  # problems that are compiled together, by several threads
MOST_SETS = 4
THREADS = 12


@functools.cache
def _numbers(dtype: str) -> np.ndarray:
    """Random numbers for all inputs, which are parts of them. Made on the host, where no shape
    needs a program of its own.
    """
    rng = np.random.default_rng(0)
    return rng.standard_normal(2**24 + 2**20, np.float32).astype(dtype)


def _sets(shape: Shape, dtype: str) -> list[tuple[jax.Array, ...]]:
    full = (shape.batch, *shape.spatial, shape.heads, shape.head_dim)
    size = int(np.prod(full))
    numbers, count = _numbers(dtype), min(MOST_SETS, input_sets(4 * shape.tensor_bytes))

    def part(i: int) -> jax.Array:
        begin = i * 65_537 % (len(numbers) - size)
        return jax.device_put(numbers[begin : begin + size].reshape(full))

    return [tuple(part(3 * i + j) for j in range(3)) for i in range(count)]


def _build(shape: Shape, implementation: str, kind: str, sets: Any) -> Timed | str:
    dtype, precision = KINDS[kind]
    attend = functools.partial(
        ours(dataclasses.replace(shape, dtype=dtype), implementation), precision=precision
    )

    def every(sets):
        return [attend(*inputs) for inputs in sets]

    return attempt(lambda: Timed(compiled(every, sets), len(sets)))


def measure(record: Record, shapes: list[Shape], implementations: list[str], rounds: int) -> None:
    """Adds a row for each of `shapes`, which are compiled together."""
    wanted = [
        (shape, implementation, kind)
        for shape in shapes
        for kind in KINDS
        for implementation in implementations
        # The naive kernels have one way to multiply float32.
        if (implementation, kind) != ("naive", "highest")
    ]
    arrays = [(shape, dtype) for shape in shapes for dtype in ("float16", "float32")]
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        made = pool.map(_sets, *zip(*arrays, strict=True))
        sets = {(s.name, dtype): one for (s, dtype), one in zip(arrays, made, strict=True)}
        inputs = [sets[shape.name, KINDS[kind][0]] for shape, _, kind in wanted]
        built = list(pool.map(_build, *zip(*wanted, strict=True), inputs))
    for shape in shapes:
        mine = {
            f"{implementation} {kind}": one
            for (which, implementation, kind), one in zip(wanted, built, strict=True)
            if which is shape
        }
        timed = {name: one for name, one in mine.items() if isinstance(one, Timed)}
        found = in_turns(timed, rounds, 0.004)
        record.add(
            rank=len(shape.spatial),
            problem=shape.name,
            batch=shape.batch,
            spatial=shape.spatial,
            heads=shape.heads,
            head_dim=shape.head_dim,
            window=shape.window,
            dilation=shape.dilation,
            ms={name: round(float(np.median(samples)), 5) for name, samples in found.items()},
            refused={name: one for name, one in mine.items() if isinstance(one, str)},
        )


def main() -> None:
    parser = arguments("paper", __doc__)
    parser.add_argument("--rank", type=int, choices=(1, 2, 3), help="one rank only")
    parser.add_argument("--count", type=int, default=200, help="problems of a rank [200]")
    parser.add_argument("--first", type=int, default=0, help="go on from this problem [0]")
    parser.add_argument("--seconds", type=float, default=600, help="stop a rank after so many")
    options = parser.parse_args()
    on_gpu = prepare() == "gpu"
    implementations = ["naive", "gemm", "fused"] if on_gpu else ["fused"]
    ranks = [options.rank] if options.rank else [1, 2, 3]
    part = f"{options.rank}d" if options.rank else ""
    part += f" from {options.first}" if options.first else ""
    record = Record("paper", options.output, part, quick=options.quick)
    for rank in ranks:
        shapes = draw(rank, options.count)[options.first :]
        if options.quick:
            shapes = sorted(shapes, key=lambda s: s.tokens * s.batch * s.heads)[:2]
        start = time.monotonic()
        for first in range(0, len(shapes), AT_ONCE):
            if time.monotonic() - start > options.seconds:
                record.note(**{f"stopped_{rank}d": options.first + first})
                break
            measure(record, shapes[first : first + AT_ONCE], implementations, options.rounds)
        record.note(**{f"seconds_{rank}d": round(time.monotonic() - start, 1)})


if __name__ == "__main__":
    main()
