r"""The model written out plainly, coefficients in the graph: to read, and to check against.

`bayes_optlaws.inference.pymc_model` sums coefficients, discrepancy and exponents out.  Here the
same model stands as one would first write it: `explicit_model` has every coefficient in the
graph for one exponent combination, `naive_model` has them all and sums the exponents out by
log-sum-exp.  `covariance` is the textbook n x n form of the marginal likelihood, `draw_prior` one
draw of everything.  No compiled kernel of the likelihood takes part, so each is an independent
check of them; all are slow, and fit for small problems only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.draws import Draws
from bayes_optlaws.inference.hyper_variables import discrepancy, noise_variance, positive
from bayes_optlaws.kernels.hyper import JITTER, RESOLUTION
from bayes_optlaws.model.data import ModelData
from bayes_optlaws.model.discrepancy import squared_exponential
from bayes_optlaws.model.priors import Priors

PRIOR_DRAWS = 300
"""Hyper-parameters and exponents tried for one draw of the prior."""


def noise_sd(data: ModelData, hyper: dict[str, np.ndarray]) -> np.ndarray:
    """Noise sd of every class given hyper-parameters, shape (..., n_classes + 1).

    The last is that of the slopes (`bayes_optlaws.model.slopes`): one.

    Parameters
    ----------
    data : ModelData
    hyper : dict of str to array, shape (..., size)
        As from `HyperSpace.split`.
    """
    floor = np.repeat(hyper["noise_sd"], len(data.noise_covariates), axis=-1)
    square = floor**2 + RESOLUTION**2 + data.known_variance
    if data.noise_names:
        growth = hyper["noise_growth"] * np.exp(hyper["noise_slope"] @ data.noise_covariates.T)
        square = square + growth**2
    return np.concatenate([np.sqrt(square), np.ones_like(floor[..., :1])], axis=-1)


def coefficient_sd(data: ModelData, priors: Priors, hyper: dict[str, np.ndarray]) -> np.ndarray:
    """Prior sd of every dictionary coefficient given hyper-parameters, shape (n_columns,)."""
    block = data.column_block
    return np.where(block < 0, priors.intercept_sd, hyper["coefficient_sd"][block])


def discrepancy_covariance(data: ModelData, hyper: dict[str, np.ndarray]) -> np.ndarray:
    """Prior covariance of the coefficients after the law's: fields, local ones, drifts, covariates.

    Returns
    -------
    array, shape (m, m)
        m = n_fields * n_cells + n_local + sum(n_drift) + n_effects; without transfer only the last.
    """
    sds = [hyper[name] for name, _ in data.effect_parts]
    effects = np.diag(np.concatenate([np.zeros(0), *sds])[data.effect_entry] ** 2)
    if not data.fields:
        return effects
    amplitude = np.concatenate([hyper["level_sd"], hyper.get("slope_sd", np.zeros(0))])
    own = JITTER + hyper["cell_sd"][0] ** 2
    over_cells = squared_exponential(data.cells, data.cells, hyper["scale_length"][0])
    over_cells = over_cells + own * np.eye(len(data.cells))
    blocks = [a**2 * over_cells for a in amplitude]
    if data.n_local:
        blocks.append(hyper["local_sd"][0] ** 2 * np.eye(data.n_local))
    for j, n in enumerate(data.n_drift):
        blocks.append(hyper["drift_sd"][j] ** 2 * np.eye(n))
    blocks.append(effects)
    size = [len(b) for b in blocks]
    out = np.zeros((sum(size), sum(size)))
    start = 0
    for block in blocks:
        out[start : start + len(block), start : start + len(block)] = block
        start += len(block)
    return out


def covariance(
    data: ModelData,
    priors: Priors,
    hyper: dict[str, np.ndarray],
    combination: int,
    rows: np.ndarray,
    noise_class: np.ndarray,
) -> np.ndarray:
    """Covariance of the responses given hyper-parameters and one exponent combination.

    Parameters
    ----------
    data : ModelData
    priors : Priors
    hyper : dict of str to array
        One draw, as from `HyperSpace.split`.
    combination : int
    rows : array, shape (n, p)
        Columns of the runs: dictionary, then discrepancy.
    noise_class : int array, shape (n,)

    Returns
    -------
    array, shape (n, n)
        The responses are jointly normal with mean zero and this covariance.
    """
    q = data.column_block.size
    selected = data.tree.selected(combination)
    x = rows[:, selected] * coefficient_sd(data, priors, hyper)[selected]
    z = rows[:, q:]
    noise = noise_sd(data, hyper)[noise_class]
    return x @ x.T + z @ discrepancy_covariance(data, hyper) @ z.T + np.diag(noise**2)


def draw_prior(data: ModelData, priors: Priors, rng: np.random.Generator) -> Draws:
    """One draw of everything from the prior, given what is said of slopes.

    Hyper-parameters and exponents are resampled from `PRIOR_DRAWS` by how well they agree with the
    slopes, which are data; the coefficients are then drawn exactly.

    Parameters
    ----------
    data : ModelData
        The statistics of the runs take no part, those of the slopes do.
    priors : Priors
    rng : numpy Generator

    Returns
    -------
    Draws
        Of one row.
    """
    space = HyperSpace(data, priors)
    tried = PRIOR_DRAWS if data.statistics.n[-1] else 1
    x = space.mean + space.sd * rng.standard_normal((tried, space.size))
    combinations = rng.integers(data.tree.n_combinations, size=tried)
    given = [
        _given_slopes(data, coefficient_sd(data, priors, space.split(v)), int(k))
        for v, k in zip(x, combinations, strict=True)
    ]
    weight = np.exp([g[0] for g in given] - np.max([g[0] for g in given]))
    i = int(rng.choice(tried, p=weight / weight.sum()))
    hyper, k = space.split(x[i]), int(combinations[i])
    _, selected, mean, factor = given[i]
    beta = np.zeros(data.column_block.size)
    beta[selected] = mean + np.linalg.solve(factor.T, rng.standard_normal(selected.size))
    cov = discrepancy_covariance(data, hyper)
    u = np.linalg.cholesky(cov) @ rng.standard_normal(len(cov)) if len(cov) else np.zeros(0)
    split = len(data.fields) * len(data.cells)
    return Draws(
        {name: value[None] for name, value in hyper.items()},
        np.array([k]),
        beta[None],
        u[:split].reshape(1, len(data.fields), len(data.cells) if data.fields else 0),
        u[None, split:],
    )


def _given_slopes(
    data: ModelData, sd: np.ndarray, combination: int
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Log density of the slopes for a combination, its columns, and the coefficients given them.

    Those are normal with the mean and the Cholesky factor of the precision that are returned.
    """
    s, selected = data.statistics, data.tree.selected(combination)
    d = 1.0 / sd[selected] ** 2
    factor = np.linalg.cholesky(s.gram[-1][np.ix_(selected, selected)] + np.diag(d))
    half = np.linalg.solve(factor, s.xy[-1][selected])
    value = 0.5 * half @ half + 0.5 * np.log(d).sum() - np.log(np.diag(factor)).sum()
    return value, selected, np.linalg.solve(factor.T, half), factor


