"""Plans of the fused forward pass on CUDA devices, on a machine that need not have a GPU."""

import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_na
from jax_na import _core

pytestmark = pytest.mark.skipif(
    not _core.has_cuda, reason="jax_na was built without a CUDA compiler"
)

FLUX = jax_na.Window((80, 80))


def flux_plans(**options):
    return jax_na.cuda_plans(FLUX, (256, 256), heads=24, head_dim=128, **options)


def query(*spatial, heads=2, head_dim=64, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct((1, *spatial, heads, head_dim), dtype)


def lowered_plan(shape, **options):
    """The numbers of the plan in what is lowered for CUDA."""
    text = (
        jax.jit(lambda q: jax_na.na2d(q, q, q, 16, **options))
        .trace(shape)
        .lower(lowering_platforms=("cuda",))
        .as_text()
    )
    (numbers,) = re.findall(r"plan = dense<\[?([\d, ]+)\]?>", text)
    return [int(n) for n in numbers.split(",")]


def test_plans_are_ranked_and_distinct():
    plans = flux_plans(most=6)
    clocks = [plan.clocks for plan in plans]
    assert clocks == sorted(clocks)
    assert len(plans) == len(set(plans)) == 7  # and the one of the kernels for every GPU
    assert plans[0].kernel == "hopper"
    assert plans[-1] == jax_na.CudaPlan("warps")
    assert not plans.refusals
    assert [len(line) > 20 for line in str(plans).splitlines()] == [True] * 7


def test_a_box_covers_what_it_should():
    """The counts of a plan, by counting."""
    for plan in flux_plans(most=3).ranked[:3]:
        boxes = [q * w for q, w in zip(plan.queries, plan.warpgroups, strict=True)]
        assert plan.items == 24 * (256 // boxes[0]) * (256 // boxes[1])
        tiles = 1
        for box, keys in zip(boxes, plan.keys, strict=True):
            windows = np.array(_core.windows(256, 80, 1, 1, False, "shift"))
            lengths = [
                windows[1][begin + box - 1] - windows[0][begin] for begin in range(0, 256, box)
            ]
            tiles *= sum(-(-int(length) // keys) for length in lengths)
        assert plan.tiles == 24 * tiles


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dtype": jnp.float32}, "neither bfloat16 nor float16"),
        ({"bias": True}, "bias"),
        ({"value_dim": 60}, "multiples of 8"),
        ({"head_dim": 40, "batch": 2, "volume": True}, "a batch or an axis of one"),
    ],
)
def test_refusals_are_told(options, reason):
    volume = options.pop("volume", False)
    window, spatial = (jax_na.Window((3, 3, 3)), (6, 6, 6)) if volume else (FLUX, (256, 256))
    plans = jax_na.cuda_plans(window, spatial, **{"heads": 24, "head_dim": 128} | options)
    ((kernel, why),) = plans.refusals
    assert kernel == "hopper"
    assert reason in why
    assert reason in str(plans)
    assert [plan.kernel for plan in plans] == ["warps"]


@pytest.mark.parametrize(
    ("window", "spatial"),
    [
        (jax_na.Window((18, 24, 24)), (30, 48, 80)),
        (jax_na.Window((65, 65, 65)), (256, 256, 256)),
        (jax_na.Window((15, 15, 15), dilation=8), (256, 256, 256)),
        (jax_na.Window((None,)), (131072,)),
        (jax_na.Window((25, 25), dilation=12, boundary="wrap"), (1440, 1440)),
    ],
    ids=str,
)
def test_planning_takes_less_than_50_ms(window, spatial):
    taken = []
    for heads in (3, 4, 5):  # plans are remembered: every time another problem
        begin = time.thread_time()  # of one core, whatever else runs
        jax_na.cuda_plans(window, spatial, heads=heads, head_dim=128)
        taken.append(time.thread_time() - begin)
    assert min(taken) < 0.05


def test_a_large_dilation_takes_launches():
    (best, *_) = jax_na.cuda_plans(
        jax_na.Window((127,), dilation=61), (16384,), heads=8, head_dim=64, most=1
    )
    hopper = best if best.kernel == "hopper" else _[0]
    assert hopper.phases == (61,)
    assert hopper.launches == 61
    assert "61 launches" in str(hopper)


def test_plans_are_values():
    plan = flux_plans()[0]
    same = jax_na.CudaPlan("hopper", plan.queries, plan.warpgroups, list(plan.keys))
    assert same == plan
    assert hash(same) == hash(plan)
    assert same.clocks is None
    assert plan.predicted_ms == pytest.approx(plan.clocks / 1.6e6)
    assert eval(repr(plan), {"CudaPlan": jax_na.CudaPlan}) == plan
    assert flux_plans(most=2).ranked[0] in flux_plans(most=5).ranked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gemm",), "kernel should be 'hopper' or 'warps', but got 'gemm'"),
        (("hopper",), "queries should have 1 to 3 entries"),
        (("hopper", (8, 8), (2,), (8, 16)), "warpgroups should have 2 entries"),
        (("hopper", (8, 0), (2, 1), (8, 16)), r"queries should be integers .* got \(8, 0\)"),
        (("hopper", (8, 8), (2, 1), 16), "keys should be a sequence of integers, but got 16"),
        (("warps", (8, 8)), r"queries should be \(\), but got \(8, 8\)"),
    ],
)
def test_what_is_no_plan(arguments, message):
    with pytest.raises(ValueError, match=message):
        jax_na.CudaPlan(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_heads": 5}, "kv_heads should divide the 24 of heads, but got 5"),
        ({"dtype": jnp.int8}, "dtype should be float32, bfloat16 or float16, but got .*int8"),
    ],
)
def test_what_has_no_plans(options, message):
    with pytest.raises(ValueError, match=message):
        jax_na.cuda_plans(FLUX, (256, 256), **{"heads": 24, "head_dim": 128} | options)


