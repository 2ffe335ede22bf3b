"""Where chains run: the local devices they are split over, and what draws depend on besides the seed.

Draws are bit-identical on the same versions, kind of device, number of cores and split of the chains; elsewhere they
agree to rounding at first and then in distribution. All of that is recorded with a run.
"""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

CHAIN = "chain"
Devices = tuple[Any, ...]  # of jax.Device
_PACKAGES = ("fieldprob", "jax", "jaxlib", "numpyro", "blackjax", "numpy")


def choose_devices(chains: int, splittable: bool = True) -> Devices:
    """The local devices that share the chains: as many as divide their number, the first ones.

    Chains that cannot be split (an ensemble kernel moves them together) stay on one device, as do all where
    `jax.default_device` names one.

    >>> len(choose_devices(4)) in (1, 2, 4)
    True
    """
    chosen = jax.config.jax_default_device
    if chosen is not None:
        return (jax.local_devices(backend=chosen)[0] if isinstance(chosen, str) else chosen,)
    devices = jax.local_devices()
    count = max(n for n in range(1, min(chains, len(devices)) + 1) if chains % n == 0) if splittable else 1
    return tuple(devices[:count])


def chain_mesh(devices: Devices) -> Mesh:
    """One axis, of type Auto: `MultivariateNormal` fails on an axis of type Explicit."""
    return Mesh(np.array(devices), (CHAIN,), axis_types=(AxisType.Auto,))


def place(tree, specs, devices: Devices):
    """Puts the arrays of a tree where `specs` (a tree of PartitionSpec) says; on one device, on that device."""
    if len(devices) == 1:
        return jax.device_put(tree, devices[0])
    mesh = chain_mesh(devices)
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, PartitionSpec)
    )
    return jax.device_put(tree, shardings)


def describe(devices: Devices) -> dict[str, Any]:
    """Versions and layout, plain values: what has to be the same for draws to be the same to the last bit.

    >>> describe(choose_devices(1))["devices"]
    1
    """
    return {
        "devices": len(devices),
        "local_devices": jax.local_device_count(),
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "machine": platform.machine(),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two mappings of plain values, in words.

    >>> differences({"devices": 2, "cores": 4}, {"devices": 1, "cores": 4})
    ['devices was 2, is 1']
    """
    found = []
    for name in sorted({*stored, *now}):
        old, new = stored.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new)
        elif old != new:
            found.append(f"{name} was {_short(old)}, is {_short(new)}")
    return found


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."
