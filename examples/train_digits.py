"""Trains a small neighborhood attention network to read handwritten digits.

The data are the 1797 scanned 8x8 images that scikit-learn ships. The run takes about a minute on
two CPU cores, prints the accuracy on held-out images, saves a checkpoint after every epoch
(continue with --resume) and draws report.png.

    python examples/train_digits.py
    python examples/train_digits.py --epochs 30 --resume
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib.patches import Rectangle
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jax_na
from jax_na.models import NAT, NATConfig
from pictures import ACCENT, FAINT, INK, SECOND, bare, draw_curves, picture
from training import Recipe, Trainer, add_arguments, describe, start

HELD_OUT = 360

# The map stays 8x8 in the first stage and is 4x4 in the second. The second block is dilated: its
# 3x3 window spans 5x5 pixels.
CONFIG = NATConfig(
    depths=(2, 2),
    num_heads=(2, 4),
    embed_dim=32,
    kernel_size=3,
    dilations=((1, 2), (1, 1)),
    mlp_ratio=2.0,
    num_classes=10,
    in_channels=1,
    tokenizer_strides=(1, 1),
)


@dataclasses.dataclass(frozen=True)
class Digits:
    """Images [count, 8, 8, 1] between 0 and 1, labels [count]."""

    images: np.ndarray
    labels: np.ndarray

    @classmethod
    def load(cls, limit: int | None) -> tuple[Digits, Digits]:
        """Training and held-out images; `limit` keeps only the first so many for training."""
        digits: Any = load_digits()
        images = (digits.images / 16.0).astype(np.float32)[..., None]
        labels = digits.target.astype(np.int32)
        train, held_out = train_test_split(
            np.arange(len(labels)), test_size=HELD_OUT, random_state=0, stratify=labels
        )
        train = train[:limit]
        return cls(images[train], labels[train]), cls(images[held_out], labels[held_out])

    def batches(self, size: int, seed: int, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Full batches, in an order that depends on seed and epoch alone: a run can resume."""
        order = np.random.default_rng((seed, epoch)).permutation(len(self.labels))
        for begin in range(0, len(order) - size + 1, size):
            chosen = order[begin : begin + size]
            yield self.images[chosen], self.labels[chosen]


def augment(key: jax.Array, images: jax.Array) -> jax.Array:
    """Turns, scales and shifts each image a little: up to 0.15 rad, 10 % and 0.6 pixels."""

    def one(key, image):
        angle, height, width, down, right = jax.random.uniform(key, (5,), minval=-1.0)
        cos, sin = jnp.cos(0.15 * angle), jnp.sin(0.15 * angle)
        rows, columns = jnp.meshgrid(jnp.arange(8.0) - 3.5, jnp.arange(8.0) - 3.5, indexing="ij")
        source = [
            (cos * rows + sin * columns) * (1 + 0.1 * height) + 3.5 + 0.6 * down,
            (cos * columns - sin * rows) * (1 + 0.1 * width) + 3.5 + 0.6 * right,
        ]
        return jax.scipy.ndimage.map_coordinates(image[..., 0], source, order=1)[..., None]

    return jax.vmap(one)(jax.random.split(key, len(images)), images)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def update(graph: Any, recipe: Recipe, state: Any, images: jax.Array, labels: jax.Array) -> Any:
    """One step on a batch; returns the new state, and the loss of the old one."""
    images = augment(recipe.key(state["step"]), images)

    def loss_fn(params):
        logits = nnx.merge(graph, nnx.State(params))(images)
        targets = optax.smooth_labels(jax.nn.one_hot(labels, CONFIG.num_classes), 0.1)
        return optax.softmax_cross_entropy(logits, targets).mean()

    return recipe.advance(state, loss_fn)


@functools.partial(jax.jit, static_argnums=0)
def probabilities_of(graph: Any, params: Any, images: jax.Array) -> jax.Array:
    """Probability of each class, [count, 10]."""
    return jax.nn.softmax(nnx.merge(graph, nnx.State(params))(images))