def test_a_plan_is_an_attribute():
    shape = query(64, 64)
    plan = jax_na.CudaPlan("hopper", (8, 8), (1, 2), (8, 16))
    assert lowered_plan(shape) == [0]
    assert lowered_plan(shape, plan=plan) == [1, 1, 8, 8, 1, 1, 2, 1, 8, 16, 1, 1, 1]
    assert lowered_plan(shape, plan=jax_na.CudaPlan("warps"))[0] == 0
    dilated = jax_na.CudaPlan("hopper", (8, 8), (1, 2), (8, 16), phases=(1, 2))
    assert lowered_plan(shape, plan=dilated, dilation=(1, 2))[-3:] == [1, 1, 2]


def test_a_plan_is_for_cuda_alone():
    """Other platforms compute as ever."""
    q = jnp.asarray(np.random.default_rng(0).standard_normal((1, 20, 20, 2, 32)), jnp.bfloat16)
    plan = jax_na.CudaPlan("hopper", (8, 8), (1, 2), (8, 12))
    found = jax_na.na2d(q, q, q, 7, plan=plan)
    assert (found == jax_na.na2d(q, q, q, 7)).all()
    gradient = jax.grad(lambda q: jnp.sum(jax_na.na2d(q, q, q, 7, plan=plan).astype(jnp.float32)))
    assert gradient(q).shape == q.shape


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ((8, 8), r"plan should be None or a jax_na.CudaPlan, but got \(8, 8\)"),
        (jax_na.CudaPlan("hopper", (64,), (2,), (128,)), "for windows of rank 2"),
        (jax_na.CudaPlan("hopper", (9, 8), (2, 1), (8, 16)), "queries should be 64 at most.* 72"),
        (jax_na.CudaPlan("hopper", (8, 8), (2, 1), (9, 16)), "keys should be 128 at most.* 144"),
        (jax_na.CudaPlan("hopper", (8, 8), (1, 1), (8, 16)), "2 along one axis and 1 along the"),
        (jax_na.CudaPlan("hopper", (8, 8), (2, 2), (8, 16)), "2 along one axis and 1 along the"),
        (jax_na.CudaPlan("hopper", (1, 8), (2, 1), (8, 300)), "keys along axis -1 .* 1 to 256, .*"),
        (jax_na.CudaPlan("hopper", (8, 8), (2, 1), (8, 16), (1, 2)), "divide the dilation, 1, but"),
    ],
)
def test_plans_that_do_not_suit(plan, message):
    q = jnp.zeros((1, 64, 64, 1, 64), jnp.bfloat16)
    with pytest.raises(ValueError, match=message):
        jax_na.na2d(q, q, q, 7, plan=plan)


def test_plans_that_do_not_suit_a_dilation():
    q = jnp.zeros((1, 60, 60, 1, 64), jnp.bfloat16)
    plan = jax_na.CudaPlan("hopper", (8, 8), (2, 1), (8, 16))
    with pytest.raises(ValueError, match="leave at most 8 of the dilation, 20, but are 1"):
        jax_na.na2d(q, q, q, 3, dilation=(1, 20), plan=plan)
    wide = jax_na.CudaPlan("hopper", (1, 64), (2, 1), (8, 16))
    with pytest.raises(ValueError, match="queries along axis -1 should be from 1 to 51, but are"):
        jax_na.na2d(q, q, q, 3, dilation=(1, 5), plan=wide)


