"""Wilsonian renormalisation of a Gaussian process: integrate out the modes that the data do not determine.

A `Spectrum` is cut after some modes (`cutoff`); the others become a ridge for the kept ones: uniform for Gaussian
features (`ridge_flow`), one for each input for others (`first_cumulant_ridge`, `functional_flow`,
`input_dependent_ridge`). `kept` predicts what the kept modes learn from one data set; `mode_mixing`,
`input_dependent_average` and `learning_curve` on average. The effective ridge, the learnabilities and the learning
curve of all modes are those of `theory.learning_curves`.

Source: Howard, Jefferson, Maiti & Ringel, arXiv:2405.06008; the flows with denominators and the input-dependent ridges
beyond the first cumulant were derived for this package (theory document 05) and are checked against samples.
"""

from fieldprob.theory.renormalisation.curves import kept_spectrum, learning_curve, uniform_ridge
from fieldprob.theory.renormalisation.cutoff import Cutoff, cutoff
from fieldprob.theory.renormalisation.evidence import average_log_evidence, log_determinant
from fieldprob.theory.renormalisation.flows import (
    RidgeFlow,
    closed_ridge,
    contraction,
    leading_ridge,
    local_ridge,
    matched_ridge,
    ridge_flow,
)
from fieldprob.theory.renormalisation.gaussianity import (
    Cumulants,
    cumulant_ridge,
    feature_moments,
    joint_cumulants,
    joint_histogram,
)
from fieldprob.theory.renormalisation.input_dependent import (
    first_cumulant_ridge,
    functional_flow,
    input_dependent_ridge,
)
from fieldprob.theory.renormalisation.kept import kept
from fieldprob.theory.renormalisation.mixing import (
    KeptAverages,
    ShellMoments,
    harmonic_ridge,
    input_dependent_average,
    mode_mixing,
)
from fieldprob.theory.renormalisation.posterior import KeptPosterior, kept_posterior
from fieldprob.theory.renormalisation.replicas import (
    determinant_action,
    poisson_action,
    replicated_partition_function,
)
from fieldprob.theory.renormalisation.split import RIDGES, Split, split

__all__ = [
    "RIDGES", "Cumulants", "Cutoff", "KeptAverages", "KeptPosterior", "RidgeFlow", "ShellMoments", "Split",
    "average_log_evidence", "closed_ridge", "contraction", "cumulant_ridge", "cutoff", "determinant_action",
    "feature_moments", "first_cumulant_ridge", "functional_flow", "harmonic_ridge", "input_dependent_average",
    "input_dependent_ridge", "joint_cumulants", "joint_histogram", "kept", "kept_posterior", "kept_spectrum",
    "leading_ridge", "learning_curve", "local_ridge", "log_determinant", "matched_ridge", "mode_mixing",
    "poisson_action", "replicated_partition_function", "ridge_flow", "split", "uniform_ridge",
]  # fmt: skip
