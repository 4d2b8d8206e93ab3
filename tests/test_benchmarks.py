"""The logic of the GPU benchmarks, on tiny problems and a CPU: what they measure needs a GPU."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

import jax_na
from jax_na import _core

# Behind everything else: the package that is tested stays the installed one.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu import bounds, compare, context, models, pages, paper, tables, timing
from benchmarks.gpu.blocks import Block, make_dense, tasks
from benchmarks.gpu.counters import METRICS, parse, total
from benchmarks.gpu.flex_process import difference, positions, request
from benchmarks.gpu.inputs import in_jax, start_of
from benchmarks.gpu.record import Record
from benchmarks.gpu.sample import GFLOP, draw
from benchmarks.gpu.shapes import QUICK, SHAPES, Shape, chosen
from benchmarks.gpu.timing import Timed, in_turns, input_sets
from benchmarks.gpu.variants import Skipped, attempt, backward, forward, make_sets, ours, window_of

CEILINGS = {"bfloat16_tflops": 1.0, "float32_tflops": 1.0, "memory_gbs": 10.0}


@pytest.mark.parametrize("shape", [*SHAPES, *QUICK], ids=lambda shape: shape.name)
def test_shapes(shape: Shape):
    window = window_of(shape).resolve(shape.spatial)  # legal
    assert len(shape.flex_tile) == window.rank
    gflop = bounds.work(shape, "forward")["gflop"]
    assert bounds.work(shape, "backward")["gflop"] == pytest.approx(2.5 * gflop)


def test_chosen():
    assert [shape.name for shape in chosen("flux", False)] == ["flux-4k", "flux-4k-blocked"]
    assert [shape.name for shape in chosen("flux-4k,volume", False)] == ["flux-4k", "volume-48"]
    with pytest.raises(SystemExit, match="--only nothing"):
        chosen("flux,nothing", False)


def test_inputs_are_the_hash_that_both_frameworks_compute():
    found = np.asarray(in_jax("key", 1, (5, 40), "float32"))
    for i, value in enumerate(found.ravel()):
        x = i ^ start_of("key", 1)
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
        unit = ((x ^ (x >> 16)) >> 8) / 2**24
        assert value == pytest.approx((2 * unit - 1) * math.sqrt(3), abs=1e-6)
    many = np.asarray(in_jax("query", 0, (4096,), "float32"))
    assert abs(many.mean()) < 0.05
    assert abs(many.std() - 1) < 0.05


def test_backward_is_the_backward_pass():
    """Of what is timed as the backward pass, the results are the gradients."""
    shape = QUICK[2]
    sets = make_sets(shape)
    assert len(sets) == input_sets(4 * shape.tensor_bytes) == 8
    query, key, value, cotangent = sets[1]
    _, transpose = jax.vjp(ours(shape, "xla"), query, key, value)
    timed = backward(ours(shape, "fused"), sets)
    for found, right in zip(timed.dispatch()[1], transpose(cotangent), strict=True):
        np.testing.assert_allclose(found, right, atol=1e-5)
    out = forward(ours(shape, "fused"), sets).dispatch()[1]
    np.testing.assert_allclose(out, ours(shape, "xla")(query, key, value), atol=1e-5)


def test_attempt_says_why():
    def too_large() -> Timed:
        raise Skipped("needs 80 GiB")

    assert attempt(too_large) == "needs 80 GiB"
    refused = attempt(lambda: forward(ours(QUICK[0], "gemm"), make_sets(QUICK[0])))
    assert isinstance(refused, str)
    assert "gemm" in refused


def test_turns():
    slow = Timed(lambda: np.zeros(()), calls=4, first=2.0)
    found = in_turns({"slow": slow, "fast": Timed(lambda: np.zeros(()))}, 3, 1e-4)
    assert found["slow"] == [500.0]
    assert len(found["fast"]) == 3
    lasting = Timed(lambda: time.sleep(2e-3) or np.zeros(()))
    found = in_turns({"short": Timed(lambda: np.zeros(())), "lasting": lasting}, 2, 1e-3, 3)
    assert [len(found[name]) for name in ("short", "lasting")] == [6, 2]


def test_what_is_done_once_is_not_timed(monkeypatch: pytest.MonkeyPatch):
    def first_of(*seconds: float) -> float:
        taken = iter(seconds)
        monkeypatch.setattr(timing, "seconds_of", lambda dispatch: next(taken))
        return timing.first_seconds_of(lambda: None)

    assert first_of(1.3, 0.3) == 0.3
    assert first_of(0.3) == 0.3  # whose samples come later
    assert first_of(20.0) == 20.0  # of which what is done once is a small part


def test_visited_of_a_plan():
    flux = chosen("flux-4k", False)[0]
    plan = jax_na.CudaPlan("hopper", (8, 8), (1, 2), (8, 16), (2, 1), items=10, tiles=50.0)
    assert bounds.visited_gflop(flux, plan) == 4 * 2 * 50 * 128 * 128 * 128 / 1e9
    assert bounds.visited_gflop(flux, jax_na.CudaPlan("warps")) is None


@pytest.mark.skipif(not _core.has_cuda, reason="built without a CUDA compiler")
def test_visited_of_the_plan_that_runs():
    flux = chosen("flux-4k", False)[0]
    plan = bounds.forward_plan(flux)
    assert plan is not None
    assert 1 < (bounds.visited_gflop(flux, plan) or 0) / bounds.work(flux, "forward")["gflop"] < 1.5


def test_compare_and_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    record = Record("compare", tmp_path, ceilings=CEILINGS)
    compare.measure(record, QUICK[0], [], 1)
    record.add(problem="before", variant="yardstick", ms=1.0, **{"pass": "forward"})
    for order, ms, wrong in (("row-major", 1e-9, True), ("tiled", 1e-6, False)):
        row = {"problem": QUICK[0].name, "variant": "flex", "order": order, "ms": ms}
        record.add(**row, **{"pass": "forward"}, **({"wrong": True} if wrong else {}))
    rows = json.loads(record.path.read_text())["rows"]
    assert {row["variant"] for row in rows} == {"fused", "xla", "dense", "yardstick", "flex"}
    assert all(isinstance(row["ms"], float) for row in rows)
    page = tmp_path / "docs" / "gpu-numbers.md"
    page.parent.mkdir()
    marked = "<!-- begin summary -->\n<!-- end summary -->\n"
    page.write_text(f"Above.\n<!-- begin compare -->\nold\n<!-- end compare -->\n{marked}Below.\n")
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "PAGES", ("docs/gpu-numbers.md",))
    pages.main(tmp_path)
    text = page.read_text()
    assert text.startswith("Above.\n<!-- begin compare -->\n")
    assert text.endswith("<!-- end summary -->\nBelow.\n")
    assert text.count(f"| {QUICK[0].name} |") == 3
    assert "old" not in text
    assert "(tiled)" in text  # the other order was faster and wrong
    assert len(list(tmp_path.glob("compare-*.png"))) == 1


def test_parts_of_reports(tmp_path: Path):
    def write(name: str, time: str, **more: object) -> None:
        about = {"kind": "paper", "device": "GPU", "driver": "", "date": "2026-01-01", "commit": ""}
        report = {**about, "library": name, "versions": {}, "time": time, **more}
        (tmp_path / f"{name}.json").write_text(json.dumps(report))

    write("old", "10:00", rows=[{"problem": 1, "x": 0}, {"problem": 2, "x": 0}])
    write("new", "11:00", rows=[{"problem": 1, "x": 1}, {"problem": 2, "x": 1, "ms": None}])
    write("tried", "12:00", quick=True, rows=[{"problem": 1, "x": 2}])
    found = pages.newest(tmp_path)["paper"]["GPU"]
    # In their old order; what could not be measured again stays.
    assert [(row["problem"], row["x"]) for row in found["rows"]] == [(1, 1), (2, 0)]
    assert ["old" in found["heads"][0], "new" in found["heads"][1]] == [True, True]


def test_flex_is_asked_for_the_same_problem():
    shape = QUICK[0]
    asked = request(shape, "", 1)
    begin, _ = window_of(shape).intervals(shape.spatial, 0)
    assert asked["begin"][0] == begin.tolist()
    assert {0, shape.tokens - 1} <= set(positions(shape).tolist())
    ones = np.ones(10)
    assert difference({"out": ones * 1.1}, {"out": ones}) == pytest.approx(0.05)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_sample(rank: int):
    found = draw(rank, 50)
    assert found == draw(rank, 50)
    for shape in found:
        window = window_of(shape).resolve(shape.spatial)
        gflop = 4 * shape.batch * shape.heads * shape.tokens * shape.head_dim
        assert GFLOP[0] <= gflop * math.prod(window.sizes) / 1e9 <= GFLOP[1]
    assert any(max(shape.dilation) > 1 for shape in found)


def test_paper(tmp_path: Path):
    record = Record("paper", tmp_path)
    shape = Shape("1d-0", "sample", 1, (64,), 2, 8, (9,), dtype="float16")
    paper.measure(record, [shape], ["fused"], 1)
    (row,) = record.report["rows"]
    assert set(row["ms"]) == {"fused half", "fused float32", "fused highest"}
    times = {"naive half": 3.0, "fused half": 1.0, "naive float32": 1.0, "fused highest": 2.0}
    rows = [{"rank": 1, "ms": times}]
    assert tables.improvements(rows, "fused", "half") == [200.0]
    assert tables.improvements(rows, "fused", "highest") == [-50.0]
    assert "1759 %" in tables.paper({"rows": rows})


def test_models(tmp_path: Path):
    record = Record("models", tmp_path)
    task = tasks(True)[1]
    models.measure(record, task, ["fused", "dense", "gemm"], 1, on_gpu=False)
    rows = record.report["rows"]
    assert [row["pass"] for row in rows] == ["training"] * 3 + ["inference"] * 3
    fused, dense, gemm = rows[:3]
    assert "reason" not in fused
    assert "reason" not in dense
    assert gemm["ms"] is None
    assert "gemm" in tables.models(record.report)
    # Where the window is the whole grid, both are the same function.
    inputs = task.batch()
    whole = Block(2, 8, (2, 4, 6), 16, "fused", rngs=nnx.Rngs(0))
    near = task.infer(whole, *inputs)
    far = task.infer(make_dense(whole, "xla"), *inputs)
    np.testing.assert_allclose(near.astype(np.float32), far.astype(np.float32), atol=0.05)


def test_longest():
    assert context.longest(lambda tokens: tokens <= 777, 7) in range(765, 778)
    assert context.longest(lambda tokens: False, 7) == 0


def test_counters():
    metrics = {name: METRICS[name] for name in ("us", "dram_read", "l2_share")}
    lines = ['"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"']
    kernels = ["wrapped_sine", "first", "second", "sin_kernel", "third"]
    for i, kernel in enumerate(kernels):
        for name, unit, value in (
            (metrics["us"], "ns", "1,000"),
            (metrics["dram_read"], "byte", str(10 * i)),
            (metrics["l2_share"], "%", str(float(i))),
        ):
            lines.append(f'"{i}","{kernel}","{name}","{unit}","{value}"')
    found = parse("\n".join(["==PROF== noise", *lines]), metrics)
    assert [[kernel["name"] for kernel in one] for one in found] == [["first", "second"], ["third"]]
    assert total(found[0]) == {
        "kernels": ["first", "second"],
        "us": 2.0,
        "dram_read": 30.0,
        "l2_share": 1.5,
    }
    with pytest.raises(ValueError, match="no table"):
        parse("==ERROR== nothing", metrics)
