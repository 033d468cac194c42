"""Learn what a change of stage does from measured sets: the numbers that `StagePrior` ships."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from bayes_optlaws.inference.stage_change import COLUMN_SD, StageChange
from bayes_optlaws.inference.stage_posterior import StageData, StagePrior, contrasts, learn_scales

BETWEEN_GRID = 0.005 * np.exp(np.linspace(-2.5, 2.5, 15))
"""Sd between sets, on a grid; its prior is log-normal with median 0.005 and log sd 1."""


def log_evidence(
    mean: np.ndarray, cov: np.ndarray, z: np.ndarray, data: StageData, prior: StagePrior
) -> float:
    """Log evidence of measured later stages, coefficients and all sds integrated out.

    By it forms of the law's score are compared on some sets, for use on others.

    Parameters
    ----------
    mean, cov, z, data, prior
        As for `learn_change`.

    Returns
    -------
    float
        Of the contrasts within sets, up to a constant of the data.
    """
    same = data.which_set[:, None] == data.which_set
    inner = z @ z.T
    each = [
        learn_scales(
            mean, cov + (between**2 * same + COLUMN_SD**2) * inner, data, prior
        ).log_evidence
        - 0.5 * np.log(between / 0.005) ** 2
        for between in BETWEEN_GRID
    ]
    return float(logsumexp(each))


def learn_change(
    mean: np.ndarray,
    cov: np.ndarray,
    z: np.ndarray,
    data: StageData,
    prior: StagePrior,
) -> tuple[StageChange, float, float]:
    """Learn the coefficients, and how far sets and configurations are from them.

    Parameters
    ----------
    mean, cov : array, shape (n,), (n, n)
        Of the law's scores of the measured configurations.
    z : array, shape (n, k)
        Their columns.
    data : StageData
    prior : StagePrior
        Of deviation and noise; its change is not used.

    Returns
    -------
    change : StageChange
    deviation, log_sd : float
        Log-normal that stands for the posterior of the deviation sd.

    Notes
    -----
    Levels drop out by contrasts within sets. The sd between sets has a grid; deviation and noise
    are integrated over theirs for its evidence, and are at their posterior medians where the
    Gaussian posterior of the coefficients is taken, which is averaged over the grid.
    """
    k = z.shape[1]
    same = data.which_set[:, None] == data.which_set
    c = contrasts(data.which_set)
    log_weight, means, covs, logs = [], [], [], []
    for between in BETWEEN_GRID:
        varies = cov + between**2 * same * (z @ z.T)
        scales = learn_scales(mean, varies + COLUMN_SD**2 * (z @ z.T), data, prior)
        log_weight.append(scales.log_evidence - 0.5 * np.log(between / 0.005) ** 2)
        mass = scales.weight.sum(axis=1)
        middle = mass @ np.log(scales.deviation)
        logs.append((middle, mass @ (np.log(scales.deviation) - middle) ** 2))
        noise = scales.quantile("noise", 0.5)
        inner = varies + np.diag(np.exp(2 * middle) + noise**2 / data.runs)
        cz = c @ z
        weighted = np.linalg.solve(c @ inner @ c.T, np.column_stack([cz, c @ (data.mean - mean)]))
        v = np.linalg.inv(cz.T @ weighted[:, :k] + np.eye(k) / COLUMN_SD**2)
        means.append(v @ cz.T @ weighted[:, k])
        covs.append(v)
    weight = np.exp(np.array(log_weight) - max(log_weight))
    weight /= weight.sum()
    centre = weight @ np.array(means)
    spread = np.array(means) - centre
    total = np.einsum("g,gij->ij", weight, np.array(covs))
    total += np.einsum("g,gi,gj->ij", weight, spread, spread)
    middle = weight @ np.array(logs)[:, 0]
    log_var = weight @ (np.array(logs)[:, 1] + (np.array(logs)[:, 0] - middle) ** 2)
    change = StageChange(
        tuple(centre.tolist()),
        tuple((0.5 * (total + total.T)).ravel().tolist()),
        float(np.sqrt(weight @ BETWEEN_GRID**2)),
    )
    return change, float(np.exp(middle)), float(np.sqrt(log_var))
