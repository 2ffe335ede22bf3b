"""The loop of a run: warm up, then draw, block by block, in memory or into block files that survive a crash."""

import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr
from numpyro.infer.mcmc import MCMCKernel
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from fieldprob.infer import layout
from fieldprob.infer.blocks import Carry, Output, Recorder, compile_block, initial_carry, is_splittable, partition_specs
from fieldprob.infer.merge import merge
from fieldprob.infer.monitor import Progress, Targets
from fieldprob.infer.storage import Block, BlockStore, pack_state, unpack_state

BLOCKS = 40  # how often progress is shown, an interruption noticed and a file written
BLOCK_MEANS = (200, 800)  # of a streamed statistic: at least so many per chain, and in all
_BYTES = 2**26  # of draws in a block, and of block means
_NO_START = (
    "the potential energy is not finite where the chains start: the model returns NaN, or noise_variance is too small. "
    "Use float64 (--precision 64, or jax_enable_x64) or a larger noise_variance."
)
_FORMAT = 1
_GROUPS = ("posterior", "sample_stats", "stream")

# (posterior, sample_stats, stream, draws per block of means) -> DataTree
Assemble = Callable[[dict, dict, dict, int], xr.DataTree]


@dataclass(frozen=True)
class Plan:
    """How much is sampled, and when it stops.

    Args:
        draws, chains, warmup, thinning: as in `fieldprob.sample`.
        stream: statistics of which block means are kept.
        draws_per_block: draws of a block of means; chosen unless given.
        time_limit, target_ess, target_mcse: budgets.
        hidden: sites that are not kept.
    """

    draws: int
    chains: int
    warmup: int
    thinning: int = 1
    stream: tuple[str, ...] = ()
    draws_per_block: int | None = None
    time_limit: float | None = None
    target_ess: float | None = None
    target_mcse: Mapping[str, float] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()


