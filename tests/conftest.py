"""How JAX and NumPy are set up for the tests, before they start; and the kernels under test."""

import os

import pytest

FLAGS = (
    "--xla_force_host_platform_device_count=8",  # virtual devices for the sharding tests
    "--xla_backend_optimization_level=0",  # tests spend their time compiling, not computing
)
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *FLAGS)).strip()
if "PYTEST_XDIST_WORKER" in os.environ:  # the other cores have workers of their own
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # and share the GPU


def pytest_generate_tests(metafunc):
    """Tests that take `kernels` run with all those of JAX's default device; `careful_kernels` let
    NaN and infinity reach only what sees them.
    """
    for name in {"kernels", "careful_kernels"} & set(metafunc.fixturenames):
        from raw_calls import kernels_here

        found = [k for k in kernels_here() if k.keep_nan_apart or name == "kernels"]
        each = [pytest.param(k, id=str(k), marks=pytest.mark.kernels) for k in found]
        metafunc.parametrize(name, each)
