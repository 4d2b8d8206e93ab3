"""The Hopper backward kernels, the one with sums and the pair without, held to plain JAX."""

import dataclasses

import jax
import pytest
from compare import Kind, check
from problems import Problem

from jax_na import _core
from jax_na._ffi import Geometry

#: Large enough for these kernels to be chosen at 128 features, small enough for dense float64.
PROBLEMS = [
    Problem("1d", (1000,), (700,), batch=(1,), heads=16, kv_heads=8),
    Problem("1d-causal", (1900,), (1400,), stride=(3,), is_causal=(True,), heads=2, kv_heads=2),
    Problem("2d", (36, 33), (30, 28), batch=(2,), heads=4, kv_heads=2),
    Problem("2d-blocked", (48, 48), (32, 32), stride=(16, 16), heads=2, kv_heads=2),
    Problem(
        "2d-dilated-periodic",
        (60, 60),
        (28, 18),
        dilation=(2, 3),
        boundary=("clip", "wrap"),
        heads=2,
        kv_heads=1,
        scale=-0.2,
    ),
    Problem("3d", (12, 14, 15), (9, 11, 12), stride=(1, 2, 1), heads=2, kv_heads=2),
    Problem("2d-additional", (40, 37), (30, 28), heads=4, kv_heads=2, additional=150),
]


@pytest.fixture(autouse=True)
def _needs_hopper():
    if getattr(jax.devices()[0], "compute_capability", None) != "9.0":
        pytest.skip("needs a GPU of compute capability 9.0")


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128, 192, 256])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_gradients(problem, head_dim, dtype, deterministic, record):
    problem = dataclasses.replace(problem, head_dim=head_dim, value_dim=head_dim)
    if head_dim == 128:
        kernels = choice(problem, dtype, deterministic).split("rather than")[0]
        assert kernels.startswith("sm_90a: ")
        assert kernels.count("items of") == 1 + deterministic
    check(problem, Kind("fused", dtype), record=record, deterministic=deterministic)


def choice(problem, dtype, deterministic):
    """Which kernels run the backward pass, in words."""
    geometry = Geometry.of(problem.window, problem.spatial, 1.0)
    of = geometry.problem(
        problem.batch[0],
        problem.heads,
        problem.kv_heads,
        problem.head_dim,
        problem.head_dim,
        problem.additional or 0,
        0,
    )
    return _core.cuda_fused_backward_choice(of, dtype, False, 132, deterministic)
