"""Window and Plan: what they count, draw and promise."""

import math

import numpy as np
import pytest
from problems import PROBLEMS

import jax_na
from jax_na import Window


@pytest.mark.parametrize("problem", PROBLEMS[::5], ids=str)
def test_pairs_and_flops_count_visible_pairs(problem):
    w, spatial = problem.window, problem.spatial
    pairs = sum(int(w.visible(spatial, q).sum()) for q in np.ndindex(*spatial))
    assert w.pairs(spatial) == pairs
    assert w.flops(spatial, head_dim=8) == 4 * pairs * 8
    assert w.flops(spatial, head_dim=8, value_dim=4, batch=2, heads=3, backward=True) == (
        2 * 6 * pairs * (3 * 8 + 2 * 4)
    )


def test_bytes():
    w = Window((3, 3))
    tokens = 4 * 5
    assert w.bytes((4, 5), head_dim=8) == 2 * 4 * tokens * 8 + 4 * tokens
    backward = w.bytes((4, 5), head_dim=8, heads=4, kv_heads=2, itemsize=4, backward=True)
    assert backward == 4 * 2 * tokens * 8 * (4 + 2 + 2 + 4) + 2 * 4 * tokens * 4


def test_is_a_value():
    assert Window(3, 2) == Window((3,), (2,))
    assert len({Window((3, 5)), Window([3, 5]), Window((3, 5), boundary="wrap")}) == 2
    assert Window((None, 3)).resolve((7, 9)).sizes == (7, 3)
    with pytest.raises(ValueError, match="resolved"):
        _ = Window((None,)).sizes


def test_draws_text():
    assert Window((3, 3)).draw((4, 5), (0, 2)) == (". # Q # .\n. # # # .\n. # # # .\n. . . . .")
    assert Window(3, boundary="wrap").draw((5,), (0,)) == "Q # . . #"
    assert Window(3, dilation=2, is_causal=True).draw((6,), (4,)) == "# . # . Q ."


def test_plots():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    image = Window((3, 3)).plot((4, 5), (0, 2)).images[0].get_array()
    assert (np.asarray(image) > 0).sum() == 9
    with pytest.raises(ValueError, match="draw it as text"):
        Window((1, 1, 1)).plot((2, 2, 2), (0, 0, 0))
    jax_na.plan(Window((3, 3)), (9, 9), head_dim=8).plot()


@pytest.mark.parametrize("which", ["forward", "query_gradient", "key_gradient"])
@pytest.mark.parametrize("problem", PROBLEMS[::5], ids=str)
def test_plan_covers_every_token_once(problem, which):
    plan = jax_na.plan(problem.window, problem.spatial, which=which, head_dim=problem.head_dim)
    tiles = plan.tile_map()
    assert tiles.shape == problem.spatial
    assert len(np.unique(tiles)) == plan.tiles
    assert plan.useful == problem.window.pairs(problem.spatial)
    assert plan.visited >= plan.useful
    assert plan.packed >= math.prod(problem.spatial)
    assert len(plan.draw().split()) == math.prod(problem.spatial)
    assert str(plan).startswith(which.replace("_", " "))


def test_plan_refuses():
    with pytest.raises(ValueError, match="which should be one of"):
        jax_na.plan(Window(3), (9,), head_dim=8, which="backward")  # pyright: ignore
    with pytest.raises(ValueError, match=r"kernel_size\[0\]"):
        jax_na.plan(Window(30), (9,), head_dim=8)
