"""The specification: worked examples, special cases with a known answer, and what follows from the
text.
"""

import numpy as np
import pytest
from problems import Problem, make_inputs

from jax_na._reference import reference_attention, seeing_queries, visible_keys, window_interval
from jax_na._window import Boundary, Window


def axis(
    length, kernel_size, stride=1, dilation=1, is_causal=False, boundary: Boundary = "shift"
) -> tuple[int, int, int, int, bool, Boundary]:
    return length, kernel_size, stride, dilation, is_causal, boundary


@pytest.mark.parametrize(
    ("rule", "token", "keys"),
    [
        # The window slides back inside at both borders.
        (axis(7, 3), 0, [0, 1, 2]),
        (axis(7, 3), 3, [2, 3, 4]),
        (axis(7, 3), 6, [4, 5, 6]),
        # An even window has one more key on the left.
        (axis(8, 4), 4, [2, 3, 4, 5]),
        (axis(8, 4), 0, [0, 1, 2, 3]),
        # Queries 3, 4 and 5 share the window of query 4; query 6 is alone in its group and leads
        # it.
        (axis(7, 3, stride=3), 3, [3, 4, 5]),
        (axis(7, 3, stride=3), 5, [3, 4, 5]),
        (axis(7, 3, stride=3), 6, [4, 5, 6]),
        # Token 5 of 8 is position 2 of the group 1, 3, 5, 7.
        (axis(8, 3, dilation=2), 5, [3, 5, 7]),
        (axis(8, 3, dilation=2), 0, [0, 2, 4]),
        # 8 tokens in groups of 3, 3 and 2.
        (axis(8, 2, dilation=3), 5, [2, 5]),
        (axis(8, 2, dilation=3), 7, [4, 7]),
        (axis(7, 5, boundary="clip"), 0, [0, 1, 2]),
        (axis(7, 5, boundary="clip"), 3, [1, 2, 3, 4, 5]),
        (axis(7, 5, boundary="clip"), 6, [4, 5, 6]),
        (axis(7, 5, boundary="wrap"), 0, [5, 6, 0, 1, 2]),
        (axis(7, 5, boundary="wrap"), 6, [4, 5, 6, 0, 1]),
        (axis(8, 3, dilation=2, boundary="wrap"), 1, [7, 1, 3]),
        (axis(6, 3, is_causal=True), 0, [0]),
        (axis(6, 3, is_causal=True), 4, [2, 3, 4]),
        # The group 3, 4, 5 has the window of query 5, less what comes after each of them.
        (axis(9, 4, stride=3, is_causal=True), 3, [2, 3]),
        (axis(9, 4, stride=3, is_causal=True), 5, [2, 3, 4, 5]),
    ],
)
def test_worked_examples(rule, token, keys):
    assert visible_keys(token, *rule) == keys


def test_interval_is_unwrapped_on_a_periodic_axis():
    assert window_interval(0, *axis(7, 5, boundary="wrap")) == (-2, 3)
    assert window_interval(6, *axis(7, 5, boundary="wrap")) == (4, 9)


def test_seeing_queries():
    assert seeing_queries(0, *axis(7, 3)) == [0, 1]
    assert seeing_queries(2, *axis(7, 3)) == [0, 1, 2, 3]
    assert seeing_queries(0, *axis(7, 3, boundary="wrap")) == [0, 1, 6]
    assert seeing_queries(3, *axis(7, 3, is_causal=True)) == [3, 4, 5]