class Run:
    """One run of a kernel: prepared by the constructor, made by `sample`.

    Args:
        sampler: the kernel, not yet initialised.
        arguments: of its model.
        keys: one per chain.
        plan: how much.
        assemble: arrays -> DataTree.
        identity: plain values that define the draws; a run is resumed only under the same.
        store: where blocks go, None for memory.
        resume: go on with what the store holds.
        progress: show a bar.
    """

    def __init__(
        self,
        sampler: MCMCKernel,
        arguments: tuple,
        keys,
        plan: Plan,
        assemble: Assemble,
        identity: Mapping[str, Any],
        store: BlockStore | None,
        resume: bool,
        progress: bool,
    ):
        self.plan, self.store, self._assemble = plan, store, assemble
        stored = store.manifest() if store is not None and resume else None
        state = _initial_state(sampler, keys, plan.warmup, arguments)
        recorder = Recorder(sampler, arguments, plan.hidden, plan.stream)
        shapes = recorder.shapes(state)
        self.draws_per_block = stored["draws_per_block"] if stored else plan.draws_per_block or _block_means(plan)
        if plan.stream and plan.draws_per_block not in (None, self.draws_per_block):
            raise ValueError(
                f"draws_per_block is {plan.draws_per_block}, but the run to go on with has {self.draws_per_block}: "
                "give the same, or leave it out."
            )
        self.block = stored["block"] if stored else _block_length(plan, shapes, self.draws_per_block)
        recorder = recorder._replace(draws_per_block=self.draws_per_block)
        carry = initial_carry(state, shapes)
        self.devices = layout.choose_devices(plan.chains, is_splittable(sampler, carry, plan.chains))
        posterior, stats, stream = (_no_draws(part) for part in shapes)
        self.template = assemble(posterior, stats, stream, self.draws_per_block)
        self.targets = Targets(shapes, plan.target_ess, plan.target_mcse)
        self._shapes, self._carry, self._recorder = shapes, carry, recorder
        self._progress = Progress(shapes) if progress else None
        self._memory: list[Block] = []
        self.steps, self.draws, self.rows = 0, 0, 0  # of warm-up, draws and block means so far
        self.settings = {
            "block": self.block,
            "layout": layout.describe(self.devices),
            **({"draws_per_block": self.draws_per_block} if plan.stream else {}),
        }
        if store is not None:
            self._open(store, stored, resume, dict(identity), state)

    def _open(self, store: BlockStore, stored, resume: bool, identity: dict[str, Any], state) -> None:
        identity["statistics"] = {
            f"{group}/{name}": f"{s.dtype} {list(s.shape[1:])}"
            for group, found in zip(_GROUPS, self._shapes, strict=True)
            for name, s in found.items()
        }
        for name, kind in identity["statistics"].items():
            if kind.startswith("complex"):
                raise ValueError(f"{name} is complex, which netCDF cannot hold: register its real and imaginary part")
        identity = json.loads(json.dumps(identity))
        energy = getattr(state, "potential_energy", None)
        start = [] if energy is None else np.asarray(energy, float).ravel().tolist()
        if stored is None:
            store.require_empty(resume)
            store.start(
                {
                    "format": _FORMAT,
                    "identity": identity,
                    "potential_energy_at_start": start,
                    "block": self.block,
                    "draws_per_block": self.draws_per_block,
                    "layout": self.settings["layout"],
                }
            )
            return
        _check_identity(store.directory, stored, identity, start)
        changed = layout.differences(stored["layout"], self.settings["layout"])
        if changed:
            warnings.warn(
                f"the run in {store.directory} is resumed on another layout ({'; '.join(changed)}): its draws will "
                "agree in distribution, but not to the last bit, with those of an uninterrupted run.",
                stacklevel=4,
            )
        for block in store.replay():
            self._account(block)
            self._carry = Carry(*unpack_state(tuple(self._carry), block.groups["state"]))
        if self.draws > self.plan.draws:
            raise ValueError(
                f"draws is {self.plan.draws}, but {store.directory} holds {self.draws} draws per chain already: ask "
                "for at least as many."
            )

    def sample(self) -> xr.DataTree:
        """Goes on until all draws are made or a budget is used up; see `fieldprob.sample` for what it raises."""
        plan = self.plan
        reached = self._reached()
        left = 0 if reached else plan.warmup - self.steps + plan.draws - self.draws
        # LAPACK sees only small blocks here (fieldprob.gp.marginal). Its own threads would wait for one another: beside
        # one busy process on two cores, a gradient of 0.2 ms took 16 ms.
        with threadpool_limits(1, user_api="blas"):
            stopped = reached or "draws"
            if left:
                with tqdm(
                    total=plan.warmup + plan.draws,
                    initial=self.steps + self.draws,
                    disable=self._progress is None,
                    unit="draw",
                    desc="compiling",
                ) as bar:
                    stopped = self._loop(bar)
        return self._finish(stopped)

    def _loop(self, bar) -> str:
        """Makes the blocks that are missing, and says why it stopped."""
        plan = self.plan
        carry = layout.place(self._carry, partition_specs(self._carry), self.devices)
        try:
            advance = compile_block(self._recorder, carry, self.block, self.devices)
            start, slowest = time.perf_counter(), 0.0
            while self.draws < plan.draws:
                begin = time.perf_counter()
                if plan.time_limit is not None and begin - start + slowest > plan.time_limit:
                    if not self.draws:
                        raise self._out_of_time()
                    return "time_limit"
                warming = self.steps < plan.warmup
                bar.set_description("warmup" if warming else "sample", refresh=False)
                if warming:
                    count = min(self.block * plan.thinning, plan.warmup - self.steps)
                    carry, _ = jax.block_until_ready(advance(carry, 1, count, False, 0))
                    groups = {}
                else:
                    count = min(self.block, plan.draws - self.draws)
                    offset = self.draws % self.draws_per_block
                    carry, output = jax.block_until_ready(advance(carry, count, plan.thinning, True, offset))
                    groups = _host(output, count, (offset + count) // self.draws_per_block)
                block = Block("warmup" if warming else "draws", self.steps if warming else self.draws, count, groups)
                self._keep(block, carry)
                if self._progress is not None:
                    bar.set_postfix_str(_warmup_text(carry.state) if warming else self._progress.text(), refresh=False)
                    bar.update(count)
                slowest = max(slowest, time.perf_counter() - begin)
                if reached := self._reached():
                    return reached
        except KeyboardInterrupt:
            if not self.draws:
                raise
            return "interrupted"
        return "draws"

    def _keep(self, block: Block, carry: Carry) -> None:
        if self.store is not None:
            self.store.append(block._replace(groups=block.groups | {"state": pack_state(carry)}))
        elif block.phase == "draws":
            self._memory.append(block)
        self._account(block)

    def _account(self, block: Block) -> None:
        if block.phase == "warmup":
            self.steps += block.count
            return
        self.targets.add(block.count, *_groups(block))
        if self._progress is not None:
            self._progress.add(*_groups(block))
        self.draws += block.count
        self.rows = self.draws // self.draws_per_block if self.plan.stream else 0

    def _reached(self) -> str | None:
        return self.targets.reached() if self.draws else None

    def _finish(self, stopped: str) -> xr.DataTree:
        if self.store is not None:
            self.template.attrs |= self._attributes(stopped)
            return merge(self.store, self.template, self.draws, self.rows)
        parts = [_groups(block) for block in self._memory]
        posterior, stats, stream = (
            {name: np.concatenate([part[i][name] for part in parts if name in part[i]], axis=1) for name in names}
            for i, names in enumerate(_names(parts))
        )
        tree = self._assemble(posterior, stats, stream, self.draws_per_block)
        tree.attrs |= self._attributes(stopped)
        return tree

    def _attributes(self, stopped: str) -> dict[str, Any]:
        return {"stopped": stopped, "interrupted": int(stopped == "interrupted")}

    def _out_of_time(self) -> TimeoutError:
        keep = " (what is done is kept: resume=True continues it)" if self.store is not None else ""
        return TimeoutError(
            f"time_limit is {self.plan.time_limit} s, which was over after {self.steps} of {self.plan.warmup} steps of "
            f"warm-up, before the first draw{keep}: give more time, or a shorter warmup."
        )


def _initial_state(sampler, keys, warmup: int, arguments):
    name = type(sampler).__name__
    try:
        # one compilation, where op by op there would be hundreds
        state = jax.jit(lambda keys: sampler.init(keys, warmup, None, arguments, {}))(keys)
    except NotImplementedError as error:
        raise ValueError(
            "the model has a prior that cannot be drawn from (improper?), where its chains should start: give another "
            "start, kernel=functools.partial(NUTS, init_strategy=numpyro.infer.init_to_uniform), say."
        ) from error
    except RuntimeError as error:
        if "initial parameters" not in str(error):
            raise
        raise ValueError(_NO_START) from error
    except AssertionError as error:
        raise ValueError(_no_batches(name)) from error
    except (TypeError, ValueError) as error:
        if "vectoriz" in str(error).lower() or "PRNG" in str(error) or "key array" in str(error):
            raise ValueError(_no_batches(name)) from error
        raise
    if any(np.ndim(x) == 0 or x.shape[0] != len(keys) for x in jax.tree.leaves(getattr(state, sampler.sample_field))):
        raise ValueError(_no_batches(name))
    start = [getattr(state, name, None) for name in ("potential_energy", "z_grad")]
    if not all(np.all(np.isfinite(x)) for x in jax.tree.leaves(start)):
        raise ValueError(_NO_START)
    return state


def _no_batches(name: str) -> str:
    return (
        f"the kernel {name} cannot move several chains at once, which `sample` does: it does not take a batch of keys "
        "in `init`. Use numpyro.infer.MCMC with chain_method='sequential', or a kernel of fieldprob.infer."
    )


def _check_identity(
    directory: Path, stored: Mapping[str, Any], identity: Mapping[str, Any], start: list[float]
) -> None:
    if stored.get("format") != _FORMAT:
        raise ValueError(f"the run in {directory} was written by another version of fieldprob; start over elsewhere.")
    changed = layout.differences(stored["identity"], identity)
    if not changed:
        before = np.array(stored["potential_energy_at_start"])
        tolerance = 1e-3 if identity["float"] == "float32" else 1e-6
        if before.shape != np.shape(start) or not np.allclose(before, start, rtol=tolerance, atol=tolerance):
            changed = [f"the potential energy where the chains start was {before}, is {np.array(start)}"]
            changed[0] += " (the model or its data have changed)"
    if changed:
        raise ValueError(
            f"the run in {directory} has another configuration, so that it cannot be resumed: {'; '.join(changed)}. "
            "Give the same arguments, or another directory."
        )


def _block_means(plan: Plan) -> int:
    per_chain, in_all = BLOCK_MEANS
    return max(1, plan.draws // max(per_chain, -(-in_all // plan.chains)))


def _block_length(plan: Plan, shapes: Output, draws_per_block: int) -> int:
    """Draws in a block: a fortieth of all, fewer where they would take much memory."""
    length = -(-plan.draws // BLOCKS)
    size = sum(s.dtype.itemsize * int(np.prod(s.shape)) for s in (*shapes.posterior.values(), *shapes.stats.values()))
    length = min(length, max(1, _BYTES // max(1, size)))
    row = sum(s.dtype.itemsize * int(np.prod(s.shape)) for s in shapes.stream.values())
    return min(length, max(1, 2 * _BYTES // row) * draws_per_block) if row else length


def _no_draws(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    return {k: np.empty((s.shape[0], 0, *s.shape[1:]), s.dtype) for k, s in shapes.items()}


def _host(output: Output, count: int, rows: int) -> dict[str, dict[str, np.ndarray]]:
    """The output of a block as arrays (chain, draw or block, ...) in memory."""
    groups = {}
    for group, arrays, kept in zip(_GROUPS, output, (count, count, rows), strict=True):
        if kept:
            groups[group] = {k: np.ascontiguousarray(np.asarray(v)[:kept].swapaxes(0, 1)) for k, v in arrays.items()}
    return groups


def _groups(block: Block) -> tuple[dict, dict, dict]:
    return tuple(block.groups.get(group, {}) for group in _GROUPS)  # pyright: ignore[reportReturnType]


def _names(parts) -> list[list[str]]:
    return [list(dict.fromkeys(name for part in parts for name in part[i])) for i in range(3)]


def _warmup_text(state) -> str:
    accept = getattr(state, "mean_accept_prob", None)
    return "" if accept is None else f"acceptance {float(np.mean(accept)):.2f}"