def _gaussian(data: ModelData, variance: Any, theta: Any, index: np.ndarray) -> Any:
    """Log likelihood of the runs given all coefficients, from their Gram matrices."""
    s = data.statistics
    total = 0.0
    for c in range(len(s.n)):
        gram, xy = s.gram[c][np.ix_(index, index)], s.xy[c][index]
        square = s.yy[c] - 2.0 * pt.dot(xy, theta) + pt.dot(theta, pt.dot(gram, theta))
        total += -0.5 * square / variance[c] - 0.5 * s.n[c] * pt.log(2.0 * np.pi * variance[c])
    return total


def explicit_model(data: ModelData, priors: Priors, combination: int) -> pm.Model:
    """Write the model with every coefficient in the graph, for one exponent combination.

    Parameters
    ----------
    data : ModelData
    priors : Priors
    combination : int
        Exponent combination.

    Returns
    -------
    pymc.Model
        Free variables as in `pymc_model.build_model`, and ``beta`` (the combination's
        columns, in the order of `Tree.selected`); the discrepancy is ``discrepancy``, made of
        ``field_normal``, ``local_normal`` and ``drift_normal_*``.
    """
    selected = data.tree.selected(combination)
    block = data.column_block[selected]
    q = data.column_block.size
    with pm.Model(coords=data.coords) as model:
        # the last class is that of the slopes
        variance = pt.concatenate([noise_variance(data, priors), [1.0]])
        sd = positive("coefficient_sd", priors.coefficient_sd, "block")
        each = pt.concatenate([[priors.intercept_sd], sd])[block + 1]
        theta = pm.Normal("beta", 0.0, each, shape=selected.size)
        index = selected
        if data.fields:
            fields, local = discrepancy(data, priors)
            u = pm.Deterministic("discrepancy", pt.concatenate([fields.ravel(), local]))
            theta = pt.concatenate([theta, u])
            index = np.concatenate([selected, np.arange(q, data.statistics.xy.shape[1])])
        pm.Potential("likelihood", _gaussian(data, variance, theta, index))
    return model


