"""Plots of the reports."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu.tables import (
    PAPER,
    PRECISIONS,
    Report,
    Row,
    best_flex,
    improvements,
    problems,
    unique,
)

COLORS = {
    "fused": "#d1495b",
    "gemm": "#edae49",
    "naive": "#8d99ae",
    "dense": "#00798c",
    "flex": "#6a4c93",
    "materialized": "#22223b",
    "xla": "#bc6c25",
}


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def _color(variant: str) -> str:
    return COLORS[variant.split("-")[0]]


def compare(report: Report, path: pathlib.Path) -> None:
    """Times over the bound, a panel for each pass."""
    figure = _figure(14, 8)
    panels: Any = figure.subplots(2, 1, sharex=True)
    shown = problems(report)
    names = ("fused", "gemm", "naive", "dense", "flex")
    for ax, which in zip(panels, ("forward", "backward"), strict=True):
        rows = [row for row in report["rows"] if row.get("pass") == which]
        bounds = {row["problem"]: row["bound_ms"] for row in rows if "bound_ms" in row}
        for i, name in enumerate(names):
            heights = []
            for problem in shown:
                mine = [row for row in rows if row["problem"] == problem]
                one = best_flex(mine) if name == "flex" else None
                if name != "flex":
                    one = next((r for r in mine if r["variant"] == name and r["ms"]), None)
                heights.append(one["ms"] / bounds[problem] if one else np.nan)
            places = np.arange(len(shown)) + 0.17 * (i - 2)
            ax.bar(places, heights, 0.16, label=name, color=COLORS[name])
        ax.set(yscale="log", ylabel=f"{which}: time over the bound")
        ax.axhline(1, color="#22223b", linewidth=0.8)
    panels[1].set_xticks(range(len(shown)), shown, rotation=30, ha="right")
    panels[0].legend(ncols=5)
    figure.savefig(path)


def paper(report: Report, path: pathlib.Path) -> None:
    """Every problem's improvement, sorted, and the means of the paper."""
    ranks = sorted(unique(report["rows"], "rank"))
    figure = _figure(4.2 * len(ranks), 7.5)
    panels: Any = figure.subplots(len(PRECISIONS), len(ranks), squeeze=False, sharey=True)
    for line, (kind, said) in zip(panels, PRECISIONS.items(), strict=True):
        for ax, rank in zip(line, ranks, strict=True):
            rows = [row for row in report["rows"] if row["rank"] == rank]
            for name in ("fused", "gemm"):
                found = np.sort(improvements(rows, name, kind)) / 100 + 1
                places = np.linspace(0, 100, len(found))
                ax.plot(places, found, color=COLORS[name], label=name)
                theirs = PAPER.get((name, kind, rank))
                if theirs:
                    ax.axhline(
                        theirs / 100 + 1,
                        color=COLORS[name],
                        linestyle=":",
                        label=f"{name}, mean of the paper",
                    )
            ax.axhline(1, color="#8d99ae", linewidth=0.8)
            ax.set(yscale="log", title=f"{rank}-D, {said}")
            ax.legend(fontsize=7)
    for ax in panels[-1]:
        ax.set_xlabel("problems, %")
    for line in panels:
        line[0].set_ylabel("times as fast as naive")
    figure.savefig(path)


def models(report: Report, path: pathlib.Path) -> None:
    """Throughput over that of fused."""
    figure = _figure(11, 4)
    panels: Any = figure.subplots(1, 2, sharey=True)
    for ax, which in zip(panels, ("training", "inference"), strict=True):
        rows = [row for row in report["rows"] if row["pass"] == which and row["ms"]]
        names, variants = unique(rows, "model"), unique(rows, "variant")
        own = {row["model"]: row["ms"] for row in rows if row["variant"] == "fused"}
        for i, variant in enumerate(variants):
            times = {row["model"]: row["ms"] for row in rows if row["variant"] == variant}
            heights = [own[n] / times[n] if n in times and n in own else np.nan for n in names]
            places = np.arange(len(names)) + 0.25 * (i - (len(variants) - 1) / 2)
            bars = ax.bar(places, heights, 0.24, label=variant, color=_color(variant))
            ax.bar_label(bars, fmt="%.2f", fontsize=8)
        ax.set_xticks(range(len(names)), [name.replace(", ", "\n") for name in names], fontsize=8)
        ax.set(title=which, ylabel="throughput over that with fused")
    panels[0].legend()
    figure.savefig(path)


def roofline(report: Report, path: pathlib.Path) -> None:
    """Useful operations against bytes of memory, as the counters read both."""
    rows: list[Row] = [row for row in report["rows"] if "us" in row]
    shown = unique(rows, "problem")
    columns = min(2, len(shown))
    lines = -(-len(shown) // columns)
    figure = _figure(6 * columns, 4.2 * lines)
    panels: Any = figure.subplots(lines, columns, squeeze=False)
    for ax in panels.flat[len(shown) :]:
        ax.set_visible(False)
    ceilings = report["ceilings"]
    x = np.geomspace(0.3, 3e4, 200)
    roof = np.minimum(ceilings["bfloat16_tflops"], x * ceilings["memory_gbs"] / 1e3)
    for ax, problem in zip(panels.flat, shown, strict=False):
        ax.plot(x, roof, color="#22223b")
        for row in (row for row in rows if row["problem"] == problem):
            moved = row.get("dram_read", 0) + row.get("dram_written", 0)
            reached = 1e3 * row["gflop"] / row["us"]
            if not moved:
                continue
            color = _color(row["variant"])
            ax.plot(row["gflop"] * 1e9 / moved, reached, "o", color=color, label=row["variant"])
            if row.get("intensity"):
                ax.plot(row["intensity"], reached, "o", color=color, fillstyle="none")
        ax.set(xscale="log", yscale="log", title=problem)
        ax.set(xlabel="useful FLOP per byte of memory", ylabel="useful TFLOP/s")
        ax.legend(fontsize=8)
    figure.savefig(path)


PLOTS: dict[str, Callable[[Report, pathlib.Path], None]] = {
    "compare": compare,
    "paper": paper,
    "models": models,
    "counters": roofline,
}
