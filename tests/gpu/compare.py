"""The compiled CUDA kernels beside plain JAX of the same precision, both against float64."""

import dataclasses
import functools
import math

import jax
import numpy as np
from problems import PROBLEMS, make_inputs

import jax_na

CPU = jax.devices("cpu")[0]


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
        """Of plain JAX that is as exact. The naive kernels multiply in float32."""
        if self.implementation == "naive":
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


def attention(problem, given, implementation, precision):
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
    )


def arrays_of(problem, dtype, seed=0):
    inputs = make_inputs(problem, dtype, seed)
    fields = (f.name for f in dataclasses.fields(inputs))
    return {name: x for name in fields if (x := getattr(inputs, name)) is not None}


def with_gradients(problem, implementation, precision, given, cotangents):
    """out, lse and the gradients of every input, in float64 NumPy."""
    attend = functools.partial(
        attention, problem, implementation=implementation, precision=precision
    )

    @jax.jit
    def run(given, cotangents):
        results, transpose = jax.vjp(attend, given)
        typed = tuple(c.astype(r.dtype) for c, r in zip(cotangents, results, strict=True))
        return results, transpose(typed)[0]

    (out, lse), gradients = run(given, cotangents)
    named = {"out": out, "lse": lse} | {f"d{name}": x for name, x in gradients.items()}
    return {name: np.asarray(x, np.float64) for name, x in named.items()}


def errors(found, expected):
    """Root mean square error of each array over that of its values."""
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


def in_float64(problem, given, cotangents):
    with jax.enable_x64(True), jax.default_device(CPU):
        wide = {name: np.asarray(x, np.float64) for name, x in given.items()}
        wide_cotangents = tuple(np.asarray(c, np.float64) for c in cotangents)
        return with_gradients(problem, "xla", None, wide, wide_cotangents)


def compare(problem, kind, seed=0):
    """Errors of the kernels and of plain JAX against float64, by array, and the scale of each."""
    given = arrays_of(problem, kind.dtype, seed)
    rng = np.random.default_rng(seed + 1)
    shape = given["query"].shape[:-1]
    cotangents = (
        rng.standard_normal((*shape, problem.value_dim)).astype(given["query"].dtype),
        rng.standard_normal(shape).astype(np.float32),
    )
    expected = in_float64(problem, given, cotangents)

    def errors_of(implementation, precision):
        with jax.enable_x64(kind.dtype == "float64"):
            found = with_gradients(problem, implementation, precision, given, cotangents)
        return errors(found, expected)

    return (
        errors_of(kind.implementation, kind.precision),
        errors_of("xla", kind.plain_precision),
    )


def check(problem, kind, seed=0, record=None):
    """Asserts that the kernels' errors are at most twice those of plain JAX."""
    found, plain = compare(problem, kind, seed)
    for name, (error, scale) in found.items():
        limit = 2 * plain[name][0] + kind.floor * scale
        if record is not None:
            record(
                problem=problem.name,
                kind=str(kind),
                array=name,
                error=error / scale,
                plain=plain[name][0] / scale,
            )
        assert error <= limit, (problem, str(kind), name, error, plain[name], scale)
