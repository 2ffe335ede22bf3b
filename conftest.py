"""Tests run in float64, as the command line does; the few float32 tests say so themselves."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads fight with JAX's on small machines

import jax

jax.config.update("jax_enable_x64", True)
