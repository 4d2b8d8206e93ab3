"""Trains a small neighborhood attention network to take the noise off photographs.

It learns from random crops of four photographs that scikit-learn and scikit-image ship, with
Gaussian noise on top, and is then tried on three others. The run prints the PSNR of the noisy
photographs, of non-local means and of the network, saves checkpoints (continue with --resume) and
draws them all side by side in report.png. A few minutes on two CPU cores; on a GPU it trains a
larger network in less.

    python examples/denoise.py
    python examples/denoise.py --steps 8000 --resume
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.patches import Rectangle
from skimage import data
from skimage.restoration import denoise_nl_means
from skimage.transform import rescale
from sklearn.datasets import load_sample_image

from jax_na.nnx import NeighborhoodAttention
from pictures import ACCENT, INK, bare, draw_curves, picture
from training import Recipe, Trainer, add_arguments, describe, start

SIGMA = 25 / 255  # standard deviation of the noise, where white is 1
KERNEL_SIZE = 7


@dataclasses.dataclass(frozen=True)
class Size:
    """A network and how it trains."""

    width: int
    num_heads: int
    dilations: tuple[int, ...]  # one per block
    dtype: str  # of the computation; parameters and the sum over the blocks are float32
    crop: int  # pixels on each side
    batch_size: int
    steps: int
    learning_rate: float
    interval: int  # steps between checkpoints

    @property
    def least(self) -> int:
        """The fewest pixels on a side that hold the largest window, at two pixels a token."""
        return 2 * KERNEL_SIZE * max(self.dilations)


SIZES = {
    "small": Size(32, 2, (1, 4), "float32", 64, 4, 3000, 8e-3, 250),
    "large": Size(96, 3, (1, 8, 1, 4, 1, 8, 1, 4), "bfloat16", 128, 16, 2000, 2e-3, 500),
}


def gather_pixels(x: jax.Array) -> jax.Array:
    """Every 2x2 pixels become one token: [B, H, W, C] to [B, H / 2, W / 2, 4 * C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // 2, width // 2, 4 * channels)


def spread_pixels(x: jax.Array) -> jax.Array:
    """The inverse of gather_pixels."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, 2, 2, channels // 4)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, channels // 4)


class Block(nnx.Module):
    """Neighborhood attention and an MLP, each added to what it reads.

    There are no norms in front of them: how bright a token is must not be lost. Queries and keys
    are normalised, inside the attention. The last layer of each begins at zero, without which a
    deep network diverges at these learning rates.
    """

    def __init__(self, size: Size, dilation: int, implementation: str | None, *, rngs: nnx.Rngs):
        zeros = nnx.initializers.zeros_init()
        self.attention = NeighborhoodAttention(
            size.num_heads,
            size.width,
            kernel_size=(KERNEL_SIZE, KERNEL_SIZE),
            dilation=dilation,
            normalize_qk=True,
            use_relative_position_bias=True,
            out_kernel_init=zeros,
            dtype=size.dtype,
            implementation=implementation,
            rngs=rngs,
        )
        linear = functools.partial(nnx.Linear, dtype=size.dtype, rngs=rngs)
        self.expand = linear(size.width, 2 * size.width)
        self.contract = linear(2 * size.width, size.width, kernel_init=zeros)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, width] to the same shape."""
        x = x + self.attention(x)
        return x + self.contract(jax.nn.gelu(self.expand(x)))


class Denoiser(nnx.Module):
    """Looks at a noisy photograph and corrects it.

    A 3x3 convolution over tokens of 2x2 pixels, blocks with dense and dilated windows by turns, and
    a 3x3 convolution back to the correction of each pixel, which is zero at first.
    """

    def __init__(self, size: Size, implementation: str | None, *, rngs: nnx.Rngs):
        convolution = functools.partial(nnx.Conv, kernel_size=(3, 3), rngs=rngs)
        self.stem = convolution(12, size.width)
        self.blocks = nnx.List(
            [Block(size, dilation, implementation, rngs=rngs) for dilation in size.dilations]
        )
        self.head = convolution(size.width, 12, kernel_init=nnx.initializers.zeros_init())

    def __call__(self, noisy: jax.Array) -> jax.Array:
        """Maps [B, H, W, 3], with even H and W, to the same shape. White is 1."""
        x = self.stem(gather_pixels(4 * noisy - 2))
        for block in self.blocks:
            x = block(x)
        return noisy + SIGMA * spread_pixels(self.head(x))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def update(graph: Any, recipe: Recipe, state: Any, crops: jax.Array) -> Any:
    """One step on crops [B, H, W, 3] of bytes; returns the new state, and the loss of the old one.

    The loss is the power of the noise that is left, as a part of what there was.
    """
    clean = crops.astype(jnp.float32) / 255
    noisy = clean + SIGMA * jax.random.normal(recipe.key(state["step"]), clean.shape)

    def loss_fn(params):
        restored = nnx.merge(graph, nnx.State(params))(noisy)
        return jnp.mean(jnp.square(restored - clean)) / SIGMA**2

    return recipe.advance(state, loss_fn)


# Compiled for every size of photograph and run a few times: to find out which algorithms are the
# fastest on a GPU takes longer than that.
@functools.partial(jax.jit, static_argnums=0, compiler_options={"xla_gpu_autotune_level": 0})
def restore(graph: Any, params: Any, noisy: jax.Array) -> jax.Array:
    """What the network makes of noisy photographs [B, H, W, 3]."""
    return nnx.merge(graph, nnx.State(params))(noisy)


class DenoiserTrainer(Trainer):
    """A network that learns to take the noise away."""

    def __init__(self, recipe: Recipe, size: Size, implementation: str | None):
        super().__init__(recipe, Denoiser(size, implementation, rngs=nnx.Rngs(recipe.seed)))

    def train(self, crops: np.ndarray) -> jax.Array:
        """One step; returns its loss without waiting for it."""
        self.state, loss = update(self.graph, self.recipe, self.state, crops)
        return loss

    def restore(self, noisy: np.ndarray) -> np.ndarray:
        """One photograph [H, W, 3] without its noise."""
        return np.asarray(restore(self.graph, self.state["params"], noisy[None])[0])


class Crops:
    """Random crops of the photographs to train on, which are there at three scales."""

    def __init__(self):
        photographs: list[Any] = [
            load_sample_image("china.jpg"),
            data.astronaut(),
            data.rocket(),
            data.stereo_motorcycle()[0],
        ]
        self.images = list(photographs)
        for photograph in photographs:
            for scale in (0.75, 0.5):
                smaller = rescale(photograph, scale, anti_aliasing=True, channel_axis=-1)
                self.images.append(np.round(255 * smaller).astype(np.uint8))
        areas = np.array([image[..., 0].size for image in self.images])
        self._share = areas / areas.sum()

    def batch(self, size: Size, seed: int, step: int) -> np.ndarray:
        """Crops [batch_size, crop, crop, 3] of bytes, turned, mirrored, their colours exchanged.

        They depend on the size, seed and step alone: a run can resume.
        """
        rng = np.random.default_rng((seed, step))
        batch = np.empty((size.batch_size, size.crop, size.crop, 3), np.uint8)
        for place in batch:
            image = self.images[rng.choice(len(self.images), p=self._share)]
            top, left = (rng.integers(length - size.crop + 1) for length in image.shape[:2])
            crop = image[top : top + size.crop, left : left + size.crop]
            crop = np.rot90(crop, int(rng.integers(4)))[:: rng.choice((-1, 1))]
            place[:] = crop[..., rng.permutation(3)]
        return batch


def psnr(clean: np.ndarray, image: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of an image, clipped to what a screen shows, 0 to 1."""
    return float(-10 * np.log10(np.mean(np.square(np.clip(image, 0, 1) - clean))))


def middle(image: np.ndarray, side: int) -> np.ndarray:
    """The square in the middle, or what there is of it; its sides are even."""
    lengths = [min(length, side) // 2 * 2 for length in image.shape[:2]]
    top, left = ((n - length) // 2 for n, length in zip(image.shape, lengths, strict=False))
    return image[top : top + lengths[0], left : left + lengths[1]]


@dataclasses.dataclass(frozen=True)
class Photograph:
    """A photograph to try on: floats [H, W, 3] without and with noise."""

    name: str
    clean: np.ndarray
    noisy: np.ndarray

    @classmethod
    def held_out(cls, limit: int) -> list[Photograph]:
        """Those not trained on; `limit` keeps a square of so many pixels in the middle.

        The noise is the same in every run.
        """
        found = []
        for name, image in (
            ("flower", load_sample_image("flower.jpg")),
            ("coffee", data.coffee()),
            ("cat", data.chelsea()),
        ):
            clean = middle(np.asarray(image, np.float32) / 255, limit)
            noise = np.random.default_rng(0).standard_normal(clean.shape, np.float32)
            found.append(cls(name, clean, clean + np.float32(SIGMA) * noise))
        return found

    def non_local_means(self) -> np.ndarray:
        """The classical answer, told the strength of the noise.

        The best on the training photographs of 24 settings of scikit-image's non-local means and
        four of its total variation.
        """
        return denoise_nl_means(
            self.noisy,
            patch_size=5,
            patch_distance=6,
            h=0.8 * SIGMA,
            sigma=SIGMA,
            fast_mode=False,
            channel_axis=-1,
        )


def draw_photograph(row: Sequence[Any], photograph: Photograph, images: dict[str, Any]) -> None:
    """The whole photograph, and its middle as each image has it."""
    row[0].imshow(photograph.clean)
    row[0].set_title(photograph.name)
    lengths, cut = photograph.clean.shape, middle(photograph.clean, 128)
    corner = ((lengths[1] - cut.shape[1]) // 2, (lengths[0] - cut.shape[0]) // 2)
    frame = Rectangle(corner, cut.shape[1], cut.shape[0], fill=False, edgecolor=ACCENT, linewidth=2)
    row[0].add_patch(frame)
    for axes, (name, image) in zip(row[1:-1], images.items(), strict=True):
        axes.imshow(np.clip(middle(image, 128), 0, 1))
        axes.set_title(f"{name}: {psnr(photograph.clean, image):.2f} dB")
    row[-1].imshow(cut)
    row[-1].set_title("without noise")
    for axes in row:
        bare(axes)


def draw_report(
    path: Path,
    photographs: Sequence[Photograph],
    images: Sequence[dict[str, np.ndarray]],
    record: dict[str, Any],
) -> None:
    """Before and after for each photograph, and the curves of the run."""
    rows = len(photographs)
    with picture(path, 16, 3.1 * rows + 2.4) as figure:
        above, below = figure.subfigures(2, 1, height_ratios=(3.1 * rows, 2.4))
        above.suptitle("photographs not trained on, and the PSNR of the whole of each", color=INK)
        grid = above.subplots(rows, 5, squeeze=False, width_ratios=(1.5, 1, 1, 1, 1))
        for row, photograph, each in zip(grid, photographs, images, strict=True):
            draw_photograph(row, photograph, each)
        steps, scores = zip(*record["held_out"], strict=True)
        draw_curves(below.subplots(), record["losses"], steps, scores, "held-out PSNR, dB")


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Size]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = "small" if jax.default_backend() == "cpu" else "large"
    parser.add_argument("--size", choices=SIZES, default=size, help=f"of the network [{size}]")
    small, large = (SIZES[name] for name in ("small", "large"))
    for name, kind, what in (
        ("steps", int, "in all, also when resuming"),
        ("batch_size", int, "crops per step"),
        ("learning_rate", float, "peak of adamw"),
        ("interval", int, "steps between checkpoints"),
    ):
        defaults = f"[small: {getattr(small, name)}, large: {getattr(large, name)}]"
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"{what} {defaults}")
    parser.add_argument(
        "--limit", type=int, default=4096, help="try only a square of so many pixels in the middle"
    )
    add_arguments(parser, "denoise")
    options = parser.parse_args(argv)
    given = {
        name: value
        for name in ("steps", "batch_size", "learning_rate", "interval")
        if (value := getattr(options, name)) is not None
    }
    for name, value in given.items():
        if not value > 0:
            parser.error(f"--{name.replace('_', '-')} should be above 0, but got {value}")
    chosen = dataclasses.replace(SIZES[options.size], **given)
    if options.limit < chosen.least:
        parser.error(f"--limit should be at least {chosen.least}, but got {options.limit}")
    return options, chosen


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Runs the program; returns the mean PSNR of each method on the held-out photographs."""
    options, size = parse(argv)
    trainer = DenoiserTrainer(
        Recipe(size.steps, size.learning_rate, options.seed), size, options.implementation
    )
    setting = {"size": options.size, "batch_size": size.batch_size, "seed": options.seed}
    checkpoints, record = start(trainer, options.output, options.resume, setting)
    record.setdefault("held_out", [])
    describe(trainer, options.implementation)

    began = time.perf_counter()
    crops, photographs = Crops(), Photograph.held_out(options.limit)
    # The classical answers are found by other threads, while the network trains.
    threads = concurrent.futures.ThreadPoolExecutor()
    classical = [threads.submit(each.non_local_means) for each in photographs]
    losses: list[jax.Array] = []
    with trainer.progress() as progress:
        for step in range(trainer.step + 1, size.steps + 1):
            losses.append(trainer.train(crops.batch(size, options.seed, step)))
            progress.update()
            if step % size.interval == 0 or step == size.steps:
                record["losses"] += [float(loss) for loss in losses]
                losses.clear()
                # The middle says enough on the way, and costs little.
                score = np.mean(
                    [
                        psnr(middle(each.clean, 128), trainer.restore(middle(each.noisy, 128)))
                        for each in photographs
                    ]
                )
                record["held_out"].append([step, float(score)])
                checkpoints.save(trainer.state, record)
                loss = np.mean(record["losses"][-size.interval :])
                progress.set_postfix(loss=f"{loss:.3f}", psnr=f"{score:.2f} dB")
    checkpoints.close()
    print(f"training took   {time.perf_counter() - began:.1f} s")

    images = [
        {
            "noisy": each.noisy,
            "non-local means": answer.result(),
            "neighborhood attention": trainer.restore(each.noisy),
        }
        for each, answer in zip(photographs, classical, strict=True)
    ]
    threads.shutdown()
    scores = [
        [psnr(each.clean, image) for image in its.values()]
        for each, its in zip(photographs, images, strict=True)
    ]
    mean = np.mean(scores, axis=0).tolist()
    print("PSNR, dB".ljust(16) + "".join(f"{name:>24}" for name in images[0]))
    for name, row in zip(
        [*(each.name for each in photographs), "mean"], [*scores, mean], strict=True
    ):
        print(name.ljust(16) + "".join(f"{score:24.2f}" for score in row))
    report = options.output / "report.png"
    draw_report(report, photographs, images, record)
    print(f"{report} and the checkpoints beside it written")
    return dict(zip(images[0], mean, strict=True))


if __name__ == "__main__":
    main()
