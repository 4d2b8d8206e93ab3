"""Neighborhood attention for JAX: every token of a 1-D, 2-D or 3-D grid attends to a box of nearby
tokens.
"""

from jax_na._attention import RESIDUAL_NAMES, na1d, na2d, na3d, neighborhood_attention
from jax_na._cuda_plan import CudaPlan, CudaPlans, cuda_plans
from jax_na._export import export_safety_checks
from jax_na._implementations import Implementation, implementations
from jax_na._merge import merge
from jax_na._plan import Plan, plan
from jax_na._tune import Measurement, Tuning, tune
from jax_na._unfused import na_av, na_qk
from jax_na._window import Window

__version__ = "0.1.0"

__all__ = [
    "RESIDUAL_NAMES",
    "CudaPlan",
    "CudaPlans",
    "Implementation",
    "Measurement",
    "Plan",
    "Tuning",
    "Window",
    "cuda_plans",
    "export_safety_checks",
    "implementations",
    "merge",
    "na1d",
    "na2d",
    "na3d",
    "na_av",
    "na_qk",
    "neighborhood_attention",
    "plan",
    "tune",
]
