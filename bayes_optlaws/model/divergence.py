r"""Will the run diverge?  The criterion R and the probability that follows from it.

With :math:`\tilde N, \tilde S` model size and tokens in billions, :math:`\tilde a` the warm-up in
billions of tokens and :math:`\tilde\eta` the peak LR over the highest one in the table,

.. math::

    R = \kappa\, e^{z^\top b}\, (\tilde S / \tilde a)^{\gamma}\,
        \left(\sqrt{1 + \rho^2} - 1\right)^2, \qquad
    \rho = \tilde\eta / \eta_L, \quad \eta_L = c_1\, \tilde S^{c_2} \tilde N^{-c_3},

    P(\text{diverged}) = \operatorname{logistic}(s \log R).

:math:`R` weighs the time above a threshold LR :math:`\eta_L` against the warm-up below it: the
paper's Eq. (4).  Its text gives the shape, five parameters and the boundary R = 1, not the
formula (inferred).  Our own choices: the power :math:`\gamma` instead of an offset of
:math:`\eta_L`; :math:`\sqrt{1+\rho^2}-1` for :math:`(\rho-1)_+`, the same far above the threshold
and a power of the LR below it, so that :math:`\log R` is finite and smooth everywhere; and the
correction :math:`z^\top b` of :math:`\log\kappa`, which is part of R: R = 1 is where the
probability is one half, always.

**What is built in.**  A higher peak LR or a larger model never lowers the risk, in any draw.  A
longer warm-up lowers it through :math:`\gamma \ge 0`; the correction may say otherwise, but only of
how little of the run is left after the warm-up, and only inside the range of the table, so past the
longest warm-up of the table the risk never rises.  The correction reads what R does not: log batch,
its bend, and the recovery time after the warm-up (`DivergenceScale`).

**Shrinkage.**  Each coefficient of the correction is normal with an sd of its own that is learned;
with an exponential prior on its square the sd integrates out and leaves a Laplace prior (Park and
Casella 2008, doi:10.1198/016214508000000337): most likely there is next to no correction, and a
large one is paid linearly.  One common sd kept as a parameter predicts as well, but two or three
columns barely inform it and its funnel gave NUTS divergent transitions.

**Default priors** (own choice).  Most LRs that people try are safe: a priori the logit at the
highest LR of a table and at its mid scale has median -10 and is positive with probability 0.04,
with a long upper tail for tables that go far beyond the boundary.  So a setting inside and below
what ran safely is safe unless the runs say otherwise, and above the LRs that ran the risk rises
from the prior alone (`bayes_optlaws.model.risk` says which probabilities are of that kind).
The threshold falls with model size as :math:`N^{-0.25}` and rises with tokens as :math:`S^{0.2}`,
each exponent with a factor of 2.3 either way (90 %).

Mean held-out log loss over five folds, dealt three times (pocket grid, Marin's AdamW runs, Step
Law), then fitted on Step Law up to 0.43B and tested on 0.54B and 1.07B; lower is better
(`studies.divergence`):

===========================================  ======  =====  ========  ==========
form                                         pocket  Marin  Step Law  larger N
===========================================  ======  =====  ========  ==========
R by maximum likelihood, nothing squared     0.066   0.231  0.101     0.151
logistic regression on logs                  0.051   0.162  0.070     0.090
R, wide correction N(0, 3) on all logs       0.035   0.155  0.061     0.075
this module                                  0.040   0.171  0.064     0.084
===========================================  ======  =====  ========  ==========

The wide correction is a little better on held-out runs of the same design, within one standard
error, but its signs are free: risk rose with the warm-up beyond the longest one tried, and a table
of thirty runs gave 9 to 85 % to settings that never diverge.  The batch size enters the paper's R
nowhere, yet both very small and very large batches diverge on Step Law.  The form was chosen with
these folds in sight, so the figures are not those of data never looked at.

All priors are Gaussian on the unconstrained scale, so the model may be rotated freely: NUTS sees
the principal directions of the posterior (`starting_point`), in which it moves quickly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_ndtr

from bayes_optlaws.kernels.divergence import LEAST_LOGIT, log_density
from bayes_optlaws.model.divergence_data import DivergenceData, DivergenceInputs, DivergenceScale

CRITERION = ("level", "steepness", "edge", "tokens", "size", "exposure")
"""Parameters of R as they are sampled; the correction's coefficients follow."""

