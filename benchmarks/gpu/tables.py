"""Tables of the reports, in Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.gpu.peers import DENSE_FLUX_4K, natten
from benchmarks.gpu.shapes import SHAPES

Row = dict[str, Any]
Report = dict[str, Any]

#: What the paper says of its kernels on an A100: mean improvement over naive in percent, by
#: implementation, precision and rank.
PAPER = {
    ("gemm", "float32", 1): 895,
    ("gemm", "float32", 2): 272,
    ("fused", "half", 1): 1759,
    ("fused", "half", 2): 958,
}
PRECISIONS = {
    "half": "float16",
    "float32": "float32, TF32 products",
    "highest": "float32, exact products",
}


def unique(rows: Iterable[Row], field: str) -> list[Any]:
    """The values of a field, in order."""
    return list(dict.fromkeys(row[field] for row in rows if field in row))


def problems(report: Report) -> list[str]:
    """Those of a report, in the order of the table of shapes."""
    found = unique((row for row in report["rows"] if "gflop" in row), "problem")
    order = [shape.name for shape in SHAPES]
    return sorted(found, key=lambda name: order.index(name) if name in order else len(order))


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    cells = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def number(x: float | None) -> str:
    """Three digits."""
    if x is None or not math.isfinite(x):
        return ""
    if x == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(x))))
    return f"{x:,.{digits}f}"


def head(report: Report) -> str:
    """What was measured on what."""
    versions = ", ".join(f"{name} {v}" for name, v in report["versions"].items())
    driver = f", driver {report['driver']}" if report["driver"] else ""
    return (
        f"{report['device']}{driver}, {report['date']}, commit {report['commit']} (library "
        f"{report['library']}); {versions}."
    )


def best_flex(rows: list[Row]) -> Row | None:
    """The faster order of tokens of FlexAttention, of those whose results were right."""
    right = [r for r in rows if r["variant"] == "flex" and r.get("ms") and not r.get("wrong")]
    return min(right, key=lambda row: row["ms"]) if right else None


def others(rows: list[Row], of_natten: float | None) -> float | None:
    """The best time of what is not ours, of one problem and pass."""
    times = [row["ms"] for row in rows if row["variant"] == "dense" and row["ms"]]
    times += [row["ms"] for row in (best_flex(rows),) if row]
    times += [of_natten] if of_natten else []
    return min(times) if times else None


def compare(report: Report) -> str:
    """A table of either pass, the ceilings, and why something is missing."""
    parts, missing = [], {}
    for which in ("forward", "backward"):
        lines = []
        for problem in problems(report):
            rows = [
                row
                for row in report["rows"]
                if row["problem"] == problem and row.get("pass", which) == which
            ]
            ms = {row["variant"]: row.get("ms") for row in rows if row["variant"] != "flex"}
            flex, theirs = best_flex(rows), natten(report["device"], problem, which)
            best = others(rows, theirs)
            for row in rows:
                if row.get("reason"):
                    why = f"{row['variant']}, {which}: {row['reason']}"
                    missing.setdefault(why, []).append(problem)
            own = next((row for row in rows if row["variant"] == "fused" and row["ms"]), None)
            if own is None:
                continue
            visited = next((row.get("visited_gflop") for row in rows if "visited_gflop" in row), 0)
            lines.append(
                [
                    problem,
                    number(own["ms"]),
                    number(ms.get("gemm")),
                    number(ms.get("naive")),
                    number(ms.get("dense")),
                    f"{number(flex['ms'])} ({flex['order']})" if flex else "",
                    number(theirs),
                    f"**{number(best / own['ms'])}**" if best else "",
                    number(own["gflop"] / own["ms"]),
                    number(visited / own["ms"]) if visited else "",
                    f"{100 * own['bound_ms'] / own['ms']:.0f} %",
                ]
            )
        columns = ["fused", "gemm", "naive", "dense", "FlexAttention", "NATTEN", "others / fused"]
        columns += ["useful TFLOP/s", "visited TFLOP/s", "of the bound"]
        parts.append(table([f"{which}, ms", *columns], lines))
    ceilings = report["ceilings"]
    yard = [row["ms"] for row in report["rows"] if row["variant"] == "yardstick"]
    parts.append(
        f"Ceilings in the same run: {ceilings['bfloat16_tflops']:.0f} TFLOP/s in bfloat16 and "
        f"{ceilings['float32_tflops']:.0f} in float32 (JAX's default precision) for a product of "
        f"8192 x 8192 matrices, {ceilings['memory_gbs']:,.0f} GB/s for a copy. The yardstick took "
        f"{number(min(yard))} to {number(max(yard))} ms over the run. In NATTEN's run dense took "
        f"{DENSE_FLUX_4K['forward']} and {DENSE_FLUX_4K['backward']} ms on flux-4k."
    )
    if missing:
        said = [f"* {why}: {', '.join(unique_of(names))}" for why, names in missing.items()]
        parts.append("Not measured:\n\n" + "\n".join(said))
    return "\n\n".join(parts)


def summary(report: Report) -> str:
    """Our default and the best of the others, both passes, in a short table."""
    lines = []
    for problem in problems(report):
        line = [problem]
        for which in ("forward", "backward"):
            rows = [
                row
                for row in report["rows"]
                if row["problem"] == problem and row.get("pass", which) == which
            ]
            own = next((row for row in rows if row["variant"] == "fused" and row["ms"]), None)
            best = others(rows, natten(report["device"], problem, which))
            line += [number(own["ms"]) if own else "", number(best)]
            line.append(f"{number(best / own['ms'])}" if own and best else "")
        lines.append(line)
    columns = ["forward, ms", "others", "factor", "backward, ms", "others", "factor"]
    return f"{report['device']}, {report['date']}:\n\n" + table(["", *columns], lines)


def unique_of(names: list[str]) -> list[str]:
    """Without repetitions."""
    return list(dict.fromkeys(names))


def improvements(rows: list[Row], implementation: str, kind: str) -> list[float]:
    """Of an implementation over naive in percent, for every problem that both ran."""
    naive = "naive float32" if kind == "highest" else f"naive {kind}"
    mine = f"{implementation} {kind}"
    both = [row["ms"] for row in rows if mine in row["ms"] and naive in row["ms"]]
    return [100 * (ms[naive] / ms[mine] - 1) for ms in both]


def paper(report: Report) -> str:
    """Mean, least and largest improvement of every rank and precision."""
    lines = []
    for kind, said in PRECISIONS.items():
        for implementation in ("gemm", "fused"):
            for rank in sorted(unique(report["rows"], "rank")):
                rows = [row for row in report["rows"] if row["rank"] == rank]
                found = improvements(rows, implementation, kind)
                if not found:
                    continue
                slower = sum(x < 0 for x in found) / len(found)
                theirs = PAPER.get((implementation, kind, rank))
                lines.append(
                    [
                        said,
                        implementation,
                        f"{rank}-D",
                        str(len(found)),
                        f"**{statistics.mean(found):.0f} %**",
                        f"{statistics.median(found):.0f} %",
                        f"{min(found):.0f} %",
                        f"{max(found):.0f} %",
                        f"{100 * slower:.0f} %",
                        f"{theirs} %" if theirs else "",
                    ]
                )
    columns = ["precision", "", "rank", "problems", "mean", "median", "least", "largest"]
    return table([*columns, "slower than naive", "paper's mean, A100"], lines)


def dispatch(report: Report) -> str:
    """Microseconds of a call, its kernels, and what is between."""
    lines = []
    for row in report["rows"]:
        attending = row.get("attention_us", 0.0)
        lines.append(
            [
                f"{row['step']}, {row['loop']}",
                row["mode"],
                number(row["us"]),
                number(attending),
                number(row["kernel_us"] - attending),
                number(row["us"] - attending),
            ]
        )
    columns = ["", "us a call", "kernels of attention", "other kernels", "beside attention"]
    return table(["100 calls", *columns], lines)


def models(report: Report) -> str:
    """What each kind of attention makes of each model."""
    lines = []
    for model in unique(report["rows"], "model"):
        for which in unique(report["rows"], "pass"):
            rows = [r for r in report["rows"] if (r["model"], r["pass"]) == (model, which)]
            rows.sort(key=lambda row: row["variant"] != "fused")  # the one that others are told by
            own = next((row for row in rows if row["variant"] == "fused" and row["ms"]), None)
            for row in rows:
                if not row["ms"]:
                    lines.append([model, which, row["variant"], row["reason"], "", "", "", ""])
                    continue
                share = row.get("attention_share")
                lines.append(
                    [
                        model,
                        which,
                        row["variant"],
                        number(row["ms"]),
                        f"{row['per_second']:,.0f} {row['unit']}",
                        number(row["ms"] / own["ms"]) if own else "",
                        f"{100 * share:.0f} %" if share is not None else "",
                        number(row["gib"]),
                    ]
                )
    columns = ["model", "pass", "attention", "ms", "a second", "time over fused"]
    return table([*columns, "attention's share", "GiB"], lines)


def counters(report: Report) -> str:
    """What ncu read of each pass."""
    lines = []
    for row in report["rows"]:
        if "us" not in row:
            continue
        moved = row.get("dram_read", 0) + row.get("dram_written", 0)
        percent = [
            f"{row[name]:.0f} %" if name in row else ""
            for name in ("dram_share", "l2_share", "l1_share", "tensor_share", "occupancy")
        ]
        lines.append(
            [
                row["problem"],
                row["variant"],
                number(row["us"]),
                number(row["gflop"] / row["us"] * 1e3),
                number(row["gflop"] * 1e9 / moved) if moved else "",
                number(row["intensity"]) if row.get("intensity") else "",
                number(moved / 1e6),
                number(row.get("l2_bytes", 0) / 1e6),
                number(row.get("l1_bytes", 0) / 1e6),
                *percent,
            ]
        )
    columns = ["problem", "", "us", "TFLOP/s", "FLOP per byte", "computed", "MB of memory"]
    columns += ["of L2", "of L1", "memory", "L2", "L1", "tensor cores", "occupancy"]
    return table(columns, lines)


def context(report: Report) -> str:
    """Tokens that fit."""
    lines = []
    for row in report["rows"]:
        cells = [row["variant"], row["pass"], f"{row['tokens']:,}", number(row.get("gib"))]
        lines.append([*cells, row.get("ran", row.get("refused", "")), number(row.get("seconds"))])
    return table(["", "pass", "tokens", "GiB", "tried", "seconds"], lines)


TABLES: dict[str, Callable[[Report], str]] = {
    "compare": compare,
    "paper": paper,
    "dispatch": dispatch,
    "models": models,
    "counters": counters,
    "context": context,
    "summary": summary,
}
