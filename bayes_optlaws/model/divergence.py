r"""Will the run diverge?  The criterion R, a shrunken correction, and their probability.

With :math:`\tilde N, \tilde S` model size and tokens in billions, :math:`\tilde a` the warm-up in
billions of tokens and :math:`\tilde\eta` the peak LR over the highest one in the table,

.. math::

    R = \kappa\, (\tilde S / \tilde a)^{\gamma}\, \left(\sqrt{1 + \rho^2} - 1\right)^2, \qquad
    \rho = \tilde\eta / \eta_L, \quad \eta_L = c_1\, \tilde S^{c_2} \tilde N^{-c_3},

    P(\text{diverged}) = \operatorname{logistic}(s \log R + z^\top b).

:math:`R` weighs the time above a threshold LR :math:`\eta_L` against the warm-up below it: the
paper's Eq. (4).  Its text gives the shape, five parameters and the boundary R = 1, not the
formula (inferred).  Our own choices: the power :math:`\gamma` instead of an offset of
:math:`\eta_L`; :math:`\sqrt{1+\rho^2}-1` for :math:`(\rho-1)_+`, the same far above the threshold
and a power of the LR below it, so that :math:`\log R` is finite and smooth everywhere; the
correction :math:`z^\top b`, linear in log N, tokens, steps and warm-up, with squares of log batch
and log warm-up, whose coefficients have a prior around zero.  The LR has no correction, so a higher
peak LR never makes a run safer.

Why this form.  Mean held-out log loss over five folds (pocket grid, Marin's AdamW runs, Step
Law), then fitted on Step Law up to 0.43B and tested on 0.54B and 1.07B; modes of the posterior
in a comparison of forms (the last row: posterior means), lower is better:

===========================================  ======  =====  ========  ==========
form                                         pocket  Marin  Step Law  larger N
===========================================  ======  =====  ========  ==========
logistic regression on logs (C = 10)         0.052   0.171  0.070     0.090
R alone, offset c0, sharp threshold          0.059   0.288  0.085     0.125
R alone, offset c0, squared inputs, sharp    0.061   0.303  0.085     0.127
R, offset, linear correction, soft           0.040   0.169  0.070     0.103
R, offset, correction with squares, soft     0.033   0.172  0.062     0.076
this module, by NUTS                         0.035   0.176  0.062     0.075
===========================================  ======  =====  ========  ==========

The batch size enters R nowhere, yet both very small and very large batches diverge on Step Law:
the square of log batch is what brings most of the gain there, and carries over to larger models.
Logistic regression on logs with that square does as well on Step Law (0.062, larger N 0.075),
and on raw inputs as well on the pocket grid (0.032).  The form was chosen with these same folds
and the larger-N test in sight, so the figures are not those of data never looked at; the same
holds for the comparison with classifiers in `studies.divergence`, which deals the
folds anew, three times.

All priors are Gaussian on the unconstrained scale, so the model may be rotated freely: NUTS sees
the principal directions of the posterior (`starting_point`), in which it moves quickly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from bayes_optlaws.kernels.divergence import log_density
from bayes_optlaws.model.divergence_data import DivergenceData, DivergenceInputs, DivergenceScale

CRITERION = ("level", "steepness", "edge", "tokens", "size", "exposure")
"""Parameters of R as they are sampled; the correction's coefficients follow."""

PREFIX = "divergence_"

__all__ = [
    "DivergenceData",
    "DivergenceInputs",
    "DivergencePriors",
    "DivergenceScale",
    "add_divergence",
    "divergence_logit",
    "divergence_probability",
    "log_excess",
    "log_r",
    "parameters",
    "starting_point",
]


