"""Grokking as a first-order transition: neurons of a network of one hidden layer that specialise to what others miss.

* `mean_field`: any activation and any Hermite teacher, at any width and number of inputs, with its first correction;
* `on_data`: the same for one data set, as `theory.adaptation` has it;
* `phase_diagram`, `critical_point`, `critical_noise`, `spinodal`: erf and a linear-plus-cubic teacher, in closed form
  as inputs grow in number;
* `modular`: addition modulo a prime;
* `scaling`: families of networks that share one mean field.
"""

from fieldprob.networks.overlaps import overlaps
from fieldprob.theory.grokking import modular, scaling
from fieldprob.theory.grokking.dataset import on_data
from fieldprob.theory.grokking.phases import (
    Couplings,
    Critical,
    Phase,
    Spinodal,
    couplings,
    critical_noise,
    critical_point,
    phase_diagram,
    spinodal,
)
from fieldprob.theory.grokking.theory import Solution, field, mean_field
from fieldprob.theory.grokking.wells import action

__all__ = [
    "Couplings",
    "Critical",
    "Phase",
    "Solution",
    "Spinodal",
    "action",
    "couplings",
    "critical_noise",
    "critical_point",
    "field",
    "mean_field",
    "modular",
    "on_data",
    "overlaps",
    "phase_diagram",
    "scaling",
    "spinodal",
]
