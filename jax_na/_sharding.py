"""How the custom calls run on shards: batch and heads are independent, every other dimension must
be whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

# Dimensions of the operands, by name: b batch, n kv heads, g query heads of a kv head, all others
# whole.
_SLOTS = ("b", "z", "y", "x", "ng", "w")
_QUERY, _LSE = ("b", "z", "y", "x", "ng", "d"), ("b", "z", "y", "x", "ng")
_KEY, _ADDITIONAL = ("b", "z", "y", "x", "n", "d"), ("b", "s", "n", "d")
_BIAS_EACH, _BIAS_SHARED, _ORIGINS = (
    ("b", "ng", "z", "y", "x"),
    ("1", "ng", "z", "y", "x"),
    ("o", "a"),
)


def layouts(
    kind: str, bias_batch: int
) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...]]:
    """The named dimensions of the operands and results of a call: "forward" or "backward" of
    attention, or one of the operations of na_qk and na_av (jax_na/_slots.py).
    """
    bias = _BIAS_EACH if bias_batch > 1 else _BIAS_SHARED
    if kind == "products":
        return (_QUERY, _KEY, _ADDITIONAL, bias), (_SLOTS,)
    if kind == "sums":
        return (_SLOTS, _KEY, _ADDITIONAL), (_QUERY,)
    if kind == "transposed":
        return (_SLOTS, _QUERY), (_KEY, _ADDITIONAL)
    if kind == "bias_sums":
        return (_SLOTS,), (_BIAS_EACH,)
    inputs = (_QUERY, _KEY, _KEY, _ADDITIONAL, _ADDITIONAL, bias, _ORIGINS)
    if kind == "forward":
        return inputs, (_QUERY, _LSE)
    dbias = _BIAS_EACH if bias_batch else _BIAS_SHARED
    return (*inputs, _QUERY, _LSE, _QUERY, _LSE), (
        _QUERY,
        _KEY,
        _KEY,
        _ADDITIONAL,
        _ADDITIONAL,
        dbias,
    )


def _rule(
    operands: tuple[tuple[str, ...], ...],
    results: tuple[tuple[str, ...], ...],
    group: int,
    heads_together: bool,
) -> tuple[str, dict[str, Any]]:
    """The Shardy rule as text, and its keyword arguments: sizes, and the factors that must be
    replicated.

    With `heads_together` a sharding of query heads is one of key heads and the other way round;
    without, each keeps its own.
    """
    whole: list[str] = []  # in order of appearance, as Shardy wants them

    def factor(tensor: int, axis: int, name: str) -> str:
        if name in ("b", "n"):
            return name
        if name == "ng":
            if group > 1 and heads_together and "g" not in whole:
                whole.append("g")
            return "n" if group == 1 else "(n g)" if heads_together else "h"
        whole.append(f"w{tensor}_{axis}")  # a factor of its own: nothing is propagated along it
        return whole[-1]

    sides = []
    start = 0
    for tensors in (operands, results):
        texts = []
        for i, dims in enumerate(tensors):
            texts.append(" ".join(factor(start + i, axis, name) for axis, name in enumerate(dims)))
        sides.append(", ".join(texts))
        start += len(tensors)
    sizes = {"g": group} if "g" in whole else {}
    return " -> ".join(sides), {"need_replication_factors": tuple(whole), **sizes}


def without_explicit_axes(
    function: Callable[..., Any], results: Any, operands: tuple[jax.Array | None, ...]
) -> Any:
    """Calls `function` with explicit mesh axes made automatic, so that it need not say how its
    inner steps are laid out.

    `results` are the types of the results, whose shardings hold outside.
    """
    mesh = jax.typeof(operands[0]).sharding.mesh
    axes = tuple(mesh.explicit_axes)
    if not axes:
        return function(*operands)
    out_sharding = jax.tree.map(lambda result: result.sharding, results)
    return jax.sharding.auto_axes(function, axes=axes, out_sharding=out_sharding)(*operands)


def partitioned(
    function: Callable[..., tuple[jax.Array, ...]],
    kind: str,
    group: int,
    bias_batch: int,
    kv_heads: int,
) -> Callable[..., tuple[jax.Array, ...]]:
    """`function` with a partitioning rule: shards of batch and of whole groups of heads run by
    themselves.

    Args:
      function: the call on local shapes.
      kind: as of :func:`layouts`.
      group: query heads of a key head.
      bias_batch: batch of the bias operand: 0, 1, or that of the query.
      kv_heads: key heads; shards that do not divide them evenly are gathered.
    """
    operands, results = layouts(kind, bias_batch)

    def shardings(mesh: Any, query_spec: P) -> tuple[list[NamedSharding], list[NamedSharding]]:
        spec = tuple(query_spec) + (None,) * (len(_QUERY) - len(query_spec))
        batch, heads = spec[0], spec[4]
        names = heads if isinstance(heads, tuple) else (heads,) if heads is not None else ()
        shards = 1
        for name in names:
            shards *= mesh.shape[name]
        if kv_heads % shards:
            heads = None
        axes = {"b": batch, "n": heads, "ng": heads}

        def of(tensors: tuple[tuple[str, ...], ...]) -> list[NamedSharding]:
            return [NamedSharding(mesh, P(*(axes.get(name) for name in dims))) for dims in tensors]

        return of(operands), of(results)

    def on_one_shard(*shards: jax.Array) -> tuple[jax.Array, ...]:
        # A shard has no sharding of its own: with the mesh in sight, JAX would annotate one.
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
            return function(*shards)

    def partition(mesh: Any, arg_shapes: Any, result_shape: Any):
        del result_shape
        # All operands follow the query: the cotangent of a sum, say, arrives replicated.
        operand_shardings, result_shardings = shardings(mesh, arg_shapes[0].sharding.spec)
        return mesh, on_one_shard, tuple(result_shardings), tuple(operand_shardings)

    def infer(mesh: Any, arg_shapes: Any, result_shape: Any):
        del result_shape
        return tuple(shardings(mesh, arg_shapes[0].sharding.spec)[1])

    def rule(mesh: Any, operand_types: Any, result_types: Any) -> tuple[str, dict[str, Any]]:
        del operand_types, result_types
        # An axis that splits the query heads but not the key heads would come back cut in two, for
        # key heads and for their groups, and half a mesh axis has no name here. Which axes are used
        # is not known yet.
        axes = mesh.shape.values() if mesh is not None else ()
        return _rule(operands, results, group, all(kv_heads % size == 0 for size in axes))

    wrapped = custom_partitioning(function)
    wrapped.def_partition(
        partition=partition, infer_sharding_from_operands=infer, sharding_rule=rule
    )
    return wrapped
