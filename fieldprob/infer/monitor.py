"""Convergence so far, in memory that does not grow with the run.

For each monitored number, means over groups of consecutive draws are kept, at most 2048 groups a chain: when they are
full, neighbours are merged and a group becomes twice as long. Group means have the Monte Carlo standard error of the
draws themselves, and ArviZ estimates it from them; with the variance of all draws, ESS = variance / MCSE^2. R-hat is
ArviZ's on the group means.
"""

import sys
import time
from collections.abc import Mapping

import numpy as np

from fieldprob import statistics
from fieldprob.infer.blocks import Output
from fieldprob.infer.datatree import square_name

SHOWN = 32  # numbers behind the progress bar
ENTRIES = 512  # numbers behind target_ess
_GROUPS, _FEWEST_GROUPS, _NUMBERS = 2048, 64, 2**20
_FEWEST_DRAWS = 50  # below, an error estimate says little
_SHARE = 0.02  # of the time may go into diagnostics for the bar

Arrays = Mapping[str, np.ndarray]


class GroupMeans:
    """Group means and the variance of `entries` numbers in `chains` chains, units (draws or block means) added in turn.

    Attributes:
        count: complete groups.
        length: units in a group.
        units: units added, per chain.
    """

    def __init__(self, entries: int, chains: int):
        room = _NUMBERS // max(1, entries * chains)
        self.limit = min(_GROUPS, max(_FEWEST_GROUPS, 1 << max(0, room.bit_length() - 1)))
        self._means = np.empty((entries, chains, self.limit))
        self._sum, self._pending = np.zeros((entries, chains)), 0
        self.count, self.length, self.units = 0, 1, 0
        self._mean, self._deviations = np.zeros(entries), np.zeros(entries)

    def add(self, x: np.ndarray, square: np.ndarray | None = None) -> None:
        """Adds units, (entries, chains, units); `square` holds means of x^2 where units are block means."""
        x = np.asarray(x, float)
        if not x.shape[2]:
            return
        self._add_moments(x, square)
        position = 0
        while position < x.shape[2]:
            if self.count == self.limit:
                self.count //= 2
                self._means[:, :, : self.count] = 0.5 * (self._means[:, :, ::2] + self._means[:, :, 1::2])
                self.length *= 2
            rest = x[:, :, position:]
            whole = min(rest.shape[2] // self.length, self.limit - self.count)
            if self._pending or not whole:
                taken = min(rest.shape[2], self.length - self._pending)
                self._sum += rest[:, :, :taken].sum(axis=2)
                self._pending += taken
                if self._pending == self.length:
                    self._means[:, :, self.count] = self._sum / self.length
                    self._sum[:], self._pending, self.count = 0.0, 0, self.count + 1
            else:
                taken = whole * self.length
                groups = rest[:, :, :taken].reshape(*rest.shape[:2], whole, self.length).mean(axis=3)
                self._means[:, :, self.count : self.count + whole] = groups
                self.count += whole
            position += taken

    def _add_moments(self, x: np.ndarray, square: np.ndarray | None) -> None:
        # Chan, Golub & LeVeque (1983): two sets of draws joined, without the cancellation of E x^2 - (E x)^2
        old, new = self.units * x.shape[1], x.shape[1] * x.shape[2]
        mean = x.mean(axis=(1, 2))
        if square is None:
            deviations = np.sum((x - mean[:, None, None]) ** 2, axis=(1, 2))
        else:
            deviations = new * np.maximum(np.asarray(square, float).mean(axis=(1, 2)) - mean**2, 0.0)
        shift = mean - self._mean
        self._deviations += deviations + shift**2 * old * new / (old + new)
        self._mean += shift * new / (old + new)
        self.units += x.shape[2]

    @property
    def means(self) -> np.ndarray:
        """(entries, chains, groups)."""
        return self._means[:, :, : self.count]

    @property
    def variance(self) -> np.ndarray:
        """Of all units in all chains, (entries,)."""
        return self._deviations / max(1, self.units * self._means.shape[1])

    @property
    def constant(self) -> np.ndarray:
        """Numbers that do not vary beyond rounding, (entries,)."""
        return self.variance <= (1e-7 * self._mean) ** 2 if self.units else np.ones(len(self._mean), bool)

    def mcse(self) -> np.ndarray:
        """Monte Carlo standard error of the mean, (entries,); 0 for constants, NaN from fewer than four groups."""
        from arviz_stats.base import array_stats  # two seconds, so not before it is needed

        found = np.zeros(len(self._mean))
        varying = ~self.constant
        if self.count < 4:
            found[varying] = np.nan
        elif varying.any():
            with np.errstate(divide="ignore", invalid="ignore"):  # chains that do not move
                found[varying] = array_stats.mcse(self.means[varying], method="mean")
        return found

    def ess(self) -> np.ndarray:
        """variance / MCSE^2, (entries,); infinite for constants."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.constant, np.inf, self.variance / self.mcse() ** 2)

    def rhat(self) -> np.ndarray:
        """R-hat of the group means, (entries,); 1 for constants, NaN from fewer than four groups."""
        from arviz_stats.base import array_stats

        found = np.ones(len(self._mean))
        varying = ~self.constant
        if self.count < 4:
            found[varying] = np.nan
        elif varying.any():
            with np.errstate(divide="ignore", invalid="ignore"):
                found[varying] = array_stats.rhat(self.means[varying])
        return found


class Watch:
    """Numbers of a run that are followed: entries of statistics, and perhaps the potential energy.

    Args:
        shapes: of one draw, (chain, ...), see `Recorder.shapes`.
        chosen: {statistic: flat indices of its entries}.
        energy: follow the potential energy too, where there is one.
    """

    def __init__(self, shapes: Output, chosen: Mapping[str, np.ndarray], energy: bool = False):
        self.chosen = dict(chosen)
        self._energy = energy and "potential_energy" in shapes.stats
        chains = next(iter(shapes.stats.values())).shape[0] if shapes.stats else 0
        self._kept = [name for name in chosen if name in shapes.posterior]
        self._streamed = [name for name in chosen if name in shapes.stream]
        chains = chains or next(iter({**shapes.posterior, **shapes.stream}.values())).shape[0]
        size = {name: len(chosen[name]) for name in chosen}
        self._parts = [
            GroupMeans(sum(size[name] for name in self._kept) + self._energy, chains),
            GroupMeans(sum(size[name] for name in self._streamed), chains),
        ]

    def add(self, posterior: Arrays, stats: Arrays, stream: Arrays) -> None:
        """Adds the draws of a block, arrays (chain, draw, ...), those of the stream (chain, block, ...)."""
        numbers = [self._entries(posterior[name], name) for name in self._kept]
        if self._energy:
            numbers.append(np.asarray(stats["potential_energy"])[None])
        if numbers:
            self._parts[0].add(np.concatenate(numbers))
        if self._streamed and self._streamed[0] in stream:
            self._parts[1].add(
                np.concatenate([self._entries(stream[name], name) for name in self._streamed]),
                np.concatenate([self._entries(stream[square_name(name)], name) for name in self._streamed]),
            )

    def _entries(self, array: np.ndarray, name: str) -> np.ndarray:
        flat = np.asarray(array).reshape(*array.shape[:2], -1)
        return np.moveaxis(flat[:, :, self.chosen[name]], 2, 0)

    @property
    def names(self) -> list[str]:
        """The statistic of each number that `mcse`, `ess` and `rhat` return."""
        parts = (self._kept, self._streamed)
        kept, streamed = ([name for name in part for _ in self.chosen[name]] for part in parts)
        return kept + ["potential_energy"] * self._energy + streamed

    @property
    def stuck(self) -> bool:
        """Whether the chains have not moved: the potential energy, or if there is none, all numbers stay the same."""
        constant = np.concatenate([part.constant for part in self._parts])
        return bool(self._parts[0].constant[-1]) if self._energy else bool(constant.all())

    def mcse(self) -> np.ndarray:
        return np.concatenate([part.mcse() for part in self._parts])

    def ess(self) -> np.ndarray:
        return np.concatenate([part.ess() for part in self._parts])

    def rhat(self) -> np.ndarray:
        return np.concatenate([part.rhat() for part in self._parts])


class Targets:
    """Whether a run is accurate enough to stop; asked after every block, so that a resumed run stops where the
    uninterrupted one does.

    Args:
        shapes: of one draw.
        ess: the least effective sample size of the invariant statistics (at most 512 entries, spread evenly).
        mcse: {statistic: the largest Monte Carlo standard error of any of its entries}.

    Raises:
        ValueError: a target is not positive, or names no statistic.
    """

    def __init__(self, shapes: Output, ess: float | None, mcse: Mapping[str, float] | None):
        sites = _sites(shapes)
        self._ess, self._mcse = ess, dict(mcse or {})
        for name, value in (*([("target_ess", ess)] if ess is not None else []), *self._mcse.items()):
            if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not value > 0:
                where = name if name == "target_ess" else f"target_mcse of {name}"
                raise ValueError(f"{where} is {value!r}: give a positive number.")
        for name in self._mcse:
            if name not in sites:
                raise ValueError(f"target_mcse names {name!r}, which is not sampled; there are: {', '.join(sites)}.")
        self._watches: dict[str, Watch] = {}
        if ess is not None:
            self._watches["target_ess"] = Watch(shapes, spread(_invariant(sites), ENTRIES), True)
        if self._mcse:
            self._watches["target_mcse"] = Watch(shapes, {name: np.arange(sites[name]) for name in self._mcse}, True)
        self._draws = 0

    def add(self, draws: int, posterior: Arrays, stats: Arrays, stream: Arrays) -> None:
        """Adds the draws of a block."""
        self._draws += draws
        for watch in self._watches.values():
            watch.add(posterior, stats, stream)

    def reached(self) -> str | None:
        """The targets, where there are any and all are reached; never within the first 50 draws."""
        if not self._watches or self._draws < _FEWEST_DRAWS:
            return None
        if any(watch.stuck for watch in self._watches.values()):
            return None
        if self._ess is not None:
            ess = self._watches["target_ess"].ess()
            if not len(ess) or not np.all(ess >= self._ess):
                return None
        if self._mcse:
            watch = self._watches["target_mcse"]
            limits = np.array([self._mcse.get(name, np.inf) for name in watch.names])
            if not np.all(watch.mcse() <= limits):
                return None
        return ", ".join(self._watches)


class Progress:
    """What the bar says between blocks: acceptance and divergences of all draws so far, worst R-hat and ESS."""

    def __init__(self, shapes: Output):
        self._watch = Watch(shapes, spread(_invariant(_sites(shapes)), SHOWN - 1), energy=True)
        self._acceptance, self._draws, self._divergences, self._text = 0.0, 0, 0, ""
        self._start, self._spent = time.perf_counter(), 0.0
        self._cost = 0.1 if "arviz_stats.base" in sys.modules else 2.0

    def add(self, posterior: Arrays, stats: Arrays, stream: Arrays) -> None:
        self._watch.add(posterior, stats, stream)
        if "accept_prob" in stats:
            self._acceptance += float(np.mean(stats["accept_prob"], dtype=float)) * stats["accept_prob"].shape[1]
            self._draws += stats["accept_prob"].shape[1]
        if "diverging" in stats:
            self._divergences += int(np.sum(stats["diverging"]))

    def text(self) -> str:
        """R-hat and ESS are renewed as often as 2 % of the time allows."""
        now = time.perf_counter()
        if self._spent + self._cost <= _SHARE * (now - self._start):
            rhat, ess = self._watch.rhat(), self._watch.ess()
            if np.any(np.isfinite(ess)):
                self._text = f"R-hat {np.nanmax(rhat):.2f}, ESS {np.nanmin(ess):.0f}"
            self._cost = time.perf_counter() - now
            self._spent += self._cost
        parts = [f"acceptance {self._acceptance / self._draws:.2f}"] if self._draws else []
        parts += [f"{self._divergences} divergences"] if self._divergences else []
        return ", ".join([*parts, *filter(None, [self._text])])


def spread(sizes: Mapping[str, int], most: int) -> dict[str, np.ndarray]:
    """At most `most` entries of statistics of these sizes: all statistics alike, their entries spread evenly.

    >>> {name: entries.tolist() for name, entries in spread({"f": 10, "loss": 1}, 5).items()}
    {'f': [0, 3, 6, 9], 'loss': [0]}
    """
    chosen, left = {}, most
    for index, name in enumerate(
        sorted(sizes, key=lambda name: sizes[name])
    ):  # what small ones leave goes to large ones
        share = left // (len(sizes) - index)
        count = min(sizes[name], share)
        chosen[name] = np.unique(np.linspace(0, sizes[name] - 1, count).astype(int)) if count else np.arange(0)
        left -= len(chosen[name])
    return {name: chosen[name] for name in sizes if len(chosen[name])}


def _sites(shapes: Output) -> dict[str, int]:
    """Statistics and their number of entries."""
    squares = {square_name(name) for name in shapes.stream}
    sites = {**shapes.posterior, **{k: v for k, v in shapes.stream.items() if k not in squares}}
    return {name: int(np.prod(s.shape[1:])) for name, s in sites.items() if s.dtype.kind in "fiub"}


def _invariant(sites: Mapping[str, int]) -> dict[str, int]:
    return {name: size for name, size in sites.items() if statistics.is_invariant(name)}
