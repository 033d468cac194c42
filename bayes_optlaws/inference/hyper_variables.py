"""Hyper-parameters and discrepancy as PyMC variables.

Each function adds variables to the open `pymc.Model`, under the names that a fitted law gives
them. They are for the models with coefficients in the graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from bayes_optlaws.kernels.hyper import JITTER, RESOLUTION
from bayes_optlaws.model.data import ModelData
from bayes_optlaws.model.priors import LogNormal, Priors


def positive(name: str, prior: LogNormal, dims: str | None = None) -> Any:
    """Add a log-normal variable.

    Parameters
    ----------
    name : str
    prior : LogNormal
    dims : str, optional
        Named dimension of a vector of them.
    """
    return pm.LogNormal(name, mu=np.log(prior.median), sigma=prior.log_sd, dims=dims)


def noise_variance(data: ModelData, priors: Priors) -> Any:
    """Add the noise and return its variance in every class of runs, shape (n_classes,).

    Parameters
    ----------
    data : ModelData
    priors : Priors
    """
    floor = positive("noise_sd", priors.noise_sd)
    variance = floor**2 + RESOLUTION**2 + data.known_variance
    if data.noise_names:
        growth = positive("noise_growth", priors.noise_growth)
        slope = pm.Normal("noise_slope", 0.0, priors.noise_slope_sd, dims="noise_covariate")
        variance += growth**2 * pt.exp(2.0 * pt.dot(data.noise_covariates, slope))
    return variance


def discrepancy(data: ModelData, priors: Priors) -> tuple[Any, Any]:
    """Add the discrepancy, each process as a factor times independent normals.

    Parameters
    ----------
    data : ModelData
    priors : Priors

    Returns
    -------
    fields : tensor, shape (n_fields, n_cells)
        Level and slopes at the cells.
    local : tensor, shape (n_local + sum(n_drift),)
        Coefficients of the local functions, then those of the drifts.
    """
    length = positive("scale_length", priors.scale_length)
    own = positive("cell_sd", priors.cell_sd)
    amplitude = positive("level_sd", priors.level_sd)[None]
    if len(data.fields) > 1:
        amplitude = pt.concatenate([amplitude, positive("slope_sd", priors.slope_sd, "slope")])
    n = len(data.cells)
    d2 = np.sum((data.cells[:, None] - data.cells[None]) ** 2, axis=-1)
    factor = pt.linalg.cholesky(pt.exp(-0.5 * d2 / length**2) + (JITTER + own**2) * np.eye(n))
    normal = pm.Normal("field_normal", shape=(len(data.fields), n))
    fields = amplitude[:, None] * pt.dot(normal, factor.T)
    parts = [pt.as_tensor(np.zeros(0))]
    if data.n_local:
        sd = positive("local_sd", priors.local_sd)
        parts.append(sd * pm.Normal("local_normal", shape=data.n_local))
    if data.n_drift:
        sds = positive("drift_sd", priors.drift_sd, "scale")
        for j, size in enumerate(data.n_drift):
            parts.append(sds[j] * pm.Normal(f"drift_normal_{j}", shape=size))
    return fields, pt.concatenate(parts)


def effects(data: ModelData, priors: Priors) -> Any:
    """Add what covariates do and return its coefficients, shape (n_effects,).

    Parameters
    ----------
    data : ModelData
    priors : Priors
    """
    sds = [positive(n, getattr(priors, n), f"{n}_of") for n, _ in data.effect_parts]
    normal = pm.Normal("effect_normal", shape=data.effect_entry.size)
    return pt.concatenate(sds)[data.effect_entry] * normal
