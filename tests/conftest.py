"""How JAX and NumPy are set up for the tests, before they start."""

import os

FLAGS = (
    "--xla_force_host_platform_device_count=8",  # virtual devices for the sharding tests
    "--xla_backend_optimization_level=0",  # tests spend their time compiling, not computing
)
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *FLAGS)).strip()
if "PYTEST_XDIST_WORKER" in os.environ:  # the other cores have workers of their own
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
