"""Kernels around a kernel: what those of `tempering` and `jumps` share of NumPyro's protocol."""

import copy
from typing import Any, Self

from numpyro.infer.mcmc import MCMCKernel
from numpyro.util import identity


class KernelAround(MCMCKernel):
    """A kernel whose transitions are those of another, `kernel`, and something more.

    `init` of the subclass sets `_inner`, the kernel that is bound to the model, and `_sample_fn`. Its state has the
    position at `z`.
    """

    def __init__(self, kernel: Any):
        self._kernel = kernel
        self._forget()

    def _forget(self) -> None:
        self._inner: Any = None
        self._sample_fn = None

    @property
    def model(self):
        return self._kernel.model

    @property
    def sample_field(self):
        return "z"

    def postprocess_fn(self, model_args, model_kwargs):
        """Unconstrained to constrained latent sites, with the deterministic ones."""
        return identity if self._inner is None else self._inner.postprocess_fn(model_args, dict(model_kwargs or {}))

    def get_potential_fn(self, model_args=(), model_kwargs=None):
        """z -> U(z) of the target; after `init`."""
        if self._inner is None:
            raise RuntimeError(f"{type(self).__name__}.get_potential_fn: run `init` first.")
        return self._inner.get_potential_fn(model_args, dict(model_kwargs or {}))

    def wrap_model(self, wrapper) -> Self:
        """A copy of this kernel bound to `wrapper(model)`; needs `init` again."""
        new = copy.copy(self)
        new._kernel = self._kernel.wrap_model(wrapper)
        new._forget()
        return new

    def __getstate__(self):
        return self.__dict__ | {"_sample_fn": None}
