"""The ladder of replica exchange: inverse temperatures 1 = β_0 > β_1 > ... > β_{R-1} >= 0, one slot each.

Slot k samples exp(−A(z) − β_k L(z)). A swap of the positions of slots k and k+1 is accepted with probability

    min(1, exp((β_k − β_{k+1}) (L_k − L_{k+1}))),

even and odd pairs in turn (deterministic even-odd, non-reversible). With rejection probability r_k of pair k, replicas
that explore well make 1/(2 + 2 Σ r_k/(1 − r_k)) round trips an exchange, and this is largest where all r_k are equal.
Their sum Λ = Σ r_k, the communication barrier, hardly depends on the ladder: r = Λ/(R − 1), and R of about 2Λ is best
for one machine. Source: Syed, Bouchard-Côté, Deligiannidis & Doucet 2022, Non-reversible parallel tempering,
J. R. Stat. Soc. B 84, 321: theorem 3 (rate), corollary 2 (equal rejection), algorithm 4 (rounds).
"""

import jax
import jax.numpy as jnp
import numpy as np

_SHORTEST_ROUND = 8  # exchanges; four attempts a pair
_LEAST_REJECTION = 1e-3  # keeps neighbours apart where every swap was accepted


def check_temperatures(temperatures, tempering: str, top_temperature=None) -> np.ndarray:
    """The inverse temperatures that a ladder starts from, array (slots,).

    Args:
        temperatures: increasing, the first 1; or their number, spaced geometrically up to the last.
        tempering: "likelihood" or "potential".
        top_temperature: the last of a given number of temperatures. Infinity, the prior, unless given where the
            likelihood is tempered; the others then grow by √10.

    Raises:
        ValueError: fewer than two temperatures, the first is not 1, they do not increase, the whole potential at
            infinite temperature, or a number of temperatures without their last.

    >>> check_temperatures([1, 2, 4, float("inf")], "likelihood").tolist()
    [1.0, 0.5, 0.25, 0.0]
    >>> check_temperatures(3, "potential", top_temperature=4.0).tolist()
    [1.0, 0.5, 0.25]
    """
    if tempering not in ("likelihood", "potential"):
        raise ValueError(f"tempering is {tempering!r}: give 'likelihood' or 'potential'.")
    if isinstance(temperatures, int | np.integer) and not isinstance(temperatures, bool):
        number = int(temperatures)
        if number < 2:
            raise ValueError(f"temperatures is {number}: give at least 2 replicas.")
        if top_temperature is None and tempering == "potential":
            raise ValueError(f"temperatures is {number}: give top_temperature too, the temperature of the hottest.")
        if top_temperature is None or np.isinf(top_temperature):
            ladder = np.append(np.sqrt(10.0) ** np.arange(number - 1), np.inf)
        else:
            ladder = np.geomspace(1.0, float(top_temperature), number)
            ladder[0] = 1.0
    else:
        ladder = np.asarray(temperatures, float)
        if top_temperature is not None:
            raise ValueError(f"top_temperature is {top_temperature}: give it only with a number of temperatures.")
    if ladder.ndim != 1 or ladder.size < 2 or ladder[0] != 1 or not np.all(ladder[1:] > ladder[:-1]):
        raise ValueError(
            f"temperatures are {ladder.tolist()}: give at least two, increasing, the first of them 1, the target's."
        )
    if tempering == "potential" and np.isinf(ladder[-1]):
        raise ValueError("temperatures end at infinity, where the potential has no normalisable law: end below it.")
    return 1 / ladder


def swap_log_ratio(inverse_temperatures, energies):
    """log of the acceptance ratio of each neighbouring pair, (β_k − β_{k+1})(L_k − L_{k+1}), array (slots − 1,).

    NaN, where an energy is, becomes −inf.
    """
    ratio = -jnp.diff(inverse_temperatures) * -jnp.diff(energies)
    return jnp.where(jnp.isnan(ratio), -jnp.inf, ratio)


