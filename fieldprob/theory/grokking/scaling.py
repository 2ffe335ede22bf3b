"""Families of networks that share one mean field: how sizes and variances grow together (theory 04, §2.4)."""

from typing import Any, NamedTuple


class Cubic(NamedTuple):
    """A network of one hidden layer and a population, by code names."""

    width: Any
    inputs: Any
    points: Any
    noise_variance: Any
    readout_variance: Any

    def scaled(self, data: Any = 1.0, size: Any = 1.0) -> "Cubic":
        """The member of the family with points times `data` and width times `size`.

        A and G of `Couplings`, so the phase, are those of every member. `data` alone changes nothing but points and
        noise, whose ratio is all that matters; as `size` grows the mean field becomes exact and the transition sharp.
        Numbers are not rounded.

        >>> paper = Cubic(700, 150, 3000, 0.2, 8 / 700)
        >>> small = paper.scaled(1 / 8, 1 / 8)
        >>> print(f"{small.width:.1f} {small.inputs:.1f} {small.points:.1f} {small.noise_variance:.3f}")
        87.5 53.0 375.0 0.200
        """
        root = size**0.5
        return Cubic(
            self.width * size,
            self.inputs * root,
            self.points * data,
            self.noise_variance * data / size,
            self.readout_variance / root,
        )


class Modular(NamedTuple):
    """A network of modular addition, by code names."""

    width: Any
    modulus: Any
    noise_variance: Any
    readout_variance: Any

    def scaled(self, size: Any = 1.0) -> "Modular":
        """The member of the family with modulus times sqrt(size).

        Sigma and lambda of `modular` both scale as the noise variance, so that the residual amplitude is that of every
        member as the modulus grows. The paper's family (width times size², readout_variance over size) keeps the
        residual only without the factor 4 modulus² of lambda, which the paper lacks.

        >>> print(*Modular(50, 31, 0.002, 1e-6).scaled(4.0))
        200.0 62.0 0.0005 6.25e-08
        """
        return Modular(
            self.width * size, self.modulus * size**0.5, self.noise_variance / size, self.readout_variance / size**2
        )
