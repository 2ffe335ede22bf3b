"""A spectrum cut in two on a data set, and the noise that its integrated modes make for the kept ones."""

from typing import Any, Literal, get_args

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from fieldprob.gp.checks import check_covariance
from fieldprob.kernels import Spectrum
from fieldprob.theory.renormalisation import flows
from fieldprob.theory.renormalisation.input_dependent import (
    functional_flow,
    input_dependent_ridge,
)

Ridge = Literal[
    "exact", "bare", "leading", "local", "closed", "matched", "first-cumulant", "functional", "input-dependent"
]
RIDGES: tuple[str, ...] = get_args(Ridge)
_ON_DATA = {"functional": functional_flow, "input-dependent": input_dependent_ridge}


class Split(eqx.Module):
    """Kept and integrated modes at the points of a data set.

    Attributes:
        spectrum: all modes; cutoff: how many are kept.
        features: of every mode, (points, modes).
        shell_covariance: K_> of the integrated modes, (points, points); their tail on the diagonal.
    """

    spectrum: Spectrum
    cutoff: int = eqx.field(static=True)
    features: Float[Array, "points modes"]
    shell_covariance: Float[Array, "points points_"]

    @property
    def eigenvalues(self) -> Float[Array, " kept"]:
        """Prior variances of the kept modes."""
        return self.spectrum.eigenvalues[: self.cutoff]

    @property
    def kept(self) -> Float[Array, "points kept"]:
        """Features of the kept modes."""
        return self.features[:, : self.cutoff]

    def noise(self, noise_variance: Any, ridge: str = "exact") -> Float[Array, "..."]:
        """What the kept modes see as noise: the noise of the data and the integrated modes.

        Args:
            noise_variance: of the data; () or (points,) for the ridges of a data set, () for the uniform ones.
            ridge: "exact", k2 + K_> as a matrix; a uniform ridge "bare" (k2: the integrated modes left out), "leading",
                "local", "closed" or "matched" of `ridge_flow`; or one a point, "first-cumulant", "functional" or
                "input-dependent" of this module.

        Raises:
            ValueError: another ridge; a noise that differs from point to point with a uniform ridge; a ridge that needs
                every integrated eigenfunction where the spectrum does not list them.
        """
        noise = jnp.asarray(noise_variance, self.features.dtype)
        if ridge not in RIDGES:
            raise ValueError(f"ridge = {ridge!r}: give one of {', '.join(RIDGES)}.")
        if ridge == "exact":
            return self.shell_covariance + (noise if noise.ndim == 2 else noise * jnp.eye(len(self.features)))
        if noise.ndim == 2:
            raise ValueError(f"noise_variance is a matrix: ridge {ridge!r} needs one number or one for each point.")
        if ridge == "bare":
            return noise
        if ridge == "first-cumulant":
            return noise + jnp.diagonal(self.shell_covariance)
        if ridge in _ON_DATA:
            if not listed(self.spectrum):
                raise ValueError(
                    f"ridge {ridge!r} needs every eigenfunction of the integrated modes, but the spectrum lists one of "
                    "each degenerate eigenspace: use spectra.complete, or ridge='first-cumulant'."
                )
            spectrum = self.spectrum
            return _ON_DATA[ridge](spectrum.eigenvalues, self.features, noise + spectrum.tail, self.cutoff)
        if noise.ndim:
            raise ValueError(f"noise_variance differs from point to point: ridge {ridge!r} needs one number.")
        points = len(self.features)
        if ridge == "closed":
            return flows.closed_ridge(self.spectrum, points, noise, self.cutoff)
        if ridge == "leading":
            return flows.leading_ridge(self.spectrum, noise)[self.cutoff]
        flow = flows.local_ridge if ridge == "local" else flows.matched_ridge
        return flow(self.spectrum, points, noise)[self.cutoff]


def split(spectrum: Spectrum, X: Any, cutoff: int, *, kernel: Any = None) -> Split:
    """Cut a spectrum at the points of a data set.

    Args:
        spectrum: with eigenfunctions; every function of the kept eigenspaces must be listed (`spectra.complete`).
        X: the data's inputs, (points, inputs).
        cutoff: how many modes are kept, the first.
        kernel: the covariance of which it is the spectrum, a function (X1, X2) or a network: K_> is then this less the
            kept modes. Without it K_> is that of the listed modes, with the tail as noise; all must then be listed.

    Raises:
        ValueError: no eigenfunctions, or not one for each mode; kept eigenspaces that are not listed in full; a cutoff
            out of range; a kernel that is not that of the spectrum.

    >>> spectrum = Spectrum([1.0, 0.5], eigenfunctions=lambda X: X)             # inputs that are the features
    >>> split(spectrum, jnp.array([[1.0, 2.0], [0.0, 2.0]]), 1).noise(0.1, "first-cumulant").round(12).tolist()
    [2.1, 2.1]
    """
    if spectrum.eigenfunctions is None:
        raise ValueError(f"the {spectrum.name} has no eigenfunctions: a data set needs them.")
    if not 0 <= cutoff <= spectrum.modes:
        raise ValueError(f"cutoff = {cutoff}: the spectrum lists {spectrum.modes} modes.")
    X = jnp.asarray(X)
    features = spectrum.eigenfunctions(X)
    if features.shape != (len(X), spectrum.modes):
        raise ValueError(
            f"the eigenfunctions of the {spectrum.name} gave shape {features.shape} for {len(X)} points and "
            f"{spectrum.modes} eigenvalues: give (points, modes), one column for each mode."
        )
    if not listed(spectrum, cutoff):
        raise ValueError(
            f"the {spectrum.name} lists one function of each degenerate eigenspace: list all of the kept ones with "
            "spectra.complete(spectrum, spaces)."
        )
    if kernel is not None:
        covariance = getattr(kernel, "limit", kernel)
        kept = features[:, :cutoff]
        K = covariance(X, X) - (kept * spectrum.eigenvalues[:cutoff]) @ kept.T
        check_covariance(f"the kernel less the kept modes of the {spectrum.name}", K)
    elif listed(spectrum):
        shell = features[:, cutoff:]
        K = (shell * spectrum.eigenvalues[cutoff:]) @ shell.T + spectrum.tail * jnp.eye(len(X))
    else:
        raise ValueError(
            f"the {spectrum.name} does not list every integrated eigenfunction: give the covariance, kernel=..., or "
            "spectra.complete(spectrum)."
        )
    return Split(spectrum, cutoff, features, K)


def listed(spectrum: Spectrum, modes: int | None = None) -> bool:
    """Whether every function of the first modes is listed."""
    return bool(jnp.all(spectrum.degeneracies[:modes] == 1))