@dataclass(frozen=True)
class DivergencePriors:
    """Priors of the divergence part (own choice): means and sds of normals.

    All are stated in logits, where the likelihood is closest to Gaussian. Quantities that must be
    positive are the softplus of their normal: the normal itself where that is well above zero.

    Parameters
    ----------
    level : tuple of float
        Logit at the centre of the table's scales and at the highest LR seen.
    steepness : tuple of float
        Change of the logit per nat of LR there (softplus).
    edge : tuple of float
        Log of the highest LR over the threshold LR.
    tokens, size : tuple of float
        Fall of the logit per nat of tokens, and rise per nat of model size, well above the
        threshold (softplus).
    exposure : tuple of float
        Rise of the logit per nat of tokens over warm-up tokens (softplus).
    correction_sd : float
        Sd of the coefficients of the correction, per nat (per sd of logs that spread wider).

    Examples
    --------
    >>> DivergencePriors(correction_sd=1.0).steepness
    (7.0, 4.0)
    """

    level: tuple[float, float] = (0.0, 6.0)
    steepness: tuple[float, float] = (7.0, 4.0)
    edge: tuple[float, float] = (1.0, 0.7)
    tokens: tuple[float, float] = (1.5, 1.5)
    size: tuple[float, float] = (1.5, 1.5)
    exposure: tuple[float, float] = (2.0, 2.0)
    correction_sd: float = 3.0

    def __post_init__(self) -> None:
        """Refuse sds that are not positive and finite."""
        for name in (*CRITERION, "correction_sd"):
            value = getattr(self, name)
            mean, sd = (0.0, value) if name == "correction_sd" else value
            if not (np.isfinite(mean) and np.isfinite(sd) and sd > 0):
                raise ValueError(
                    f"DivergencePriors.{name} must be finite with a positive sd, got {value!r}"
                )

    def moments(self, n_columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and sd of the unconstrained parameters, each of shape (6 + n_columns,)."""
        mean, sd = np.array([getattr(self, name) for name in CRITERION]).T
        return (
            np.concatenate([mean, np.zeros(n_columns)]),
            np.concatenate([sd, np.full(n_columns, self.correction_sd)]),
        )


def log_excess(log_ratio: np.ndarray) -> np.ndarray:
    """Log of sqrt(1 + rho^2) - 1, the smooth excess of the LR over the threshold.

    Parameters
    ----------
    log_ratio : array
        log rho, rho = peak LR over threshold LR.

    Examples
    --------
    >>> float(np.exp(log_excess(np.log(0.75))))  # sqrt(1 + 9/16) - 1
    0.25
    """
    log_ratio = np.asarray(log_ratio, dtype=float)
    return 2.0 * log_ratio - np.logaddexp(0.0, 0.5 * np.logaddexp(0.0, 2.0 * log_ratio))


def _excess_slope(log_ratio):
    """Derivative of `log_excess`: from 2 far below the threshold to 1 far above."""
    return 1.0 + np.exp(-0.5 * np.logaddexp(0.0, 2.0 * log_ratio))


def log_r(inputs: DivergenceInputs, params: Mapping[str, np.ndarray | float]) -> np.ndarray:
    """Log of the criterion R.

    Parameters
    ----------
    inputs : DivergenceInputs
    params : mapping
        ``kappa``, ``gamma``, ``c1``, ``c2``, ``c3``: positive scalars, or arrays of shape
        (n_samples,).

    Returns
    -------
    array, shape (n,) or (n_samples, n)
        Positive: expected to diverge.

    Examples
    --------
    >>> one = np.zeros(1)  # 1B parameters, 1B tokens, warm-up throughout, LR 1
    >>> at = DivergenceInputs(one, one, one, one, one[:, None])
    >>> p = {"kappa": 16.0, "gamma": 1.0, "c1": 4 / 3, "c2": 0.5, "c3": 0.5}
    >>> np.exp(log_r(at, p)).round(6)  # 16 * 0.25 ** 2
    array([1.])
    """
    p = {k: np.asarray(params[k], dtype=float)[..., None] for k in _PAPER}
    log_threshold = np.log(p["c1"]) + p["c2"] * inputs.log_tokens - p["c3"] * inputs.log_size
    out = 2.0 * log_excess(inputs.log_lr - log_threshold) + np.log(p["kappa"])
    return out + p["gamma"] * (inputs.log_tokens - inputs.log_warmup)


_PAPER = ("kappa", "gamma", "c1", "c2", "c3")


def divergence_logit(posterior: Mapping[str, np.ndarray], inputs: DivergenceInputs) -> np.ndarray:
    """Logit of the probability of divergence: slope * log R + correction.

    Parameters
    ----------
    posterior, inputs
        As for `divergence_probability`.

    Returns
    -------
    array, shape (n_samples, n)
    """
    draw = {name: _values(posterior[PREFIX + name]) for name in (*_PAPER, "slope", "correction")}
    logit = draw["slope"][:, None] * log_r(inputs, draw)
    return logit + draw["correction"] @ inputs.columns.T


def divergence_probability(
    posterior: Mapping[str, np.ndarray], inputs: DivergenceInputs
) -> np.ndarray:
    """Probability of divergence of every run, for every posterior draw.

    Parameters
    ----------
    posterior : mapping or Dataset
        ``divergence_kappa``, ``_gamma``, ``_c1``, ``_c2``, ``_c3``, ``_slope`` of shape
        (n_samples,) and ``divergence_correction`` of shape (n_samples, n_columns); as from
        `parameters`, or a Dataset with dim ``sample``.
    inputs : DivergenceInputs
        Of the candidates, from the scale of the table that was fitted.

    Returns
    -------
    array, shape (n_samples, n)
    """
    return expit(divergence_logit(posterior, inputs))


def _values(draws) -> np.ndarray:
    """Array of draws, sample first; Datasets keep what order of dims stacking gave them."""
    if hasattr(draws, "transpose") and hasattr(draws, "dims"):
        draws = draws.transpose("sample", ...)
    return np.asarray(draws, dtype=float)


def parameters(
    z: np.ndarray, data: DivergenceData, priors: DivergencePriors, rotation: np.ndarray
) -> dict[str, np.ndarray]:
    """Turn draws of the rotated standard normals into the parameters of R, in the paper's units.

    Parameters
    ----------
    z : array, shape (n_samples, 6 + n_columns)
        Draws of ``divergence_z``.
    data : DivergenceData
    priors : DivergencePriors
    rotation : array, shape (6 + n_columns, 6 + n_columns)
        The one the model was built with.

    Returns
    -------
    dict of str to array
        What `divergence_probability` takes; the Deterministics of `add_divergence`.
    """
    mean, sd = priors.moments(len(data.scale.names))
    theta = mean + sd * (np.atleast_2d(z) @ rotation.T)
    level, edge = theta[:, 0], theta[:, 2]
    steepness, per_tokens, per_size, per_exposure = np.logaddexp(0.0, theta[:, [1, 3, 4, 5]]).T
    slope = steepness / (2.0 * _excess_slope(edge))
    c2, c3, gamma = (0.5 * per_tokens / slope, 0.5 * per_size / slope, per_exposure / slope)
    size, tokens, exposure = data.scale.origin
    out = {
        "kappa": _positive(level / slope - gamma * exposure - 2.0 * log_excess(edge)),
        "gamma": gamma,
        "c1": _positive(-edge - c2 * tokens + c3 * size),
        "c2": c2,
        "c3": c3,
        "slope": slope,
        "correction": theta[:, 6:],
    }
    return {PREFIX + name: value for name, value in out.items()}


def _positive(log: np.ndarray) -> np.ndarray:
    """Exponential kept inside what floats hold: its log is taken again."""
    return np.exp(np.clip(log, -700.0, 700.0))


def _logit_and_jacobian(theta: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logit of every row, and its derivative in the unconstrained parameters."""
    level, _, edge = theta[:3]
    steepness, per_tokens, per_size, per_exposure = np.logaddexp(0.0, theta[[1, 3, 4, 5]])
    d_steepness, d_tokens, d_size, d_exposure = expit(theta[[1, 3, 4, 5]])
    size, tokens, exposure, lr = rows[:, :4].T
    slope = steepness / (2.0 * _excess_slope(edge))
    shift = per_tokens * tokens - per_size * size  # of the logit, well above the threshold
    at = edge + lr - 0.5 * shift / slope
    rise = 2.0 * (log_excess(at) - log_excess(edge))
    d_slope = rise + _excess_slope(at) * shift / slope
    root = np.exp(0.5 * np.logaddexp(0.0, 2.0 * edge))
    jacobian = [
        np.ones(len(rows)),
        d_slope * slope / steepness * d_steepness,
        d_slope * slope * (root - 1.0) / root**2
        + 2.0 * slope * (_excess_slope(at) - _excess_slope(edge)),
        -_excess_slope(at) * tokens * d_tokens,
        _excess_slope(at) * size * d_size,
        exposure * d_exposure,
    ]
    columns = rows[:, 4:]
    logit = level + slope * rise + per_exposure * exposure + columns @ theta[6:]
    return logit, np.column_stack([*jacobian, columns])


def starting_point(data: DivergenceData, priors: DivergencePriors) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mode and the rotation that makes the posterior's principal directions the axes.

    Parameters
    ----------
    data : DivergenceData
    priors : DivergencePriors

    Returns
    -------
    rotation : array, shape (d, d)
        Orthogonal; columns are directions of the standardised parameters.
    start : array, shape (d,)
        Mode in rotated coordinates: where ``divergence_z`` should start.
    """
    mean, sd = priors.moments(len(data.scale.names))
    layout = (mean, sd, np.eye(mean.size), data.rows, data.runs, data.events)

    def negative(u):
        value, gradient = log_density(u, *layout)
        return -value, -gradient

    best = minimize(
        negative,
        np.zeros(mean.size),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-8.0, 8.0)] * mean.size,
        options={"maxiter": 500},
    )
    logit, jacobian = _logit_and_jacobian(mean + sd * best.x, data.rows)
    p = expit(logit)
    scaled = jacobian * sd
    information = scaled.T @ (scaled * (data.runs * p * (1.0 - p))[:, None])
    rotation = np.linalg.eigh(information)[1]
    return rotation, rotation.T @ best.x


def coords(data: DivergenceData) -> dict[str, list[str]]:
    """Labels of the divergence part's vectors; they change only with the columns that vary."""
    names = data.scale.names
    return {
        PREFIX + "direction": [str(i) for i in range(len(CRITERION) + len(names))],
        PREFIX + "column": list(names),
    }


def add_divergence(
    data: DivergenceData, priors: DivergencePriors, *, rotation: np.ndarray | None = None
) -> None:
    """Add the divergence part to the open `pymc.Model`.

    Adds the free variable ``divergence_z`` (standard normals), the named parameters as
    Deterministics, and the observed ``diverged``, binomial counts of the distinct rows.

    Parameters
    ----------
    data : DivergenceData
    priors : DivergencePriors
    rotation : array, shape (d, d), optional
        From `starting_point`, found there by default. Any orthogonal matrix gives the same
        posterior.

    Raises
    ------
    TypeError
        If no model context is open.

    Examples
    --------
    >>> import bayes_optlaws as bo
    >>> import pymc as pm
    >>> data = DivergenceData.from_runs(bo.read_runs(bo.datasets.load("pocket")))
    >>> with pm.Model() as model:
    ...     add_divergence(data, DivergencePriors())
    >>> [v.name for v in model.free_RVs], [v.name for v in model.observed_RVs]
    (['divergence_z'], ['diverged'])
    """
    import pymc as pm
    import pytensor.tensor as pt

    model = pm.modelcontext(None)
    model.add_coords(coords(data))
    rotation = starting_point(data, priors)[0] if rotation is None else rotation
    rows, runs, events, origin, rotation = (
        pm.Data(PREFIX + name, value)
        for name, value in (
            ("rows", data.rows),
            ("runs", data.runs),
            ("events", data.events),
            ("origin", data.scale.origin),
            ("rotation", rotation),
        )
    )
    mean, sd = priors.moments(len(data.scale.names))

    z = pm.Normal(PREFIX + "z", 0.0, 1.0, dims=PREFIX + "direction")
    theta = mean + sd * pt.dot(rotation, z)
    level, edge = theta[0], theta[2]
    steepness, per_tokens, per_size, per_exposure = (pt.softplus(theta[i]) for i in (1, 3, 4, 5))

    def excess(x):  # log_excess by one exponential, one root and one logarithm: no overflow
        small = pt.exp(-pt.abs(x))
        root = pt.sqrt(1.0 + small * small)
        return x + pt.minimum(x, 0.0) - pt.log(pt.switch(x < 0.0, 1.0, small) + root)

    slope = 0.5 * steepness / (1.0 + pt.exp(-0.5 * pt.softplus(2.0 * edge)))
    c2, c3, gamma = 0.5 * per_tokens / slope, 0.5 * per_size / slope, per_exposure / slope
    at = edge + pt.dot(rows[:, :4], pt.stack([c3, -c2, 0.0, 1.0]))
    linear = pt.dot(rows[:, 2:3], per_exposure[None]) + pt.dot(rows[:, 4:], theta[6:])
    logit = level + 2.0 * slope * (excess(at) - excess(edge)) + linear

    named = {
        "kappa": pt.exp(level / slope - gamma * origin[2] - 2.0 * excess(edge)),
        "gamma": gamma,
        "c1": pt.exp(-edge - c2 * origin[1] + c3 * origin[0]),
        "c2": c2,
        "c3": c3,
        "slope": slope,
    }
    for name, value in named.items():
        pm.Deterministic(PREFIX + name, value)
    pm.Deterministic(PREFIX + "correction", theta[6:], dims=PREFIX + "column")

    pm.CustomDist(
        "diverged",
        logit,
        runs,
        logp=lambda value, logit, runs: value * logit - runs * pt.softplus(logit),
        random=_draw_counts,
        observed=events,
    )


def _draw_counts(logit, runs, rng=None, size=None):
    """Counts of divergent runs, for prior and posterior predictive draws."""
    return rng.binomial(np.round(runs).astype(int), expit(logit), size=size).astype(float)
