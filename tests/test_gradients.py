"""The fused backward pass: numerical gradients, and agreement with the pure-JAX implementation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax.test_util import check_grads
from problems import PROBLEMS, make_inputs, problems

import jax_na


def function(problem, names, implementation):
    """out and lse as a function of the arrays that are there, by field name."""

    def call(*arrays):
        given = dict(zip(names, arrays, strict=True))
        extras = {"additional_keys": None, "additional_values": None, "bias": None} | given
        return jax_na.neighborhood_attention(
            given["query"],
            given["key"],
            given["value"],
            **problem.call(),
            additional_keys=extras["additional_keys"],
            additional_values=extras["additional_values"],
            relative_position_bias=extras["bias"],
            implementation=implementation,
            precision="highest",
            return_lse=True,
        )

    return call


def present(inputs):
    names = [f.name for f in dataclasses.fields(inputs) if getattr(inputs, f.name) is not None]
    return names, [getattr(inputs, name) for name in names]


@pytest.mark.parametrize("name", ["1d-additional", "2d-everything", "3d-everything", "1d-wrap"])
def test_numerical_gradients_of_every_input(kernels, name):
    problem = kernels.fit(next(p for p in PROBLEMS if p.name == name))
    names, arrays = present(make_inputs(problem, kernels.exact))
    wide = kernels.exact == "float64"
    near = {} if wide else {"atol": 2e-2, "rtol": 2e-2, "eps": 1e-2}  # of differences in float32
    with jax.enable_x64(wide):
        call = function(problem, names, kernels.implementation)
        check_grads(call, arrays, order=1, modes=["rev"], **near)


def check_against_xla(problem, kernels, dtype, tolerance):
    problem = kernels.fit(problem)
    names, arrays = present(make_inputs(problem, dtype))

    def gradients(implementation):
        call = function(problem, names, implementation)

        def loss(*arrays):
            out, lse = call(*arrays)
            return jnp.sum(jnp.sin(out.astype(lse.dtype))) + jnp.sum(jnp.cos(lse))

        # As one program: operation by operation, XLA compiles for ten times as long.
        return jax.jit(jax.grad(loss, range(len(arrays))))(*arrays)

    with jax.enable_x64(dtype == "float64"):
        for name, ours, theirs in zip(
            names, gradients(kernels.implementation), gradients("xla"), strict=True
        ):
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(
                np.asarray(ours, np.float64),
                np.asarray(theirs, np.float64),
                rtol=tolerance,
                atol=tolerance,
                err_msg=f"{name} of {problem}",
            )


@pytest.mark.parametrize("problem", PROBLEMS[::4], ids=str)
def test_agreement_with_pure_jax(kernels, problem):
    check_against_xla(problem, kernels, kernels.exact, kernels.tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("bfloat16", 0.1)])
def test_agreement_in_other_types(kernels, dtype, tolerance):
    for problem in PROBLEMS[::20]:
        check_against_xla(problem, kernels, dtype, tolerance)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(problems())
def test_random_problems(kernels, problem):
    check_against_xla(problem, kernels, kernels.exact, 10 * kernels.tolerance)
