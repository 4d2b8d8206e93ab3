"""Measures plans of the Hopper forward kernel, and fits the prices of its planner to them.

    python -m benchmarks.gpu.hopper_costs measure FILE [--seconds 240]   on a GPU of capability 9.0
    python -m benchmarks.gpu.hopper_costs fit FILE                       anywhere

`measure` times good and bad plans of many problems, in turn. `fit` prints the prices of
cuda/hopper/cost.cc that suit them best, how far predictions with the prices in use and with the
fitted ones are off, and writes both into the file.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import json
import math
import pathlib
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_na
from jax_na._tune import device_timer, measure

#: Which of the ranked plans of a problem are measured.
RANKS = (0, 1, 4, 12, 40)
ROUNDS = 5
GIGAHERTZ = 1.6


@dataclasses.dataclass(frozen=True)
class Problem:
    name: str
    spatial: tuple[int, ...]
    kernel_size: tuple[int | None, ...]
    batch: int
    heads: int
    head_dim: int
    stride: int | tuple[int, ...] = 1
    dilation: int | tuple[int, ...] = 1
    is_causal: bool = False


PROBLEMS = (
    Problem("flux", (256, 256), (80, 80), 1, 12, 128),
    Problem("flux, 64 features", (256, 256), (80, 80), 1, 12, 64),
    Problem("flux, stride 16", (256, 256), (80, 80), 1, 12, 128, stride=16),
    Problem("hunyuan-video", (30, 48, 80), (18, 24, 24), 1, 4, 128),
    Problem("sequence", (32768,), (2048,), 1, 16, 128),
    Problem("sequence, causal", (32768,), (2048,), 1, 16, 128, is_causal=True),
    Problem("sequence, 64 features", (32768,), (2048,), 1, 16, 64),
    Problem("dense, 32 features", (8192,), (None,), 1, 16, 32),
    Problem("dense, 64 features", (8192,), (None,), 1, 16, 64),
    Problem("dense, 96 features", (8192,), (None,), 1, 16, 96),
    Problem("dense, 128 features", (8192,), (None,), 1, 16, 128),
    Problem("dense, 192 features", (8192,), (None,), 1, 8, 192),
    Problem("dense, 256 features", (8192,), (None,), 1, 8, 256),
    Problem("weather", (180, 360), (15, 31), 1, 16, 64),
    Problem("small windows", (256, 256), (7, 7), 4, 2, 64),
    Problem("volume", (48, 48, 48), (7, 7, 7), 2, 4, 32),
    Problem("NAT", (56, 56), (7, 7), 64, 2, 32),
    Problem("plane, 96 features", (128, 128), (33, 33), 2, 8, 96),
    Problem("plane, 192 features", (96, 96), (24, 24), 2, 8, 192),
    Problem("plane, 256 features", (96, 96), (31, 31), 2, 8, 256),
    Problem("audio, dilation 4", (16384,), (127,), 8, 8, 64, dilation=4),
    Problem("plane, dilation 16", (256, 256), (15, 15), 2, 8, 64, dilation=16),
    Problem("line, dilation 16", (16384,), (255,), 2, 8, 128, dilation=16),
    Problem("few items", (64, 64), (40, 40), 1, 6, 128),
    Problem("few items, 64 features", (64, 64), (40, 40), 1, 6, 64),
    Problem("a round and a bit", (4096,), (1024,), 1, 5, 128),
    Problem("less than a round", (48, 48), (24, 24), 1, 4, 128),
    Problem("one item each", (32, 32, 32), (5, 5, 5), 1, 1, 64),
)


def rows_of(problem: Problem) -> list[dict[str, Any]]:
    """Measured plans of a problem: some of the Hopper kernel, and the one of warps."""
    window = jax_na.Window(problem.kernel_size, problem.stride, problem.dilation, problem.is_causal)
    ranked = jax_na.cuda_plans(
        window,
        problem.spatial,
        batch=problem.batch,
        heads=problem.heads,
        head_dim=problem.head_dim,
        multiprocessors=None,
        most=max(RANKS) + 1,
    ).ranked
    hopper = [plan for plan in ranked if plan.kernel == "hopper"]
    plans = [hopper[rank] for rank in RANKS if rank < len(hopper)]
    plans += [plan for plan in ranked if plan.kernel == "warps"]
    shape = (problem.batch, *problem.spatial, problem.heads, problem.head_dim)
    names = ("query", "key", "value")
    operands = {
        name: jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16)
        for seed, name in enumerate(names)
    }
    attend = functools.partial(
        jax_na.neighborhood_attention,
        kernel_size=problem.kernel_size,
        stride=problem.stride,
        dilation=problem.dilation,
        is_causal=problem.is_causal,
        implementation="fused",
    )
    return [
        {
            "problem": problem.name,
            "head_dim": problem.head_dim,
            "kernel": one.plan.kernel,
            "plan": one.plan.text,
            "launches": one.plan.launches,
            "items": one.plan.items,
            "tiles": one.plan.tiles,
            "masked_tiles": one.plan.masked_tiles,
            "measured_ms": one.measured_ms,
            "predicted_ms": one.predicted_ms,
        }
        for one in measure(plans, device_timer(attend, operands), ROUNDS)
    ]


def run_measure(path: pathlib.Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    rows: list[dict[str, Any]] = []
    for problem in PROBLEMS:
        if time.monotonic() > end:
            print(f"out of time before {problem.name!r}")
            break
        found = rows_of(problem)
        rows += found
        for row in found:
            print(
                f"{row['problem']:24} {row['kernel']:6} {row['measured_ms']:9.4f} ms, predicted "
                f"{row['predicted_ms']:9.4f}, {row['measured_ms'] / row['predicted_ms']:.2f}",
                flush=True,
            )
        path.write_text(json.dumps(_report(rows), indent=1) + "\n")


def _report(rows: list[dict[str, Any]]) -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "multiprocessors": getattr(device, "core_count", None),
        "date": datetime.date.today().isoformat(),
        "versions": {"jax": jax.__version__, "jax_na": jax_na.__version__},
        "rows": rows,
    }


# ---- The model: that of cuda/hopper/cost.cc, whose prices are the parameters ---------------------

#: Keys of a tile, by the head dimension of the kernel.
BLOCKS = {32: 128, 64: 128, 96: 128, 128: 128, 192: 96, 256: 64}
#: The prices of cuda/hopper/cost.cc.
USED = {
    "product": 0.728,  # of a tile's products at the tensor cores' rate
    "softmax": 0.0558,  # clocks of a pair
    "power": 2.85,  # how little products and softmax get in each other's way
    "tile": 950.0,
    "masked_pair": 0.0227,
    "item": 1630.0,
    "item_feature": 22.0,
    "launch": 11200.0,
    "whole_rounds": 0.25,  # the rest begins a round as soon as there is room
    # Of a call, not of a plan: what the measurement adds. No planner needs it.
    "call": 0.0,
}
FITTED = tuple(USED)


def predicted_ms(row: dict[str, Any], prices: dict[str, float], multiprocessors: int) -> float:
    pairs = 128.0 * BLOCKS[row["head_dim"]]
    product = prices["product"] * pairs * 4 * row["head_dim"] / 4096
    softmax = prices["softmax"] * pairs
    power = prices["power"]
    tile = (product**power + softmax**power) ** (1 / power) + prices["tile"]
    items = row["items"]
    item = prices["item"] + prices["item_feature"] * row["head_dim"]
    each = (row["tiles"] * tile + row["masked_tiles"] * prices["masked_pair"] * pairs) / items
    full = max(1.0, math.ceil(items / multiprocessors))
    share = prices["whole_rounds"]
    rounds = share * full + (1 - share) * max(1.0, items / multiprocessors)
    launches = row["launches"] * ((each + item) * rounds + prices["launch"])
    return (launches + prices["call"]) / (GIGAHERTZ * 1e6)


def errors(rows: list[dict[str, Any]], prices: dict[str, float], multiprocessors: int) -> list:
    """log(predicted / measured) of every row."""
    return [
        math.log(predicted_ms(row, prices, multiprocessors) / row["measured_ms"]) for row in rows
    ]


def fitted(rows: list[dict[str, Any]], multiprocessors: int) -> dict[str, float]:
    """Prices of the least squares of logarithms, by steps of Levenberg and Marquardt in the
    logarithms of the prices, with a weak pull to the prices in use where rows say nothing.
    """
    start = {name: value or 10000.0 for name, value in USED.items()}
    names = [name for name in FITTED if name != "whole_rounds"]
    best: tuple[float, dict[str, float]] | None = None
    for whole in (0.0, 0.25, 0.5, 0.75, 1.0):
        at = np.zeros(len(names))

        def prices_at(at: np.ndarray, whole: float = whole) -> dict[str, float]:
            found = {name: start[name] * math.exp(x) for name, x in zip(names, at, strict=True)}
            return found | {"whole_rounds": whole}

        def residuals(at: np.ndarray) -> np.ndarray:
            off = np.array(errors(rows, prices_at(at), multiprocessors))
            return np.concatenate([off, 0.02 * at])

        damping, here = 1e-2, residuals(at)
        for _ in range(200):
            jacobian = np.stack(
                [(residuals(at + 1e-4 * e) - here) / 1e-4 for e in np.eye(len(names))], 1
            )
            normal = jacobian.T @ jacobian
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -jacobian.T @ here)
            there = residuals(at + step)
            if there @ there < here @ here:
                at, here, damping = at + step, there, damping / 3
            else:
                damping *= 4
        cost = float(here @ here)
        if best is None or cost < best[0]:
            best = cost, prices_at(at)
    assert best is not None
    return best[1]


def summary(off: list[float]) -> dict[str, float]:
    sizes = [math.expm1(abs(x)) for x in off]
    return {
        "median_error": statistics.median(sizes),
        "worst_error": max(sizes),
        "median_ratio": math.exp(statistics.median(off)),
    }


def run_fit(path: pathlib.Path) -> None:
    report = json.loads(path.read_text())
    multiprocessors = report["multiprocessors"] or 132
    hopper = [row for row in report["rows"] if row["kernel"] == "hopper"]
    fit = fitted(hopper, multiprocessors)
    report["fit"] = {"of": len(hopper), "prices_used": USED, "prices": fit}
    # What the measurement adds to a call is no matter of prices: the same for both.
    for name, prices in (("used", USED | {"call": fit["call"]}), ("fitted", fit)):
        off = errors(hopper, prices, multiprocessors)
        report["fit"][name] = summary(off)
        for row, x in zip(hopper, off, strict=True):
            row[f"ratio_{name}"] = round(math.exp(x), 3)
        print(f"{name:7}", {k: round(v, 3) for k, v in report["fit"][name].items()})
    print({name: round(value, 4) for name, value in fit.items()})
    print(f"{'problem':24} predicted / measured with the prices in use | with fitted ones")
    for name in dict.fromkeys(row["problem"] for row in hopper):
        rows = [row for row in hopper if row["problem"] == name]
        used, fitted_ = ([f"{row[f'ratio_{k}']:.2f}" for row in rows] for k in ("used", "fitted"))
        print(f"{name:24} {' '.join(used)} | {' '.join(fitted_)}")
    warps = [row for row in report["rows"] if row["kernel"] == "warps"]
    report["warps"] = summary([math.log(r["predicted_ms"] / r["measured_ms"]) for r in warps])
    print("warps:", {k: round(v, 3) for k, v in report["warps"].items()})
    path.write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("measure", "fit"))
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--seconds", type=float, default=240.0, help="no problem begins after that")
    arguments = parser.parse_args()
    if arguments.what == "measure":
        run_measure(arguments.file, arguments.seconds)
    else:
        run_fit(arguments.file)


if __name__ == "__main__":
    main()
