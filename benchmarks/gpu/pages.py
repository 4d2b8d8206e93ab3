"""Puts the newest reports into the documentation: python -m benchmarks.gpu.pages [FOLDER]

Between `<!-- begin KIND -->` and `<!-- end KIND -->` of the README, numbers.md and roofline.md
stand the tables and plots of that kind of report, for each device that there is a report of.
Reports of parts count as one: of each problem or model, pass and implementation the newest rows are
taken, measured ones first, and the page names every run that some are from.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import sys
from typing import Any

from benchmarks.gpu.plots import PLOTS
from benchmarks.gpu.record import RESULTS
from benchmarks.gpu.tables import TABLES, head

ROOT = pathlib.Path(__file__).parents[2]
PAGES = ("README.md", "docs/numbers.md", "docs/roofline.md")
#: What the rows of a kind are told apart by; all of them are of one report where it is not here.
KEYS = {
    "compare": ("problem", "pass", "variant", "order"),
    "paper": ("problem",),
    "models": ("model", "pass", "variant"),
    "counters": ("problem",),
}
_MARKED = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def _others_ran(rows: list[dict[str, Any]]) -> bool:
    """Whether every problem that we ran was run by FlexAttention too."""
    ran = {
        variant: {row["problem"] for row in rows if row["variant"] == variant}
        for variant in ("fused", "flex")
    }
    return ran["fused"] <= ran["flex"]


def _has_time(row: dict[str, Any]) -> bool:
    return row.get("ms", "of another kind") is not None


def newest(folder: pathlib.Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The newest rows by kind and device, in a report with all `heads` that they are from."""
    reports = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    reports = [r for r in reports if r.get("kind") in TABLES and not r.get("quick")]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for report in sorted(reports, key=lambda r: (r["date"], r["time"])):
        kind, keys = report["kind"], KEYS.get(report["kind"])
        former = found.setdefault(kind, {}).get(report["device"])
        rows = report["rows"]
        for row in rows:
            row["from"] = head(report)
        if former and keys:
            merged = {tuple(map(row.get, keys)): row for row in former["rows"]}
            for row in rows:
                # Memory that a run had no more left of is no news of what was measured before.
                key = tuple(map(row.get, keys))
                if _has_time(row) or not _has_time(merged.get(key, row)):
                    merged[key] = row
            rows = list(merged.values())
        used = {row["from"] for row in rows}
        heads = [*(former["heads"] if former else []), head(report)]
        heads = [run for run in dict.fromkeys(heads) if run in used]
        found[kind][report["device"]] = {**report, "rows": rows, "heads": heads}
    return found


def section(kind: str, report: dict[str, Any], folder: pathlib.Path, page: pathlib.Path) -> str:
    """What stands between the markers of a device; its plot is drawn into `folder`."""
    if kind == "summary":
        return TABLES[kind](report)
    parts = [*report["heads"], TABLES[kind](report)]
    if kind in PLOTS:
        words = "".join(c if c.isalnum() else " " for c in report["device"]).lower().split()
        plot = folder / f"{kind}-{'-'.join(words)}.png"
        PLOTS[kind](report, plot)
        parts.append(f"![The same as a plot]({os.path.relpath(plot, page.parent)})")
    return "\n\n".join(parts)


def main(folder: pathlib.Path = RESULTS) -> None:
    found = newest(folder)
    found["summary"] = {  # of devices where others computed the same function, whichever it was
        device: report
        for device, report in found.get("compare", {}).items()
        if _others_ran(report["rows"])
    }
    for name in PAGES:
        page = ROOT / name

        def replaced(match: re.Match[str], page: pathlib.Path = page) -> str:
            begin, kind, end = match.groups()
            reports = found.get(kind)
            if not reports:
                return match.group(0)
            said = [section(kind, reports[device], folder, page) for device in sorted(reports)]
            return begin + "\n" + "\n\n".join(said) + "\n\n" + end

        page.write_text(_MARKED.sub(replaced, page.read_text()))


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
