"""The blocks of a run made into one netCDF file, block by block, in memory that does not grow with the run."""

import os
from pathlib import Path

import h5netcdf
import numpy as np
import xarray as xr

from fieldprob.infer.datatree import arviz_names
from fieldprob.infer.storage import BlockStore, sync_directory

_GROWING = {"posterior": "draw", "sample_stats": "draw", "stream": "block"}


def merge(store: BlockStore, template: xr.DataTree, draws: int, blocks: int) -> xr.DataTree:
    """Writes `samples.nc` from the blocks of a store, and opens it: arrays are read when they are used.

    Args:
        store: holds at least `draws` draws.
        template: what `to_datatree` made of arrays with no draws; its attributes become those of the file.
        draws: draws per chain.
        blocks: block means per chain, of the streamed statistics.

    Raises:
        OSError: the file cannot be written (the disk is full); the blocks stay as they are.
        Damaged: a block has changed since it was written.
    """
    path = store.samples
    temporary = path.with_name(f".{path.name}.partial")
    lengths = {"posterior": draws, "sample_stats": draws, "stream": blocks}
    try:
        _reserve(temporary, _size(template, lengths))
        _write_frame(template, temporary, lengths)
        with h5netcdf.File(temporary, "r+") as file:
            written = dict.fromkeys(lengths, 0)
            for block in store.draws():
                groups = block.groups | {"sample_stats": arviz_names(block.groups["sample_stats"])}
                for group in written:
                    written[group] += _fill(file, group, groups.get(group, {}), written[group], lengths[group])
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except (OSError, RuntimeError) as error:  # HDF5 reports a full disk as either
        reason = getattr(error, "strerror", None) or str(error)
        message = (
            f"cannot write {path} ({reason}): all draws are safe in the blocks beside it; free some space, and "
            "sampling again with resume=True writes the file without drawing anew"
        )
        raise OSError(getattr(error, "errno", None) or 0, message) from error
    finally:
        temporary.unlink(missing_ok=True)
    return xr.open_datatree(path, engine="h5netcdf")


def _write_frame(template: xr.DataTree, path: Path, lengths: dict[str, int]) -> None:
    """All that does not grow with the draws, and room for what does."""
    groups = {node.path: node.to_dataset(inherit=False) for node in template.subtree}
    growing = {name: groups[f"/{name}"] for name in _GROWING if f"/{name}" in groups}
    for name, dataset in growing.items():
        groups[f"/{name}"] = dataset.drop_vars([v for v in dataset.variables if _GROWING[name] in dataset[v].dims])
    xr.DataTree.from_dict(groups).to_netcdf(path, engine="h5netcdf")
    with h5netcdf.File(path, "r+") as file:
        for name, dataset in growing.items():
            dimension, group = _GROWING[name], file[name]
            group.dimensions[dimension] = lengths[name]
            group.create_variable(dimension, (dimension,), data=np.arange(lengths[name]))
            for variable, array in dataset.data_vars.items():
                boolean = array.dtype == bool
                created = group.create_variable(
                    str(variable), tuple(map(str, array.dims)), dtype=np.dtype("i1") if boolean else array.dtype
                )
                if boolean:
                    created.attrs["dtype"] = "bool"  # as xarray writes it


def _fill(file: h5netcdf.File, group: str, arrays: dict[str, np.ndarray], first: int, total: int) -> int:
    """Writes the rows of a block, as many as there is room for, and returns their number."""
    count = 0
    for name, array in arrays.items():
        count = min(array.shape[1], total - first)
        if count:
            rows = array[:, :count]
            file[group].variables[name][:, first : first + count] = rows.astype(np.int8) if rows.dtype == bool else rows
    return count


def _size(template: xr.DataTree, lengths: dict[str, int]) -> int:
    fixed = sum(node.dataset.nbytes for node in template.subtree)
    growing = 0
    for name, length in lengths.items():
        if name in template.children:
            for array in template[name].to_dataset().data_vars.values():
                sizes = [size for dim, size in array.sizes.items() if dim != _GROWING[name]]
                growing += array.dtype.itemsize * int(np.prod(sizes)) * length
    return fixed + growing + 2**20


def _reserve(path: Path, size: int) -> None:
    # HDF5 crashes the process when the disk fills up under it, so that the room is claimed for a moment beforehand.
    if hasattr(os, "posix_fallocate"):
        with path.open("wb") as handle:
            os.posix_fallocate(handle.fileno(), 0, size)
        path.unlink()
