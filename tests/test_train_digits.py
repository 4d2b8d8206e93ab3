"""The example: it learns, it resumes exactly, and it leaves a picture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from matplotlib import image

import train_digits
from training import Checkpoints, Recipe

pytestmark = pytest.mark.xdist_group("digits")

SMALL = ["--limit", "256", "--batch-size", "32", "--epochs", "2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, float]:
    """The folder and the accuracy of one short run."""
    folder = tmp_path_factory.mktemp("digits")
    return folder, train_digits.main([*SMALL, "--output", str(folder)])


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def restored(folder: Path) -> tuple[Any, dict[str, Any]]:
    trainer = train_digits.DigitsTrainer(Recipe(16, 2e-3, 0), None)
    checkpoints = Checkpoints(folder / "checkpoints")
    state, record = checkpoints.restore(trainer.state)
    checkpoints.close()
    return state, record


def test_it_learns(run):
    folder, accuracy = run
    assert steps(folder) == [8, 16]
    _, record = restored(folder)
    losses = record["losses"]
    assert len(losses) == 16
    assert np.isfinite(losses).all()
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.1
    assert record["accuracies"][-1] == pytest.approx(accuracy)
    assert 0.15 < accuracy <= 1  # a guess is 0.1
    assert json.dumps(record)


def test_it_draws_a_report(run):
    picture = image.imread(run[0] / "report.png")  # raises unless it is a PNG
    height, width = picture.shape[:2]
    assert width > 2 * height > 800
    assert len(np.unique(picture[..., :3].reshape(-1, 3), axis=0)) > 100


def test_resuming_continues_the_same_run(run, tmp_path, capsys):
    folder, accuracy = run
    shutil.copytree(folder / "checkpoints" / "8", tmp_path / "checkpoints" / "8")
    again = train_digits.main([*SMALL, "--output", str(tmp_path), "--resume"])
    assert "resuming after step 8" in capsys.readouterr().out
    assert again == accuracy
    assert steps(tmp_path) == [8, 16]
    whole, record = restored(folder)
    resumed, resumed_record = restored(tmp_path)
    assert int(resumed["step"]) == 16
    assert resumed_record == record
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_other_settings_do_not_resume(run, tmp_path):
    shutil.copytree(run[0] / "checkpoints" / "8", tmp_path / "checkpoints" / "8")
    with pytest.raises(SystemExit, match="'seed': 1"):
        train_digits.main([*SMALL, "--output", str(tmp_path), "--resume", "--seed", "1"])


@pytest.mark.parametrize(
    "arguments", [["--epochs", "0"], ["--batch-size", "0"], ["--implementation", "none"]]
)
def test_refused_arguments(arguments, tmp_path):
    with pytest.raises(SystemExit) as refusal:
        train_digits.main([*arguments, "--output", str(tmp_path)])
    assert refusal.value.code != 0


def test_augmentation_keeps_the_digit():
    digits, _ = train_digits.Digits.load(8)
    out = np.asarray(train_digits.augment(jax.random.key(0), digits.images))
    assert out.shape == digits.images.shape
    assert 0 <= out.min() <= out.max() <= 1
    assert np.abs(out - digits.images).max() > 0.05
    same = np.corrcoef(out.reshape(8, -1), digits.images.reshape(8, -1))[:8, 8:]
    assert same.diagonal().min() > 0.7