def every_axis(longest):
    for length in range(1, longest + 1):
        for dilation in range(1, length + 1):
            for kernel_size in range(1, length // dilation + 1):
                for stride in range(1, kernel_size + 1):
                    for is_causal in (False, True):
                        for boundary in ("shift", "clip", "wrap"):
                            if boundary == "wrap" and (is_causal or length % dilation):
                                continue
                            yield length, kernel_size, stride, dilation, is_causal, boundary


def test_windows_keep_their_promises():
    for rule in every_axis(9):
        length, kernel_size, stride, dilation, is_causal, boundary = rule
        starts = []
        for i in range(length):
            keys = visible_keys(i, *rule)
            assert len(keys) == len(set(keys)) > 0
            assert all(k % dilation == i % dilation for k in keys)
            start, end = window_interval(i, *rule)
            starts.append((i % dilation, i // dilation, start, end))
            # Every key has an entry in the bias.
            assert -kernel_size < start - i // dilation
            assert end - 1 - i // dilation < kernel_size
            if is_causal:
                assert max(keys) == i
                assert len(keys) >= min(i // dilation + 1, kernel_size - stride + 1)
            elif boundary != "clip":
                assert len(keys) == kernel_size
            if is_causal or boundary == "shift":
                assert i in keys
        for (g, _, a, b), (h, _, c, d) in zip(sorted(starts), sorted(starts)[1:], strict=False):
            assert g != h or (a <= c and b <= d), "both ends are non-decreasing"


def dense(query, key, value, scale, mask=None):
    """Attention over all tokens of [tokens, N, D] arrays."""
    scores = scale * np.einsum("qnd,knd->nqk", query, key)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    total = exponentials.sum(-1)
    out = np.einsum("nqk,knd->qnd", exponentials / total[..., None], value)
    return out, (np.log(total) + scores.max(-1)).T


@pytest.mark.parametrize("stride", [1, 3])
def test_whole_axes_are_dense_attention(stride):
    problem = Problem("dense", (4, 5), (None, 5), stride=(stride, 1), heads=2, kv_heads=2)
    inputs = make_inputs(problem, "float64")
    out, lse = reference_attention(*inputs.main, Window((None, 5), (stride, 1)))
    query, key, value = (x[0].reshape(20, 2, 4) for x in inputs.main)
    expected, expected_lse = dense(query, key, value, 0.5)
    np.testing.assert_allclose(out[0].reshape(20, 2, 4), expected, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(lse[0].reshape(20, 2), expected_lse, rtol=1e-13, atol=1e-13)


def test_whole_causal_axis_is_causal_attention():
    inputs = make_inputs(Problem("causal", (9,), (9,)), "float64")
    out, _ = reference_attention(*inputs.main, Window(9, is_causal=True))
    mask = np.tril(np.ones((9, 9), bool))
    query, key, value = (x[0] for x in inputs.main)
    expected, _ = dense(query, key, value, 0.5, mask)
    np.testing.assert_allclose(out[0], expected, rtol=1e-13, atol=1e-13)


def test_window_of_one_returns_value():
    inputs = make_inputs(Problem("self", (3, 4), (1, 1), heads=2, kv_heads=1), "float64")
    out, lse = reference_attention(*inputs.main, Window((1, 1)))
    np.testing.assert_array_equal(out, np.repeat(inputs.value, 2, axis=-2))
    scores = 0.5 * (inputs.query * np.repeat(inputs.key, 2, axis=-2)).sum(-1)
    np.testing.assert_allclose(lse, scores, rtol=1e-12, atol=1e-14)


def test_grouped_heads_bias_and_additional_keys_by_hand():
    window = Window(2, is_causal=True)
    query, key = np.ones((2, 2, 1)), np.array([[[1.0]], [[2.0]]])
    value = np.array([[[10.0]], [[20.0]]])
    bias = np.array([[-1.0, 0.5, 9.0], [0.0, 0.0, 9.0]])
    out, lse = reference_attention(
        query,
        key,
        value,
        window,
        scale=1.0,
        additional_keys=np.full((1, 1, 1), 3.0),
        additional_values=np.full((1, 1, 1), 30.0),
        relative_position_bias=bias,
    )
    # Query 1 sees key 0 (bias index 0), key 1 (index 1, the query itself) and the additional key,
    # which has no bias.
    for head in range(2):
        weights = np.exp([1 + bias[head, 0], 2 + bias[head, 1], 3.0])
        np.testing.assert_allclose(out[1, head, 0], weights @ [10, 20, 30] / weights.sum())
        np.testing.assert_allclose(lse[1, head], np.log(weights.sum()))
    weights = np.exp([1 + bias[0, 1], 3.0])
    np.testing.assert_allclose(out[0, 0, 0], weights @ [10, 30] / weights.sum())


def test_batch_axes_are_independent():
    problem = Problem("batches", (6,), (3,), batch=(2, 3), additional=1, bias=True)
    inputs = make_inputs(problem, "float64")
    out, lse = reference_attention(*inputs.main, problem.window, **inputs.extras())
    assert out.shape == (2, 3, 6, 1, 4)
    one, one_lse = reference_attention(
        inputs.query[1, 2],
        inputs.key[1, 2],
        inputs.value[1, 2],
        problem.window,
        additional_keys=inputs.additional_keys[1, 2],
        additional_values=inputs.additional_values[1, 2],
        relative_position_bias=inputs.bias,
    )
    np.testing.assert_array_equal(out[1, 2], one)
    np.testing.assert_array_equal(lse[1, 2], one_lse)
