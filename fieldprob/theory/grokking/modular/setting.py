"""`ModularAddition`: the network of modular addition, its couplings and scales; and how its theories predict."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from fieldprob.prediction import Prediction
from fieldprob.tasks.arguments import count, is_traced, real

NAME = "modular addition"


class ModularAddition(eqx.Module):
    """A network that learns addition modulo a prime on the full table; see the module for its variances.

    Args:
        modulus: P, odd.
        width: neurons.
        noise_variance: of the likelihood.
        readout_variance: per fan-in: readout weights have readout_variance / width.
        sextic: strength of the regulator, 04's gamma_6.

    Raises: TypeError, ValueError: an argument is out of range.

    >>> task = ModularAddition.with_phases(modulus=31, width=50, sextic=0.5, end=0.5, noise=0.9)
    >>> print(round(float(task.noise_variance / task.noise_scale), 6), round(float(task.end / task.noise_scale), 6))
    0.9 0.5
    """

    modulus: int = eqx.field(static=True)
    width: int = eqx.field(static=True)
    noise_variance: Any
    readout_variance: Any
    sextic: Any

    def __init__(self, modulus: int, width: int, noise_variance, readout_variance, sextic):
        self.modulus, self.width = count("modulus", modulus, minimum=3), count("width", width)
        if not self.modulus % 2:
            raise ValueError(f"modulus = {modulus} must be odd: a prime, 7 or 31.")
        self.noise_variance = _positive("noise_variance", noise_variance)
        self.readout_variance = _positive("readout_variance", readout_variance)
        self.sextic = _positive("sextic", sextic)

    @classmethod
    def with_phases(cls, modulus: int, width: int, sextic, *, end=0.5, noise=1.0) -> "ModularAddition":
        """A network with all three phases (04 (3.53)): modes specialise while the noise variance, in units of
        `noise_scale`, falls from 1 to 1 - `end`, with `end` in (0, 1); its own is `noise`."""
        sextic, end, noise = (_positive(n, x) for n, x in (("sextic", sextic), ("end", end), ("noise", noise)))
        if not is_traced(end) and not end < 1:
            raise ValueError(f"end = {float(end):g}: give a number between 0 and 1.")
        root = jnp.sqrt(jnp.sqrt(3.0) / (width * jnp.sqrt(sextic)))
        readout = (end * sextic / (12 * modulus) * root) ** 2
        scale = end * sextic * np.sqrt(3.0) / (12 * width * jnp.sqrt(sextic))
        return cls(modulus, width, noise * scale, readout, sextic)

    @property
    def modes(self) -> int:
        """Independent modes, (P - 1)/2: k and P - k are one."""
        return (self.modulus - 1) // 2

    @property
    def coupling(self) -> Any:
        """u (04 (3.42))."""
        return 2 * self.readout_variance * self.modulus**2 / (self.width * self.noise_variance**2)

    @property
    def noise_scale(self) -> Any:
        """Sigma (04 (3.47)): the noise variance at which wells become equally deep, as P grows."""
        root = jnp.sqrt(np.sqrt(3.0) / (self.width * jnp.sqrt(self.sextic)))
        return jnp.sqrt(self.readout_variance) * self.modulus * root

    @property
    def end(self) -> Any:
        """The noise variance below which every mode is specialised (04 (3.50)); negative where there is none."""
        return self.noise_scale - 12 * self.modulus**2 * self.readout_variance / self.sextic

    @property
    def side_well(self) -> Any:
        """Phi of the side well where it is as deep as the central one, sqrt(3 / sextic) (04 (3.46))."""
        return jnp.sqrt(3 / self.sextic)


def prediction(
    kind: str, mean: dict[str, Array], *, order: str, source: str, error: Any = None, coords: Any = None
) -> Prediction:
    """What one of the theories of modular addition predicts: scalars, and `power_histogram` (bin)."""
    dims = {name: ("bin",) if name == "power_histogram" else () for name in mean}
    return Prediction(
        theory=f"{NAME} ({kind})",
        order=order,
        source=source,
        mean=mean,
        error=error or {},
        dims=dims,
        coords=coords or {},
    )


def _positive(name: str, value: Any) -> Any:
    if is_traced(value):
        return value
    if real(name, value) <= 0:
        raise ValueError(f"{name} = {value} must be positive.")
    return jnp.asarray(value, float)
