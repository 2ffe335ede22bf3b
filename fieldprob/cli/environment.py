"""The machine: precision and platform, set before anything computes, and the versions that a result was made with."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import fieldprob


def configure(device: str | None, precision: str | None) -> None:
    """Sets JAX's platform and precision.

    Args:
        device: "cpu", "gpu" or None (what JAX finds).
        precision: "32", "64" or None (unchanged).

    Raises:
        ValueError: a GPU is asked for and JAX has none.
    """
    if device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    elif device == "gpu":
        os.environ.pop("JAX_PLATFORMS", None)
    os.environ.setdefault("MPLBACKEND", "Agg")
    if precision is not None:
        os.environ["JAX_ENABLE_X64"] = "1" if precision == "64" else "0"
    import jax

    if device is not None:
        jax.config.update("jax_platforms", "cpu" if device == "cpu" else None)
    if precision is not None:
        jax.config.update("jax_enable_x64", precision == "64")
    if device == "gpu" and not _has_gpu():
        raise ValueError(
            "--device gpu: JAX finds no GPU here; install its CUDA wheels (the extra `cuda` of fieldprob) "
            "or leave --device out"
        )


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, and the git commit of fieldprob where it runs from a checkout.

    >>> versions()["fieldprob"].startswith(fieldprob.__version__)
    True
    """
    found = {"fieldprob": fieldprob.__version__, "python": platform.python_version()}
    for package in ("jax", "jaxlib", "numpyro", "equinox", "arviz", "xarray", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    root = Path(fieldprob.__file__).resolve().parent.parent
    if (root / "pyproject.toml").is_file() and (commit := git_commit(root)):
        found["fieldprob"] += f" (git {commit})"
    return found


def git_commit(directory: Path) -> str | None:
    """The commit that a directory is at, with a remark if files have changed since; None outside git."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(directory), *words], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD")
    if not commit:
        return None
    return f"{commit}, modified" if git("status", "--porcelain", "--untracked-files=no") else commit


def device() -> str:
    """The device that JAX computes on, in words."""
    import jax

    devices = jax.devices()
    return f"{len(devices)} × {devices[0].device_kind} ({devices[0].platform})"


def describe() -> dict[str, str]:
    """What `fieldprob info` shows."""
    import jax

    names = [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()]
    x64 = bool(jax.config.read("jax_enable_x64"))
    return {
        **versions(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "platform": jax.default_backend(),
        "devices": "; ".join(names),
        "precision": "64 (set by `fieldprob run`; --precision 32 changes it)" if not x64 else "64",
    }


def _has_gpu() -> bool:
    import jax

    try:
        return bool(jax.devices("gpu")) and jax.default_backend() == "gpu"
    except RuntimeError:
        return False
