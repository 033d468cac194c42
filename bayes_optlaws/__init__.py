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

# Public name -> where it is: a module, or a module and the name in it after a colon.
_PUBLIC = {
    "ColumnMapping": "runs.mapping:ColumnMapping",
    "candidates": "runs.candidates:candidates",
    "default_pool": "runs.pools:default_pool",
    "from_mlflow": "runs.importers:from_mlflow",
    "from_tensorboard": "runs.importers:from_tensorboard",
    "from_trainer": "runs.importers:from_trainer",
    "from_wandb": "runs.importers:from_wandb",
    "suggest_mapping": "runs.mapping:suggest_mapping",
    "ConvergenceError": "inference.nuts:ConvergenceError",
    "DesignPlan": "decision.design:DesignPlan",
    "LogNormal": "model.priors:LogNormal",
    "OptLaw": "law:OptLaw",
    "Priors": "model.priors:Priors",
    "Ranking": "decision.ranking:Ranking",
    "RunTableError": "runs.faults:RunTableError",
    "RunTableWarning": "runs.faults:RunTableWarning",
    "Schedule": "schedules:Schedule",
    "Suggestion": "decision.suggest:Suggestion",
    "baselines": "baselines",
    "datasets": "datasets",
    "evaluate": "evaluation.protocols:evaluate",
    "limits": "theory.limits",
    "near_ties": "decision.near_ties",
    "plots": "plots",
    "pool": "runs.pools:pool",
    "read_candidates": "runs.readers:read_candidates",
    "read_runs": "runs.readers:read_runs",
    "scaling_rules": "theory.scaling_rules",
    "schedules": "schedules",
    "sde": "theory.sde",
    "stages": "inference.stages",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(
            f"module 'bayes_optlaws' has no attribute {name!r}; public names: {', '.join(__all__)}"
        )
    path, _, attribute = _PUBLIC[name].partition(":")
    module = importlib.import_module(f"bayes_optlaws.{path}")
    value = getattr(module, attribute) if attribute else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
