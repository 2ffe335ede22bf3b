"""Equations of motion of one particle in a potential U, as `trajectories` integrates them.

With mobility mu, per coordinate, and temperature T:

    Langevin          dz = -mu grad U dt + sqrt(2 mu T) dB, with steps eta of Euler and Maruyama,
                      z' = z - eta mu grad U(z) + sqrt(2 eta mu T) xi_n, or of Leimkuhler and Matthews,
                      z' = z - eta mu grad U(z) + sqrt(eta mu T / 2) (xi_n + xi_{n+1})      (theory 01, B5-B7)
    GradientDescent   z' = z - eta mu grad U(z)
    GradientFlow      dz/dt = -mu grad U, by an adaptive Runge-Kutta method of Diffrax

Positions are vectors. The noise xi_n is a function of the particle's key and of n alone, so that a path depends neither
on the times at which it is looked at nor on the other particles.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

_SCHEMES = ("euler-maruyama", "leimkuhler-matthews")
_MOST_STEPS = 2**31 - 1


class Particle(NamedTuple):
    """One particle: position `z`, the `noise` that the next step uses again (else None), the integration steps taken
    so far, and whether the integrator `reached` the time it was asked for."""

    z: jax.Array
    noise: Any
    num_steps: jax.Array
    reached: jax.Array


class Dynamics(eqx.Module):
    """What `trajectories` asks of an equation of motion.

    `grid` turns times into what the integrator counts (steps, or the times themselves), starting from 0, and the times
    it will really stop at; `start` and `advance` make and move one particle, `key` being its own.
    """

    # what to do about particles that leave the finite numbers, and about those that did not reach their time
    remedy: ClassVar[str]
    delay: ClassVar[str] = ""

    @abstractmethod
    def grid(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...

    def start(self, key, z) -> Particle:
        return Particle(z, None, jnp.zeros((), jnp.int32), jnp.ones((), bool))

    @abstractmethod
    def advance(self, gradient: Callable, mobility, key, particle: Particle, start, stop) -> Particle: ...


class _Steps(Dynamics):
    """Equal steps, time t = n eta."""

    step_size: eqx.AbstractVar[float]

    def grid(self, times):
        steps = np.rint(times / self.step_size)
        if steps[-1] > _MOST_STEPS:
            raise ValueError(f"times end at {times[-1]:g}, {steps[-1]:.2g} steps of {self.step_size:g}: at most 2^31.")
        same = np.flatnonzero(np.diff(steps) == 0)
        if same.size:
            raise ValueError(
                f"times {times[same[0]]:g} and {times[same[0] + 1]:g} are the same step of size {self.step_size:g}: "
                "give times further apart, or a smaller step_size."
            )
        reached = steps * self.step_size
        # a multiple up to rounding (0.30000000000000004) keeps the number that was asked for
        exact = np.abs(reached - times) <= 1e-9 * np.maximum(times, self.step_size)
        return steps.astype(np.int32), np.where(exact, times, reached)

    def advance(self, gradient, mobility, key, particle, start, stop):
        def body(n, carry):
            return self._step(gradient, mobility, key, n, *carry)

        z, noise = jax.lax.fori_loop(start, stop, body, (particle.z, particle.noise))
        return particle._replace(z=z, noise=noise, num_steps=particle.num_steps + (stop - start))

    @abstractmethod
    def _step(self, gradient, mobility, key, n, z, noise) -> tuple: ...

    @property
    def remedy(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (
            f"steps are unstable where step_size * mobility * curvature reaches 2: give a step_size below "
            f"{self.step_size:g}, or less mobility where U is stiff."
        )


class Langevin(_Steps):
    """Langevin dynamics at a temperature, in steps of equal size.

    Args:
        step_size: eta, the learning rate; time is t = n eta.
        temperature: T.
        scheme: "euler-maruyama", the training algorithm of the papers, whose variance in a quadratic of curvature a
            is T / a / (1 - eta a / 2); or "leimkuhler-matthews", T / a exactly, at the same cost.

    Raises:
        ValueError: a number that is not positive and finite, or an unknown scheme.
    """

    step_size: float
    temperature: float = 1.0
    scheme: str = "euler-maruyama"

    def __check_init__(self):
        _check_positive("step_size", self.step_size)
        _check_positive("temperature", self.temperature, "; without noise use GradientDescent")
        if self.scheme not in _SCHEMES:
            raise ValueError(f"scheme is {self.scheme!r}: give one of {', '.join(map(repr, _SCHEMES))}.")

    def start(self, key, z):
        noise = _noise(key, 0, z) if self.scheme == "leimkuhler-matthews" else None
        return super().start(key, z)._replace(noise=noise)

    def _step(self, gradient, mobility, key, n, z, noise):
        drift = -self.step_size * mobility * gradient(z)
        if self.scheme == "euler-maruyama":
            return z + drift + jnp.sqrt(2 * self.step_size * self.temperature * mobility) * _noise(key, n, z), None
        new = _noise(key, n + 1, z)
        return z + drift + jnp.sqrt(self.step_size * self.temperature / 2 * mobility) * (noise + new), new


class GradientDescent(_Steps):
    """Gradient descent of a learning rate `step_size`, eta; time is t = n eta.

    Raises: ValueError: a step size that is not positive and finite.
    """

    step_size: float

    def __check_init__(self):
        _check_positive("step_size", self.step_size)

    def _step(self, gradient, mobility, key, n, z, noise):
        return z - self.step_size * mobility * gradient(z), None


class GradientFlow(Dynamics):
    """Gradient flow, integrated to a tolerance; each particle has its own steps, which end at the times asked for.

    Args:
        rtol, atol: relative and absolute tolerance of a step.
        solver: a Diffrax solver with an error estimate; `diffrax.Tsit5()` unless given. Where curvatures differ by
            orders of magnitude, an implicit one, e.g. `diffrax.Kvaerno5()`, takes far fewer steps.
        max_steps: most steps of one particle between two times.

    Raises:
        ValueError: tolerances or max_steps that are not positive.
        TypeError: a solver that is not adaptive.
    """

    rtol: float = 1e-7
    atol: float = 1e-9
    solver: diffrax.AbstractSolver = eqx.field(default_factory=diffrax.Tsit5)
    max_steps: int = 100_000

    remedy = "the flow runs away, since U is not bounded from below, or its gradient is NaN there."

    @property
    def delay(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (
            f"{self.max_steps} steps were not enough. Give a larger max_steps or tolerance, or, where U is stiff, "
            "an implicit solver such as diffrax.Kvaerno5(). A flow that reaches infinity in finite time ends so too."
        )

    def __check_init__(self):
        for name in ("rtol", "atol", "max_steps"):
            _check_positive(name, getattr(self, name))
        if not isinstance(self.solver, diffrax.AbstractAdaptiveSolver):
            raise TypeError(f"solver is {self.solver!r}: give an adaptive Diffrax solver, e.g. diffrax.Tsit5().")

    def grid(self, times):
        return times, times

    def advance(self, gradient, mobility, key, particle, start, stop):
        def flow(z):
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(lambda t, z, args: -mobility * gradient(z)),
                self.solver,
                t0=start,
                t1=stop,
                dt0=None,
                y0=z,
                saveat=diffrax.SaveAt(t1=True),
                stepsize_controller=diffrax.PIDController(rtol=self.rtol, atol=self.atol),
                max_steps=self.max_steps,
                throw=False,
            )
            reached = solution.result == diffrax.RESULTS.successful
            final: Any = solution.ys
            return final[0], solution.stats["num_steps"].astype(jnp.int32), reached

        def stay(z):
            return z, jnp.zeros((), jnp.int32), jnp.ones((), bool)

        z, steps, reached = jax.lax.cond(stop > start, flow, stay, particle.z)
        return particle._replace(z=z, num_steps=particle.num_steps + steps, reached=particle.reached & reached)


def _noise(key, n, z):
    return jax.random.normal(jax.random.fold_in(key, n), z.shape, z.dtype)


def _check_positive(name: str, value, remedy: str = "") -> None:
    number = isinstance(value, int | float | np.number | jax.Array) and not isinstance(value, bool)
    if not number or np.ndim(value) or not 0 < float(value) < math.inf:
        raise ValueError(f"{name} is {value!r}: give a positive, finite number{remedy}.")
