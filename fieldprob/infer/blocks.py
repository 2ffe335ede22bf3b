"""The compiled block: many steps of a kernel, and what is kept of them.

One function serves warm-up and draws, and is compiled once. It makes `outer` draws of `inner` steps each,

    for d in 0 .. outer - 1:   state <- kernel^inner(state);   if collect: row d of the output <- statistics(state)

where `outer`, `inner` and `collect` are run-time values: draws of thinning 10 have inner = 10; a block of warm-up of n
steps is one "draw" of inner = n that is not collected, so that no statistic is evaluated. The draws do not depend on
how they are cut into blocks. Large statistics are streamed instead of kept: the output holds, for every
`draws_per_block` of them, the means of x and of x^2; the sums of an incomplete block of means travel with the state.
"""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from fieldprob.infer.datatree import square_name
from fieldprob.infer.layout import CHAIN, Devices, chain_mesh

FIELDS = ("potential_energy", "energy", "num_steps", "accept_prob", "adapt_state.step_size", "diverging")


class Carry(NamedTuple):
    """What one block hands to the next: the complete state of a run.

    Attributes:
        state: of the kernel, arrays batched over chains along axis 0, or scalars that all chains share.
        partial: sums of the streamed statistics over the draws of the block of means that is not complete.
    """

    state: Any
    partial: dict[str, Any]


class Output(NamedTuple):
    """Draws of one block. Arrays (draw, chain, ...), those of the stream (block, chain, ...)."""

    posterior: dict[str, Any]
    stats: dict[str, Any]
    stream: dict[str, Any]


class Recorder(NamedTuple):
    """Which functions of the state are kept.

    Attributes:
        sampler: the kernel, after its `init`.
        arguments: of the model.
        hidden: sites that are not kept.
        stream: sites whose block means are kept.
        draws_per_block: draws of a block of means.
    """

    sampler: Any
    arguments: tuple
    hidden: tuple[str, ...] = ()
    stream: tuple[str, ...] = ()
    draws_per_block: int = 1

    def sites(self, state) -> tuple[dict[str, Any], dict[str, Any]]:
        """(kept, streamed) sites of the model, each (chain, ...)."""
        z = attrgetter(self.sampler.sample_field)(state)
        sites = jax.vmap(self.sampler.postprocess_fn(self.arguments, {}))(z)
        if not isinstance(sites, Mapping):
            sites = {self.sampler.sample_field: sites}
        for name in self.stream:
            if name not in sites:
                raise ValueError(f"stream names {name!r}, which is not sampled; there are: {', '.join(sites)}.")
        kept = {k: v for k, v in sites.items() if k not in self.hidden and k not in self.stream}
        return kept, {k: _float(sites[k]) for k in self.stream}

    def fields(self, state) -> dict[str, Any]:
        """Sample statistics, each (chain, ...): what the kernel names, and what ArviZ knows."""
        chains = jax.tree.leaves(attrgetter(self.sampler.sample_field)(state))[0].shape[0]
        named = [f for f in self.sampler.default_fields if f != self.sampler.sample_field]
        found = {name: attrgetter(name)(state) for name in dict.fromkeys((*named, *FIELDS)) if has_field(state, name)}
        return {k: jnp.broadcast_to(v, (chains,)) if jnp.ndim(v) == 0 else v for k, v in found.items()}

    def shapes(self, state) -> Output:
        """Shapes and dtypes of one draw, (chain, ...)."""
        kept, streamed = jax.eval_shape(self.sites, state)
        return Output(kept, jax.eval_shape(self.fields, state), _both(streamed, lambda x: x))


def initial_carry(state, shapes: Output) -> Carry:
    """The state of a run that has made no step."""
    strong = jax.tree.map(_strong, state)
    return Carry(strong, {k: np.zeros(s.shape, s.dtype) for k, s in shapes.stream.items()})


def partition_specs(carry: Carry) -> Carry:
    """How a state is split over devices: arrays by chain, scalars not at all."""
    return jax.tree.map(lambda x: PartitionSpec(CHAIN) if jnp.ndim(x) else PartitionSpec(), carry)


