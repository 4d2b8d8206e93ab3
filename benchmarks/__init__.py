"""Speed against what else one could run: ``python -m benchmarks.cpu``, ``benchmarks.gpu``."""
