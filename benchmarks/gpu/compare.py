"""Real problems, forward and backward: our implementations, dense attention and FlexAttention.

    python -m benchmarks.gpu.compare [--only flux,nat] [--variants fused,dense]
                                     [--skip-torch] [--torch-python PYTHON]

Everything in JAX takes turns; FlexAttention runs in a process of its own between two readings of a
yardstick, dense attention of 8192 tokens by cuDNN. A variant "warps", for those who ask for it,
is `fused` by the kernels for every GPU where those for Hopper would run, forward.
"""

from __future__ import annotations

import functools
import sys
import time
from typing import Any

import jax

import jax_na
from benchmarks.gpu import flex_process
from benchmarks.gpu.bounds import bound_ms, ceilings, forward_plan, visited_gflop, work
from benchmarks.gpu.device import prepare
from benchmarks.gpu.record import Record, arguments
from benchmarks.gpu.shapes import Shape, chosen
from benchmarks.gpu.timing import Timed, in_turns, summary
from benchmarks.gpu.variants import attempt, backward, dense, forward, make_sets, ours, variants

PASSES = {"forward": forward, "backward": backward}
YARDSTICK = Shape("yardstick", "dense, 8192 tokens", 1, (8192,), 24, 128, (8192,))
QUICK_YARDSTICK = Shape("yardstick", "dense, 64 tokens", 1, (64,), 2, 16, (64,))
#: Seconds that a problem may take in PyTorch, and all of them that compile first.
FLEX_SECONDS, WARM_SECONDS, WARM_PROCESSES = 90.0, 150.0, 8


def yardstick(quick: bool, on_gpu: bool) -> Timed:
    """Something else to time before and after, to tell a slower card from slower code."""
    shape = QUICK_YARDSTICK if quick else YARDSTICK
    found = attempt(lambda: forward(dense(shape, "cudnn" if on_gpu else "xla"), make_sets(shape)))
    if isinstance(found, str):
        raise SystemExit(f"the yardstick does not run: {found}")
    return found


def measure(record: Record, shape: Shape, only: list[str], rounds: int) -> None:
    """Adds a row for each implementation in JAX and pass."""
    sets = make_sets(shape)
    plan = forward_plan(shape) if jax.default_backend() == "gpu" else None
    for which, build in PASSES.items():
        found = work(shape, which)
        row: dict[str, Any] = {"problem": shape.name, "pass": which}
        about = {
            "gflop": round(found["gflop"], 4),
            "gbyte": round(found["gbyte"], 5),
            "bound_ms": round(bound_ms(found, shape.dtype, record.report["ceilings"]), 5),
        }
        timed = {}
        offered = variants(shape)
        if "warps" in only and which == "forward":  # a plan is the forward pass's
            offered["warps"] = functools.partial(
                ours(shape, "fused"), plan=jax_na.CudaPlan("warps")
            )
        for name, function in offered.items():
            if only and name not in only:
                continue
            one = attempt(lambda function=function, build=build: build(function, sets))
            if isinstance(one, str):
                record.add(**row, variant=name, ms=None, reason=one)
            else:
                timed[name] = one
        for name, samples in in_turns(timed, rounds, short_turns=3).items():
            if name == "fused" and which == "forward" and plan:
                about |= {"plan": str(plan), "visited_gflop": visited_gflop(shape, plan)}
            record.add(**row, variant=name, **summary(samples), **about)
            about.pop("plan", None)
            about.pop("visited_gflop", None)


def main() -> None:
    parser = arguments("compare", __doc__)
    parser.add_argument("--only", default="", help="words in the names of problems, with commas")
    parser.add_argument("--variants", default="", help="names of implementations, with commas")
    parser.add_argument("--skip-torch", action="store_true", help="no FlexAttention")
    parser.add_argument("--torch-python", default=sys.executable, help="a Python with PyTorch")
    options = parser.parse_args()
    on_gpu = prepare() == "gpu"
    # The longest last, for whoever cannot wait.
    shapes = sorted(
        chosen(options.only, options.quick), key=lambda shape: work(shape, "forward")["gflop"]
    )
    only = [name for name in options.variants.split(",") if name]
    start = time.monotonic()
    record = Record(
        "compare", options.output, f"{options.only} {options.variants}", quick=options.quick
    )
    flex = None
    if not options.skip_torch:
        if on_gpu:
            flex_process.warm(options.torch_python, shapes, WARM_PROCESSES, WARM_SECONDS)
            record.note(seconds_to_warm=round(time.monotonic() - start, 1))
        flex = flex_process.FlexProcess(
            options.torch_python, () if on_gpu else ("--device", "cpu", "--eager")
        )
    record.note(ceilings=ceilings(options.quick))
    reading = yardstick(options.quick, on_gpu)

    def read(when: str) -> None:
        samples = in_turns({"yardstick": reading}, 3)["yardstick"]
        record.add(problem=when, variant="yardstick", **{"pass": "forward"}, **summary(samples))

    for shape in shapes:
        read(f"before {shape.name}")
        measure(record, shape, only, options.rounds)
        if flex is not None:
            for row in flex.measure(shape, options.rounds, FLEX_SECONDS):
                record.add(problem=shape.name, variant="flex", **row)
        record.note(seconds=round(time.monotonic() - start, 1))
    read(f"after {shapes[-1].name}")
    if flex is not None:
        flex.close()


if __name__ == "__main__":
    main()
