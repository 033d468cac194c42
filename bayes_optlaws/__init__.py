"""Bayesian Opt-Laws: predict and rank learning-rate schedules from a table of small runs.

The public names are imported on first use, so ``import bayes_optlaws`` stays fast and reading a
run table does not load PyMC.

Examples
--------
>>> import bayes_optlaws as bo
>>> "pocket" in bo.datasets.available()
True
"""

from importlib.metadata import PackageNotFoundError, version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]

try:
    __version__ = version("bayes-optlaws")
except PackageNotFoundError:  # imported from a checkout that was never installed
    __version__ = "0+unknown"
