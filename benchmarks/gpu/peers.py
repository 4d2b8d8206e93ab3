"""What was not run here: NATTEN's times from another run, on a card of the same kind.

One H100 80GB HBM3 (driver 580.159.04, CUDA 13.0), 2026-11-20, PyTorch 2.11, NATTEN's main branch of
July 2026: bfloat16, medians, inputs larger than the L2 cache, the best of its configurations and of
its two backends, its token permutation included. Dense attention by cuDNN took 83.4 ms forward and
239 ms backward on flux-4k in that run: where it takes another time, the card's clock does too.
"""

from __future__ import annotations

DEVICE = "NVIDIA H100 80GB HBM3"
DENSE_FLUX_4K = {"forward": 83.4, "backward": 239.1}

#: Milliseconds forward and backward.
NATTEN = {
    "nat-tiny-stage1": (0.339, 1.335),
    "nat-tiny-stage3": (0.081, 0.276),
    "dinat-tiny-stage1": (0.139, 0.419),
    "dinat-large-384-stage2": (0.343, 1.258),
    "hdit-256": (0.708, 1.977),
    "flux-4k": (17.5, 62.2),
    "flux-4k-blocked": (9.083, 51.8),
    "hunyuan-video": (76.1, 259.9),
    "hunyuan-video-blocked": (25.9, 141.7),
    "cosmos-predict2-2b": (8.486, 47.6),
    "weather-quarter-degree": (1.670, 4.842),
    "volume-48": (1.756, 5.296),
    "sequence-32k": (1.462, 6.357),
    "sequence-32k-causal": (1.410, 6.492),
    "audio-dilated": (0.672, 2.319),
}


def natten(device: str, problem: str, which: str) -> float | None:
    """Its milliseconds, where `device` is of the kind that they were measured on."""
    if device != DEVICE or problem not in NATTEN:
        return None
    return NATTEN[problem][which == "backward"]
