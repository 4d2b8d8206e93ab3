"""The compiled CUDA kernels, held to the specification and to plain JAX of the same precision."""

import random
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import (
    COMPARED,
    KINDS,
    arrays_of,
    attention,
    check,
    check_together,
    dense,
    together,
)
from problems import PROBLEMS, Problem

import jax_na

EXACT = [kind for kind in KINDS if kind.dtype == "float32" and kind.plain_precision == "highest"]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("problem", [together(p) for p in COMPARED])
def test_error_is_at_most_twice_that_of_plain_jax(problem, kind, record):
    check(kind.fit(problem), kind, record=record)


@pytest.mark.parametrize("kind", EXACT, ids=str)
@pytest.mark.parametrize("problem", [together(p) for p in PROBLEMS])
def test_specification(problem, kind):
    problem = kind.fit(problem)
    given = arrays_of(problem, "float32")
    out, lse = attention(problem, given, kind.implementation, kind.precision)
    expected = dense(problem, given, None)
    np.testing.assert_allclose(out, expected["out"], rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(lse, expected["lse"], rtol=2e-5, atol=2e-5)


EVEN = [(8, 8), (24, 40), (32, 32), (64, 64), (64, 128), (96, 96), (160, 72), (256, 256)]
UNEVEN = [(1, 1), (5, 12), (33, 7), (100, 130), (255, 254)]


HEAD_DIMENSIONS = [
    pytest.param(kind, *features, marks=pytest.mark.xdist_group(f"features-{features}"))
    for kind in KINDS
    for features in EVEN + (UNEVEN if kind.implementation == "naive" else [])
]


@pytest.mark.parametrize(("kind", "head_dim", "value_dim"), HEAD_DIMENSIONS, ids=str)
def test_head_dimensions(head_dim, value_dim, kind):
    problem = Problem(
        "2d",
        (13, 11),
        (5, 4),
        heads=4,
        kv_heads=2,
        batch=(2,),
        additional=3,
        bias=True,
        head_dim=head_dim,
        value_dim=value_dim,
    )
    check(problem, kind)


def random_problem(seed, features):
    """Any problem, of head dimensions from `features`."""
    r = random.Random(seed)
    rank = r.randint(1, 3)
    spatial, sizes, strides, dilations, causal, boundary = [], [], [], [], [], []
    for _ in range(rank):
        d = r.choice((1, 1, 1, 2, 3))
        rule = r.choice(("shift", "clip", "wrap"))
        length = r.randint(d, {1: 300, 2: 30, 3: 10}[rank])
        length = max(length // d, 1) * d if rule == "wrap" else length
        w = r.randint(1, length // d)
        spatial.append(length)
        sizes.append(w)
        strides.append(r.choice((1, r.randint(1, w))))
        dilations.append(d)
        boundary.append(rule)
        causal.append(rule != "wrap" and r.random() < 0.3)
    kv_heads = r.randint(1, 2)
    dims = r.choice(features)
    return Problem(
        f"random-{seed}",
        tuple(spatial),
        tuple(sizes),
        stride=tuple(strides),
        dilation=tuple(dilations),
        is_causal=tuple(causal),
        boundary=tuple(boundary),
        batch=(r.randint(1, 3),),
        heads=kv_heads * r.randint(1, 3),
        kv_heads=kv_heads,
        head_dim=dims,
        value_dim=r.choice((dims, *features)),
        additional=r.choice((None, None, 2, 70)),
        bias=r.random() < 0.3,
    )


#: What random problems are computed in, in turn, and their head dimensions.
TOGETHER = [[k for k in KINDS if k.dtype == d] for d in ("bfloat16", "float16", "float32")]
EVEN_TURNS, ANY_TURNS = (
    (TOGETHER, (8, 16, 32, 64, 80, 128)),
    ([[k] for k in KINDS if k.implementation == "naive"], (1, 8, 20, 32, 64, 77, 128)),
)


def test_random_problems(chunk, record):
    """All implementations on the same problems, and every fifth problem is one that the naive
    kernels alone can do.
    """
    failures = []
    for seed in chunk:
        turns, features = ANY_TURNS if seed % 5 == 4 else EVEN_TURNS
        kinds = turns[seed // 5 % len(turns)]
        try:
            check_together(random_problem(seed, features), kinds, seed)
        except Exception:  # the others are worth knowing too
            failures.append(f"seed {seed}: {traceback.format_exc(limit=1)}")
    record(problems=len(chunk), failures=len(failures))
    assert not failures, f"{len(failures)} of {len(chunk)}\n" + "\n".join(failures[:3])


@pytest.mark.parametrize(
    ("features", "dtype", "target"),
    [
        (32, "float32", "jax_na_cuda_fused_forward"),
        (12, "float32", "jax_na_cuda_naive_forward"),
        (32, "float64", "jax_na_cuda_naive_forward"),
    ],
)
def test_none_runs_the_best_kernels(features, dtype, target):
    with jax.enable_x64(dtype == "float64"):
        q = jnp.ones((1, 8, 8, 2, features), dtype)
        text = jax.jit(lambda q: jax_na.na2d(q, q, q, 3)).lower(q).compile().as_text()
    assert target in text


@pytest.mark.parametrize(
    ("implementation", "dtype", "features", "message"),
    [
        ("fused", "float32", 12, "multiple of 8 up to 256, but got 12"),
        ("fused", "float64", 8, "got float64; pass implementation='naive' or 'xla'"),
        ("naive", "float32", 257, "head_dim up to 256, but got 257; pass implementation='xla'"),
    ],
)
def test_refusals(implementation, dtype, features, message):
    with jax.enable_x64(dtype == "float64"):
        q = jnp.ones((8, 1, features), dtype)
        with pytest.raises(NotImplementedError, match=message):
            jax_na.na1d(q, q, q, 3, implementation=implementation)
