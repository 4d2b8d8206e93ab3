"""The CUDA handlers against whatever a raw call may pass: an error or the right result, never a
crash.

Origins lie in the memory of the device, where handlers do not see them: with those that no slab can
have a call computes something, but touches nothing that is not its own.
"""

import pytest
from call_fuzzer import run_program
from compare import IMPLEMENTATIONS
from raw_calls import Kernels


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_wrong_calls_are_refused_and_legal_ones_computed(implementation, seed, record):
    counts = run_program(Kernels("cuda", implementation), seed, 100)
    record(calls=sum(counts.values()), **counts)
    assert sum(counts.values()) == 100
    for end in ("computed", "refused by us", "refused by XLA", "computed without a meaning"):
        assert counts[end] > 0, counts
