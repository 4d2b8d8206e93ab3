"""Slabs: kernels that hold parts of an axis, by run-time origins, together compute the whole."""

import itertools
import math

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Problem, make_inputs, problems
from raw_calls import NOWHERE, Kernels
from specification import Specification

import jax_na
from jax_na import _core
from jax_na._ffi import Geometry

RANDOM = settings(max_examples=12, deadline=None, derandomize=True)


class Whole:
    """A random problem on three axes, all of it in one call: operands, results and gradients."""

    def __init__(self, problem: Problem, kernels: Kernels) -> None:
        problem, self.kernels = kernels.fit(problem), kernels
        window, lead = problem.window, 3 - len(problem.spatial)

        def three(values, default):
            return (default,) * lead + tuple(values)

        self.geometry = Geometry(
            three(problem.spatial, 1),
            three(window.sizes, 1),
            three(window.stride, 1),
            three(window.dilation, 1),
            three(window.is_causal, False),
            three(window.boundary, "shift"),
            0.5 if problem.scale is None else problem.scale,
        )
        inputs = make_inputs(problem, kernels.exact)
        batch, length = math.prod(problem.batch), self.geometry.length
        tokens = (batch, problem.additional or 0, problem.kv_heads)
        bias = (int(problem.bias), problem.heads, *(2 * w - 1 for w in self.geometry.kernel_size))
        rng = np.random.default_rng(1)

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(kernels.exact)

        self.operands = (
            *(x.reshape(batch, *length, *x.shape[-2:]) for x in inputs.main),
            normal(*tokens, problem.head_dim),
            normal(*tokens, problem.value_dim),
            normal(*bias),
        )
        # In NumPy's hands: indexing an array of JAX's compiles a program.
        out, lse = map(np.asarray, kernels.forward(self.geometry, *self.operands, NOWHERE))
        self.rows = out, lse, normal(*out.shape), normal(*lse.shape)
        self.gradients = kernels.backward(self.geometry, *self.operands, NOWHERE, *self.rows)

    def close(self, ours, expected, name=""):
        """Asserts that the kernels are as exact as they can be."""
        ours, expected = (np.asarray(x, np.float64) for x in (ours, expected))
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(ours[~finite], expected[~finite], name)
        ours, expected = ours[finite], expected[finite]
        near = self.kernels.tolerance * max(1.0, np.abs(expected).max(initial=0))
        np.testing.assert_allclose(ours, expected, rtol=0, atol=near, err_msg=name)

    def needed(self, axis: int, begin: int, end: int) -> tuple[int, int]:
        """The keys that the queries [begin, end) of an axis see, unwrapped."""
        g, a = self.geometry, axis
        rule = g.length[a], g.kernel_size[a], g.stride[a], g.dilation[a], g.is_causal[a]
        starts, ends = map(np.asarray, _core.windows(*rule, g.boundary[a]))
        token, d = np.arange(begin, end), g.dilation[a]
        first = starts[begin:end] * d + token % d
        last = (ends[begin:end] - 1) * d + token % d
        return int(first.min()), int(last.max()) + 1

    def limits(self, axis: int) -> tuple[int, int]:
        """Where keys may lie: a periodic axis has a halo of its own length on either side."""
        length = self.geometry.length[axis]
        halo = length if self.geometry.boundary[axis] == "wrap" else 0
        return -halo, length + halo


class Slab:
    """Queries and keys of half-open intervals per axis, out of a whole."""

    def __init__(self, whole: Whole, queries, keys, additional: bool = True) -> None:
        self.whole = whole
        self.q, self.k = (
            np.ix_(
                range(len(whole.operands[0])),
                *(np.arange(*s) % n for s, n in zip(side, whole.geometry.length, strict=True)),
            )
            for side in (queries, keys)
        )
        q, k, v, more_k, more_v, bias = whole.operands
        if not additional:
            more_k, more_v = more_k[:, :0], more_v[:, :0]
        self.origins = np.array([[s[0] for s in side] for side in (queries, keys)], np.int32)
        self.operands = (q[self.q], k[self.k], v[self.k], more_k, more_v, bias, self.origins)

    def forward(self):
        return self.whole.kernels.forward(self.whole.geometry, *self.operands)

    def add_gradients(self, rows, sums) -> None:
        """Adds what this slab contributes to the gradients of the whole."""
        rows = (np.asarray(x) for x in rows)
        gradients = self.whole.kernels.backward(self.whole.geometry, *self.operands, *rows)
        places = (self.q, self.k, self.k)
        for total, part, place in zip(sums[:3], gradients[:3], places, strict=True):
            np.add.at(total, place, part)
        for total, part in zip(sums[3:], gradients[3:], strict=True):
            total[:, : part.shape[1]] += part


def cuts(draw, begin: int, end: int, most: int) -> list[tuple[int, int]]:
    """Consecutive intervals, at most `most`, that make up [begin, end)."""
    inner = (
        draw(st.lists(st.integers(begin + 1, end - 1), max_size=most - 1))
        if end - begin > 1
        else []
    )
    places = [begin, *sorted(set(inner)), end]
    return list(itertools.pairwise(places))


