"""Posterior draws of the divergence part, by NUTS or by importance sampling.

Given which runs diverged this part is independent of the loss part.  Its posterior is one mode in
about a dozen dimensions, close to a Gaussian along its principal directions.
"""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr

from bayes_optlaws.inference.chains import longer_chains
from bayes_optlaws.inference.gate import check_method, failures, mixed
from bayes_optlaws.inference.importance import importance_draws
from bayes_optlaws.kernels.divergence import log_densities, log_density
from bayes_optlaws.model.divergence import (
    DivergenceData,
    DivergencePriors,
    curvature_factor,
    parameters,
    starting_point,
)

LEAST_TRANSITIONS, LEAST_TUNE, TARGET_ACCEPT = 500, 250, (0.9, 0.98)
"""Of NUTS: least length of a chain, which goes on where its draws do not pass the gate; target
acceptance, and that of chains that had divergent transitions with the first."""

EFFECTIVE = 1000.0
"""Effective draws that importance sampling aims at."""


class _Density:
    """The density of the rotated standard normals, for `importance_draws`."""

    def __init__(self, start: np.ndarray, layout: tuple[np.ndarray, ...]) -> None:
        self.start, self.layout = start, layout
        self.mean, self.sd = np.zeros_like(start), np.ones_like(start)

    def mode(self, start: np.ndarray | None = None) -> np.ndarray:
        return self.start if start is None else start

    def curvature_factor(self, x: np.ndarray) -> np.ndarray:
        return curvature_factor(x, self.layout)

    def log_density(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        return log_density(x, *self.layout)

    def log_densities(self, x: np.ndarray) -> np.ndarray:
        return log_densities(np.ascontiguousarray(x), *self.layout)


def sample_divergence(
    data: DivergenceData,
    priors: DivergencePriors,
    *,
    draws: int,
    tune: int,
    chains: int,
    random_seed: int,
    method: str = "nuts",
) -> tuple[dict[str, np.ndarray], xr.Dataset]:
    """Sample the divergence part.

    Parameters
    ----------
    data : DivergenceData
    priors : DivergencePriors
    draws, tune, chains, random_seed, method
        As in `bayes_optlaws.inference.nuts.sample`.

    Returns
    -------
    values : dict of str to array, shape (chains * draws, ...)
        ``divergence_z`` and the parameters that `divergence_probability` takes.
    sample_stats : Dataset
        Of the sampler; after importance sampling ``pareto_k``, ``effective_draws`` and
        ``evaluations``.

    Examples
    --------
    >>> import bayes_optlaws as bo
    >>> runs = bo.read_runs(bo.datasets.load("pocket"))
    >>> values, stats = sample_divergence(
    ...     DivergenceData.from_runs(runs), DivergencePriors(), draws=200, tune=100, chains=2,
    ...     random_seed=0, method="importance",
    ... )
    >>> values["divergence_slope"].shape, bool(stats["pareto_k"] < 0.7)
    ((400,), True)
    """
    check_method(method)
    rotation, start, sd_there = starting_point(data, priors)
    mean, sd = priors.moments(len(data.scale.names))
    layout = (mean, sd, np.ascontiguousarray(rotation), data.rows, data.runs, data.events)
    if method == "importance":
        rng = np.random.default_rng(random_seed)
        found = importance_draws(_Density(start, layout), rng=rng, effective=EFFECTIVE)
        judged = {"pareto_k": found.pareto_k, "effective_draws": found.ess}
        if found.good:
            z = found.x[found.resample(chains * draws, rng)]
            values = {"divergence_z": z} | parameters(z, data, priors, rotation)
            return values, xr.Dataset({**judged, "evaluations": found.evaluations})
        warnings.warn(
            "importance sampling of the divergence part did not pass its gate "
            f"({'; '.join(failures(judged))}); NUTS was used instead",
            UserWarning,
            stacklevel=2,
        )
    for every, stats in longer_chains(
        lambda z: log_density(z, *layout), start, np.diag(sd_there), random_seed,
        first=max(draws, LEAST_TRANSITIONS), draws=draws,
        tune=max(tune, LEAST_TUNE), chains=chains, accept=TARGET_ACCEPT, progress_bar=False,
    ):  # fmt: skip
        if mixed({"z": every}, stats):
            break
    z = every.reshape(chains * draws, -1)
    values = {"divergence_z": z} | parameters(z, data, priors, rotation)
    return values, stats
