"""The CPU kernels against what else a JAX user could write: ``python -m benchmarks.cpu``."""
