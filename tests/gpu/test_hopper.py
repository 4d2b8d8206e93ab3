"""The Hopper forward kernel: problems that it is chosen for, held to float64 and to itself."""

import dataclasses

import jax
import numpy as np
import pytest
from compare import Kind, arrays_of, attention, dense, errors
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
    Problem("3d", (12, 20, 22), (7, 11, 12), stride=(1, 2, 1), heads=4, kv_heads=4, scale=-0.2),
]


def choice(problem, head_dim, dtype):
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
    )
    return plans[0]


@pytest.fixture(autouse=True)
def _needs_hopper():
    if getattr(jax.devices()[0], "compute_capability", None) != "9.0":
        pytest.skip("needs a GPU of compute capability 9.0")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128, 192, 256])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_forward(problem, head_dim, dtype, record):
    problem = dataclasses.replace(problem, head_dim=head_dim, value_dim=head_dim)
    chosen = choice(problem, head_dim, dtype)
    record(problem=problem.name, head_dim=head_dim, dtype=dtype, choice=str(chosen))
    if chosen.kernel != "hopper":
        pytest.skip("another kernel is predicted to be faster")
    given = arrays_of(problem, dtype)
    out, lse = attention(problem, given, "fused", None)
    again, lse_again = attention(problem, given, "fused", None)
    np.testing.assert_array_equal(np.asarray(out, np.float32), np.asarray(again, np.float32))
    np.testing.assert_array_equal(lse, lse_again)

    expected = dense(problem, given, None)
    found = {"out": np.asarray(out, np.float64), "lse": np.asarray(lse, np.float64)}
    plain_out, plain_lse = attention(problem, given, "xla", None)
    plain = {"out": np.asarray(plain_out, np.float64), "lse": np.asarray(plain_lse, np.float64)}
    for (name, (error, scale)), (other, _) in zip(
        errors(found, expected).items(), errors(plain, expected).values(), strict=True
    ):
        assert error <= 2 * other + Kind("fused", dtype).floor * scale, (name, error, other, scale)
