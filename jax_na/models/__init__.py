"""Models built from neighborhood attention. They need Flax."""

from jax_na.models.nat import (
    NAT,
    NATConfig,
    dinat_base,
    dinat_large,
    dinat_mini,
    dinat_small,
    dinat_tiny,
    nat_base,
    nat_mini,
    nat_small,
    nat_tiny,
)

__all__ = [
    "NAT",
    "NATConfig",
    "dinat_base",
    "dinat_large",
    "dinat_mini",
    "dinat_small",
    "dinat_tiny",
    "nat_base",
    "nat_mini",
    "nat_small",
    "nat_tiny",
]
