"""What the CUDA kernels reach on a GPU. `python -m benchmarks.gpu` makes every report:

    python -m benchmarks.gpu.compare     real problems, against other attention
    python -m benchmarks.gpu.paper       fused and gemm over naive, on many problems
    python -m benchmarks.gpu.counters    what ncu reads, for the roofline
    python -m benchmarks.gpu.context     the longest context that fits
    python -m benchmarks.gpu.dispatch    what a call costs beside its kernels
    python -m benchmarks.gpu.models      training steps of whole models

Each writes a JSON file as it goes; `python -m benchmarks.gpu.pages` fills docs/numbers.md and
docs/roofline.md from those in benchmarks/results. All of them take --quick, which tries the logic
on any machine.

`python -m benchmarks.gpu.hopper_costs` measures plans, and fits the prices of the planner to them.
"""
