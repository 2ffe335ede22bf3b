"""Modular addition: quadratic neurons that see pairs (i, j) of integers mod P and learn the indicator of i + j.

f_p(i, j) = sum_c a_pc (u_c,i + v_c,j)² with a ~ N(0, readout_variance / width), weights u, v ~ N(0, 1) times a
regulator exp(-P sextic / 6 sum over k ≠ 0 of |u_k|^6 + |v_k|^6) of their Fourier modes, u_k = sum_x u_x exp(2 pi i k
x / P) / P; without it the law of a neuron is not normalisable. On the full table symmetry leaves one unknown: the mean
residual is a times the target. With Phi = |u_k|², Psi = |v_k|² each of the (P - 1)/2 independent modes k of a neuron
has the density

    exp(-2P s) dPhi dPsi,    s = (Phi + Psi)/2 - u a² Phi Psi + sextic (Phi³ + Psi³)/6,   u = 2 readout_variance P² /
    (width noise_variance²),

and a = noise_variance / (noise_variance + lambda), lambda = 4 P² readout_variance <Phi Psi> (theory 04, (3.40)-(3.45),
with the factor 4P² that the paper lacks). A mode specialises when the well at Phi = Psi > 0 is as deep as that at zero.
"""

from fieldprob.theory.grokking.modular.loop import one_loop
from fieldprob.theory.grokking.modular.phases import Side, action, large_modulus, side_well
from fieldprob.theory.grokking.modular.quadrature import mean_field
from fieldprob.theory.grokking.modular.setting import ModularAddition

__all__ = ["ModularAddition", "Side", "action", "large_modulus", "mean_field", "one_loop", "side_well"]