class DigitsTrainer(Trainer):
    """A NAT that learns digits."""

    def __init__(self, recipe: Recipe, implementation: str | None):
        model = NAT(
            CONFIG,
            kernel_init=nnx.initializers.lecun_normal(),
            implementation=implementation,
            rngs=nnx.Rngs(recipe.seed),
        )
        super().__init__(recipe, model)

    def train(self, images: np.ndarray, labels: np.ndarray) -> jax.Array:
        """One step; returns its loss without waiting for it."""
        self.state, loss = update(self.graph, self.recipe, self.state, images, labels)
        return loss

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probability of each class, [count, 10]."""
        return np.asarray(probabilities_of(self.graph, self.state["params"], images))


def draw_learning(axes: Any, record: dict[str, Any]) -> None:
    """The loss of every step, and the held-out accuracy of every epoch."""
    losses, accuracies = record["losses"], 100 * np.asarray(record["accuracies"])
    ends = np.linspace(0, len(losses), len(accuracies) + 1)[1:]
    right = draw_curves(axes, losses, ends, accuracies, "held-out accuracy, %")
    right.set_ylim(min(80.0, min(accuracies)) - 1, 100.5)
    axes.set_title(f"{accuracies[-1]:.1f} % of the held-out digits are right")


def draw_predictions(figure: Any, digits: Digits, probabilities: np.ndarray) -> None:
    """Every mistake, up to half of the 24 places, and then other held-out digits."""
    guesses = probabilities.argmax(-1)
    wrong = np.flatnonzero(guesses != digits.labels)[:12]
    right = np.flatnonzero(guesses == digits.labels)[: 24 - len(wrong)]
    figure.suptitle("held-out digits: prediction (truth, where it differs)", color=INK)
    grid = figure.subplots(4, 6)
    for axes, index in zip(grid.flat, [*wrong, *right], strict=True):
        axes.imshow(digits.images[index, ..., 0], cmap="gray_r", vmin=0, vmax=1)
        guess, truth = guesses[index], digits.labels[index]
        text = f"{guess}" if guess == truth else f"{guess} ({truth})"
        axes.set_title(text, color=SECOND if guess == truth else ACCENT, fontsize=11, pad=3)
        bare(axes)
        for spine in axes.spines.values():
            spine.set_color(FAINT if guess == truth else ACCENT)


def window_weights(model: NAT, image: np.ndarray, block: int, query: tuple[int, int]) -> np.ndarray:
    """Attention weights [8, 8] of one query in one block of the first stage, mean of the heads.

    NaN where the query cannot see.
    """
    blocks = model.stages[0]
    x = model.tokenize(jnp.asarray(image)[None])
    for before in blocks[:block]:
        x = before(x)
    attention = blocks[block].attention
    queries, keys, _ = attention.project(blocks[block].norm1(x))
    window = attention.window
    scores = jax_na.na_qk(
        queries,
        keys,
        window.kernel_size,
        window.stride,
        window.dilation,
        relative_position_bias=attention.relative_position_bias[...],
    )
    weights = jax.nn.softmax(scores, axis=-1)[0, *query].mean(0)
    # Slots are in the order of the visible tokens: row by row.
    canvas = np.full(image.shape[:2], np.nan)
    canvas[window.visible(image.shape[:2], query)] = weights
    return canvas


def draw_windows(figure: Any, model: NAT, image: np.ndarray) -> None:
    """What two queries see in each block of the first stage, over the digit."""
    figure.suptitle("attention of a framed query, %", color=INK)
    grid = figure.subplots(2, 2)
    for row, query in zip(grid, ((4, 4), (0, 2)), strict=True):
        for block, axes in enumerate(row):
            weights = window_weights(model, image, block, query)
            axes.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1.6)
            axes.imshow(weights, cmap="YlOrRd", alpha=0.75, vmin=0, vmax=np.nanmax(weights))
            for y, x in np.argwhere(~np.isnan(weights)):
                axes.text(x, y, f"{100 * weights[y, x]:.0f}", ha="center", va="center", fontsize=7)
            y, x = query
            axes.add_patch(
                Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=SECOND, linewidth=2.5)
            )
            dilation = CONFIG.dilations[0][block] if CONFIG.dilations else 1
            axes.set_title(f"block {block + 1}: 3x3 keys, dilation {dilation}", fontsize=9, pad=3)
            bare(axes)


def draw_report(
    path: Path,
    model: NAT,
    held_out: Digits,
    probabilities: np.ndarray,
    record: dict[str, Any],
) -> None:
    """One picture of the run."""
    with picture(path, 16, 5) as figure:
        left, middle, right = figure.subfigures(1, 3, width_ratios=(1.15, 1.1, 0.9), wspace=0.04)
        draw_learning(left.subplots(), record)
        draw_predictions(middle, held_out, probabilities)
        draw_windows(right, model, held_out.images[0])


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=20, help="in all, also when resuming [20]")
    parser.add_argument("--batch-size", type=int, default=64, help="images per step [64]")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak of adamw [0.002]")
    parser.add_argument("--limit", type=int, help="train on only so many images")
    add_arguments(parser, "digits")
    options = parser.parse_args(argv)
    if options.epochs < 1:
        parser.error(f"--epochs should be at least 1, but got {options.epochs}")
    return options


def main(argv: Sequence[str] | None = None) -> float:
    """Runs the program; returns the held-out accuracy."""
    options = parse(argv)
    train, held_out = Digits.load(options.limit)
    if not 1 <= options.batch_size <= len(train.labels):
        raise SystemExit(f"--batch-size should be between 1 and {len(train.labels)}")
    per_epoch = len(train.labels) // options.batch_size
    recipe = Recipe(per_epoch * options.epochs, options.learning_rate, options.seed)
    trainer = DigitsTrainer(recipe, options.implementation)
    setting = {"batch_size": options.batch_size, "limit": options.limit, "seed": options.seed}
    checkpoints, record = start(trainer, options.output, options.resume, setting)
    record.setdefault("accuracies", [])
    describe(trainer, options.implementation)
    print(f"images          {len(train.labels)} to train on, {len(held_out.labels)} held out")

    began = time.perf_counter()
    first = trainer.step // per_epoch
    with trainer.progress() as progress:
        for epoch in range(first, options.epochs):
            losses = []
            for images, labels in train.batches(options.batch_size, options.seed, epoch):
                losses.append(trainer.train(images, labels))
                progress.update()
            guesses = trainer.predict(held_out.images).argmax(-1)
            record["losses"] += [float(loss) for loss in losses]
            record["accuracies"].append(float(np.mean(guesses == held_out.labels)))
            checkpoints.save(trainer.state, record)
            progress.set_postfix(
                loss=f"{np.mean(record['losses'][-per_epoch:]):.3f}",
                accuracy=f"{100 * record['accuracies'][-1]:.1f}%",
            )
    checkpoints.close()

    probabilities = trainer.predict(held_out.images)
    accuracy = float(np.mean(probabilities.argmax(-1) == held_out.labels))
    report = options.output / "report.png"
    draw_report(report, trainer.model(), held_out, probabilities, record)
    print(f"held-out accuracy {100 * accuracy:.2f} % after {trainer.step} steps")
    print(f"{time.perf_counter() - began:.1f} s; {report} and the checkpoints beside it written")
    return accuracy


if __name__ == "__main__":
    main()
