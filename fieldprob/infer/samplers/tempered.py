"""Models and potentials that take an inverse temperature β, for `fieldprob.infer.samplers.tempering`.

β travels as a keyword argument of the model, so that one compiled kernel serves all temperatures.
"""

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpyro.distributions as dist
from numpyro.handlers import seed, trace
from numpyro.infer.gibbs import prototype_trace
from numpyro.infer.hmc import HMC, hmc
from numpyro.infer.mcmc import MCMCKernel
from numpyro.primitives import Messenger

BETA = "_inverse_temperature"


def bind_temperature(kernel, tempering, prior_potential_fn, last_beta, key, model_args, model_kwargs):
    """() -> a fresh copy of the kernel whose potential takes β as the keyword argument `BETA` of its model."""
    if kernel.model is None:
        potential = partial(_tempered_potential, kernel._potential_fn, prior_potential_fn)
        return partial(_with_potential, kernel, potential)
    sites = prototype_trace(kernel.model, key, model_args, model_kwargs)
    sites = {name: site for name, site in sites.items() if site["type"] == "sample"}
    latent = {name: site["fn"] for name, site in sites.items() if not site["is_observed"]}
    _check_latent(latent, last_beta)
    observed = frozenset(sites) - frozenset(latent)
    if tempering == "likelihood" and not observed:
        raise ValueError(
            "the model has no observed site and no factor, so that there is no likelihood to temper: "
            "observe something, or give tempering='potential' with a finite top_temperature."
        )
    tempered = observed if tempering == "likelihood" else None
    return partial(kernel.wrap_model, partial(TemperedModel, tempered=tempered))


def draw_prior(key, model, model_args, model_kwargs) -> dict:
    """Unconstrained latent sites, drawn from the prior.

    Raises:
        ValueError: the density of a site is scaled or masked, so that it is not the one that is drawn from.
    """
    sites = trace(seed(model, key)).get_trace(*model_args, **(model_kwargs or {}))
    sites = {name: site for name, site in sites.items() if site["type"] == "sample" and not site["is_observed"]}
    changed = [name for name, site in sites.items() if site.get("scale") is not None or _is_masked(site["fn"])]
    if changed:
        raise ValueError(
            f"prior_draws: the density of {changed} is scaled or masked (by a handler, or a plate that subsamples), "
            "and draws from the distribution do not follow it: leave prior_draws False."
        )
    return {name: dist.biject_to(site["fn"].support).inv(site["value"]) for name, site in sites.items()}


def _is_masked(distribution) -> bool:
    while distribution is not None:
        if isinstance(distribution, dist.MaskedDistribution):
            return True
        distribution = getattr(distribution, "base_dist", None)
    return False


@dataclass(frozen=True)
class TemperedModel:
    """A model whose log density is multiplied by the keyword `_inverse_temperature`, 1 unless given, at the sites
    `tempered`; at all sites, Jacobians of the map to unconstrained space included, if that is None."""

    model: Any
    tempered: frozenset[str] | None

    def __call__(self, *args, **kwargs):
        beta = kwargs.pop(BETA, 1.0)
        with _Temper(beta, self.tempered):
            return self.model(*args, **kwargs)


class _Temper(Messenger):
    # Sites are those of the bare model, by name: the factors that NumPyro adds for Jacobians look observed too.
    def __init__(self, beta, sites):
        super().__init__()
        self._beta, self._sites = beta, sites

    def process_message(self, msg) -> None:
        if msg["type"] == "sample" and (self._sites is None or msg["name"] in self._sites):
            msg["scale"] = self._beta if msg.get("scale") is None else self._beta * msg["scale"]


def _tempered_potential(potential_fn, prior_potential_fn, *args, **kwargs):
    beta = kwargs.get(BETA, 1.0)
    if prior_potential_fn is None:
        return lambda z: beta * potential_fn(z)

    def tempered(z):
        prior = prior_potential_fn(z)
        return prior + beta * (potential_fn(z) - prior)

    return tempered


def _with_potential(kernel, potential_fn_gen):
    """A copy of a kernel on a potential_fn whose potential depends on arguments, as that of a model does."""
    kernel = copy.copy(kernel)
    kernel._potential_fn, kernel._potential_fn_gen = None, potential_fn_gen
    if isinstance(kernel, HMC):
        kernel._init_fn, kernel._sample_fn = hmc(
            potential_fn_gen=potential_fn_gen, kinetic_fn=kernel._kinetic_fn, algo=kernel._algo
        )
    return kernel


def follows_protocol(kernel) -> bool:
    """Whether a kernel has what one needs that is inside another: get_potential_fn, refresh and wrap_model."""
    return (
        isinstance(kernel, MCMCKernel)
        and hasattr(kernel, "get_potential_fn")
        and all(getattr(type(kernel), name) is not getattr(MCMCKernel, name) for name in ("refresh", "wrap_model"))
    )


def check_kernel(kernel) -> None:
    """Refuse what cannot be tempered, by name."""
    name = type(kernel).__name__
    if not isinstance(kernel, MCMCKernel):
        raise ValueError(f"kernel is {kernel!r}: give a kernel instance, e.g. NUTS(model).")
    if kernel.is_ensemble_kernel:
        raise ValueError(f"kernel is {name}, whose chains depend on each other: give a kernel of single chains.")
    if not follows_protocol(kernel):
        raise ValueError(
            f"kernel is {name}, which lacks get_potential_fn, refresh or wrap_model: its potential cannot be "
            "tempered. Give NUTS, HMC or a kernel of fieldprob.infer."
        )
    if getattr(kernel, "model", None) is None and not hasattr(kernel, "_potential_fn"):
        raise ValueError(
            f"kernel is {name}, whose potential_fn is that of the kernel in it: to temper it, give it a model."
        )
    if getattr(kernel, "_find_heuristic_step_size", False):
        raise ValueError(
            f"kernel is {name} with find_heuristic_step_size, which remembers the potential of one temperature: "
            "leave it False and give a step_size."
        )


def _check_latent(latent, last_beta) -> None:
    discrete = [name for name, fn in latent.items() if fn.support.is_discrete]
    if discrete:
        raise ValueError(f"the latent sites {discrete} are discrete: sum over them by hand, the energy is not linear.")
    improper = [name for name, fn in latent.items() if isinstance(fn, dist.ImproperUniform)]
    if improper and last_beta == 0:
        raise ValueError(f"the prior of {improper} is improper: give finite temperatures, or top_temperature.")
