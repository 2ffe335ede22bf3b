"""The one check that every theory makes: closed forms and solvers are for float64."""

import jax.numpy as jnp


def require_float64(theory: str, task=None) -> None:
    """Raise unless JAX computes in float64, and the task's arrays were made so.

    Raises:
        ValueError: JAX's default float is float32, or the task was created while it was.

    >>> require_float64("limit")
    """
    if jnp.result_type(float) != jnp.float64:
        raise ValueError(
            f"theory {theory!r} needs float64, but JAX is in float32: call jax.config.update('jax_enable_x64', True) "
            "before creating the task."
        )
    if task is not None and task.X.dtype != jnp.float64:
        raise ValueError(
            f"theory {theory!r} needs float64, but the task holds {task.X.dtype} arrays: create it after "
            "jax.config.update('jax_enable_x64', True)."
        )
