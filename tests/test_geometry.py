"""The compiled geometry against the plain specification, exhaustively for short axes."""

import itertools

import numpy as np
import pytest

from jax_na import _core
from jax_na._reference import visible_keys

LONGEST = 24
RULES = [("shift", False), ("shift", True), ("clip", False), ("clip", True), ("wrap", False)]


def legal(length, boundary):
    """Every legal (window, stride, dilation) of an axis."""
    for d in range(1, length + 1):
        if boundary == "wrap" and length % d:
            continue
        for w in range(1, length // d + 1):
            for s in range(1, w + 1):
                yield w, s, d


def seen_matrix(bounds, length, d):
    """[query, key] of what intervals of positions say, keys taken modulo the axis."""
    matrix = np.zeros((length, length), bool)
    for token, (begin, end) in enumerate(zip(*bounds, strict=True)):
        matrix[token, (np.arange(begin, end) * d + token % d) % length] = True
    return matrix


@pytest.mark.parametrize(("boundary", "causal"), RULES)
def test_windows_and_inverse_match_the_specification(boundary, causal):
    for length in range(1, LONGEST + 1):
        for w, s, d in legal(length, boundary):
            expected = np.zeros((length, length), bool)
            for i in range(length):
                expected[i, visible_keys(i, length, w, s, d, causal, boundary)] = True
            arguments = (length, w, s, d, causal, boundary)
            np.testing.assert_array_equal(
                seen_matrix(_core.windows(*arguments), length, d), expected, str(arguments)
            )
            np.testing.assert_array_equal(
                seen_matrix(_core.inverse(*arguments), length, d).T, expected, str(arguments)
            )


@pytest.mark.parametrize(("boundary", "causal"), RULES)
def test_union_and_intersection_over_boxes(boundary, causal):
    for length in (1, 5, 9, 12):
        for w, s, _ in itertools.takewhile(lambda x: x[2] == 1, legal(length, boundary)):
            windows = np.stack(_core.windows(length, w, s, 1, causal, boundary), 1)
            queries = np.stack(_core.inverse(length, w, s, 1, causal, boundary), 1)
            for begin, end in itertools.combinations(range(length + 1), 2):
                bounds = _core.box_bounds(length, w, s, causal, boundary, begin, end)
                expected = []
                for intervals in (windows[begin:end], queries[begin:end]):
                    expected.append((intervals[:, 0].min(), intervals[:, 1].max()))
                    expected.append((intervals[:, 0].max(), intervals[:, 1].min()))
                assert bounds == [tuple(map(int, e)) for e in expected]


def test_binding_refuses_what_is_illegal():
    for arguments in [
        (0, 1, 1, 1, False, "shift"),
        (5, 6, 1, 1, False, "shift"),
        (5, 3, 4, 1, False, "shift"),
        (5, 3, 1, 2, False, "shift"),
        (6, 2, 1, 4, False, "wrap"),
        (6, 2, 1, 1, True, "wrap"),
        (6, 2, 1, 1, False, "mirror"),
    ]:
        with pytest.raises(ValueError, match=r"length|boundary|axis"):
            _core.windows(*arguments)
