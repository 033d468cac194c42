"""One refit of a law for a study: by NUTS, or by importance sampling from the mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.inference.importance import GOOD_K, laplace_sample
from bayes_optlaws.inference.nuts import Sample, failures
from bayes_optlaws.model.priors import Priors

POSTERIORS = ("nuts", "importance")

LEAST_ESS = 100.0
"""Effective draws below which an importance refit does not pass (own choice)."""


def refit(
    law: Any,
    runs: pd.DataFrame,
    *,
    posterior: str = "nuts",
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
    posterior : {"nuts", "importance"}
        ``"importance"`` fits the loss part alone, in seconds.
    draws : int
        Of each chain, or in all by importance sampling.
    random_seed : int
    tune, chains : int
        Of NUTS.

    Returns
    -------
    OptLaw
        By importance sampling it has no chains: its diagnostics are nan but for ``pareto_k`` and
        ``ess``, and it gives intervals only with ``allow_unconverged=True``.

    Examples
    --------
    >>> import bayes_optlaws as bo
    >>> runs = bo.read_runs(bo.datasets.load("pocket"))
    >>> law = refit(bo.OptLaw(transfer=False, divergence=False), runs[:60],
    ...             posterior="importance", draws=64, random_seed=0)
    >>> law.fitted.draws.n
    64
    """
    if posterior not in POSTERIORS:
        raise ValueError(f"posterior = {posterior!r}: choose from {', '.join(POSTERIORS)}")
    if posterior == "nuts":
        options = {"draws": draws, "tune": tune, "chains": chains, "random_seed": random_seed}
        return law.fit(runs, **options, progressbar=False)
    encoding, priors = law.encode(runs), law.priors or Priors()
    space = HyperSpace(encoding.data, priors)
    found = laplace_sample(space, draws=draws, rng=np.random.default_rng(random_seed))
    sample = Sample(
        found.draws, chains=1, sample_stats=xr.Dataset(attrs={"ess": found.ess}), kept=1.0,
        pareto_k=found.pareto_k,
    )  # fmt: skip
    options = law.get_params() | {"divergence": False}
    return type(law).from_fitted(FittedLaw(encoding, priors, sample, random_seed, options=options))


def passed(law: Any) -> bool:
    """Whether a refit passes the gate: the sampler's, or that of the importance weights."""
    figures = law.diagnostics
    if "ess" in figures:
        return bool(figures["pareto_k"] < GOOD_K and figures["ess"] >= LEAST_ESS)
    return not failures(figures)