def partners(slots: int) -> np.ndarray:
    """The slot with which each may swap in even (row 0) and odd (row 1) exchanges; itself where it has none.

    >>> partners(5).tolist()
    [[1, 0, 3, 2, 4], [0, 2, 1, 4, 3]]
    """
    table = np.tile(np.arange(slots), (2, 1))
    for parity in (0, 1):
        for lower in range(parity, slots - 1, 2):
            table[parity, [lower, lower + 1]] = lower + 1, lower
    return table


def adaptation_rounds(exchanges: int) -> np.ndarray:
    """After which of so many exchanges the ladder changes: rounds that double, the last ending with them.

    >>> adaptation_rounds(100).tolist()
    [12, 25, 50, 100]
    """
    ends = []
    while exchanges >= _SHORTEST_ROUND:
        ends.append(exchanges)
        exchanges //= 2
    return np.array(ends[::-1], int)


def equalise(inverse_temperatures, rejection):
    """The ladder, array (slots,), with the same ends and equal rejection at all pairs, as far as the rates measured
    on the present one (slots − 1,) tell: the cumulative barrier Σ r, interpolated in log(β + β'), is cut into equal
    parts. β' is 0, or β_{R-2} if the last β is 0.
    """
    betas = inverse_temperatures
    barrier = jnp.concatenate([jnp.zeros(1, betas.dtype), jnp.cumsum(jnp.maximum(rejection, _LEAST_REJECTION))])
    offset = jnp.where(betas[-1] > 0, 0.0, betas[-2])
    equal = jnp.linspace(0.0, barrier[-1], len(betas))
    inner = jnp.exp(jnp.interp(equal, barrier, jnp.log(betas + offset))) - offset
    return betas.at[1:-1].set(inner[1:-1].astype(betas.dtype))


def count_round_trips(phase, replica_index, round_trips):
    """(phase, round_trips) after an exchange. A round trip takes one replica from the hottest slot to the coldest and
    back to the hottest; phase (slots,), of each replica: 0 not yet at the hottest, 1 on its way to the coldest, 2 back.
    """
    hottest, coldest = replica_index[-1], replica_index[0]
    round_trips = round_trips + (phase[hottest] == 2)
    phase = phase.at[hottest].set(1)
    return phase.at[coldest].set(jnp.where(phase[coldest] == 1, 2, phase[coldest])), round_trips


def log_evidence(energies, inverse_temperatures):
    """log Z_0/Z_{R-1}, Z_k = ∫ exp(−A − β_k L): the log evidence where the last slot is a normalised prior (β = 0).

    Each pair is bridged by the geometric mean of its two densities (Meng & Wong 1996, Statist. Sinica 6, 831), with
    Δ = β_k − β_{k+1}:    log Z_k/Z_{k+1} = log ⟨exp(−ΔL/2)⟩_{k+1} − log ⟨exp(ΔL/2)⟩_k.

    Args:
        energies: L of each slot, array (..., draw, slot), as `ReplicaExchangeState.energies`.
        inverse_temperatures: array (..., slot), constant over the draws.

    Returns:
        Array (...), e.g. one estimate a chain; their scatter is the Monte Carlo error.

    >>> import jax  # prior N(0, 1), L = z²/2: Z_0/Z_1 = 1/√2
    >>> z = jax.random.normal(jax.random.key(0), (10_000, 2)) * jnp.array([0.5**0.5, 1.0])
    >>> bool(abs(log_evidence(0.5 * z**2, jnp.array([1.0, 0.0])) + 0.5 * np.log(2)) < 0.01)
    True
    """
    energies = jnp.asarray(energies)
    half = 0.5 * -jnp.diff(jnp.asarray(inverse_temperatures))[..., None, :]

    def log_mean(x):
        return jax.scipy.special.logsumexp(x, axis=-2) - jnp.log(x.shape[-2])

    pairs = log_mean(-half * energies[..., 1:]) - log_mean(half * energies[..., :-1])
    return pairs.sum(-1)
