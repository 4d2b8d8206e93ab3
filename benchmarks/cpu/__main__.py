"""Times the CPU kernels beside plain-JAX formulations and prints a table.

    python -m benchmarks.cpu [--rounds 7] [--quick] [--torch-python PYTHON] [--save]

Variants take turns, round by round, in one process on all cores; a row is the minimum and the
median in milliseconds of calls that follow others of the same variant. PyTorch's FlexAttention,
forward only, runs in a process of its own. The "fused" rows run again in processes tied to one core
and to two, and for their peak memory.
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
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_na
from benchmarks.cpu.formulations import blocked, gather, masked_dense, shifted_views
from benchmarks.cpu.memory import extra_memory
from benchmarks.cpu.problems import HEADS, PROBLEMS, QUICK, Problem
from benchmarks.cpu.report import markdown, plot

RESULTS = pathlib.Path(__file__).parents[1] / "results"

# Slots of a window above which shifted views are not tried: each is an unrolled copy.
LARGEST_UNROLLED = 128
LARGEST_DENSE = 8192  # tokens above which all pairs are not tried
UNTIMED = 2  # calls before a timed one,
SHORT = 0.5  # of what takes fewer seconds


def variants(problem: Problem) -> dict[str, Callable[..., jax.Array] | None]:
    """The implementations by name; None where one is out of the question at this size."""
    ours, window, tokens = (
        jax_na.neighborhood_attention,
        problem.window,
        math.prod(problem.spatial),
    )
    return {
        "fused": functools.partial(ours, kernel_size=window, implementation="fused"),
        "xla": functools.partial(ours, kernel_size=window, implementation="xla"),
        "blocked": functools.partial(
            blocked,
            window=window,
            block=problem.block,
            chunk=problem.chunk,
            keys_first=problem.keys_first,
        ),
        "gather": functools.partial(gather, window=window, chunk=problem.gather_chunk),
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
    """Milliseconds of a call of each function in every round.

    The first call after another variant's turn gets memory that may have to come from the operating
    system, or from a virtual machine's host. Where calls are short, some go first untimed.
    """

    def seconds(function: Callable[[], Any]) -> float:
        start = time.perf_counter()
        jax.block_until_ready(function())
        return time.perf_counter() - start

    times: dict[str, list[float]] = {name: [] for name in functions}
    untimed = {}
    for name, function in functions.items():
        seconds(function)  # compiles
        untimed[name] = UNTIMED if seconds(function) < SHORT else 0
    for _ in range(rounds):
        for name, function in functions.items():
            for _ in range(untimed[name]):
                seconds(function)
            times[name].append(1e3 * seconds(function))
    return times


def inputs(problem: Problem) -> jax.Array:
    """q, k, v and a cotangent."""
    rng = np.random.default_rng(0)
    shape = (4, 1, *problem.spatial, HEADS, problem.head_dim)
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def row(problem: Problem, variant: str, which: str, times: list[float]) -> dict[str, Any]:
    """One line of the report."""
    return {
        "problem": problem.name,
        "variant": variant,
        "pass": which,
        "ms": round(min(times), 3),
        "median_ms": round(statistics.median(times), 3),
    }


def measure(problem: Problem, rounds: int, only: str = "") -> list[dict[str, Any]]:
    """Rows of one problem: variant, pass, minimum and median."""
    name = problem.name
    q, k, v, cotangent = inputs(problem)
    rows = []
    tried = {n: f for n, f in variants(problem).items() if only in ("", n)}
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
            rows.append(row(problem, variant, which, times))
    return rows


def measure_flex_attention(
    problems: list[Problem], rounds: int, python: str
) -> tuple[list[dict[str, Any]], str]:
    """Rows of PyTorch's FlexAttention, whose results are compared with ours, and its version."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "problems.json").write_text(json.dumps([p._asdict() for p in problems]))
        for i, problem in enumerate(problems):
            q, k, v, _ = np.asarray(inputs(problem))
            np.savez(folder / f"{i}.npz", q=q, k=k, v=v)
        script = pathlib.Path(__file__).with_name("flex_attention.py")
        cores = str(len(os.sched_getaffinity(0)))
        command = [python, script, folder / "problems.json", folder, str(rounds), cores]
        found = subprocess.run(command, check=True, capture_output=True, text=True)
        report = json.loads(found.stdout.splitlines()[-1])
        for i, (problem, times) in enumerate(zip(problems, report["ms"], strict=True)):
            q, k, v, _ = inputs(problem)
            ours = jax_na.neighborhood_attention(q, k, v, problem.window)
            theirs = np.load(folder / f"{i}.out.npy")
            np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4)
            rows.append(row(problem, "FlexAttention", "forward", times))
    return rows, report["torch"]


def scaling(quick: bool, rounds: int) -> list[dict[str, Any]]:
    """The fused rows in a process of its own on one core and on two (CPU affinity set before JAX
    starts).
    """
    rows = []
    cores = sorted(os.sched_getaffinity(0))[:2]
    for count in range(1, len(cores) + 1):
        arguments = ["benchmarks.cpu", "--fused-only", "--rounds", str(rounds)]
        program = (
            f"import os, runpy, sys; os.sched_setaffinity(0, {cores[:count]}); "
            f"sys.argv = {arguments + (['--quick'] if quick else [])}; "
            "runpy.run_module('benchmarks.cpu', run_name='__main__')"
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.cpu")
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each variant")
    parser.add_argument("--quick", action="store_true", help="tiny problems: does it all run?")
    parser.add_argument("--fused-only", action="store_true", help="print the fused rows as JSON")
    parser.add_argument("--torch-python", help="a Python that has torch, to time FlexAttention")
    parser.add_argument("--save", action="store_true", help="write to benchmarks/results")
    options = parser.parse_args()
    chosen = QUICK if options.quick else PROBLEMS
    if options.fused_only:
        print(json.dumps([r for p in chosen for r in measure(p, options.rounds, "fused")]))
        return
    rows, versions = [], {"jax": jax.__version__, "python": platform.python_version()}
    for problem in chosen:
        print(problem.name, file=sys.stderr, flush=True)
        rows += measure(problem, options.rounds)
    if options.torch_python:
        more, versions["torch"] = measure_flex_attention(
            chosen, options.rounds, options.torch_python
        )
        rows += more
    memory = [
        {"problem": problem.name, "pass": which} | extra_memory(i, which, options.quick)
        for i, problem in enumerate(chosen)
        for which in ("forward", "forward+backward")
    ]
    report = {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "instruction_set": jax_na._core.cpu_instruction_set,
        "date": datetime.date.today().isoformat(),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "versions": versions,
        "heads": HEADS,
        "dtype": "float32",
        "rows": rows,
        "threads": scaling(options.quick, options.rounds),
        "memory": memory,
    }
    print(markdown(report))
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        words = "".join(c if c.isalnum() else " " for c in report["processor"]).split()
        stem = RESULTS / f"cpu-{'-'.join(words).lower()}-{report['date']}"
        stem.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        plot(report["rows"], stem.with_suffix(".png"))


if __name__ == "__main__":
    main()
