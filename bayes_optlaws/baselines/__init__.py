"""Baseline laws: what a Bayesian Opt-Law has to beat.

All have one interface, `Baseline`: ``fit(runs)``, ``predict(runs)``, ``predict_draws(runs)``,
``parameters``, ``n_parameters``. The parametric ones also have ``bootstrap()``.

======================  ==========================  =============================================
name                    class                       law
======================  ==========================  =============================================
``constant``            `ConstantBlockMean`         mean loss of the block
``chinchilla``          `Chinchilla`                E + A / N^alpha + B / D^beta (5)
``linear``              `LinearRegression`          linear in N, peak LR, warm-up (4)
``tissue``              `TissueAnnealing`           LR-annealing law across scales (7)
``simplified``          `SimplifiedOptLaw`          simplified Opt-Law + Chinchilla's scale (11)
``generalized``         `GeneralizedOptLaw`         generalized Opt-Law by least squares (16)
``multi-power-law``     `MultiPowerLaw`             Multi-Power-Law of the final loss (9)
``gaussian-process``    `GaussianProcess`           Gaussian process on log inputs
``gp-linear-scale``     `LinearMeanProcess`         free linear mean, log N and log D alone
``gp-linear-settings``  `LinearMeanProcess`         free linear mean, all settings
``quadratic``           `QuadraticRegression`       full quadratic in the log settings
``step-law``            `StepLaw`                   Chinchilla times a bowl in log LR and log batch
``step-law-gp``         `StepLawProcess`            that form, a Gaussian process on its residuals
======================  ==========================  =============================================

Examples
--------
>>> from bayes_optlaws import baselines
>>> law = baselines.get("chinchilla", delta=1e-2)
>>> law.name, law.n_parameters
('chinchilla', 5)
"""

from __future__ import annotations

import importlib
from typing import Any

from bayes_optlaws.baselines.base import Baseline

# Name -> module, class and its options; a law is imported when it is asked for.
_LAWS = {
    "constant": ("constant", "ConstantBlockMean", {}),
    "chinchilla": ("chinchilla", "Chinchilla", {}),
    "linear": ("linear", "LinearRegression", {}),
    "tissue": ("tissue", "TissueAnnealing", {}),
    "simplified": ("simplified", "SimplifiedOptLaw", {}),
    "generalized": ("generalized", "GeneralizedOptLaw", {}),
    "multi-power-law": ("multi_power", "MultiPowerLaw", {}),
    "gaussian-process": ("gaussian_process", "GaussianProcess", {}),
    "gp-linear-scale": ("linear_mean_process", "LinearMeanProcess", {"inputs": "scale"}),
    "gp-linear-settings": ("linear_mean_process", "LinearMeanProcess", {"inputs": "settings"}),
    "quadratic": ("quadratic", "QuadraticRegression", {}),
    "step-law": ("step_law", "StepLaw", {}),
    "step-law-gp": ("step_law", "StepLawProcess", {}),
}
_MODULES = {law: module for module, law, _ in _LAWS.values()}

__all__ = ["Baseline", "available", "get", *sorted(_MODULES)]


def available() -> list[str]:
    """Return the names that `get` takes, from the plainest law to the most flexible one.

    Returns
    -------
    list of str

    Examples
    --------
    >>> available()[:3]
    ['constant', 'chinchilla', 'linear']
    """
    return list(_LAWS)


def get(name: str, **options: Any) -> Baseline:
    """Return a new baseline, not yet fitted.

    Parameters
    ----------
    name : str
        One of `available`.
    **options
        Passed to the class.

    Returns
    -------
    Baseline

    Raises
    ------
    ValueError
        When there is no baseline of that name.

    Examples
    --------
    >>> get("tissue").n_parameters
    7
    """
    if name not in _LAWS:
        raise ValueError(f"name = {name!r} is no baseline; choose from {', '.join(_LAWS)}")
    module, law, defaults = _LAWS[name]
    found = importlib.import_module(f"bayes_optlaws.baselines.{module}")
    return getattr(found, law)(**(defaults | options))


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    return getattr(importlib.import_module(f"bayes_optlaws.baselines.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
