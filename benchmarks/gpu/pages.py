"""Puts the newest reports into the documentation: python -m benchmarks.gpu.pages [FOLDER]

Between `<!-- begin KIND -->` and `<!-- end KIND -->` of docs/gpu-numbers.md and docs/roofline.md
stand the tables and plots of that kind of report, for each device that there is a report of.
Reports of a rank each, as `paper --rank` writes them, count as one.
"""

from __future__ import annotations

import json
import pathlib
import re
import sys
from typing import Any

from benchmarks.gpu.plots import PLOTS
from benchmarks.gpu.record import RESULTS
from benchmarks.gpu.tables import TABLES, head

DOCS = pathlib.Path(__file__).parents[2] / "docs"
PAGES = ("gpu-numbers.md", "roofline.md")
_MARKED = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def newest(folder: pathlib.Path) -> dict[str, dict[str, tuple[dict[str, Any], pathlib.Path]]]:
    """By kind and device: the newest report, and its file (of several, the last one's)."""
    found: dict[str, dict[str, tuple[dict[str, Any], pathlib.Path]]] = {}
    for file in sorted(folder.glob("*.json"), key=lambda file: file.stem[-10:]):
        report = json.loads(file.read_text())
        kind = report.get("kind", "")
        if kind.removesuffix("d")[:-2] == "paper":
            kind = "paper"
        if kind not in TABLES or report.get("quick"):
            continue
        of_kind = found.setdefault(kind, {})
        former = of_kind.get(report["device"])
        if former and kind == "paper":
            ranks = {row["rank"] for row in report["rows"]}
            kept = [row for row in former[0]["rows"] if row["rank"] not in ranks]
            report["rows"] = kept + report["rows"]
        of_kind[report["device"]] = report, file
    return found


def section(kind: str, report: dict[str, Any], file: pathlib.Path, page: pathlib.Path) -> str:
    """What stands between the markers of a device; the plot is drawn beside the report."""
    parts = [head(report), TABLES[kind](report)]
    if kind in PLOTS:
        plot = file.with_suffix(".png")
        PLOTS[kind](report, plot)
        link = f"../{plot.relative_to(page.parents[1])}"
        parts.append(f"![The same as a plot]({link})")
    return "\n\n".join(parts)


def main(folder: pathlib.Path = RESULTS) -> None:
    found = newest(folder)
    for name in PAGES:
        page = DOCS / name

        def replaced(match: re.Match[str], page: pathlib.Path = page) -> str:
            begin, kind, end = match.groups()
            reports = found.get(kind)
            if not reports:
                return match.group(0)
            said = [section(kind, *reports[device], page) for device in sorted(reports)]
            return begin + "\n" + "\n\n".join(said) + "\n\n" + end

        page.write_text(_MARKED.sub(replaced, page.read_text()))


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
