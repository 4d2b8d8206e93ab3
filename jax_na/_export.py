"""What jax.export needs to know of the custom calls."""

from jax import export

from jax_na import _ffi

#: Pass as ``disabled_checks`` to ``jax.export.export``: its promise of stability covers only JAX's
#: own custom calls. An exported function runs where a jax_na that has these calls is imported.
export_safety_checks = tuple(
    export.DisabledSafetyCheck.custom_call(target)
    for target in (
        *(f"{target}_forward" for target in _ffi.TARGETS.values()),
        *(f"{target}_backward" for target in _ffi.TARGETS.values()),
        *_ffi.UNFUSED_TARGETS.values(),
    )
)
