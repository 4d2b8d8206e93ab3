"""Tests that need a CUDA device; ``pytest tests/gpu --report FILE`` writes what was measured.

CONTRIBUTING.md says how to run them on many cores.
"""

import collections
import json
import pathlib
import sys

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]  # problems.py, shared with CPU tests; benchmarks

RANDOM_PROBLEMS = 60

_rows: list[dict] = []
_outcomes: collections.Counter = collections.Counter()
_failed: dict[str, str] = {}  # why each did
_seconds: dict[str, float] = {}


def pytest_addoption(parser):
    parser.addoption("--report", type=pathlib.Path, help="write every measured row to this file")
    parser.addoption("--random", type=int, help=f"number of random problems ({RANDOM_PROBLEMS})")


def pytest_generate_tests(metafunc):
    if "chunk" in metafunc.fixturenames:  # of the random problems, so that workers share them
        count, size = metafunc.config.getoption("--random", None) or RANDOM_PROBLEMS, 20
        chunks = [range(i, min(i + size, count)) for i in range(0, count, size)]
        metafunc.parametrize("chunk", chunks, ids=[f"{c.start}-{c.stop - 1}" for c in chunks])


def pytest_collection_modifyitems(config, items):
    if jax.default_backend() != "gpu":
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if pathlib.Path(__file__).parent in item.path.parents:
                item.add_marker(skip)


@pytest.fixture
def record(request):
    """Adds a row to the report."""

    def add(**row):
        plain = {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in row.items()}
        request.node.user_properties.append(("row", {"test": request.node.name} | plain))

    return add


def pytest_runtest_logreport(report):  # also of the workers of pytest-xdist
    if report.when == "call" or report.skipped or report.failed:
        _outcomes[report.outcome] += 1
    if report.failed:
        _failed[report.nodeid] = str(report.longrepr).replace(f"{ROOT}/", "")[-600:]
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0.0) + report.duration
    if report.when == "teardown":
        _rows.extend(row for name, row in report.user_properties if name == "row")


def pytest_sessionfinish(session):
    path = session.config.getoption("--report", None)
    if not path or not _rows or hasattr(session.config, "workerinput"):
        return
    from benchmarks.gpu.record import environment

    report = {
        **environment(),
        "outcomes": dict(_outcomes),
        "failed": _failed,
        "slowest_s": {
            test: round(_seconds[test]) for test in sorted(_seconds, key=_seconds.get)[:-16:-1]
        },
    }
    rows = sorted(_rows, key=lambda row: row["test"])
    lines = ",\n".join(json.dumps(row) for row in rows)  # a line each, to read and to compare
    path.write_text(json.dumps(report, indent=1)[:-2] + f',\n "rows": [\n{lines}\n ]\n}}\n')
