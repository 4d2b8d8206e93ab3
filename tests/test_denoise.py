"""The denoising example: it learns, it resumes exactly, and it leaves a picture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib import image

import denoise
from training import Checkpoints, Recipe

pytestmark = pytest.mark.xdist_group("denoise")

SMALL = ["--size", "small", "--batch-size", "2", "--steps", "40", "--interval", "20"]
SMALL += ["--learning-rate", "0.02", "--limit", "64"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of one short run, its PSNRs, and what it printed last."""
    folder = tmp_path_factory.mktemp("denoise")
    return folder, denoise.main([*SMALL, "--output", str(folder)])


def restored(folder: Path):
    size = denoise.SIZES["small"]
    trainer = denoise.DenoiserTrainer(Recipe(40, 0.02, 0), size, None)
    checkpoints = Checkpoints(folder / "checkpoints")
    state, record = checkpoints.restore(trainer.state)
    checkpoints.close()
    return state, record


def test_it_learns(run):
    folder, means = run
    _, record = restored(folder)
    losses = record["losses"]
    assert len(losses) == 40
    assert np.isfinite(losses).all()
    assert losses[0] == pytest.approx(1, abs=0.1)  # at first, all of the noise is left
    assert np.mean(losses[-10:]) < 0.8
    assert [step for step, _ in record["held_out"]] == [20, 40]
    assert json.dumps(record)
    assert list(means) == ["noisy", "non-local means", "neighborhood attention"]
    assert 20 < means["noisy"] < means["non-local means"] < 40
    assert means["neighborhood attention"] > means["noisy"] + 0.5
    # It was tried on what it was watched on.
    assert record["held_out"][-1][1] == pytest.approx(means["neighborhood attention"])


def test_it_draws_a_report(run):
    picture = image.imread(run[0] / "report.png")  # raises unless it is a PNG
    height, width = picture.shape[:2]
    assert width > height > 800
    assert len(np.unique(picture[::4, ::4, :3].reshape(-1, 3), axis=0)) > 1000


def test_resuming_continues_the_same_run(run, tmp_path, capsys):
    folder, means = run
    shutil.copytree(folder / "checkpoints" / "20", tmp_path / "checkpoints" / "20")
    again = denoise.main([*SMALL, "--output", str(tmp_path), "--resume"])
    assert "resuming after step 20" in capsys.readouterr().out
    assert again == means
    whole, record = restored(folder)
    resumed, resumed_record = restored(tmp_path)
    assert int(resumed["step"]) == 40
    assert resumed_record == record
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_other_settings_do_not_resume(run, tmp_path):
    shutil.copytree(run[0] / "checkpoints" / "20", tmp_path / "checkpoints" / "20")
    with pytest.raises(SystemExit, match=r"'seed': 0.*not.*'seed': 1"):
        denoise.main([*SMALL, "--output", str(tmp_path), "--resume", "--seed", "1"])


@pytest.mark.parametrize(
    "arguments", [["--steps", "0"], ["--limit", "55"], ["--size", "none"], ["--interval", "-1"]]
)
def test_refused_arguments(arguments, tmp_path):
    with pytest.raises(SystemExit) as refusal:
        denoise.main([*arguments, "--output", str(tmp_path)])
    assert refusal.value.code == 2


def test_tokens_of_pixels():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    tokens = denoise.gather_pixels(x)
    np.testing.assert_array_equal(tokens[1, 1, 2], x[1, 2:4, 4:6].ravel())
    np.testing.assert_array_equal(denoise.spread_pixels(tokens), x)


def test_nothing_changes_at_first():
    trainer = denoise.DenoiserTrainer(Recipe(1, 1e-3, 0), denoise.SIZES["small"], None)
    noisy = np.random.default_rng(0).standard_normal((56, 58, 3), np.float32)
    np.testing.assert_array_equal(trainer.restore(noisy), noisy)


def test_crops_come_from_the_photographs_to_train_on():
    crops, size = denoise.Crops(), denoise.SIZES["small"]
    batch = crops.batch(size, 0, 1)
    assert batch.shape == (size.batch_size, size.crop, size.crop, 3)
    np.testing.assert_array_equal(batch, crops.batch(size, 0, 1))
    assert not np.array_equal(batch, crops.batch(size, 0, 2))
    assert not np.array_equal(batch, crops.batch(size, 1, 1))
    assert min(min(image.shape[:2]) for image in crops.images) >= denoise.SIZES["large"].crop
