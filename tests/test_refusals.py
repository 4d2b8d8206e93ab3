"""Wrong arguments: a ValueError that names the argument, axis, value and legal range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_na

X = np.zeros((2, 6, 8, 4, 5), np.float32)
TOKENS = np.zeros((2, 3, 4, 5), np.float32)
CALLS = [
    ({"kernel_size": 0}, r"kernel_size\[0\] should be at least 1, but got 0"),
    ({"kernel_size": (3, 9)}, r"kernel_size\[1\] should be between 1 and 8 .*, but got 9"),
    ({"kernel_size": 3, "dilation": (1, 3)}, r"kernel_size\[1\] should be between 1 and 2 .*got 3"),
    ({"kernel_size": (3, 3, 3)}, r"kernel_size should be one value or 2 values"),
    ({"kernel_size": 2.5}, r"kernel_size\[0\] should be an integer, but got 2.5"),
    (
        {"kernel_size": 3, "stride": (1, 4)},
        r"stride\[1\] should be between 1 and .* = 3, but got 4",
    ),
    ({"kernel_size": 3, "stride": 0}, r"stride\[0\] should be between 1 and .* = 3, but got 0"),
    ({"kernel_size": 3, "stride": (1, 1, 1)}, r"stride should be one value or 2 values"),
    ({"kernel_size": None, "stride": 7}, r"stride\[0\] should be between 1 and 6 .*but got 7"),
    ({"kernel_size": 3, "dilation": 0}, r"dilation\[0\] should be at least 1, but got 0"),
    ({"kernel_size": (None, 3), "dilation": 2}, r"dilation\[0\] should be 1 where .* is None"),
    ({"kernel_size": 3, "is_causal": 1}, r"is_causal\[0\] should be True or False, but got 1"),
    ({"kernel_size": 3, "boundary": "mirror"}, r"boundary\[0\] should be one of .*got 'mirror'"),
    (
        {"kernel_size": 3, "boundary": ("shift", "wrap"), "is_causal": True},
        r"is_causal\[1\] should be False where boundary\[1\] is 'wrap'",
    ),
    (
        {"kernel_size": 1, "boundary": "wrap", "dilation": (4, 1)},
        r"dilation\[0\] should divide the length 6 .*but got 4",
    ),
    ({"kernel_size": 3, "scale": float("nan")}, r"scale should be finite, but got nan"),
    ({"kernel_size": 3, "precision": "exact"}, r"precision should be None or one of .*got 'exact'"),
    ({"kernel_size": 3, "deterministic": 1}, "deterministic should be True or False, but got 1"),
    (
        {"kernel_size": 3, "implementation": "best"},
        r"implementation should be None or from .*'best'",
    ),
    ({"kernel_size": 3, "implementation": 3}, r"implementation should be None, a name or .* got 3"),
    ({"kernel_size": 3, "scale": "0.3"}, r"scale should be a number .* got '0.3'"),
    ({"kernel_size": 1, "dilation": (1, 9)}, r"dilation\[1\] should be between 1 and 8 .* got 9"),
    ({"kernel_size": 3, "implementation": ()}, r"implementation should name at least one"),
    ({"kernel_size": 3, "additional_keys": TOKENS}, r"additional_values should be given with"),
    ({"kernel_size": 3, "additional_values": TOKENS}, r"additional_keys should be given with"),
    (
        {"kernel_size": 3, "additional_keys": TOKENS[:1], "additional_values": TOKENS},
        r"additional_keys shape should be \(2, 3, 4, 5\)",
    ),
    (
        {"kernel_size": 3, "relative_position_bias": np.zeros((4, 5, 4), np.float32)},
        r"relative_position_bias shape should be \(4, 5, 5\)",
    ),
    ({"kernel_size": 3, "key": X[:, :5]}, r"key shape should be \(2, 6, 8, 4, 5\).*got"),
    ({"kernel_size": 3, "key": X[..., :3, :]}, r"key should have .* divides query's 4, but got 3"),
    ({"kernel_size": 3, "value": X[..., :2, :]}, r"value shape should be \(2, 6, 8, 4, 5\)"),
    ({"kernel_size": 3, "value": X.astype(np.float16)}, r"value should be of query's type float32"),
    ({"kernel_size": 3, "query": X.astype(np.int32)}, r"query should be of type .*got int32"),
    ({"kernel_size": 3, "query": X[0, 0]}, r"query should have at least 4 dimensions"),
]


@pytest.mark.parametrize(("wrong", "message"), CALLS, ids=[message for _, message in CALLS])
def test_message(wrong, message):
    with pytest.raises(ValueError, match=message):
        jax_na.na2d(**({"query": X, "key": X, "value": X} | wrong))


def test_traced_scale():
    with pytest.raises(ValueError, match="scale should be a number known when tracing"):
        jax.jit(lambda s: jax_na.na2d(X, X, X, 3, scale=s))(jnp.float32(1))


def test_errors_come_before_compilation():
    with pytest.raises(ValueError, match="kernel_size"):
        jax.eval_shape(lambda x: jax_na.na2d(x, x, x, 9), X)