@RANDOM
@given(problems(max_tokens=60), st.data())
def test_query_slabs_with_all_their_keys_make_up_the_whole(kernels, problem, data):
    with jax.enable_x64(kernels.exact == "float64"):
        whole = Whole(problem, kernels)
        sums = [np.zeros(x.shape) for x in whole.gradients]
        pieces = [cuts(data.draw, 0, n, 2) for n in whole.geometry.length]
        for queries in itertools.product(*pieces):
            keys = []
            for axis, (begin, end) in enumerate(queries):
                (first, last), (low, high) = whole.needed(axis, begin, end), whole.limits(axis)
                more = data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
                if end - begin == whole.geometry.length[axis]:
                    # An axis whose queries are all here and whose keys begin at 0 is not unwrapped.
                    first, last, more = 0, whole.geometry.length[axis], (0, 0)
                keys.append((max(first - more[0], low), min(last + more[1], high)))
            slab = Slab(whole, queries, keys)
            out, lse = slab.forward()
            whole.close(out, whole.rows[0][slab.q], f"out of {queries}, {keys}")
            whole.close(lse, whole.rows[1][slab.q], f"lse of {queries}, {keys}")
            slab.add_gradients([x[slab.q] for x in whole.rows], sums)
        for i, (total, expected) in enumerate(zip(sums, whole.gradients, strict=True)):
            whole.close(total, expected, f"gradient {i}")


@RANDOM
@given(problems(max_tokens=60), st.data())
def test_key_slabs_merge_to_the_whole(kernels, problem, data):
    with jax.enable_x64(kernels.exact == "float64"):
        whole = Whole(problem, kernels)
        length = whole.geometry.length
        queries = [(0, n) for n in length]
        axis = data.draw(st.integers(0, 2))
        span = whole.needed(axis, 0, length[axis])
        pieces = cuts(data.draw, *span, 3)
        if any(end - begin == length[axis] for begin, end in pieces):
            pieces = [(0, length[axis])]  # a whole periodic axis is not unwrapped
        slabs = []
        for i, piece in enumerate(pieces):
            keys = [piece if a == axis else queries[a] for a in range(3)]
            slabs.append(Slab(whole, queries, keys, additional=i == 0))
        merge = jax.jit(jax_na.merge)
        out, lse = merge(*zip(*(slab.forward() for slab in slabs), strict=True))
        whole.close(out, whole.rows[0], f"out of {pieces}")
        whole.close(lse, whole.rows[1], f"lse of {pieces}")
        # Weights relative to the merged lse are those of the whole, so gradients add up.
        sums = [np.zeros(x.shape) for x in whole.gradients]
        for slab in slabs:
            slab.add_gradients((out, lse, *whole.rows[2:]), sums)
        for i, (total, expected) in enumerate(zip(sums, whole.gradients, strict=True)):
            whole.close(total, expected, f"gradient {i}")


@RANDOM
@given(problems(max_tokens=40), st.data())
def test_any_slab_matches_the_specification(kernels, problem, data):
    """Keys that a slab does not hold are invisible; a row without keys has out 0 and lse -inf."""
    with jax.enable_x64(kernels.exact == "float64"):
        whole = Whole(problem, kernels)
        queries, keys = [], []
        for axis, length in enumerate(whole.geometry.length):
            low, high = whole.limits(axis)
            queries.append(data.draw(st.sampled_from(cuts(data.draw, 0, length, 3))))
            keys.append(data.draw(st.sampled_from(cuts(data.draw, low, high, 4))))
            if keys[-1][1] - keys[-1][0] == length == queries[-1][1]:
                queries[-1] = keys[-1] = (0, length)
        slab = Slab(whole, queries, keys)
        expected = Specification(whole.geometry, *slab.operands)
        out, lse = slab.forward()
        whole.close(out, expected.out)
        whole.close(lse, expected.lse)
        rows = out, lse, whole.rows[2][slab.q], whole.rows[3][slab.q]
        gradients = kernels.backward(whole.geometry, *slab.operands, *rows)
        for i, (ours, theirs) in enumerate(
            zip(gradients, expected.gradients(*rows[2:]), strict=True)
        ):
            whole.close(ours, theirs, f"gradient {i}")


def test_one_compiled_program_serves_every_origin(kernels):
    whole = Whole(Problem("ring", (12,), (5,), boundary=("wrap",)), kernels)
    traced = []

    @jax.jit
    def program(*operands):
        traced.append(operands)
        return kernels.forward(whole.geometry, *operands)

    for begin in range(0, 12, 3):
        whole_line = (0, 1)
        slab = Slab(
            whole,
            (whole_line, whole_line, (begin, begin + 3)),
            (whole_line, whole_line, (begin - 2, begin + 5)),
        )
        out, _ = program(*slab.operands)
        np.testing.assert_allclose(out, whole.rows[0][slab.q], rtol=5e-5, atol=5e-5)
    assert len(traced) == 1
