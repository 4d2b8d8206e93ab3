"""Tables and a plot of a report: `python -m benchmarks.cpu.report FILE` prints the tables."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import numpy as np

PASSES = ("forward", "forward+backward")


def _unique(rows: list[dict[str, Any]], field: str) -> list[str]:
    return list(dict.fromkeys(r[field] for r in rows))


def _table(header: list[str], lines: list[list[str]]) -> str:
    cells = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def _times(rows: list[dict[str, Any]], which: str) -> str:
    """Milliseconds of every variant, and how many times longer it takes than fused."""
    rows = [r for r in rows if r["pass"] == which]
    names = [n for n in _unique(rows, "variant") if n != "fused"]
    lines = []
    for problem in _unique(rows, "problem"):
        times = {r["variant"]: r["ms"] for r in rows if r["problem"] == problem}
        line = [problem, f"{times['fused']:.1f}"]
        for name in names:
            ms = times.get(name)
            line.append("not tried" if ms is None else f"{ms:.1f} ({ms / times['fused']:.1f}x)")
        lines.append(line)
    return _table([which, "fused", *names], lines)


def _threads(rows: list[dict[str, Any]]) -> str:
    lines = []
    for problem in _unique(rows, "problem"):
        line = [problem]
        for which in PASSES:
            ms = {
                r["threads"]: r["ms"] for r in rows if (r["problem"], r["pass"]) == (problem, which)
            }
            gains = [f"{ms[1]:.1f}", *(f"{ms[n]:.1f} ({ms[1] / ms[n]:.2f}x)" for n in ms if n > 1)]
            line.append(" -> ".join(gains))
        lines.append(line)
    return _table(["fused, 1 -> 2 threads, ms", *PASSES], lines)


def _memory(rows: list[dict[str, Any]]) -> str:
    sizes = ("inputs_mib", "outputs_mib", "extra_mib")
    lines = [[r["problem"], r["pass"], *(f"{r[size]:.1f}" for size in sizes)] for r in rows]
    return _table(["fused, MiB", "pass", "inputs", "outputs", "peak beyond both"], lines)


def markdown(report: dict[str, Any]) -> str:
    """All tables of a report."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    head = (
        f"{report['processor']}, {report['cores']} cores ({report['instruction_set']}), "
        f"{report['date']}, commit {report['commit']}, {versions}; milliseconds, minima."
    )
    tables = [_times(report["rows"], which) for which in PASSES]
    return "\n\n".join([head, *tables, _threads(report["threads"]), _memory(report["memory"])])


def plot(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Grouped bars, one panel per pass, logarithmic milliseconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.5), dpi=100, layout="constrained")
    problems, names = _unique(rows, "problem"), _unique(rows, "variant")
    width = 0.85 / len(names)
    panels: Any = figure.subplots(1, 2, sharey=True)
    for ax, which in zip(panels, PASSES, strict=True):
        for i, variant in enumerate(names):
            chosen = {
                r["problem"]: r["ms"] for r in rows if (r["variant"], r["pass"]) == (variant, which)
            }
            heights = [chosen.get(p) or np.nan for p in problems]
            places = np.arange(len(problems)) + width * (i - (len(names) - 1) / 2)
            ax.bar(places, heights, 0.9 * width, label=variant)
        ax.set(yscale="log", title=which, ylabel="ms (lower is better)")
        ax.set_xticks(range(len(problems)), [p.replace(" w", "\nw") for p in problems])
    panels[0].legend(ncols=2)
    figure.savefig(path)


if __name__ == "__main__":
    print(markdown(json.loads(pathlib.Path(sys.argv[1]).read_text())))
