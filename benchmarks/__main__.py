"""Times the CPU kernels beside plain-JAX formulations and prints a table.

    python -m benchmarks [--rounds 7] [--quick] [--json FILE] [--plot FILE]

Variants take turns, round by round, in one process on all cores; a row is the minimum and the
median in milliseconds. `threads` compares one core with two: it starts the "fused" rows again in
processes tied to one core and to two.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_na
from benchmarks.formulations import gather, masked_dense, shifted_views

# name, spatial, window, head_dim; 4 heads, batch 1, float32
PROBLEMS = [
    ("2-D 128x128 w 7x7", (128, 128), (7, 7), 32),
    ("3-D 16x32x32 w 3x5x5", (16, 32, 32), (3, 5, 5), 64),
    ("1-D 8192 w 255", (8192,), (255,), 64),
    ("2-D 64x64 w 31x31", (64, 64), (31, 31), 64),
]
QUICK = [("2-D 16x16 w 3x3", (16, 16), (3, 3), 8), ("1-D 256 w 15", (256,), (15,), 8)]
HEADS = 4
LARGEST_UNROLLED = (
    128  # slots of a window above which shifted views are not tried: an unrolled copy each
)
LARGEST_DENSE = 8192  # tokens above which all pairs are not tried


def variants(tokens: int, window: tuple[int, ...]) -> dict[str, Callable[..., jax.Array] | None]:
    """The implementations by name; None where one is out of the question at this size."""
    ours = jax_na.neighborhood_attention
    return {
        "fused": functools.partial(ours, kernel_size=window, implementation="fused"),
        "xla": functools.partial(ours, kernel_size=window, implementation="xla"),
        "gather": functools.partial(gather, window=window),
        "masked dense": (
            functools.partial(masked_dense, window=window) if tokens <= LARGEST_DENSE else None
        ),
        "shifted views": (
            functools.partial(shifted_views, window=window)
            if math.prod(window) <= LARGEST_UNROLLED
            else None
        ),
    }


def time_in_turns(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every call, one call of each function in a round, after one that compiles."""
    for function in functions.values():
        jax.block_until_ready(function())
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def measure(
    problem: tuple[str, tuple[int, ...], tuple[int, ...], int], rounds: int, only: str = ""
):
    """Rows of one problem: variant, pass, minimum and median."""
    name, spatial, window, dim = problem
    rng = np.random.default_rng(0)
    shape = (4, 1, *spatial, HEADS, dim)
    q, k, v, cotangent = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    rows = []
    tried = {n: f for n, f in variants(math.prod(spatial), window).items() if only in ("", n)}
    reference = None
    for which in ("forward", "forward+backward"):
        calls = {}
        for variant, function in tried.items():
            if function is None:
                rows.append({"problem": name, "variant": variant, "pass": which, "ms": None})
                continue
            if which == "forward":
                step = jax.jit(function)
                out = step(q, k, v)
                reference = out if reference is None else reference
                np.testing.assert_allclose(out, reference, rtol=1e-4, atol=1e-4)
            else:

                def loss(q, k, v, function=function):
                    return jnp.vdot(function(q, k, v), cotangent)

                step = jax.jit(jax.grad(loss, (0, 1, 2)))
            calls[variant] = functools.partial(step, q, k, v)
        for variant, times in time_in_turns(calls, rounds).items():
            rows.append(
                {
                    "problem": name,
                    "variant": variant,
                    "pass": which,
                    "ms": round(min(times), 3),
                    "median_ms": round(statistics.median(times), 3),
                }
            )
    return rows


def scaling(quick: bool, rounds: int) -> list[dict[str, Any]]:
    """The fused rows in a process of its own on one core and on two (CPU affinity set before JAX
    starts).
    """
    rows = []
    cores = sorted(os.sched_getaffinity(0))[:2]
    for count in range(1, len(cores) + 1):
        arguments = ["benchmarks", "--fused-only", "--rounds", str(rounds)]
        program = (
            f"import os, runpy, sys; os.sched_setaffinity(0, {cores[:count]}); "
            f"sys.argv = {arguments + (['--quick'] if quick else [])}; "
            "runpy.run_module('benchmarks', run_name='__main__')"
        )
        result = subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True
        )
        rows += [row | {"threads": count} for row in json.loads(result.stdout)]
    return rows


def processor() -> str:
    """The model name of this machine's processor."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def ratio_table(rows: list[dict[str, Any]]) -> str:
    """One line per problem and pass: milliseconds, and how many times faster fused is than each."""
    lines = []
    for name, which in dict.fromkeys((r["problem"], r["pass"]) for r in rows):
        times = {r["variant"]: r["ms"] for r in rows if (r["problem"], r["pass"]) == (name, which)}
        cells = [f"fused {times['fused']:8.2f} ms"]
        for variant, ms in times.items():
            if variant != "fused":
                cell = "not tried" if ms is None else f"{ms:.1f} ms ({ms / times['fused']:.1f}x)"
                cells.append(f"{variant} {cell}")
        lines.append(f"{name:22} {which:17} " + "; ".join(cells))
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Grouped bars, one panel per pass, logarithmic milliseconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.5), dpi=100, layout="constrained")
    problems = list(dict.fromkeys(r["problem"] for r in rows))
    names = list(dict.fromkeys(r["variant"] for r in rows))
    panels: Any = figure.subplots(1, 2, sharey=True)
    for ax, which in zip(panels, ("forward", "forward+backward"), strict=True):
        for i, variant in enumerate(names):
            chosen = {
                r["problem"]: r["ms"] for r in rows if (r["variant"], r["pass"]) == (variant, which)
            }
            heights = [chosen[p] or np.nan for p in problems]
            ax.bar(np.arange(len(problems)) + 0.16 * (i - 2), heights, 0.15, label=variant)
        ax.set(yscale="log", title=which, ylabel="ms (lower is better)")
        ax.set_xticks(range(len(problems)), [p.replace(" w", "\nw") for p in problems])
    panels[0].legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each variant")
    parser.add_argument("--quick", action="store_true", help="tiny problems: does it all run?")
    parser.add_argument("--fused-only", action="store_true", help="print the fused rows as JSON")
    parser.add_argument("--json", type=pathlib.Path, help="write every row here")
    parser.add_argument("--plot", type=pathlib.Path, help="write a picture here")
    options = parser.parse_args()
    chosen = QUICK if options.quick else PROBLEMS
    if options.fused_only:
        print(json.dumps([r for p in chosen for r in measure(p, options.rounds, "fused")]))
        return
    rows = []
    for problem in chosen:
        rows += measure(problem, options.rounds)
        print(ratio_table([r for r in rows if r["problem"] == problem[0]]), flush=True)
    threads = scaling(options.quick, options.rounds)
    for one, two in zip(threads[: len(threads) // 2], threads[len(threads) // 2 :], strict=False):
        print(f"{one['problem']:22} {one['pass']:17} 2 threads {one['ms'] / two['ms']:.2f}x of 1")
    report = {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "instruction_set": jax_na._core.cpu_instruction_set,
        "date": datetime.date.today().isoformat(),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "heads": HEADS,
        "dtype": "float32",
        "rows": rows,
        "threads": threads,
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
