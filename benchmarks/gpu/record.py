"""A report: what ran, on what, and its rows, in a file that is whole after every row."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

RESULTS = pathlib.Path(__file__).parents[1] / "results"


def _output_of(*command: str) -> str:
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except OSError:
        return ""
    return found.stdout.strip()


def _commit(folder: pathlib.Path) -> str:
    """The environment's word goes first: of a copy without its history there is no other."""
    return os.environ.get("COMMIT") or _output_of(
        "git", "-C", str(folder), "rev-parse", "--short", "HEAD"
    )


def environment() -> dict[str, Any]:
    """The device, its driver, the date, and the versions of all that matters."""
    import jax

    from jax_na import _core

    device = jax.devices()[0]
    query = _output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    library = pathlib.Path(_core.__file__ or "")
    names = ("jax", "jaxlib", "flax", "numpy", "torch", "triton", "nvidia-cudnn-cu13")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    now = datetime.datetime.now(datetime.UTC)
    return {
        "device": device.device_kind if device.platform == "gpu" else platform.machine(),
        "driver": query.splitlines()[0] if query else "",
        "date": now.date().isoformat(),
        "time": now.time().isoformat("minutes"),
        "commit": _commit(library.parent) or "unknown",
        "library": hashlib.sha256(library.read_bytes()).hexdigest()[:12],
        "versions": versions,
    }


class Record:
    """Rows of the report `kind`, written to `folder` after each of them.

    Args:
      kind: the command.
      folder: where the file goes.
      part: what it is confined to, for a file of its own; "" for the whole.
      about: more fields.
    """

    def __init__(self, kind: str, folder: pathlib.Path, part: str = "", **about: Any):
        self.report: dict[str, Any] = {"kind": kind, **environment(), **about, "rows": []}
        name = f"{kind} {self.report['device']} {self.report['date']} {part}"
        words = "".join(c if c.isalnum() else " " for c in name).split()
        self.path = folder / f"{'-'.join(words).lower()}.json"
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, **row: Any) -> None:
        """Adds a row."""
        self.report["rows"].append(row)
        said = " ".join(f"{name}={value}" for name, value in row.items())
        print(said, file=sys.stderr, flush=True)
        self.write()

    def note(self, **about: Any) -> None:
        """Adds to what is said about all rows."""
        self.report.update(about)
        self.write()

    def write(self) -> None:
        """Replaces the file at once, so that there is a whole one at any time."""
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.report, indent=1) + "\n")
        new.replace(self.path)


def arguments(command: str, words: str | None) -> argparse.ArgumentParser:
    """The options that every command has."""
    parser = argparse.ArgumentParser(prog=f"benchmarks.gpu.{command}", description=words)
    parser.add_argument("--quick", action="store_true", help="tiny problems: does it all run?")
    parser.add_argument("--rounds", type=int, default=5, help="samples of everything [5]")
    parser.add_argument(
        "--output", type=pathlib.Path, default=RESULTS, help="folder of the report [results]"
    )
    return parser
