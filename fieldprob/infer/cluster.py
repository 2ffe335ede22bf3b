"""Chains, and whole studies, on several machines: Dask carries them, nothing else here knows of it.

Chains are independent, so that a task is a group of them with the keys that they would have anywhere: chain number i
starts at the same point wherever it runs. Its draws are bit-identical for the same `chains_per_task` on machines of one
kind, whatever the number of workers.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr
from tqdm.auto import tqdm

LOCAL = "local"
_CHAIN_GROUPS = ("posterior", "sample_stats", "stream")


@contextmanager
def connect(scheduler, workers: int | None = None) -> Iterator[Any]:
    """A Dask client.

    Args:
        scheduler: a `distributed.Client`, which stays open; the address of a scheduler, "tcp://host:8786"; or "local",
            worker processes on this machine that end with the block.
        workers: number of local workers, 2 unless given. Scripts that use them need `if __name__ == "__main__":`, as
            those with Python's multiprocessing do.

    Raises:
        ValueError: the address is malformed.
        TimeoutError: no scheduler answers there.
    """
    from distributed import Client, LocalCluster

    if isinstance(scheduler, Client):
        yield scheduler
    elif scheduler == LOCAL:
        cluster = LocalCluster(n_workers=workers or 2, threads_per_worker=1, dashboard_address=None)  # pyright: ignore
        with cluster, Client(cluster) as client:
            yield client
    else:
        if not isinstance(scheduler, str) or ":" not in scheduler:
            raise ValueError(f"scheduler is {scheduler!r}: give {LOCAL!r}, an address, 'tcp://host:8786', or a Client.")
        try:
            client = Client(scheduler, timeout=20)
        except OSError as error:
            raise TimeoutError(
                f"no Dask scheduler answers at {scheduler}: start one with `dask scheduler`, or give its address."
            ) from error
        with client:
            yield client


def spread(
    function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], client, *, progress: bool, unit: str
) -> Iterator[tuple[int, Any]]:
    """Runs function(*task) for every task on the workers, and yields (index, future) as they end.

    Tasks that are not done when the caller leaves are cancelled.
    """
    from distributed import as_completed

    if not client.scheduler_info().get("workers"):
        client.wait_for_workers(1, timeout=120)
    futures = [client.submit(function, *task, pure=False) for task in tasks]
    index = {future.key: number for number, future in enumerate(futures)}
    try:
        with tqdm(total=len(futures), disable=not progress, unit=unit, desc="on workers") as bar:
            for future in as_completed(futures):
                yield index[future.key], future
                bar.update()
    finally:
        client.cancel([future for future in futures if not future.done()])


def sample_on(
    scheduler,
    arguments: Mapping[str, Any],
    keys,
    *,
    chains_per_task: int | None,
    directory: str | Path | None,
    progress: bool,
) -> xr.DataTree:
    """The tree of `fieldprob.sample` from groups of chains on Dask workers, in the order of the chains.

    Args:
        scheduler: see `connect`.
        arguments: of `fieldprob.sample`, without chains, seed, directory and progress.
        keys: one per chain.
        chains_per_task: chains that a worker moves together; unless given, all are shared out among the workers.
        directory: on a disk that all workers share: group g keeps its blocks in `chains-g`, and a worker that is lost
            is replaced by another, which resumes them.
        progress: show a bar.
    """
    import cloudpickle

    with connect(scheduler) as client:
        size = chains_per_task or -(-len(keys) // max(1, len(client.scheduler_info().get("workers", ()))))
        groups = [keys[start : start + size] for start in range(0, len(keys), size)]
        x64 = bool(jax.numpy.result_type(float) == np.float64)
        payload = cloudpickle.dumps(dict(arguments))
        tasks = [
            (_sample_group, payload, np.asarray(jax.random.key_data(group)), _directory(directory, g), x64)
            for g, group in enumerate(groups)
        ]
        trees: list[Any] = [None] * len(groups)
        for g, future in spread(_call, tasks, client, progress=progress, unit="group"):
            trees[g] = _result(future, directory)
        trees = [_open(tree) for tree in trees]
    return _join(trees, {"workers_share": "chains", "chains_per_task": size})


def _call(function, *arguments):
    return function(*arguments)


def _sample_group(payload: bytes, keys: np.ndarray, directory: str | None, x64: bool):
    """On a worker: one group of chains. The tree, or the file that holds it where there is a directory."""
    import cloudpickle

    from fieldprob.infer.driver import sample

    with jax.enable_x64(x64):
        arguments = cloudpickle.loads(payload)  # here, for elsewhere its float64 arrays would become float32
        where = {} if directory is None else {"directory": directory, "resume": True}
        own: dict[str, Any] = {**arguments, **where, "seed": jax.numpy.asarray(keys), "chains": len(keys)}
        tree = sample(**own, progress=False)
    return tree if directory is None else str(Path(directory) / "samples.nc")


def _directory(directory: str | Path | None, group: int) -> str | None:
    return None if directory is None else str(Path(directory).resolve() / f"chains-{group:03d}")


def _result(future, directory):
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        kept = " What it had done is kept: resume=True continues it." if directory is not None else ""
        raise RuntimeError(
            f"workers died at a group of chains ({error}), from lack of memory perhaps: give them more, or fewer "
            f"chains_per_task.{kept}"
        ) from error


def _open(tree) -> xr.DataTree:
    return xr.open_datatree(tree, engine="h5netcdf", chunks={}) if isinstance(tree, str) else tree


def _join(trees: list[xr.DataTree], layout: dict[str, Any]) -> xr.DataTree:
    """One tree of all chains; where a group stopped earlier than others, all have its number of draws."""
    first = trees[0]
    groups = {node.path: node.to_dataset(inherit=False) for node in first.subtree}
    for name in _CHAIN_GROUPS:
        if name not in first.children:
            continue
        parts = [tree[name].to_dataset() for tree in trees]
        for dim in ("draw", "block"):
            if dim in parts[0].dims:
                shortest = min(part.sizes[dim] for part in parts)
                parts = [part.isel({dim: slice(shortest)}) for part in parts]
        joined = xr.concat(
            parts, dim="chain", data_vars="minimal", coords="minimal", compat="override", join="override"
        )
        groups[f"/{name}"] = joined.assign_coords(chain=np.arange(joined.sizes["chain"]))
    tree = xr.DataTree.from_dict(groups, name=first.name)
    settings = json.loads(first.attrs["settings"])
    settings |= {"chains": tree["posterior"].sizes["chain"], "layout": {**settings["layout"], **layout}}
    stopped = [t.attrs["stopped"] for t in trees]
    early = [reason for reason in stopped if reason != "draws"]
    interrupted = max(int(t.attrs["interrupted"]) for t in trees)
    tree.attrs |= {"settings": json.dumps(settings), "stopped": (early or ["draws"])[0], "interrupted": interrupted}
    return tree
