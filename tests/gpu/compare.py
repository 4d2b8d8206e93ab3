"""The compiled CUDA kernels beside a plain implementation of the same precision, both against
float64.

Float64 is NumPy (tests/specification.py): what takes time here is XLA's compilation, so what tests
of one problem share is computed once for all of them that run in a process.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import PROBLEMS, Problem, make_inputs
from specification import Arithmetic, Specification, arithmetic_of

import jax_na
from jax_na._ffi import Geometry


@dataclasses.dataclass(frozen=True)
class Kind:
    """An implementation and what it computes in."""

    implementation: str
    dtype: str
    precision: str | None = None

    def __str__(self):
        return "-".join(filter(None, (self.implementation, self.dtype, self.precision)))

    @property
    def plain_precision(self):
        """Of plain JAX that is as exact. The naive kernels multiply in float32; to products of
        16-bit numbers, which float32 holds, it makes no difference.
        """
        if self.implementation == "naive" and self.dtype in ("float32", "float64"):
            return "highest"
        return self.precision or "default"

    @property
    def floor(self):
        """A share of the scale of an array: two roundings of the operands of products, which plain
        JAX may not make where it computes small ones without tensor cores.
        """
        if self.dtype == "float32":
            return 1e-3 if self.plain_precision == "default" else 4e-6
        return {"bfloat16": 3e-3, "float16": 4e-4, "float64": 1e-13}[self.dtype]

    def cut_off(self, problem, array):
        """A share of the scale of an array: what tensor cores cut off in sums of float32.

        They cut off what an addition shifts out, up to 2^-23 of the sum and always towards zero:
        other than errors of rounding these add up, one for every 8 terms in three parts. On an H100
        (2026-11-21) the gradient of keys that 900 queries see was off by 9e-6 of its scale.
        """
        if self.implementation == "naive" or (self.dtype, self.precision) != ("float32", "highest"):
            return 0.0
        window, tokens = math.prod(problem.window.sizes), math.prod(problem.spatial)
        terms = max(problem.head_dim, problem.value_dim, window + (problem.additional or 0))
        group = problem.heads // problem.kv_heads
        if array.startswith("dadditional"):
            terms = max(terms, group * tokens)
        elif array in ("dkey", "dvalue"):  # seen from up to twice as far where a window is shifted
            terms = max(terms, group * min(tokens, 2 ** len(problem.spatial) * window))
        return 3 / 8 * terms * 2**-24

    def fit(self, problem):
        """The problem, with head dimensions that the kernels take."""
        if self.implementation == "naive":
            return problem
        return dataclasses.replace(
            problem,
            head_dim=8 * math.ceil(problem.head_dim / 8),
            value_dim=8 * math.ceil(problem.value_dim / 8),
        )


KINDS = [
    Kind("fused", "float32"),
    Kind("fused", "float32", "highest"),
    Kind("fused", "bfloat16"),
    Kind("fused", "float16"),
    Kind("gemm", "float32"),
    Kind("gemm", "float32", "highest"),
    Kind("gemm", "bfloat16"),
    Kind("gemm", "float16"),
    Kind("naive", "float32"),
    Kind("naive", "float64"),
    Kind("naive", "bfloat16"),
    Kind("naive", "float16"),
]
#: Of an empty batch there is nothing to compare.
COMPARED = [problem for problem in PROBLEMS if 0 not in problem.batch]
IMPLEMENTATIONS = sorted({kind.implementation for kind in KINDS})


def together(problem):
    """Tests of one problem run in one process, which then computes what they share once."""
    return pytest.param(problem, id=problem.name, marks=pytest.mark.xdist_group(problem.name))


def attention(problem, given, implementation, precision, **options):
    """(out, lse) of a dictionary of arrays named as the fields of Inputs."""
    return jax_na.neighborhood_attention(
        given["query"],
        given["key"],
        given["value"],
        **problem.call(),
        additional_keys=given.get("additional_keys"),
        additional_values=given.get("additional_values"),
        relative_position_bias=given.get("bias"),
        implementation=implementation,
        precision=precision,
        return_lse=True,
        **options,
    )


def arrays_of(problem, dtype, seed=0):
    inputs = make_inputs(problem, dtype, seed)
    fields = (f.name for f in dataclasses.fields(inputs))
    return {name: x for name in fields if (x := getattr(inputs, name)) is not None}


def runner(problem, implementation, precision, **options):
    """A compiled function of a dictionary of arrays and cotangents of out and lse: out, lse and the
    gradients of every input, by name.
    """
    attend = functools.partial(
        attention, problem, implementation=implementation, precision=precision, **options
    )

    @jax.jit
    def run(given, cotangents):
        (out, lse), transpose = jax.vjp(attend, given)
        (gradients,) = transpose(cotangents)
        return {"out": out, "lse": lse} | {f"d{name}": x for name, x in gradients.items()}

    return run


def wide(arrays):
    return {name: np.asarray(x, np.float64) for name, x in arrays.items()}


def with_gradients(problem, implementation, precision, given, cotangents, **options):
    """out, lse and the gradients of every input, in float64 NumPy."""
    return wide(runner(problem, implementation, precision, **options)(given, cotangents))


def errors(found, expected):
    """Root mean square error of each array, and that of its values (at least 1e-3)."""
    worst = {}
    for name, right in expected.items():
        wrong = found[name]
        finite = np.isfinite(right)
        np.testing.assert_array_equal(np.isfinite(wrong), finite, err_msg=name)
        np.testing.assert_array_equal(wrong[~finite], right[~finite], err_msg=name)
        if right.size:
            scale = np.sqrt(np.mean(right[finite] ** 2)) if finite.any() else 0.0
            worst[name] = (np.sqrt(np.mean((wrong[finite] - right[finite]) ** 2)), max(scale, 1e-3))
    return worst


def dense(problem, given, cotangents, arithmetic=None):
    """out, lse and gradients by the definition, in float64 or in the arithmetic given."""
    canonical = Canonical(problem)
    found = Specification(
        canonical.geometry, *canonical.operands(given), arithmetic=arithmetic or Arithmetic()
    )
    named = {"out": found.out, "lse": found.lse}
    if cotangents is not None:
        dout, dlse = cotangents
        shape = found.out.shape
        gradients = found.gradients(dout.reshape(shape), dlse.reshape(shape[:-1]))
        names = ("query", "key", "value", "additional_keys", "additional_values")
        named |= {f"d{n}": x for n, x in zip(names, gradients[:5], strict=True) if n in given}
        if "bias" in given:
            named["dbias"] = gradients[5].sum(0)
    batch, spatial = problem.batch, problem.spatial
    shapes = {"out": (*batch, *spatial, problem.heads, problem.value_dim)}
    shapes |= {"lse": shapes["out"][:-1]} | {f"d{name}": x.shape for name, x in given.items()}
    return {name: x.reshape(shapes[name]) for name, x in named.items()}


class Canonical:
    """A problem on three axes, as the custom calls have it."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        scale = problem.head_dim**-0.5 if problem.scale is None else problem.scale
        self.geometry = Geometry.of(problem.window, problem.spatial, scale)

    def operands(self, given):
        """Of a dictionary of arrays: those of jax_na._ffi.forward."""
        p, length = self.problem, self.geometry.length
        batch = math.prod(p.batch)
        rows = [given[n].reshape(batch, *length, *given[n].shape[-2:]) for n in MAIN]
        more = [
            given[name].reshape(batch, *given[name].shape[-3:])
            if name in given
            else np.zeros((batch, 0, p.kv_heads, features), rows[0].dtype)
            for name, features in (
                ("additional_keys", p.head_dim),
                ("additional_values", p.value_dim),
            )
        ]
        sizes = [2 * w - 1 for w in self.geometry.kernel_size]
        bias = given.get("bias", np.zeros((0, p.heads, *sizes), rows[0].dtype))
        return (*rows, *more, bias.reshape(-1, p.heads, *sizes), np.zeros((2, 3), np.int32))