def naive_model(
    data: ModelData, priors: Priors, *, rows: np.ndarray | None = None, y: np.ndarray | None = None
) -> pm.Model:
    """Write the law with its coefficients in the graph and exponents summed out by log-sum-exp.

    One coefficient a feature, shared by all exponent combinations: what one would first write,
    and what NUTS does slowly at, since the coefficients are correlated and every evaluation visits
    every combination.

    Parameters
    ----------
    data : ModelData
        Without transfer.
    priors : Priors
    rows, y : arrays, shapes (n, n_columns) and (n,), optional
        Columns and responses of the runs.  With them the likelihood is summed run by run, as it
        would first be written; without them it comes from the Gram matrices in ``data``, which
        is the same at a fraction of the cost.  For noise of one class.

    Raises
    ------
    ValueError
        If ``data`` has a discrepancy, combinations whose columns are not of the same blocks, or,
        with ``rows``, noise of several classes.
    """
    if data.fields:
        raise ValueError("naive_model is the law alone: build the data with transfer=False")
    tree, s = data.tree, data.statistics
    selected = np.array([tree.selected(k) for k in range(tree.n_combinations)])
    block = data.column_block[selected]
    if np.any(block != block[0]):
        raise ValueError("the columns of all exponent combinations must be of the same blocks")
    if rows is not None and len(s.n) > 2:
        raise ValueError(f"run by run the noise must be of one class, and it has {len(s.n) - 1}")
    with pm.Model(coords=data.coords) as model:
        # the last class is that of the slopes
        variance = pt.concatenate([noise_variance(data, priors), [1.0]])
        sd = positive("coefficient_sd", priors.coefficient_sd, "block")
        each = pt.concatenate([[priors.intercept_sd], sd])[block[0] + 1]
        beta = pm.Normal("beta", 0.0, each, shape=selected.shape[1])
        total = pt.as_tensor(data.log_prior)
        if rows is not None and y is not None:
            residual = y[:, None] - pt.dot(rows[:, selected], beta)
            total += pm.logp(pm.Normal.dist(0.0, pt.sqrt(variance[0])), residual).sum(axis=0)
        for c in range(0 if rows is None else len(s.n) - 1, len(s.n)):
            gram = s.gram[c][selected[:, :, None], selected[:, None, :]]
            square = s.yy[c] - 2.0 * pt.dot(s.xy[c][selected], beta)
            square += pt.dot(pt.dot(gram, beta), beta)
            total += -0.5 * square / variance[c]
            total += -0.5 * s.n[c] * pt.log(2.0 * np.pi * variance[c])
        pm.Potential("likelihood", pt.logsumexp(total))
    return model
