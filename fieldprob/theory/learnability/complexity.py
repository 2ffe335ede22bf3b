"""How many points a share ε of a target needs at least: the bounds of `bounds` solved for the number of points.

`mean_square` is E_D φ², the mean of the squared eigenfunction over the data (1 for data from q itself). The ridge is
not divided by the number of points. A share of one takes infinitely many.
"""

from jax.core import Tracer


def sample_complexity(share, ridge, eigenvalue, mean_square=1.0):
    """ε/(1 - ε) δ / (λ E_D φ²) (06, (8)): the points that a share ε of an eigenfunction needs at least.

    Raises ValueError for a share that is not between 0 and 1.

    >>> round(sample_complexity(0.5, 1.0, 0.01), 9)
    100.0
    """
    if not isinstance(share, Tracer) and not 0 < share < 1:
        raise ValueError(f"share = {share}: give a learnability between 0 and 1.")
    return share / (1 - share) * linear_sample_complexity(1.0, ridge, eigenvalue, mean_square)


def linear_sample_complexity(share, ridge, eigenvalue, mean_square=1.0):
    """ε δ / (λ E_D φ²) (06, (6)), weaker than `sample_complexity` by 1 - ε.

    >>> round(linear_sample_complexity(0.5, 1.0, 0.01), 9)
    50.0
    """
    return share * ridge / (eigenvalue * mean_square)


def target_sample_complexity(share, ridge, eigenvalue, coefficient, mean_square, label_mean_square):
    """ε δ |<φ, y>_q| / (λ sqrt(E_D φ² E_D y²)) (06, (6)): for a component φ of mixed labels y on the data.

    >>> round(float(target_sample_complexity(0.5, 1.0, 0.01, 1.0, 1.0, 4.0)), 9)
    25.0
    """
    norms = (mean_square * label_mean_square) ** 0.5
    return linear_sample_complexity(share, ridge, eigenvalue) * abs(coefficient) / norms


def irreducible_sample_complexity(share, ridge, trace, dimension, mean_square=1.0):
    """`sample_complexity` with the largest eigenvalue that a representation of a dimension allows (06, (12)).

    >>> irreducible_sample_complexity(0.5, 1.0, trace=1.0, dimension=20)
    20.0
    """
    return sample_complexity(share, ridge, trace / dimension, mean_square)