def is_splittable(sampler, carry: Carry, chains: int) -> bool:
    """Whether chains know nothing of each other, so that devices may share them."""
    batched = all(jnp.ndim(x) == 0 or x.shape[0] == chains for x in jax.tree.leaves(carry))
    return batched and not sampler.is_ensemble_kernel


def compile_block(
    recorder: Recorder, carry: Carry, capacity: int, devices: Devices
) -> Callable[..., tuple[Carry, Output]]:
    """Compiles (carry, outer, inner, collect, offset) -> (carry, output) for at most `capacity` draws.

    Rows of the output from `outer` on are not to be read; of the stream, (offset + outer) // draws_per_block rows are
    complete, where `offset` counts the draws in `carry.partial`. With several devices each loops over its own chains
    (`jax.shard_map`) and none waits for another within a block.

    Args:
        carry: placed on the devices by `fieldprob.infer.layout.place`.
        capacity: rows of the output.
        devices: one, or several among which the chains are divided.
    """
    length = recorder.draws_per_block

    def advance(carry: Carry, outer, inner, collect, offset):
        kept, fields, _ = shapes = recorder.shapes(carry.state)
        nothing = _zeros((kept, {k: shapes.stream[k] for k in recorder.stream}))
        rows = _zeros((kept, fields), capacity)
        stream = {k: _zeros(s, capacity // length + 2).at[0].set(carry.partial[k]) for k, s in shapes.stream.items()}

        def step(_, state):
            return jax.tree.map(_strong, recorder.sampler.sample(state, recorder.arguments, {}))

        def draw(d, loop):
            state, rows, stream = loop
            state = lax.fori_loop(0, inner, step, state)
            sites, streamed = lax.cond(collect, recorder.sites, lambda _: nothing, state)
            rows = jax.tree.map(lambda array, x: array.at[d].set(x), rows, (sites, recorder.fields(state)))
            block = (offset + d) // length
            moments = {k: v / length for k, v in _both(streamed, lambda x: x * x).items()}
            stream = {k: array.at[block].add(moments[k]) for k, array in stream.items()}
            return state, rows, stream

        state, rows, stream = lax.fori_loop(0, outer, draw, (carry.state, rows, stream))
        partial = {k: array[(offset + outer) // length] for k, array in stream.items()}
        return Carry(state, partial), Output(rows[0], rows[1], stream)

    if len(devices) > 1:
        specs, by_row, none = partition_specs(carry), PartitionSpec(None, CHAIN), PartitionSpec()
        advance = jax.shard_map(
            advance,
            mesh=chain_mesh(devices),
            in_specs=(specs, none, none, none, none),
            out_specs=(specs, by_row),
            check_vma=False,
        )
    numbers = (jnp.int32(1), jnp.int32(1), jnp.bool_(True), jnp.int32(0))
    compiled = jax.jit(advance).lower(carry, *numbers).compile()

    def run(carry: Carry, outer: int, inner: int, collect: bool, offset: int):
        return compiled(carry, np.int32(outer), np.int32(inner), np.bool_(collect), np.int32(offset))

    return run


def has_field(state, field: str) -> bool:
    """Whether a state has this field; dots lead into fields of fields."""
    for part in field.split("."):
        if not hasattr(state, part):
            return False
        state = getattr(state, part)
    return True


def _both(streamed: Mapping[str, Any], square: Callable[[Any], Any]) -> dict[str, Any]:
    return {**streamed, **{square_name(name): square(x) for name, x in streamed.items()}}


def _float(x):
    return x if x.dtype.kind == "f" else x.astype(jnp.result_type(x.dtype, float))


def _zeros(shapes, rows: int | None = None):
    lead = () if rows is None else (rows,)
    return jax.tree.map(lambda s: jnp.zeros((*lead, *s.shape), s.dtype), shapes)


def _strong(x):
    # Python numbers in a state are weakly typed, and become strongly typed once they have been saved and restored.
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return x
    return jnp.asarray(x, jnp.result_type(x))
