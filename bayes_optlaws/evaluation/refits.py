"""One refit of a law for a study: by importance sampling, seconds, or by NUTS."""

from __future__ import annotations

from typing import Any

import pandas as pd

from bayes_optlaws.inference.gate import METHODS

LEAST_DRAWS = 100
"""Least draws of a chain that `OptLaw.fit` takes."""

__all__ = ["METHODS", "passed", "refit"]


def refit(
    law: Any,
    runs: pd.DataFrame,
    *,
    method: str = "nuts",
    draws: int,
    random_seed: int,
    tune: int = 300,
    chains: int = 4,
) -> Any:
    """Fit a law to runs and return it.

    Parameters
    ----------
    law : OptLaw
        Its options count; by NUTS it is fitted in place.
    runs : DataFrame
        Validated run table.
    method : {"nuts", "importance"}
        ``"importance"`` fits the loss part alone, in seconds; where its gate fails, by NUTS with
        a warning (see `OptLaw.fit`).
    draws : int
        Of each chain, or in all by importance sampling.
    random_seed : int
    tune, chains : int
        Of NUTS.

    Returns
    -------
    OptLaw

    Examples
    --------
    >>> import bayes_optlaws as bo
    >>> runs = bo.read_runs(bo.datasets.load("pocket"))
    >>> law = refit(bo.OptLaw(transfer=False), runs[:60], method="importance", draws=400,
    ...             random_seed=0)
    >>> law.fitted.draws.n
    400
    """
    if method not in METHODS:
        raise ValueError(f"method = {method!r}: choose from {', '.join(METHODS)}")
    if method == "importance":
        law = type(law)(**(law.get_params() | {"divergence": False}))
        draws = max(-(-draws // chains), LEAST_DRAWS)
    return law.fit(
        runs, draws=draws, tune=tune, chains=chains, random_seed=random_seed,
        progressbar=False, method=method,
    )  # fmt: skip


def passed(law: Any) -> bool:
    """Whether a refit passes the gate: the sampler's, or that of the importance weights."""
    return not law.fitted.failures
