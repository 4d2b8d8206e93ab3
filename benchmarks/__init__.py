"""Speed against what else a JAX user could write: `python -m benchmarks`."""
