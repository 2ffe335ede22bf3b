"""Copying heads: what a permutation-symmetric kernel of sequences learns of copying a token (theory 06, (25)-(31)).

A context is x_1 ... x_L of V tokens, the target the token at a source position a. On independent uniform tokens a
kernel that is the same after permutations of the positions and of the vocabulary has the target in two sectors. The
standard one, (e_{x_a} - mean over positions), holds all but 1/L of it and has dimension (L - 1)(V - 1): its eigenvalue
is at most E k/((L - 1)(V - 1)), whatever the language.

The solvable kernel is that of one block of linear attention with infinitely many heads, averaged over positions, with
embedding kernel (1[x_a = x'_b] + s δ_ab)/(1 + s):

    k(X, X') = (A + sL)(A + 2sB + s²L) / (L⁴ (1 + s)³),    A = Σ_v n_v n'_v,    B = Σ_a 1[x_a = x'_a].

Tokens are integers; as `Task.X` holds them as floats, both are taken.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from fieldprob.theory.learnability.complexity import sample_complexity

_BATCH = 64  # sequences compared at once with all others


def token_array(X: Any, vocabulary: int) -> Int[Array, "points context"]:
    """Sequences as integers. Raises ValueError for tokens that are not among 0 ... vocabulary - 1; unless traced.

    >>> token_array([[0.0, 2.0]], 2)
    Traceback (most recent call last):
    ValueError: X has the token 2: give integers of 0 ... 1, the vocabulary.
    """
    X = jnp.asarray(X)
    if not isinstance(X, Tracer):
        array = np.asarray(X)
        wrong = array[~((array >= 0) & (array < vocabulary) & (array == np.round(array)))]
        if wrong.size:
            raise ValueError(f"X has the token {wrong[0]:g}: give integers of 0 ... {vocabulary - 1}, the vocabulary.")
    return X.astype(int)


def counts(X: Any, vocabulary: int) -> Float[Array, "points vocabulary"]:
    """n_v, how often each token occurs in each sequence.

    >>> counts(jnp.array([[0, 2, 2]]), 3).tolist()
    [[1.0, 0.0, 2.0]]
    """
    tokens = token_array(X, vocabulary)
    rows = jnp.arange(tokens.shape[0])[:, None]
    return jnp.zeros((tokens.shape[0], vocabulary)).at[rows, tokens].add(1.0)


def sequence_kernel(X1: Any, X2: Any, vocabulary: int, positional_variance: Any) -> Float[Array, "points points_"]:
    """The solvable kernel (06, (29)) between sequences (points, context); memory beyond the result does not grow.

    >>> sequence_kernel(jnp.array([[0, 1]]), jnp.array([[0, 1], [1, 0]]), 2, 1.0).round(12).tolist()
    [[0.25, 0.125]]
    """
    first, second = token_array(X1, vocabulary), token_array(X2, vocabulary)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"contexts of {first.shape[1]} and {second.shape[1]} tokens: give sequences of one length.")
    n, n_ = counts(first, vocabulary), counts(second, vocabulary)

    def row(sequence):
        tokens, n = sequence
        same = jnp.sum(tokens == second, axis=1)
        return of_overlaps(n_ @ n, same.astype(n.dtype), first.shape[1], positional_variance)

    return jax.lax.map(row, (first, n), batch_size=_BATCH)


def of_overlaps(A: Array, B: Array, context: int, positional_variance: Any) -> Array:
    """The kernel as a function of A and B."""
    L, s = context, positional_variance
    return (A + s * L) * (A + 2 * s * B + s**2 * L) / (L**4 * (1 + s) ** 3)


def kernel_trace(context: int, vocabulary: int, positional_variance: Any) -> Any:
    """E k(X, X) on uniform tokens: B = L, and A = Σ n_v², of mean L + L(L - 1)/V and variance 2 L(L - 1)(1 - 1/V)/V.

    >>> round(kernel_trace(4, 3, 0.7), 5)
    0.13785
    """
    L, V, s = context, vocabulary, positional_variance
    mean = L + L * (L - 1) / V
    variance = 2 * L * (L - 1) / V * (1 - 1 / V)
    return (variance + (mean + s * L) * (mean + 2 * s * L + s**2 * L)) / (L**4 * (1 + s) ** 3)


def copying_target(X: Any, source: int, vocabulary: int) -> Float[Array, "points vocabulary"]:
    """y^std = e_{x_a} - (1/L) Σ_b e_{x_b}, the part of the copying target in the standard sector (06, (25)).

    >>> copying_target(jnp.array([[0, 1]]), 0, 2).tolist()
    [[0.5, -0.5]]
    """
    tokens = _with_source(X, source, vocabulary)
    return jax.nn.one_hot(tokens[:, source], vocabulary) - counts(tokens, vocabulary) / tokens.shape[1]


def _with_source(X, source, vocabulary):
    tokens = token_array(X, vocabulary)
    if not 0 <= source < tokens.shape[1]:
        raise ValueError(f"source = {source} is not in the context: give a position of 0 ... {tokens.shape[1] - 1}.")
    return tokens


def copying_power(context: int, vocabulary: int) -> float:
    """E |y^std|² = (1 - 1/V)(1 - 1/L) on uniform tokens (06, (25)).

    >>> copying_power(2, 2)
    0.25
    """
    return (1 - 1 / vocabulary) * (1 - 1 / context)


def largest_copying_square(context: int) -> float:
    """2 (1 - 1/L)², which |y^std|² exceeds in no text (06, (27)).

    >>> largest_copying_square(2)
    0.5
    """
    return 2 * (1 - 1 / context) ** 2


def copying_image(X: Any, source: int, vocabulary: int, positional_variance: Any) -> Float[Array, "points vocabulary"]:
    """T y^std of the solvable kernel on uniform tokens, at any sequences (06, (30)).

    >>> bool(jnp.all(copying_image(jnp.array([[0, 1]]), 0, 2, 0.0) == 0))     # no positions, nothing to copy by
    True
    """
    tokens, s = _with_source(X, source, vocabulary), positional_variance
    L, V = tokens.shape[1], vocabulary
    n = counts(tokens, V)
    at_source = jnp.take_along_axis(n, tokens[:, source : source + 1], axis=1)
    here = jax.nn.one_hot(tokens[:, source], V) - 1 / V
    everywhere = (n**2 - jnp.sum(n**2, axis=1, keepdims=True) / V) / L  # Σ_b n_{x_b} (e_{x_b} - 1/V) / L
    rest = (L * (L - 1) / V + s * L) * copying_target(tokens, source, V)
    return 2 * s / ((1 + s) ** 3 * L**4 * V) * (at_source * here - everywhere + rest)


def copying_eigenvalue(context: int, vocabulary: int, positional_variance: Any) -> Any:
    """<y^std, T y^std> / <y^std, y^std> of the solvable kernel (06, (31)), nearly an eigenvalue.

    A Rayleigh quotient: the standard representation occurs more than once. Bounds that hold use `copying_image`.

    >>> round(copying_eigenvalue(4, 3, 0.7), 8)
    0.00314147
    """
    L, V, s = context, vocabulary, positional_variance
    return 2 * s / ((1 + s) ** 3 * L**4 * V) * (L * (L - 1) / V + s * L + 1 + (L - 2) / V)


def copying_sample_complexity(share, ridge, trace, context: int, vocabulary: int):
    """ε δ L (V - 1)² / (2 V E k) (06, (28)): sequences needed at least, in any language, by any kernel with the
    symmetry of which the copying function is an eigenfunction; in general see `target_bound`.

    >>> copying_sample_complexity(0.5, 1.0, 1.0, context=8, vocabulary=2)
    1.0
    """
    return share * ridge / trace * context * (vocabulary - 1) ** 2 / (2 * vocabulary)


def saturated_copying_sample_complexity(share, ridge, trace, context: int, vocabulary: int):
    """`copying_sample_complexity` of the saturated bound, larger by 1/(1 - ε).

    >>> saturated_copying_sample_complexity(0.5, 1.0, 1.0, context=8, vocabulary=2)
    2.0
    """
    if context < 2:
        raise ValueError(f"context = {context}: copying one token of a context needs two at least.")
    mean_square = largest_copying_square(context) / copying_power(context, vocabulary)
    return sample_complexity(share, ridge, trace / ((context - 1) * (vocabulary - 1)), mean_square)
