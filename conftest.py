"""Tests run in float64, as the command line does (float32 tests say so), with array shapes checked at run time.

Compilation is two thirds of the time that the tests take. Compiled functions are kept in .pytest_cache/jax, which both
workers, subprocesses and the next run share; and tests that are not slow, which compute little, go without most of the
compiler's optimisations.
"""

import os
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads fight with JAX's on small machines
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
# Not where users' arguments arrive (networks, tasks, kernels): there our own messages are what is tested.
install_import_hook(["fieldprob.gp", "fieldprob.theory", "fieldprob.statistics"], "beartype.beartype")


def pytest_runtest_setup(item):
    """Before any fixture of the test; subprocesses inherit the environment."""
    quick = item.get_closest_marker("slow") is None and item.get_closest_marker("optimised") is None
    jax.config.update("jax_disable_most_optimizations", quick)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(quick))
