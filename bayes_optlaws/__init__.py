"""Bayesian Opt-Laws: predict and rank learning-rate schedules from a table of small runs.

The public names are imported on first use, so ``import bayes_optlaws`` stays fast and reading a
run table does not load PyMC.

Examples
--------
>>> import bayes_optlaws as bo
>>> "pocket" in bo.datasets.available()
True
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("bayes-optlaws")
except PackageNotFoundError:  # imported from a checkout that was never installed
    __version__ = "0+unknown"

# Public name -> module that defines it; None: the name is the module itself.
_PUBLIC: dict[str, str | None] = {
    "ColumnMapping": "run_mapping",
    "ConvergenceError": "sampling",
    "DesignPlan": "design",
    "LogNormal": "priors",
    "OptLaw": "law",
    "Priors": "priors",
    "Ranking": "ranking",
    "RunTableError": "runs",
    "RunTableWarning": "runs",
    "Schedule": "schedules",
    "Suggestion": "suggest",
    "candidates": "run_candidates",
    "datasets": None,
    "default_pool": "pools",
    "plots": None,
    "evaluate": "evaluation",
    "from_mlflow": "importers",
    "from_tensorboard": "importers",
    "from_trainer": "importers",
    "from_wandb": "importers",
    "limits": None,
    "near_ties": None,
    "pool": "pools",
    "read_candidates": "runs",
    "read_runs": "runs",
    "scaling_rules": None,
    "suggest_mapping": "run_mapping",
    "schedules": None,
    "stages": None,
    "sde": None,
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(
            f"module 'bayes_optlaws' has no attribute {name!r}; public names: {', '.join(__all__)}"
        )
    module = importlib.import_module(f"bayes_optlaws.{_PUBLIC[name] or name}")
    value = module if _PUBLIC[name] is None else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