@pytest.mark.parametrize("implementation", ["xla", "gemm", ("fused", "xla")])
def test_plans_are_of_the_fused_kernels(implementation):
    q = jnp.zeros((1, 8, 8, 1, 64), jnp.bfloat16)
    plan = jax_na.CudaPlan("warps")
    with pytest.raises(ValueError, match="implementation should be None or 'fused'"):
        jax_na.na2d(q, q, q, 3, plan=plan, implementation=implementation)
    with pytest.raises(ValueError, match="head dimensions of 12 and 12"):
        jax_na.na2d(q[..., :12], q[..., :12], q[..., :12], 3, plan=plan)


def test_without_kernels_there_are_no_plans(monkeypatch):
    monkeypatch.setattr(_core, "has_cuda", False)
    with pytest.raises(NotImplementedError, match="built without a CUDA compiler"):
        flux_plans()
    q = jnp.zeros((1, 8, 8, 1, 64), jnp.bfloat16)
    with pytest.raises(NotImplementedError, match="built without a CUDA compiler"):
        jax_na.na2d(q, q, q, 3, plan=jax_na.CudaPlan("warps"))


@pytest.mark.parametrize("name", ["most", "multiprocessors"])
def test_numbers_of_plans(name):
    with pytest.raises(ValueError, match=f"{name} should be at least 1, but got 0"):
        flux_plans(**{name: 0})


needs_no_gpu = pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU")


@needs_no_gpu
def test_there_is_no_gpu_to_ask():
    with pytest.raises(RuntimeError, match="there is no GPU to plan for"):
        flux_plans(multiprocessors=None)
    shape = query(16, 16)
    with pytest.raises(RuntimeError, match=r"tune measures on a CUDA device, but .* 'cpu'"):
        jax_na.tune(shape, shape, shape, (5, 5))


def test_tuning_with_a_timer_of_ones_own():
    """The third plan is the fastest in the median, though once it is slow."""
    shape = query(64, 64)
    calls = []

    def timer(plan):
        calls.append(plan)
        if plan == favourite:
            return 50.0 if calls.count(plan) == 2 else 0.5
        return 1.0 + list(plans).index(plan)

    plans = jax_na.cuda_plans(
        jax_na.Window((16, 16)), (64, 64), batch=1, heads=2, head_dim=64, most=4
    )
    favourite = plans[2]
    tuning = jax_na.tune(shape, shape, shape, (16, 16), candidates=4, rounds=3, timer=timer)
    assert tuning.best == favourite
    assert [one.measured_ms for one in tuning.measurements] == [0.5, 1.0, 2.0, 4.0, 5.0]
    assert {one.plan for one in tuning.measurements} == set(plans)
    assert tuning.measurements[1].predicted_ms == plans[0].predicted_ms
    # In turn, after one call of each that does not count.
    assert calls == list(plans) * 4
    assert "0.5000" in str(tuning).splitlines()[1]
    assert tuning.device == ""


@pytest.mark.parametrize("name", ["candidates", "rounds"])
def test_numbers_of_tuning(name):
    shape = query(16, 16)
    with pytest.raises(ValueError, match=f"{name} should be at least 1, but got 0"):
        jax_na.tune(shape, shape, shape, (5, 5), timer=lambda plan: 1.0, **{name: 0})


def test_the_device_timer_measures_a_chain_of_calls():
    """On whatever device there is: 10 calls of 1 ms make 10 ms, and three dispatches less one are
    20 calls.
    """
    from jax_na._tune import device_timer

    made = []

    def attend(*, query, plan):
        made.append(plan)
        for _ in range(40):
            query = jnp.tanh(query @ query)
        return query

    operands = {"query": jnp.ones((1, 200, 200))}
    call = jax.jit(lambda query: attend(query=query, plan=None))
    jax.block_until_ready(call(operands["query"]))
    begin = time.perf_counter()
    jax.block_until_ready([call(operands["query"]) for _ in range(10)])
    plain = (time.perf_counter() - begin) * 100
    made.clear()
    timer = device_timer(attend, operands)
    plan = jax_na.CudaPlan("warps", clocks=1.6e6)
    found = min(timer(plan) for _ in range(5))
    assert made == [plan] * 10  # traced once
    assert plain / 8 < found < plain * 8
