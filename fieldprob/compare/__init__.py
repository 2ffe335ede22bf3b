"""Sampled against predicted, with honest error bars.

`compare(samples, predictions)` matches statistics by name, dimensions and coordinates, and says of each theory
'agrees', 'differs' or 'not converged'. It knows nothing of networks, samplers or theories: they share only names.
"""

import sys
from types import ModuleType
from typing import Any

from fieldprob.compare.comparison import Comparison
from fieldprob.compare.match import compare, drawn

__all__ = ["Comparison", "compare", "drawn"]


class _Callable(ModuleType):
    # Python binds a submodule to its package under its own name, here that of the function. Either is what it seems.
    def __call__(self, *args: Any, **kwargs: Any) -> Comparison:
        return compare(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
