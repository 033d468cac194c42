"""What designs are held against: dense Gaussian algebra of laws at fixed hyper-parameters."""

import numpy as np
import pandas as pd
from laws import encoded, with_draws

from bayes_optlaws.decision.design import _slim
from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.draws import recover
from bayes_optlaws.model.discrepancy import matern52, squared_exponential
from bayes_optlaws.model.drift import beyond_covariance

TWO = {g: (0.1, 0.5) for g in ("scale", "mixed", "escape", "cross")}


def fixed_law(runs, *, transfer, n_draws=400, seed=0):
    """A law at the mode of its hyper-parameters: exponents and coefficients alone are unknown."""
    law = encoded(runs, transfer=transfer, exponents=TWO)
    space = HyperSpace(law.encoding.data, law.priors)
    mode = space.split(space.mode())
    hyper = {k: np.repeat(v[None], n_draws, axis=0) for k, v in mode.items()}
    everything = np.ones(law.encoding.data.tree.n_combinations, dtype=bool)
    draws, *_ = recover(space, hyper, everything, np.random.default_rng(seed))

    return with_draws(law, draws)


def function_space(law, s, table, n_train=0):
    """Prior covariance of expected log loss between all rows, straight from the definition.

    The local correction is carried by its leading functions for the training runs; new rows have
    the rest of the process as well.
    """
    draws, d = law.draws, law.encoding.discrepancy
    hyper = {k: v[s] for k, v in draws.hyper.items()}
    chosen = law.encoding.data.tree.selected(draws.combination[s])
    x = law.encoding.standardizer(law.encoding.features.dictionary(table))[:, chosen]
    block = law.encoding.data.column_block[chosen]
    sd = np.where(block < 0, law.priors.intercept_sd, hyper["coefficient_sd"][block])
    cov = (x * sd**2) @ x.T
    if not law.encoding.transfer:
        return cov
    scale = d.standard_scales(table)
    d2 = np.sum((scale[:, None] - scale[None]) ** 2, axis=2)
    corr = np.exp(-0.5 * d2 / hyper["scale_length"] ** 2) + hyper["cell_sd"] ** 2 * (d2 < 1e-12)
    slopes = d.slopes(table)
    amplitude = np.concatenate([hyper["level_sd"], hyper["slope_sd"]])
    cov = cov + corr * ((slopes * amplitude**2) @ slopes.T)
    points, unit = d.local_points(table), [1.25, 3.0]
    growth = np.exp(points[:, 2 + d.varying.index("lr")])
    kernel = squared_exponential(points[:, :2] / unit, points[:, :2] / unit, 1.0)
    kernel *= np.outer(growth, growth) * matern52(points[:, 2:], points[:, 2:], 2.0)
    phi = d.local_functions(points)
    rest = kernel - phi @ phi.T
    rest[:n_train] = rest[:, :n_train] = 0.0
    cov = cov + hyper["local_sd"] ** 2 * (phi @ phi.T + rest)
    for j in (0, 1):
        columns = d.drifts[j].basis(scale[:, j])
        new = beyond_covariance(*[d.drifts[j].beyond(scale[:, j])] * 2)
        cov = cov + hyper["drift_sd"][j] ** 2 * (columns @ columns.T + new)
    u = d.unseen(table)
    over = np.exp(-0.5 * d2 / hyper["scale_length"] ** 2)
    return cov + law.priors.unseen_sd**2 * over * (u @ u.T)


def condition(law, s, table):
    """Posterior mean and covariance at the rows of ``table`` by dense conditioning."""
    train = law.encoding.finished
    n = len(train)
    cov = function_space(law, s, pd.concat([_slim(train), _slim(table)]), n)
    noise = law.predictor(law.draws.take(np.array([s]))).noise
    w = np.exp(np.log(law.draws.hyper["noise_sd"][s, 0])) ** 2
    variance = np.full(n, w)
    if noise.names:
        growth = law.draws.hyper["noise_growth"][s, 0]
        slope = law.draws.hyper["noise_slope"][s]
        variance = w + (growth * np.exp(noise.covariates @ slope))[noise.label] ** 2
    y = np.log(train["final_loss"].to_numpy()) - law.encoding.centre
    chosen = law.encoding.data.tree.selected(law.draws.combination[s])
    block = law.encoding.data.column_block[chosen]
    sd = law.draws.hyper["coefficient_sd"][s][block]
    sd = np.where(block < 0, law.priors.intercept_sd, sd)
    # the slopes are further data, of unit noise
    slopes, slope = law.encoding.prior_rows, law.encoding.prior_response
    both = pd.concat([train, _slim(table)])
    columns = law.encoding.standardizer(law.encoding.features.dictionary(both))
    with_rows = (columns[:, chosen] * sd**2) @ slopes[:, chosen].T
    among = (slopes[:, chosen] * sd**2) @ slopes[:, chosen].T + np.eye(slope.size)
    data = np.block([[cov[:n, :n] + np.diag(variance), with_rows[:n]], [with_rows[:n].T, among]])
    to_new = np.vstack([cov[:n, n:], with_rows[n:].T])
    gain = np.linalg.solve(data, to_new)
    return law.encoding.centre + gain.T @ np.concatenate([y, slope]), cov[n:, n:] - to_new.T @ gain
