"""Learning curves: what regression with a kernel does on average over data sets, as a function of their size.

Three theories of increasing accuracy, each a function (prior, task) of a `fieldprob.kernels.Spectrum` and a population,
and one that needs a single data set only:

* `equivalent_kernel`: leading order in variance over ridge, where every mode sees the ridge of the model;
* `equivalent_kernel_corrected`: its first correction, exact to that order for any features, at fixed and Poisson size;
* `renormalised_ridge`: all orders for Gaussian features, every mode sees one ridge raised by all the others;
* `gcv`: generalised cross-validation, the same from the kernel matrix of one data set.
"""

from fieldprob.theory.learning_curves.asymptotics import PowerLawAsymptotics, power_law_asymptotics
from fieldprob.theory.learning_curves.correction import equivalent_kernel_corrected, predictor_covariance_corrected
from fieldprob.theory.learning_curves.crossvalidation import gcv
from fieldprob.theory.learning_curves.equivalent import equivalent_kernel
from fieldprob.theory.learning_curves.renormalised import predictor_covariance, renormalised_ridge
from fieldprob.theory.learning_curves.ridge import effective_ridge

__all__ = [
    "PowerLawAsymptotics",
    "effective_ridge",
    "equivalent_kernel",
    "equivalent_kernel_corrected",
    "gcv",
    "power_law_asymptotics",
    "predictor_covariance",
    "predictor_covariance_corrected",
    "renormalised_ridge",
]
