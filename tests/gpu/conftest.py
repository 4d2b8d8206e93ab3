"""Tests that need a CUDA device; ``pytest tests/gpu --report FILE`` writes what was measured."""

import datetime
import importlib.metadata
import json
import pathlib
import subprocess
import sys

import jax
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # problems.py, shared with the CPU tests

_rows = pytest.StashKey[list]()


def pytest_addoption(parser):
    parser.addoption("--report", type=pathlib.Path, help="write every measured row to this file")
    parser.addoption("--random", type=int, default=60, help="number of random problems")


def pytest_configure(config):
    config.stash[_rows] = []


def pytest_collection_modifyitems(config, items):
    if jax.default_backend() != "gpu":
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if pathlib.Path(__file__).parent in item.path.parents:
                item.add_marker(skip)


@pytest.fixture
def record(request):
    """Adds a row to the report."""
    return lambda **row: request.config.stash[_rows].append({"test": request.node.name} | row)


def pytest_sessionfinish(session):
    path, rows = session.config.getoption("--report", None), session.config.stash[_rows]
    if not path or not rows:
        return
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    report = {
        "device": jax.devices()[0].device_kind,
        "date": datetime.date.today().isoformat(),
        "commit": commit,
        "versions": {p: importlib.metadata.version(p) for p in ("jax", "jaxlib", "numpy")},
        "rows": rows,
    }
    path.write_text(json.dumps(report, indent=1) + "\n")
