"""How the custom calls run on shards: batch axes and heads are independent, every other dimension
must be whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jax_na._batching import flat

# Dimensions of the operands, by name: b all batch axes, n kv heads, g query heads of a kv head, all
# others whole.
_SLOTS = ("b", "z", "y", "x", "ng", "w")
_QUERY, _LSE = ("b", "z", "y", "x", "ng", "d"), ("b", "z", "y", "x", "ng")
_KEY, _ADDITIONAL = ("b", "z", "y", "x", "n", "d"), ("b", "s", "n", "d")
_BIAS_EACH, _BIAS_SHARED, _ORIGINS = (
    ("b", "ng", "z", "y", "x"),
    ("1", "ng", "z", "y", "x"),
    ("o", "a"),
)

_Layouts = tuple[tuple[str, ...], ...]


def _layouts(kind: str, bias: str) -> tuple[_Layouts, _Layouts]:
    """The named dimensions of the operands and results of a call: "forward" or "backward" of
    attention, or one of the operations of na_qk and na_av (jax_na/_slots.py).
    """
    given = _BIAS_EACH if bias == "each" else _BIAS_SHARED
    if kind == "products":
        return (_QUERY, _KEY, _ADDITIONAL, given), (_SLOTS,)
    if kind == "sums":
        return (_SLOTS, _KEY, _ADDITIONAL), (_QUERY,)
    if kind == "transposed":
        return (_SLOTS, _QUERY), (_KEY, _ADDITIONAL)
    if kind == "bias_sums":
        return (_SLOTS,), (_BIAS_EACH,)
    inputs = (_QUERY, _KEY, _KEY, _ADDITIONAL, _ADDITIONAL, given, _ORIGINS)
    if kind == "forward":
        return inputs, (_QUERY, _LSE)
    dbias = _BIAS_SHARED if bias == "none" else _BIAS_EACH
    return (*inputs, _QUERY, _LSE, _QUERY, _LSE), (
        _QUERY,
        _KEY,
        _KEY,
        _ADDITIONAL,
        _ADDITIONAL,
        dbias,
    )


def _spread(layouts: _Layouts, axes: int) -> _Layouts:
    """The same with a name for each of the batch axes: b0, b1, .."""
    batch = tuple(f"b{i}" for i in range(axes))
    return tuple((*batch, *dims[1:]) if dims[0] == "b" else dims for dims in layouts)


def _rule(
    operands: _Layouts, results: _Layouts, group: int, heads_together: bool
) -> tuple[str, dict[str, Any]]:
    """The Shardy rule as text, and its keyword arguments: sizes, and the factors that must be
    replicated.

    With `heads_together` a sharding of query heads is one of key heads and the other way round;
    without, each keeps its own.
    """
    whole: list[str] = []  # in order of appearance, as Shardy wants them

    def factor(tensor: int, axis: int, name: str) -> str:
        if name == "n" or name[0] == "b":
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


def _on_all_axes(
    function: Callable[..., tuple[jax.Array, ...]],
    results: Callable[..., Any],
    operands: tuple[jax.Array, ...],
) -> tuple[jax.Array, ...]:
    """Calls `function`; inside a shard_map over some of the mesh's axes, on whole copies of the
    operands along the others, as JAX has no partitioning rules there.
    """
    mesh = jax.sharding.get_abstract_mesh()
    others = set(mesh.axis_names) - set(mesh.manual_axes)
    if not mesh.manual_axes or not others:
        return function(*operands)
    on_copies = jax.shard_map(function, in_specs=P(), out_specs=P(), axis_names=others)
    if not mesh.explicit_axes:
        return on_copies(*operands)
    copies = (jax.sharding.reshard(x, P(*(None,) * x.ndim)) for x in operands)
    types = results(*operands)
    return tuple(
        jax.sharding.reshard(x, type_.sharding)
        for x, type_ in zip(on_copies(*copies), types, strict=True)
    )


def _on_one_batch(
    function: Callable[..., tuple[jax.Array, ...]],
    results: Callable[..., Any],
    kind: str,
    bias: str,
    axes: int,
) -> Callable[..., tuple[jax.Array, ...]]:
    """`function`, which takes one batch axis, on operands of `axes` of them."""
    if axes == 1:
        return function
    inputs, outputs = _layouts(kind, bias)

    def of_one(*operands: jax.Array) -> tuple[jax.Array, ...]:
        batch = operands[0].shape[:axes]
        given = zip(operands, inputs, strict=True)
        found = function(*(flat(x, axes) if dims[0] == "b" else x for x, dims in given))
        return tuple(
            x.reshape(*batch, *x.shape[1:]) if dims[0] == "b" else x
            for x, dims in zip(found, outputs, strict=True)
        )

    return lambda *operands: without_explicit_axes(of_one, results(*operands), operands)


def partitioned(
    function: Callable[..., tuple[jax.Array, ...]],
    results: Callable[..., Any],
    kind: str,
    group: int,
    bias: str,
    kv_heads: int,
    axes: int,
) -> Callable[..., tuple[jax.Array, ...]]:
    """`function` with a partitioning rule: shards of batch axes and of whole groups of heads run by
    themselves.

    Args:
      function: the call on local shapes, with one batch axis.
      results: the types of the results, given operands with any number of batch axes.
      kind: as of :func:`_layouts`.
      group: query heads of a key head.
      bias: "none", "shared" or "each", see :func:`jax_na._batching.bias_kind`.
      kv_heads: key heads; shards that do not divide them evenly are gathered.
      axes: how many batch axes there are.
    """
    inputs, outputs = (_spread(layouts, axes) for layouts in _layouts(kind, bias))

    on_one_batch = _on_one_batch(function, results, kind, bias, axes)

    def shardings(mesh: Any, query_spec: P) -> tuple[list[NamedSharding], list[NamedSharding]]:
        spec = tuple(query_spec) + (None,) * (len(inputs[0]) - len(query_spec))
        heads = spec[axes + 3]
        names = heads if isinstance(heads, tuple) else (heads,) if heads is not None else ()
        shards = 1
        for name in names:
            shards *= mesh.shape[name]
        if kv_heads % shards:
            heads = None
        where = {f"b{i}": spec[i] for i in range(axes)} | {"n": heads, "ng": heads}

        def of(tensors: _Layouts) -> list[NamedSharding]:
            return [NamedSharding(mesh, P(*(where.get(name) for name in dims))) for dims in tensors]

        return of(inputs), of(outputs)

    def on_one_shard(*shards: jax.Array) -> tuple[jax.Array, ...]:
        # A shard has no sharding of its own: with the mesh in sight, JAX would annotate one.
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
            return on_one_batch(*shards)

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
        return _rule(inputs, outputs, group, all(kv_heads % size == 0 for size in axes))

    wrapped = custom_partitioning(on_one_batch)
    wrapped.def_partition(
        partition=partition, infer_sharding_from_operands=infer, sharding_rule=rule
    )

    def call(*operands: jax.Array) -> tuple[jax.Array, ...]:
        config: Any = jax.config
        if config.jax_disable_jit:  # nothing is partitioned then, and JAX cannot trace a rule
            return on_one_batch(*operands)
        return _on_all_axes(wrapped, results, operands)

    return call
