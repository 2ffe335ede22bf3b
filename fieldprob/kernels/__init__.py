"""Covariance functions of infinitely wide networks.

`nngp`, `ntk`, `nngp_and_ntk`: matrices, of every layer; `blocks`, `write`: of more points than fit into memory.
`Network`, `Limit`: the same as tinygp kernels, from activations and variances, or from a network.
`derivatives`, `erf_derivatives`: with respect to the inputs.
`criticality`, `edge_of_chaos`, `phase_diagram`: fixed points, susceptibilities and depth scales.
`spectra`: eigenvalues and eigenfunctions under a measure, from which `fieldprob.theory.learning_curves` starts.
"""

from fieldprob.kernels import derivatives, spectra
from fieldprob.kernels.blocks import Block, blocks, write
from fieldprob.kernels.criticality import (
    Criticality,
    PhaseDiagram,
    correlation_fixed_point,
    correlation_susceptibility,
    criticality,
    edge_of_chaos,
    phase_diagram,
    variance_fixed_point,
    variance_susceptibility,
)
from fieldprob.kernels.erf_derivatives import ErfDerivatives, erf_derivatives
from fieldprob.kernels.network import Limit, Network
from fieldprob.kernels.nngp import nngp, nngp_and_ntk, nngp_diagonal, ntk, ntk_diagonal
from fieldprob.kernels.recursion import Kernels, linear
from fieldprob.kernels.spectra import Spectrum

__all__ = [
    "Block", "Criticality", "ErfDerivatives", "Kernels", "Limit", "Network", "PhaseDiagram", "Spectrum", "blocks",
    "correlation_fixed_point", "correlation_susceptibility", "criticality", "derivatives", "edge_of_chaos",
    "erf_derivatives", "linear", "nngp", "nngp_and_ntk", "nngp_diagonal", "ntk", "ntk_diagonal", "phase_diagram",
    "spectra", "variance_fixed_point", "variance_susceptibility", "write",
]  # fmt: skip
