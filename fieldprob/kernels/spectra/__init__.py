"""Mercer spectra of kernels with respect to a measure of the inputs: see `Spectrum`.

`sphere`, `sphere_series`: rotation-invariant kernels; `circle`, `ring`, `interval`: one angle, or one number;
`rbf_gaussian`: the Gaussian kernel under Gaussian inputs; `power_law`: bare eigenvalues; `empirical`: a sample;
`complete`: every function of degenerate eigenspaces.
"""

from fieldprob.kernels.spectra.base import Quadrature, Spectrum
from fieldprob.kernels.spectra.circle import circle, interval, ring
from fieldprob.kernels.spectra.complete import complete
from fieldprob.kernels.spectra.empirical import SamplingBias, empirical, sampling_bias
from fieldprob.kernels.spectra.gegenbauer import degeneracy
from fieldprob.kernels.spectra.hermite import rbf_gaussian
from fieldprob.kernels.spectra.power_law import power_law
from fieldprob.kernels.spectra.series import erf_series, exponential_series, relu_series, sphere_series
from fieldprob.kernels.spectra.sphere import sphere

__all__ = [
    "Quadrature",
    "SamplingBias",
    "Spectrum",
    "circle",
    "complete",
    "degeneracy",
    "empirical",
    "erf_series",
    "exponential_series",
    "interval",
    "power_law",
    "rbf_gaussian",
    "relu_series",
    "ring",
    "sampling_bias",
    "sphere",
    "sphere_series",
]
