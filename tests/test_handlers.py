"""The compiled CPU handlers against whatever a raw call may pass: an error or the right result,
never a crash.
"""

import time

import numpy as np
import pytest
from call_fuzzer import run_program
from raw_arguments import LONGEST
from raw_calls import ON_CPU

from jax_na import _ffi


def test_wrong_calls_are_refused_and_legal_ones_computed():
    counts = run_program(ON_CPU, 0, 400)
    assert sum(counts.values()) == 400
    assert min(counts[end] for end in ("computed", "refused by us", "refused by XLA")) >= 40


def line_call(length: int, window: int, dilation: int, scale: float) -> list[np.ndarray]:
    """One call on a single query and key at the beginning of an axis."""
    geometry = _ffi.Geometry(
        (1, 1, length),
        (1, 1, window),
        (1, 1, 1),
        (1, 1, dilation),
        (False,) * 3,
        ("shift",) * 3,
        scale,
    )
    token, none = np.ones((1, 1, 1, 1, 1, 2), np.float32), np.ones((1, 0, 1, 2), np.float32)
    bias = np.ones((0, 1, 1, 1, 2 * window - 1), np.float32)
    operands = (token, token, token, none, none, bias, np.zeros((2, 3), np.int32))
    return [np.asarray(x) for x in ON_CPU.forward(geometry, *operands)]


def test_a_slab_costs_what_it_holds_however_long_its_axis_is():
    for window, dilation in ((1, LONGEST), (LONGEST, 1), (LONGEST // 4, 4)):
        start = time.process_time()
        out, lse = line_call(LONGEST, window, dilation, 0.5)
        assert time.process_time() - start < 1.5
        np.testing.assert_array_equal(out, 1)
        np.testing.assert_array_equal(lse, 1)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, 1e300, -1e300])
def test_a_scale_that_is_no_factor_gives_no_number(scale):
    out, lse = line_call(3, 1, 1, scale)
    assert not np.isfinite(lse).any()
    assert np.isnan(out).all() or (scale < 0 and (out == 0).all())