MAIN = ("query", "key", "value")


@functools.lru_cache(maxsize=32)
def case(problem, dtype, seed):
    """The inputs of a problem, cotangents of its results, and what should come out, in float64."""
    given = arrays_of(problem, dtype, seed)
    rng = np.random.default_rng(seed + 1)
    shape = given["query"].shape[:-1]
    lse = np.float64 if dtype == "float64" else np.float32
    cotangents = (
        rng.standard_normal((*shape, problem.value_dim)).astype(given["query"].dtype),
        rng.standard_normal(shape).astype(lse),
    )
    return given, cotangents, dense(problem, given, cotangents)


@functools.lru_cache(maxsize=32)
def plain_errors(problem, dtype, precision, seed):
    """Errors of plain JAX."""
    given, cotangents, expected = case(problem, dtype, seed)
    with jax.enable_x64(dtype == "float64"):
        return errors(with_gradients(problem, "xla", precision, given, cotangents), expected)


@functools.lru_cache(maxsize=32)
def dense_errors(problem, dtype, exact, seed):
    """Errors of the definition, computed in the arithmetic of kernels and rounded as they round."""
    given, cotangents, expected = case(problem, dtype, seed)
    if dtype == "float64":  # there is nothing more exact to find them with
        return dict.fromkeys(expected, (1e-12, 1.0))
    found = dense(problem, given, cotangents, arithmetic_of(dtype, exact))
    kinds = {f"d{name}": jnp.dtype(dtype) for name in given} | {"out": jnp.dtype(dtype)}
    return errors(
        {name: x.astype(kinds.get(name, x.dtype)).astype(np.float64) for name, x in found.items()},
        expected,
    )


def expect_small(found, plain, kind, problem, *label):
    """Asserts that errors are at most twice those of a plain implementation."""
    for name, (error, scale) in found.items():
        limit = 2 * plain[name][0] + (kind.floor + kind.cut_off(problem, name)) * scale
        assert error <= limit, (problem, *label, str(kind), name, error, plain[name], scale)


def check(problem, kind, seed=0, record=None, **options):
    """Asserts that the kernels' errors are at most twice those of plain JAX."""
    given, cotangents, expected = case(problem, kind.dtype, seed)
    with jax.enable_x64(kind.dtype == "float64"):
        results = with_gradients(
            problem, kind.implementation, kind.precision, given, cotangents, **options
        )
    found = errors(results, expected)
    plain = plain_errors(problem, kind.dtype, kind.plain_precision, seed)
    if record is not None:
        for name, (error, scale) in found.items():
            record(
                problem=problem.name,
                kind=str(kind),
                array=name,
                error=error / scale,
                plain=plain[name][0] / scale,
            )
    expect_small(found, plain, kind, problem)


def check_together(problem, kinds, seed):
    """Asserts, for kinds of one type, that errors are at most twice those of the definition in the
    kernels' arithmetic. All of them are compiled as one program.
    """
    (dtype,) = {kind.dtype for kind in kinds}
    given, cotangents, expected = case(problem, dtype, seed)
    runners = [runner(problem, kind.implementation, kind.precision) for kind in kinds]
    with jax.enable_x64(dtype == "float64"):
        all_found = jax.jit(lambda *x: [run(*x) for run in runners])(given, cotangents)
    for kind, found in zip(kinds, all_found, strict=True):
        exact = kind.plain_precision == "highest"
        plain = dense_errors(problem, dtype, exact, seed)
        expect_small(errors(wide(found), expected), plain, kind, problem, seed)
