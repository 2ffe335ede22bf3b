"""Block files: what a run has done so far, on disk, in pieces that are complete or not there.

A directory of a run holds `run.json` (what the run is, the length of its blocks, versions and layout), one netCDF file
a block, and once all is done `samples.nc`. A block is built in memory, written under a temporary name, synced and
renamed, so that a crash leaves at most a temporary file. It holds the draws of the block (of warm-up none), the
complete state of the sampler after it, and a SHA-256 checksum over names, types, shapes and bytes of all its arrays. A
block whose checksum is wrong is never used: it and all that follow are made again, from the state before them.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax
import jax.numpy as jnp
import numpy as np

from fieldprob.infer.datatree import event_dims

try:
    import fcntl
except ImportError:  # no advisory locks on this system
    fcntl = None

MANIFEST = "run.json"
KEYS = {"format", "identity", "potential_energy_at_start", "block", "draws_per_block", "layout"}  # of the manifest
SAMPLES = "samples.nc"
Groups = dict[str, dict[str, np.ndarray]]

_SAMPLE_DIMS = {"posterior": ("chain", "draw"), "sample_stats": ("chain", "draw"), "stream": ("chain", "block")}


class Block(NamedTuple):
    """One block: its place in the run, and its arrays.

    Attributes:
        phase: "warmup" or "draws".
        first: steps of warm-up, or draws, that were made before it.
        count: steps, or draws, that it made.
        groups: arrays of the groups posterior, sample_stats, stream (chain, draw or block, ...) and state.
    """

    phase: str
    first: int
    count: int
    groups: Groups


class Damaged(ValueError):
    """A block file that is truncated, or whose checksum is wrong."""


class BlockStore:
    """The block files of one run in one directory.

    Args:
        directory: where; made if it does not exist.
        dims: names of the dimensions of statistics that fieldprob does not know.

    Attributes:
        count: number of blocks that are safely there.
        run: fingerprint of the run; blocks of another are not read.
    """

    def __init__(self, directory: str | Path, dims: Mapping[str, tuple[str, ...]]):
        self.directory, self.dims, self.count, self.run = Path(directory), dims, 0, ""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = (
                "it, or what it should lie in, is a file"
                if isinstance(error, FileExistsError | NotADirectoryError)
                else error.strerror
            )
            raise OSError(
                error.errno, f"directory {directory} cannot be made ({reason}): give another directory"
            ) from error
        self._lock = _lock(self.directory)

    def close(self) -> None:
        """Lets other processes at the directory."""
        if self._lock is not None:
            self._lock.close()

    @property
    def samples(self) -> Path:
        return self.directory / SAMPLES

    def path(self, index: int) -> Path:
        return self.directory / f"block_{index:05d}.nc"

    def manifest(self) -> dict[str, Any] | None:
        """What `start` wrote; None in a directory without a run."""
        path = self.directory / MANIFEST
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if not isinstance(found, dict) or not set(found) >= KEYS:
            raise ValueError(f"{path} is damaged: remove {self.directory} and sample again")
        self.run = fingerprint(found)
        return found

    def require_empty(self, resume: bool = False) -> None:
        """Raises a ValueError if there is a run in the directory; or, on resuming, one that cannot be gone on with."""
        blocks = len(list(self.directory.glob("block_*.nc")))
        if blocks or self.samples.exists():
            found = f"{blocks} blocks of a run" if blocks else f"a finished run, {SAMPLES}"
            if resume:
                raise ValueError(
                    f"directory {self.directory} holds {found}, but not its {MANIFEST}, without which it cannot be "
                    "resumed: give another directory, or remove this one to start over."
                )
            raise ValueError(
                f"directory {self.directory} holds {found}: continue it with resume=True, give another directory, or "
                "remove this one to start over."
            )

    def start(self, manifest: Mapping[str, Any]) -> None:
        """Writes what the run is, before its first block."""
        self.run = fingerprint(manifest)
        text = json.dumps(manifest, indent=2) + "\n"
        write_file(self.directory / MANIFEST, text.encode(), "the settings of the run", "")

    def append(self, block: Block) -> None:
        """Adds a block; once it returns, the block survives a crash of the process or of the machine.

        Raises:
            OSError: it cannot be written (the disk is full); the blocks before it stay as they are.
        """
        kept = f"the {self.count} blocks before it are complete" if self.count else "nothing is lost but this block"
        write_file(
            self.path(self.count),
            _to_bytes(block, self.dims, self.run),
            f"block {self.count} of the run",
            f"; {kept}, and sampling goes on from there with resume=True",
        )
        self.count += 1

    def replay(self) -> Iterator[Block]:
        """The blocks from the first on, up to the last that is sound; removes what comes after it."""
        self.count = 0
        while self.path(self.count).exists():
            try:
                block = read_block(self.path(self.count), self.run)
            except Damaged:
                break
            self.count += 1
            yield block
        for path in self.directory.glob("block_*.nc"):
            if int(path.stem.removeprefix("block_")) >= self.count:
                path.unlink()
        for path in self.directory.glob(".*.partial"):
            path.unlink()

    def draws(self) -> Iterator[Block]:
        """The blocks of draws, in order, read one by one.

        Raises:
            Damaged: a file has changed since it was written.
        """
        for index in range(self.count):
            if _phase(self.path(index)) == "draws":
                yield read_block(self.path(index), self.run)


def pack_state(tree) -> dict[str, np.ndarray]:
    """The leaves of a state as plain arrays, PRNG keys as their data."""
    leaves = [jax.random.key_data(x) if _is_key(x) else x for x in jax.tree.leaves(tree)]
    return {f"leaf_{index:03d}": np.asarray(leaf) for index, leaf in enumerate(leaves)}


def unpack_state(like, arrays: Mapping[str, np.ndarray]):
    """The state that `pack_state` took apart; `like` has its structure, shapes and types.

    Raises:
        ValueError: they do not fit.
    """
    leaves, structure = jax.tree.flatten(like)
    expected = pack_state(like)
    fits = len(arrays) == len(leaves) and all(
        arrays[k].shape == v.shape and arrays[k].dtype == v.dtype for k, v in expected.items()
    )
    if not fits:
        raise ValueError(
            "the stored state of the sampler has another form than the state of this kernel: resume with the versions "
            "and the model that the run was started with, or start over in another directory."
        )
    restored = [
        jax.random.wrap_key_data(jax.numpy.asarray(arrays[name]), impl=jax.random.key_impl(leaf))
        if _is_key(leaf)
        else arrays[name]
        for name, leaf in zip(expected, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, restored)


def write_file(path: Path, content: bytes, what: str, remark: str) -> None:
    """Writes a file, all of it or nothing, and makes sure that it is on the disk.

    Raises:
        OSError: it cannot be written; the message starts with `what` and ends with `remark`.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        message = f"cannot write {what} into {path.parent} ({error.strerror}): free some space{remark}"
        raise OSError(error.errno, message) from error


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory survive a crash of the machine."""
    if os.name != "posix":
        return  # a directory cannot be opened there
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fingerprint(manifest: Mapping[str, Any]) -> str:
    """Of the run that a manifest describes: of its settings, not of the machine."""
    essence = {name: manifest[name] for name in ("format", "identity", "block", "draws_per_block")}
    return hashlib.sha256(json.dumps(essence, sort_keys=True).encode()).hexdigest()


def read_block(path: Path, run: str) -> Block:
    """Reads a block file.

    Raises:
        Damaged: it is truncated, of another run than `run`, or its checksum is wrong.
    """
    try:
        with h5py.File(path, "r") as file:
            groups = {
                group: {name: _decode(data) for name, data in content.items() if not h5py.h5ds.is_scale(data.id)}
                for group, content in file.items()
            }
            if "state" in groups:
                groups["state"] = _cut(groups["state"]["leaves"], str(file["state/leaves"].attrs["layout"]))
            block = Block(str(file.attrs["phase"]), *_place(file), groups)
            stored, owner = str(file.attrs["checksum"]), str(file.attrs["run"])
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise Damaged(f"{path} is truncated or not a block of a run") from error
    if owner != run:
        raise Damaged(f"{path} is a block of another run")
    if checksum(block) != stored:
        raise Damaged(f"{path} is damaged: its checksum is wrong")
    return block


def checksum(block: Block) -> str:
    """SHA-256 over the place of a block and over names, types, shapes and bytes of its arrays."""
    digest = hashlib.sha256(f"{block.phase} {block.first} {block.count}".encode())
    for group in sorted(block.groups):
        for name, array in sorted(block.groups[group].items()):
            digest.update(f"\n{group}/{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return digest.hexdigest()


def _to_bytes(block: Block, dims: Mapping[str, tuple[str, ...]], run: str) -> bytes:
    """The bytes of the netCDF-4 file of a block: HDF5 in which dimensions are scales.

    h5netcdf writes the same, but needs a tenth of a second for the few dozen arrays of a state.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs.update(phase=block.phase, first=block.first, count=block.count, run=run)
        file.attrs["checksum"] = checksum(block)
        for group, arrays in _joined(block.groups).items():
            content, scales = file.create_group(group), {}
            for name, array in arrays.items():
                boolean = array.dtype == bool  # netCDF has no such type
                data = content.create_dataset(name, data=array.view(np.int8) if boolean else array)
                if boolean:
                    data.attrs["dtype"] = "bool"
                for axis, dimension in enumerate(_dimensions(group, name, array.shape, dims)):
                    if dimension not in scales:
                        scales[dimension] = _scale(content, dimension, array.shape[axis])
                    data.dims[axis].attach_scale(scales[dimension])
        if "state" in block.groups:
            layout = [(name, x.dtype.str, x.shape) for name, x in block.groups["state"].items()]
            file["state/leaves"].attrs["layout"] = json.dumps(layout)
    return buffer.getvalue()


