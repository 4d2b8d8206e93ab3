"""Which implementations there are, and which of them run here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax

from jax_na import _core

NAMES = ("fused", "xla")


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way to compute neighborhood attention, as seen from one platform."""

    name: str
    available: bool
    reason: str  # what it runs, or why it does not

    def __str__(self) -> str:
        return f"{self.name}: {'available' if self.available else 'not available'}; {self.reason}"


def implementations(platform: str | None = None) -> tuple[Implementation, ...]:
    """Lists every implementation and whether it runs on `platform` ("cpu", "cuda", "tpu", ...;
    default: JAX's default).

    The first available one is what ``implementation=None`` runs there.
    """
    platform = jax.default_backend() if platform is None else platform
    if platform == "cpu":
        reason = (
            f"compiled CPU kernels ({_core.cpu_instruction_set}); first derivatives in reverse mode"
        )
    else:
        reason = (
            f"there are no compiled kernels for {platform!r} yet: "
            "implementation=None runs 'xla' there"
        )
    return (
        Implementation("fused", platform == "cpu", reason),
        Implementation("xla", True, "pure JAX on any platform, differentiable any number of times"),
    )


def require_fused() -> None:
    """Raises where implementation="fused" cannot run on the default platform."""
    fused = implementations()[0]
    if not fused.available:
        raise NotImplementedError(
            f"jax_na: implementation='fused' is not available: {fused.reason}"
        )


def candidates(implementation: str | Sequence[str] | None) -> tuple[str | None, ...]:
    """The names to try in order; None alone means the best one of the platform that is compiled
    for.

    Raises:
      ValueError: an unknown name, or no name at all.
    """
    if implementation is None:
        return (None,)
    names = (implementation,) if isinstance(implementation, str) else tuple(implementation)
    for name in names:
        if name not in NAMES:
            raise ValueError(
                f"implementation should be None or from {', '.join(map(repr, NAMES))}, but "
                f"got {name!r}"
            )
    if not names:
        raise ValueError(
            "implementation should name at least one implementation, but got an empty sequence"
        )
    return names
