"""Tests run in float64, as the command line does (float32 tests say so), with array shapes checked at run time."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads fight with JAX's on small machines

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
# Not where users' arguments arrive (networks, tasks, kernels): there our own messages are what is tested.
install_import_hook(["fieldprob.gp", "fieldprob.theory", "fieldprob.statistics"], "beartype.beartype")
