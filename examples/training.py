"""What the examples share: optimiser, state, checkpoints and command line of a training run."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from flax import nnx
from tqdm import tqdm

import jax_na

OUTPUT = Path(__file__).parent / "output"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a run trains, apart from its data."""

    steps: int
    learning_rate: float
    seed: int

    def optimizer(self) -> optax.GradientTransformation:
        """AdamW that warms up and decays; only matrices and kernels lose weight."""
        peak, warm_up = self.learning_rate, max(self.steps // 10, 1)
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, peak, warm_up, max(self.steps, warm_up + 1), 0.01 * peak
        )
        decay = functools.partial(jax.tree.map, lambda leaf: leaf.ndim > 1)
        return optax.chain(
            optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.05, mask=decay)
        )

    def key(self, step: jax.Array) -> jax.Array:
        """The random key of one step."""
        return jax.random.fold_in(jax.random.key(self.seed), step)

    def advance(self, state: Any, loss_fn: Callable[[Any], jax.Array]) -> tuple[Any, jax.Array]:
        """The state after one step on `loss_fn(params)`, and the loss before it. To be jitted."""
        loss, grads = jax.value_and_grad(loss_fn)(state["params"])
        updates, moments = self.optimizer().update(grads, state["moments"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"step": state["step"] + 1, "params": params, "moments": moments}, loss


class Trainer:
    """A model in training.

    All that changes is one pytree, `state`: the step, the parameters and the optimiser's moments.
    """

    def __init__(self, recipe: Recipe, model: nnx.Module):
        self.recipe = recipe
        self.graph, params = nnx.split(model, nnx.Param)
        params = nnx.to_pure_dict(params)
        state = {
            "step": jnp.zeros((), jnp.int32),
            "params": params,
            "moments": recipe.optimizer().init(params),
        }
        # Bound to a device, as a restored state is: one compiled step serves both.
        self.state = jax.device_put(state, jax.devices()[0])

    @property
    def step(self) -> int:
        """Number of updates so far."""
        return int(self.state["step"])

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state["params"]))

    def model(self) -> Any:
        """The model as it is now."""
        return nnx.merge(self.graph, nnx.State(self.state["params"]))

    def progress(self) -> tqdm:
        """A progress bar that stands at the current step."""
        return tqdm(total=self.recipe.steps, initial=self.step, unit="step", dynamic_ncols=True)


class Checkpoints:
    """The last three states of a run with its curves, in `folder`."""

    def __init__(self, folder: Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=3, create=True)
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def latest(self) -> int | None:
        """Step of the newest checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, state: Any, record: dict[str, Any]) -> None:
        """Saves in the background."""
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record)
        )
        self._manager.save(int(state["step"]), args=args)

    def restore(self, like: Any) -> tuple[Any, dict[str, Any]]:
        """The newest state, shaped like `like`, and its record."""
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(jax.tree.map(ocp.tree.to_shape_dtype_struct, like)),
            record=ocp.args.JsonRestore(),
        )
        restored = self._manager.restore(self._manager.latest_step(), args=args)
        return restored["state"], restored["record"]

    def record(self) -> dict[str, Any]:
        """The record of the newest checkpoint alone."""
        args = ocp.args.Composite(record=ocp.args.JsonRestore())
        return self._manager.restore(self._manager.latest_step(), args=args)["record"]

    def close(self) -> None:
        """Waits for what is being saved."""
        self._manager.close()


def start(
    trainer: Trainer, output: Path, resume: bool, setting: dict[str, Any]
) -> tuple[Checkpoints, dict[str, Any]]:
    """Opens the checkpoints of `output` and the run's record, ``{"setting": ..., "losses": []}``.

    With `resume` the trainer and the record continue from the newest checkpoint, if there is one;
    without, old checkpoints are removed.

    Raises:
      SystemExit: the checkpoint is of a run with another setting.
    """
    folder = output / "checkpoints"
    if folder.exists() and not resume:
        print(f"starting over: removing {folder}")
        shutil.rmtree(folder)
    checkpoints = Checkpoints(folder)
    record: dict[str, Any] = {"setting": setting, "losses": []}
    if resume and checkpoints.latest() is not None:
        # Before the state: that of another model would not even fit.
        found = checkpoints.record()["setting"]
        if found != setting:
            raise SystemExit(f"the run in {folder} has {found}, not {setting}")
        trainer.state, record = checkpoints.restore(trainer.state)
        print(f"resuming after step {trainer.step}")
    elif resume:
        print(f"no checkpoint in {folder}: starting at step 0")
    return checkpoints, record


def describe(trainer: Trainer, implementation: str | None) -> None:
    """Prints what runs, and on what."""
    device = jax.devices()[0]
    choice = {each.name: each for each in jax_na.implementations()}
    runs = implementation or next(name for name in choice if choice[name].available)
    print(f"device          {device.device_kind} ({device.platform}), JAX {jax.__version__}")
    print(f"attention       {choice[runs].name}: {choice[runs].reason}")
    print(f"model           {trainer.size:,} parameters")


def add_arguments(parser: argparse.ArgumentParser, output: str) -> None:
    """The arguments every example has; it writes to the folder `output` of examples/output."""
    names = [each.name for each in jax_na.implementations()]
    parser.add_argument("--seed", type=int, default=0, help="of everything random [0]")
    parser.add_argument("--implementation", choices=names, help="of the attention [the best]")
    parser.add_argument(
        "--output",
        type=Path,
        default=OUTPUT / output,
        help=f"folder [output/{output}, beside this program]",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the newest checkpoint of --output; else its checkpoints are replaced",
    )
