"""The Hopper forward kernel by two plans: held to float64, itself and the kernels of warps; and the
Hopper backward kernel.
"""

import dataclasses

import jax
import numpy as np
import pytest
from compare import Kind, arrays_of, attention, check, dense, errors
from problems import Problem

import jax_na

PROBLEMS = [
    Problem("1d", (1000,), (300,), batch=(2,), heads=4, kv_heads=2, additional=77),
    Problem("1d-causal", (700,), (200,), stride=(3,), is_causal=(True,), heads=4, kv_heads=4),
    Problem("2d", (60, 52), (24, 25), heads=6, kv_heads=3),
    Problem("2d-blocked", (64, 64), (32, 32), stride=(16, 16), heads=6, kv_heads=6),
    Problem(
        "2d-dilated-periodic",
        (64, 96),
        (20, 20),
        dilation=(2, 3),
        boundary=("clip", "wrap"),
        heads=4,
        kv_heads=1,
    ),
    Problem("1d-largely-dilated", (900,), (40,), dilation=(17,), heads=4, kv_heads=2),
    Problem("2d-largely-dilated", (72, 60), (6, 5), stride=(2, 1), dilation=(9, 12), heads=4),
    Problem("3d", (12, 20, 22), (7, 11, 12), stride=(1, 2, 1), heads=4, kv_heads=4, scale=-0.2),
]


COMPILED = [32, 64, 96, 128, 192, 256]
KINDS = [(head_dim, "bfloat16") for head_dim in (*COMPILED, 40, 200)]
KINDS += [(64, "float16"), (136, "float16")]


def hopper_plans(problem, head_dim, dtype):
    """The best plan, and one that is not."""
    plans = jax_na.cuda_plans(
        problem.window,
        problem.spatial,
        batch=int(np.prod(problem.batch)),
        heads=problem.heads,
        kv_heads=problem.kv_heads,
        head_dim=head_dim,
        additional=problem.additional or 0,
        dtype=dtype,
        multiprocessors=None,
        most=20,
    )
    found = [plan for plan in plans if plan.kernel == "hopper"]
    return found[0], found[-1]


@pytest.fixture(autouse=True)
def _needs_hopper():
    if getattr(jax.devices()[0], "compute_capability", None) != "9.0":
        pytest.skip("needs a GPU of compute capability 9.0")


@pytest.mark.parametrize(("head_dim", "dtype"), KINDS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_forward(problem, head_dim, dtype, record):
    problem = dataclasses.replace(problem, head_dim=head_dim, value_dim=head_dim)
    if head_dim not in COMPILED:  # which takes an axis that is not needed otherwise
        assert problem.batch == (1,) or len(problem.spatial) < 3
    given = arrays_of(problem, dtype)
    expected = dense(problem, given, None)
    plain = named(attention(problem, given, "xla", None))
    warps = named(attention(problem, given, "fused", None, plan=jax_na.CudaPlan("warps")))
    for plan in hopper_plans(problem, head_dim, dtype):
        results = named(attention(problem, given, "fused", None, plan=plan))
        again = named(attention(problem, given, "fused", None, plan=plan))
        worst = {}
        for right in (expected, warps):
            for (name, (error, scale)), (other, _) in zip(
                errors(results, right).items(), errors(plain, expected).values(), strict=True
            ):
                limit = 2 * other + Kind("fused", dtype).floor * scale
                assert error <= limit, (str(plan), name, error, other, scale)
                worst[name] = max(worst.get(name, 0.0), error / scale)
                np.testing.assert_array_equal(results[name], again[name])
        record(problem=problem.name, head_dim=head_dim, dtype=dtype, plan=str(plan), **worst)


@pytest.mark.parametrize(("head_dim", "dtype"), KINDS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_backward(problem, head_dim, dtype, record):
    """By the kernel that is chosen: that for every GPU for the smaller head dimensions."""
    problem = dataclasses.replace(problem, head_dim=head_dim, value_dim=head_dim)
    check(problem, Kind("fused", dtype), record=record)


def named(results):
    return {
        name: np.asarray(x, np.float64) for name, x in zip(("out", "lse"), results, strict=True)
    }


def test_tuning():
    """The plan that was the fastest is one of those that were measured, and is followed."""
    query = jax.ShapeDtypeStruct((1, 128, 128, 4, 64), "bfloat16")
    tuning = jax_na.tune(query, query, query, (32, 32), candidates=3, rounds=3)
    times = [one.measured_ms for one in tuning.measurements]
    assert len(times) == 4
    assert times == sorted(times)
    assert 0 < times[0] < 100
    assert tuning.best == tuning.measurements[0].plan
    assert tuning.device == jax.devices()[0].device_kind


def test_a_plan_of_another_problem():
    query = np.zeros((1, 20, 20, 1, 64), np.float16)
    plan = jax_na.CudaPlan("hopper", (8, 8), (2, 1), (8, 16))
    bias = np.zeros((1, 9, 9), np.float32)
    with pytest.raises(ValueError, match="there is a relative position bias"):
        jax_na.na2d(query, query, query, 5, plan=plan, relative_position_bias=bias)