LOGNORMAL = ("level", "tokens", "size")
"""Those whose prior is stated as median and sd of the log."""

PREFIX = "divergence_"

__all__ = [
    "DivergenceData",
    "DivergenceInputs",
    "DivergencePriors",
    "DivergenceScale",
    "add_divergence",
    "curvature_factor",
    "divergence_logit",
    "divergence_probability",
    "log_excess",
    "log_r",
    "parameters",
    "starting_point",
]


@dataclass(frozen=True)
class DivergencePriors:
    """Priors of the divergence part (own choice).

    Parameters
    ----------
    level : tuple of float
        Logit at the centre of the table's scales and at the highest LR seen, counted from -17:
        median and sd of the log (lognormal).
    steepness : tuple of float
        Change of the logit per nat of LR there: the softplus of a normal with this mean and sd.
    edge : tuple of float
        Log of the highest LR over the threshold LR there: mean and sd.
    tokens, size : tuple of float
        How fast the threshold LR rises with tokens (exponent c2) and falls with model size (c3):
        median and sd of the log (lognormal).
    exposure : tuple of float
        Rise of the logit per nat of tokens over warm-up tokens: the softplus of a normal with this
        mean and sd.
    correction_sd : float
        Sd of the Laplace priors of the correction's coefficients, in logits.

    Examples
    --------
    >>> DivergencePriors(correction_sd=0.5).steepness
    (7.0, 3.0)
    """

    level: tuple[float, float] = (7.0, 0.5)
    steepness: tuple[float, float] = (7.0, 3.0)
    edge: tuple[float, float] = (1.0, 0.7)
    tokens: tuple[float, float] = (0.2, 0.5)
    size: tuple[float, float] = (0.25, 0.5)
    exposure: tuple[float, float] = (1.5, 2.0)
    correction_sd: float = 1.4

    def __post_init__(self) -> None:
        """Refuse what is no distribution."""
        for name in (*CRITERION, "correction_sd"):
            value = getattr(self, name)
            mean, sd = (0.0, value) if name == "correction_sd" else value
            if not (np.isfinite(mean) and np.isfinite(sd) and sd > 0):
                raise ValueError(
                    f"DivergencePriors.{name} must be finite with a positive sd, got {value!r}"
                )
            if name in LOGNORMAL and mean <= 0:
                raise ValueError(
                    f"DivergencePriors.{name} must have a positive median, got {value!r}"
                )

    @property
    def correction_scale(self) -> float:
        """Scale of those Laplace priors."""
        return self.correction_sd / np.sqrt(2.0)

    def moments(self, n_columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and sd of the unconstrained parameters, each of shape (6 + n_columns,)."""
        mean, sd = np.array([getattr(self, name) for name in CRITERION]).T
        mean = [
            np.log(m) if name in LOGNORMAL else m for name, m in zip(CRITERION, mean, strict=True)
        ]
        return (
            np.concatenate([mean, np.zeros(n_columns)]),
            np.concatenate([sd, np.full(n_columns, self.correction_scale)]),
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


def _excess_slope(log_ratio: np.ndarray) -> np.ndarray:
    """Derivative of `log_excess`: from 2 far below the threshold to 1 far above."""
    return 1.0 + np.exp(-0.5 * np.logaddexp(0.0, 2.0 * log_ratio))


def log_r(inputs: DivergenceInputs, params: Mapping[str, np.ndarray | float]) -> np.ndarray:
    """Log of the criterion R.

    Parameters
    ----------
    inputs : DivergenceInputs
    params : mapping
        ``kappa``, ``gamma``, ``c1``, ``c2``, ``c3``: positive scalars, or arrays of shape
        (n_samples,). Optionally ``correction``, of shape (n_columns,) or (n_samples, n_columns);
        without it, R at the table's mean batch and recovery.

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
    out = out + p["gamma"] * (inputs.log_tokens - inputs.log_warmup)
    if "correction" in params:
        out = out + np.asarray(params["correction"], dtype=float) @ inputs.columns.T
    return out


_PAPER = ("kappa", "gamma", "c1", "c2", "c3")


def divergence_logit(posterior: Mapping[str, np.ndarray], inputs: DivergenceInputs) -> np.ndarray:
    """Logit of the probability of divergence: slope * log R.

    Parameters
    ----------
    posterior, inputs
        As for `divergence_probability`.

    Returns
    -------
    array, shape (n_samples, n)
    """
    draw = {name: _values(posterior[PREFIX + name]) for name in (*_PAPER, "slope", "correction")}
    return draw["slope"][:, None] * log_r(inputs, draw)


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


def _values(draws: Any) -> np.ndarray:
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
    level, edge = LEAST_LOGIT + np.exp(theta[:, 0]), theta[:, 2]
    steepness, per_exposure = np.logaddexp(0.0, theta[:, [1, 5]]).T
    c2, c3 = np.exp(theta[:, [3, 4]]).T
    slope = steepness / (2.0 * _excess_slope(edge))
    gamma = per_exposure / slope
    correction = priors.correction_scale * _laplace(theta[:, 6:] / priors.correction_scale)
    size, tokens, exposure = data.scale.origin
    out = {
        "kappa": _positive(level / slope - gamma * exposure - 2.0 * log_excess(edge)),
        "gamma": gamma,
        "c1": _positive(-edge - c2 * tokens + c3 * size),
        "c2": c2,
        "c3": c3,
        "slope": slope,
        "correction": correction / slope[:, None],
    }
    return {PREFIX + name: value for name, value in out.items()}


def _laplace(z: np.ndarray) -> np.ndarray:
    """Laplace variates of scale 1 from standard normal ones."""
    return -np.sign(z) * (np.log(2.0) + log_ndtr(-np.abs(z)))


def _positive(log: np.ndarray) -> np.ndarray:
    """Exponential kept inside what floats hold: its log is taken again."""
    return np.exp(np.clip(log, -700.0, 700.0))


def starting_point(
    data: DivergenceData, priors: DivergencePriors
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
    sd : array, shape (d,)
        Of the Gaussian fitted there, no wider than the prior.
    """
    mean, sd = priors.moments(len(data.scale.names))
    layout = (mean, sd, np.eye(mean.size), data.rows, data.runs, data.events)

    def negative(u: np.ndarray) -> tuple[float, np.ndarray]:
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
    sd_there, rotation = _principal(best.x, layout)
    return rotation, rotation.T @ best.x, sd_there


def curvature_factor(z: np.ndarray, layout: tuple[np.ndarray, ...]) -> np.ndarray:
    """Factor of the covariance of a Gaussian fitted at z, no wider than the prior.

    Parameters
    ----------
    z : array, shape (d,)
    layout : tuple of array
        The other arguments of `bayes_optlaws.kernels.divergence.log_density`.

    Returns
    -------
    array, shape (d, d)
    """
    sd, direction = _principal(z, layout)
    return direction * sd


def _principal(z: np.ndarray, layout: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Sds, no wider than the prior, and directions (columns) of the Gaussian fitted at z."""
    step = 1e-4
    precision = np.array(
        [
            log_density(z - h, *layout)[1] - log_density(z + h, *layout)[1]
            for h in step * np.eye(z.size)
        ]
    )
    value, direction = np.linalg.eigh((precision + precision.T) / (4.0 * step))
    return 1.0 / np.sqrt(np.maximum(value, 1.0)), direction


def coords(data: DivergenceData) -> dict[str, list[str]]:
    """Labels of the divergence part's vectors; they change only with the columns that vary."""
    names = data.scale.names
    return {
        PREFIX + "direction": [str(i) for i in range(len(CRITERION) + len(names))],
        PREFIX + "column": list(names),
    }


def add_divergence(
    data: DivergenceData,
    priors: DivergencePriors,
    *,
    rotation: np.ndarray | None = None,
    dims: str | None = None,
) -> None:
    """Add the divergence part to the open `pymc.Model`.

    Adds the free variable ``divergence_z`` (standard normals), the parameters of R by name and
    ``divergence_log_r`` of every distinct row as Deterministics, and the observed ``diverged``, one
    Bernoulli outcome a run with logit slope * log R.

    Parameters
    ----------
    data : DivergenceData
    priors : DivergencePriors
    rotation : array, shape (d, d), optional
        From `starting_point`, found there by default. Any orthogonal matrix gives the same
        posterior.
    dims : str, optional
        Name of the model's dimension of runs, where every row of the data is one run.

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
    from pymc.distributions.dist_math import normal_lccdf

    model = pm.modelcontext(None)
    model.add_coords(coords(data))
    rotation = starting_point(data, priors)[0] if rotation is None else rotation
    row, outcome = data.outcomes()
    rows, row, origin, rotation = (
        pm.Data(PREFIX + name, value)
        for name, value in (
            ("rows", data.rows),
            ("row", row),
            ("origin", data.scale.origin),
            ("rotation", rotation),
        )
    )
    mean, sd = priors.moments(len(data.scale.names))

    z = pm.Normal(PREFIX + "z", 0.0, 1.0, dims=PREFIX + "direction")
    theta = mean + sd * pt.dot(rotation, z)
    level, edge = LEAST_LOGIT + pt.exp(theta[0]), theta[2]
    steepness, per_exposure = pt.softplus(theta[1]), pt.softplus(theta[5])
    c2, c3 = pt.exp(theta[3]), pt.exp(theta[4])
    unit = theta[6:] / priors.correction_scale
    tail = np.log(2.0) + normal_lccdf(0.0, 1.0, pt.abs(unit))  # log P(|Laplace| > its value)

    def excess(
        x: Any,
    ) -> Any:  # log_excess by one exponential, one root and one logarithm: no overflow
        small = pt.exp(-pt.abs(x))
        root = pt.sqrt(1.0 + small * small)
        return x + pt.minimum(x, 0.0) - pt.log(pt.switch(x < 0.0, 1.0, small) + root)

    slope = 0.5 * steepness / (1.0 + pt.exp(-0.5 * pt.softplus(2.0 * edge)))
    gamma = per_exposure / slope
    log_kappa = level / slope - gamma * origin[2] - 2.0 * excess(edge)
    log_c1 = -edge - c2 * origin[1] + c3 * origin[0]
    named = {
        "kappa": pt.exp(log_kappa),
        "gamma": gamma,
        "c1": pt.exp(log_c1),
        "c2": c2,
        "c3": c3,
        "slope": slope,
    }
    for name, value in named.items():
        pm.Deterministic(PREFIX + name, value)
    correction = pm.Deterministic(
        PREFIX + "correction",
        -priors.correction_scale / slope * pt.sign(unit) * tail,
        dims=PREFIX + "column",
    )

    # the rows are about the centre of the table
    size, tokens, exposure = (rows[:, i] + origin[i] for i in range(3))
    log_threshold = log_c1 + c2 * tokens - c3 * size
    log_r = log_kappa + gamma * exposure + 2.0 * excess(rows[:, 3] - log_threshold)
    log_r = pm.Deterministic(PREFIX + "log_r", log_r + pt.dot(rows[:, 4:], correction), dims=dims)
    pm.Bernoulli("diverged", logit_p=(slope * log_r)[row], observed=outcome, dims=dims)
