"""The real problems that everything is compared on, and tiny ones to try the benchmarks with."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Shape:
    """Attention of one layer of a model, one entry per axis in `spatial`, `window` and so on.

    `flex_tile` is the box of tokens that PyTorch's FlexAttention gets one after the other, where it
    gets tokens sorted by boxes: 128 of them, a divisor of the stride where there is one.
    """

    name: str
    source: str
    batch: int
    spatial: tuple[int, ...]
    heads: int
    head_dim: int
    window: tuple[int, ...]
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    causal: tuple[bool, ...] = ()
    dtype: str = "bfloat16"
    flex_tile: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, default in (("stride", 1), ("dilation", 1), ("causal", False)):
            if not getattr(self, name):
                object.__setattr__(self, name, (default,) * len(self.spatial))

    @property
    def tokens(self) -> int:
        """Of one batch entry."""
        return math.prod(self.spatial)

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return 4 if self.dtype == "float32" else 2

    @property
    def tensor_bytes(self) -> int:
        """Bytes of the queries."""
        return self.batch * self.tokens * self.heads * self.head_dim * self.itemsize


SHAPES = (
    Shape("nat-tiny-stage1", "NAT-Tiny at 224 px", 64, (56, 56), 2, 32, (7, 7), flex_tile=(8, 16)),
    Shape("nat-tiny-stage3", "NAT-Tiny at 224 px", 64, (14, 14), 8, 32, (7, 7), flex_tile=(14, 14)),
    Shape(
        "dinat-tiny-stage1",
        "DiNAT-Tiny at 224 px",
        64,
        (56, 56),
        2,
        32,
        (7, 7),
        dilation=(8, 8),
        flex_tile=(7, 7),
    ),
    Shape(
        "dinat-large-384-stage2",
        "DiNAT-Large at 384 px",
        16,
        (48, 48),
        12,
        32,
        (11, 11),
        dilation=(4, 4),
        flex_tile=(12, 12),
    ),
    Shape(
        "hdit-256", "HDiT at 1024 px, patches of 4", 4, (256, 256), 2, 64, (7, 7), flex_tile=(8, 16)
    ),
    Shape("flux-4k", "FLUX.1 at 4K", 1, (256, 256), 24, 128, (80, 80), flex_tile=(8, 16)),
    Shape(
        "flux-4k-blocked",
        "FLUX.1 at 4K, stride 16",
        1,
        (256, 256),
        24,
        128,
        (80, 80),
        stride=(16, 16),
        flex_tile=(8, 16),
    ),
    Shape(
        "hunyuan-video",
        "HunyuanVideo at 720p",
        1,
        (30, 48, 80),
        24,
        128,
        (18, 24, 24),
        flex_tile=(2, 8, 8),
    ),
    Shape(
        "hunyuan-video-blocked",
        "HunyuanVideo at 720p, stride 16 x 8 x 8",
        1,
        (30, 48, 80),
        24,
        128,
        (18, 24, 24),
        stride=(16, 8, 8),
        flex_tile=(2, 8, 8),
    ),
    Shape(
        "cosmos-predict2-2b",
        "Cosmos-Predict2 2B at 720p, stride 1 x 4 x 8",
        1,
        (24, 44, 80),
        16,
        128,
        (24, 12, 24),
        stride=(1, 4, 8),
        flex_tile=(4, 4, 8),
    ),
    Shape(
        "weather-quarter-degree",
        "global weather at 0.25 degrees, patches of 4",
        1,
        (180, 360),
        16,
        64,
        (15, 31),
        flex_tile=(8, 16),
    ),
    Shape(
        "volume-48", "3-D medical volume", 2, (48, 48, 48), 4, 32, (7, 7, 7), flex_tile=(4, 4, 8)
    ),
    Shape("sequence-32k", "a long sequence", 1, (32768,), 16, 128, (2048,), flex_tile=(128,)),
    Shape(
        "sequence-32k-causal",
        "a long sequence, causal",
        1,
        (32768,),
        16,
        128,
        (2048,),
        causal=(True,),
        flex_tile=(128,),
    ),
    Shape(
        "audio-dilated", "1-D audio", 8, (16384,), 8, 64, (127,), dilation=(4,), flex_tile=(128,)
    ),
    Shape(
        "stylenat-256-fp32",
        "StyleNAT, float32",
        8,
        (256, 256),
        4,
        32,
        (7, 7),
        dilation=(16, 16),
        dtype="float32",
        flex_tile=(8, 16),
    ),
    # Windows of the whole sequence, where dense attention computes the same.
    Shape("whole-8k-64", "w = L", 4, (8192,), 16, 64, (8192,), flex_tile=(128,)),
    Shape("whole-8k-128", "w = L", 2, (8192,), 16, 128, (8192,), flex_tile=(128,)),
)

QUICK = (
    Shape("tiny-2d", "none", 2, (12, 16), 2, 8, (5, 3), dilation=(2, 1), flex_tile=(2, 8)),
    Shape("tiny-causal", "none", 1, (64,), 2, 8, (16,), causal=(True,), flex_tile=(16,)),
    Shape(
        "tiny-3d",
        "none",
        1,
        (4, 6, 8),
        1,
        16,
        (3, 3, 5),
        stride=(1, 1, 2),
        dtype="float32",
        flex_tile=(2, 2, 4),
    ),
)


def chosen(only: str, quick: bool) -> list[Shape]:
    """The shapes called as one of the words of `only`, separated by commas, or where none is,
    whose names contain the word; all of them if `only` is empty.

    Raises:
      SystemExit: a word that is in no name.
    """
    table = QUICK if quick else SHAPES
    words = [word for word in only.split(",") if word]
    found = []
    for word in words:
        called = [shape for shape in table if shape.name == word]
        called = called or [shape for shape in table if word in shape.name]
        if not called:
            raise SystemExit(f"--only {word}: no problem is called so")
        found += called
    return [shape for shape in table if not words or shape in found]
