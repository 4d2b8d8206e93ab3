"""Merging partial attentions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jax_na


@jax.jit
def partial(key, value, query):
    scores = jnp.einsum("qnd,knd->qnk", query, key)
    lse = jax.nn.logsumexp(scores, axis=-1)
    return jnp.einsum("qnk,knd->qnd", jnp.exp(scores - lse[..., None]), value), lse


def parts(kind: Any = np.float64, sets: int = 3):
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((n, 2, 4)).astype(kind) for n in (5, 9, 9))
    pieces = [partial(key[i::sets], value[i::sets], query) for i in range(sets)]
    outs, lses = zip(*pieces, strict=True)
    return outs, lses, partial(key, value, query)


def test_merging_parts_gives_the_whole():
    with jax.enable_x64(True):
        outs, lses, (out, lse) = parts()
        merged, merged_lse = jax_na.merge(outs, lses)
        np.testing.assert_allclose(merged, out, rtol=1e-12)
        np.testing.assert_allclose(merged_lse, lse, rtol=1e-12)
        stacked, stacked_lse = jax_na.merge(jnp.stack(outs), jnp.stack(lses))
        np.testing.assert_array_equal(stacked, merged)
        np.testing.assert_array_equal(stacked_lse, merged_lse)


def test_one_part_is_returned_as_it_is():
    outs, lses, _ = parts(np.float32, sets=1)
    out, lse = jax_na.merge(outs, lses)
    np.testing.assert_array_equal(out, outs[0])
    np.testing.assert_array_equal(lse, lses[0])


def test_derivatives():
    with jax.enable_x64(True):
        outs, lses, _ = parts()
        check_grads(
            jax.jit(jax_na.merge),
            (outs, lses),
            order=2,
            modes=("fwd", "rev"),
        )


def test_derivative_through_lse():
    with jax.enable_x64(True):
        outs, lses, _ = parts(sets=2)
        grads = jax.jit(jax.grad(lambda lses: jax_na.merge(outs, lses)[1].sum()))(lses)
        for grad, weight in zip(grads, jax.nn.softmax(jnp.stack(lses), axis=0), strict=True):
            np.testing.assert_allclose(grad, weight, rtol=1e-12)


@pytest.mark.parametrize("junk", [0.0, np.nan, np.inf])
def test_empty_part_has_no_weight_whatever_it_holds(junk):
    outs, lses, _ = parts(np.float32, sets=2)
    empty = jnp.full_like(outs[0], junk)
    nothing = jnp.full_like(lses[0], -jnp.inf)
    out, lse = jax.jit(jax_na.merge)([outs[0], empty, outs[1]], [lses[0], nothing, lses[1]])
    expected, expected_lse = jax_na.merge(outs, lses)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(lse, expected_lse, rtol=1e-5, atol=1e-6)

    @jax.jit
    def loss(outs, lses):
        out, lse = jax_na.merge(outs, lses)
        return (out**2).sum() + lse.sum()

    with_empty = ([outs[0], empty, outs[1]], [lses[0], nothing, lses[1]])
    grads, lse_grads = jax.grad(loss, (0, 1))(*with_empty)
    expected, expected_lse = jax.grad(loss, (0, 1))(list(outs), list(lses))
    for got, want in ((grads, expected), (lse_grads, expected_lse)):
        np.testing.assert_array_equal(got[1], np.zeros_like(got[1]))
        np.testing.assert_allclose(got[0], want[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got[2], want[1], rtol=1e-5, atol=1e-6)


def test_everything_empty():
    outs, lses = jnp.full((2, 3, 4), jnp.nan), jnp.full((2, 3), -jnp.inf)
    out, lse = jax.jit(jax_na.merge)(outs, lses)
    np.testing.assert_array_equal(out, np.zeros((3, 4)))
    np.testing.assert_array_equal(lse, np.full((3,), -np.inf))
    grads = jax.jit(jax.grad(lambda *x: jax_na.merge(*x)[0].sum(), (0, 1)))(outs, lses)
    for grad in grads:
        np.testing.assert_array_equal(grad, np.zeros_like(grad))


def test_large_scores_do_not_overflow():
    outs = jnp.array([[[1.0]], [[2.0]]])
    out, lse = jax_na.merge(outs, jnp.array([[3e4], [3e4]]))
    np.testing.assert_allclose(out, [[1.5]])
    np.testing.assert_allclose(lse, [3e4 + np.log(2)])


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_types(kind):
    outs, lses, _ = parts(np.float32)
    out, lse = jax_na.merge([x.astype(kind) for x in outs], lses)
    assert out.dtype == kind
    assert lse.dtype == jnp.float32


@pytest.mark.parametrize(
    ("outs", "lses", "message"),
    [
        ([], [], "outs should hold at least 1"),
        ([np.ones((3, 2))], [], "lses should hold one array for each of the 1 of outs, but got 0"),
        (
            [np.ones((3, 2)), np.ones((4, 2))],
            [np.ones(3)] * 2,
            r"outs\[1\] shape should be \(3, 2\).*\(4, 2\)",
        ),
        ([np.ones((3, 2))], [np.ones((3, 2))], r"lses\[0\] shape should be \(3,\).*\(3, 2\)"),
        ([np.ones((3, 2), int)], [np.ones(3)], r"outs\[0\] should be of a floating-point type"),
        ([np.ones((3, 2))], [np.ones(3, int)], r"lses\[0\] should be of a floating-point type"),
    ],
)
def test_refusals(outs, lses, message):
    with pytest.raises(ValueError, match=message):
        jax_na.merge(outs, lses)