def _joined(groups: Groups) -> Groups:
    """The groups as they are stored: a state, dozens of small arrays, as one array of bytes."""
    if "state" not in groups:
        return groups
    content = b"".join(np.ascontiguousarray(x).tobytes() for x in groups["state"].values())
    return groups | {"state": {"leaves": np.frombuffer(content, np.uint8)}}


def _cut(content: np.ndarray, layout: str) -> dict[str, np.ndarray]:
    """The arrays that `_joined` put together."""
    found, position = {}, 0
    for name, kind, shape in json.loads(layout):
        size = np.dtype(kind).itemsize * int(np.prod(shape))
        found[name] = np.frombuffer(content[position : position + size].tobytes(), kind).reshape(shape)
        position += size
    return found


def _dimensions(group: str, name: str, shape: tuple[int, ...], dims: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    if group == "state":
        return ("byte",)
    lead = _SAMPLE_DIMS[group]
    return (*lead, *event_dims(name, len(shape) - len(lead), dims))


def _scale(group: h5py.Group, name: str, size: int) -> h5py.Dataset:
    scale = group.create_dataset(name, shape=(size,), dtype=">f4")
    scale.make_scale(f"This is a netCDF dimension but not a netCDF variable.{size:10d}")
    return scale


def _place(file: h5py.File) -> tuple[int, int]:
    return int(file.attrs["first"]), int(file.attrs["count"])  # pyright: ignore[reportArgumentType]


def _decode(data: h5py.Dataset) -> np.ndarray:
    array = data[()] if data.shape else np.asarray(data[()])
    return array.view(bool) if data.attrs.get("dtype") == "bool" else array


def _phase(path: Path) -> str:
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs["phase"])
    except (OSError, RuntimeError, KeyError) as error:
        raise Damaged(f"{path} is truncated or not a block of a run") from error


def _is_key(x) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _lock(directory: Path):
    """Keeps two processes from sampling into one directory; the system forgets the lock when a process dies."""
    if fcntl is None:
        return None
    handle = (directory / ".lock").open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.close()
        raise ValueError(
            f"directory {directory} is in use by another process that samples into it: wait for it, or give another."
        ) from error
    except OSError:  # a file system without locks
        handle.close()
        return None
    return handle


@contextmanager
def closing(store: BlockStore | None) -> Iterator[BlockStore | None]:
    """Closes a store at the end, where there is one."""
    try:
        yield store
    finally:
        if store is not None:
            store.close()
