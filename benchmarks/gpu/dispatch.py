"""What a call costs beside its kernels: a small problem, 100 times in a jitted loop.

    python -m benchmarks.gpu.dispatch

Every loop runs with XLA's command buffers and without, in a process of its own. The kernels' own
time is what the profiler says of the loop without them. The loop named "empty" adds two arrays.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.gpu.record import Record, arguments
from benchmarks.gpu.shapes import Shape

CALLS = 100
SMALL = Shape("small", "none", 1, (32, 32), 4, 32, (7, 7))
TINY = Shape("tiny", "none", 1, (8, 8), 2, 8, (3, 3))
PARTS = {"command buffers": "", "no command buffers": " --xla_gpu_enable_command_buffer="}


def loops(step: Callable[[Any], Any]) -> dict[str, Callable[[Any], Any]]:
    """Ways to call `step` on its own result."""
    import jax

    def unrolled(x):
        for _ in range(CALLS):
            x = step(x)
        return x

    return {
        "fori_loop": lambda x: jax.lax.fori_loop(0, CALLS, lambda _, y: step(y), x),
        "unrolled": unrolled,
    }


def measure(shape: Shape, rounds: int) -> list[dict[str, Any]]:
    """Rows of this process: microseconds of a call, and those of its kernels where there is a
    profiler.
    """
    import jax

    from benchmarks.gpu.profile import is_attention, kernels
    from benchmarks.gpu.timing import Timed, in_turns
    from benchmarks.gpu.variants import compiled, make_sets, ours

    query, key, value, _ = make_sets(shape)[0]
    attend = ours(shape, "fused")
    steps = {
        "fused forward": lambda x: attend(x, key, value),
        "fused forward and backward": lambda x: jax.vjp(attend, x, key, value)[1](value)[0],
        "empty": lambda x: x + value,
    }
    timed, rows = {}, []
    for name, step in steps.items():
        for loop, run in loops(step).items():
            timed[name, loop] = Timed(compiled(run, query), CALLS)
            jax.block_until_ready(timed[name, loop].dispatch())
    named = {" in ".join(key): one for key, one in timed.items()}
    for (name, loop), samples in zip(timed, in_turns(named, rounds).values(), strict=True):
        ran = kernels(timed[name, loop].dispatch)
        busy = sum(kernel.duration_us for kernel in ran) / CALLS
        ours_alone = sum(kernel.duration_us for kernel in ran if is_attention(kernel.name)) / CALLS
        rows.append(
            {
                "step": name,
                "loop": loop,
                "us": round(1e3 * sorted(samples)[len(samples) // 2], 3),
                "kernels": round(len(ran) / CALLS, 2),
                "kernel_us": round(busy, 3),
                "attention_us": round(ours_alone, 3),
                "names": sorted({kernel.name[:80] for kernel in ran})[:8],
            }
        )
    return rows


def main() -> None:
    parser = arguments("dispatch", __doc__)
    parser.add_argument("--part", help="print the rows of one process as JSON")
    options = parser.parse_args()
    shape = TINY if options.quick else SMALL
    if options.part:
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + PARTS[options.part]
        print(json.dumps(measure(shape, options.rounds)))
        return
    found = {}
    for part in PARTS:  # before JAX takes memory in this process
        command = [sys.executable, "-m", "benchmarks.gpu.dispatch", "--part", part]
        command += ["--rounds", str(options.rounds)] + (["--quick"] if options.quick else [])
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[part] = json.loads(run.stdout.splitlines()[-1])
    record = Record("dispatch", options.output, quick=options.quick, calls=CALLS)
    for part, rows in found.items():
        for row in rows:
            record.add(mode=part, **row)


if __name__ == "__main__":
    main()
