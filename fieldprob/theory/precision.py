"""The one check that every theory makes: closed forms and solvers are for float64."""

import jax.numpy as jnp


def require_float64(theory: str) -> None:
    """Raise unless JAX computes in float64.

    Raises:
        RuntimeError: JAX's default float is float32.
    """
    if jnp.result_type(float) != jnp.float64:
        raise RuntimeError(
            f"theory {theory!r} needs float64: set jax.config.update('jax_enable_x64', True) before creating arrays "
            "(the command line does: --precision 64)."
        )
