"""What a kernel can and cannot learn from any data set: bounds from its spectrum on an idealised, symmetric measure.

Theory 06 (after Lavie & Ringel, arXiv:2406.02663). Arrays in, arrays out, differentiable: `exact` (overlaps and
learnability), `bounds`, `complexity` (points needed at least). Where eigenvalues come from: `sphere` (rotations),
`parity` (the cube through the sphere), `copying` (permutations of positions and tokens). `predictions`: functions
(KernelSpectrum, task) -> Prediction.
"""

from fieldprob.theory.learnability import copying, predictions
from fieldprob.theory.learnability.bounds import (
    eigenspace_bound,
    energy_overlap_bound,
    error_bound,
    gershgorin_ridge,
    heuristic_ridge,
    irreducible_eigenvalue_bound,
    linear_bound,
    linear_overlap_bound,
    remaining_ridge,
    ridge_free_bound,
    saturated_bound,
    saturated_overlap_bound,
    shifted_error_bound,
    target_bound,
)
from fieldprob.theory.learnability.complexity import (
    irreducible_sample_complexity,
    linear_sample_complexity,
    sample_complexity,
    target_sample_complexity,
)
from fieldprob.theory.learnability.exact import (
    information,
    label_noise_overlap,
    learnability,
    overlap,
    stack_outputs,
    target_overlap,
)
from fieldprob.theory.learnability.parity import (
    log_cube_eigenvalue,
    log_parity_eigenvalue,
    log_parity_square,
    parity_sample_complexity,
    universal_parity_sample_complexity,
)
from fieldprob.theory.learnability.setting import KernelSpectrum
from fieldprob.theory.learnability.sphere import Harmonic, on_sphere, subspace_sample_complexity, unit

__all__ = [
    "Harmonic", "KernelSpectrum", "copying", "eigenspace_bound", "energy_overlap_bound", "error_bound",
    "gershgorin_ridge", "heuristic_ridge", "information", "irreducible_eigenvalue_bound",
    "irreducible_sample_complexity", "label_noise_overlap", "learnability", "linear_bound", "linear_overlap_bound",
    "linear_sample_complexity",
    "log_cube_eigenvalue", "log_parity_eigenvalue", "log_parity_square", "on_sphere", "overlap",
    "parity_sample_complexity", "predictions", "remaining_ridge", "ridge_free_bound", "sample_complexity",
    "saturated_bound", "saturated_overlap_bound", "shifted_error_bound", "stack_outputs", "subspace_sample_complexity",
    "target_bound", "target_overlap", "target_sample_complexity", "unit", "universal_parity_sample_complexity",
]  # fmt: skip
