"""Laws without sampling: an encoded table, and a fitted law with the draws that a test gives."""

from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from bayes_optlaws.inference import residuals
from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.draws import Draws, recover
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.inference.nuts import Sample
from bayes_optlaws.inference.reference import coefficient_sd, covariance
from bayes_optlaws.law import OptLaw
from bayes_optlaws.model.discrepancy import matern52, scales, squared_exponential
from bayes_optlaws.model.drift import beyond_covariance
from bayes_optlaws.model.encoding import RunEncoding
from bayes_optlaws.model.neighbours import Learned
from bayes_optlaws.model.priors import Priors

ONE = {"scale": (0.3,), "mixed": (0.15,), "escape": (0.3,), "cross": (0.2,)}
"""One candidate exponent in every group."""


@dataclass(frozen=True)
class Encoded:
    """A run table as a law of given options sees it."""

    encoding: RunEncoding
    priors: Priors = field(default_factory=Priors)


def encoded(runs, **options) -> Encoded:
    """Encode a run table by a law of the given options."""
    law = OptLaw(**options)
    return Encoded(law.encode(runs), law.priors or Priors())


def everything(law: Encoded):
    """Rows, responses and noise classes of the runs, and of the slopes, which are data too."""
    e = law.encoding
    slope = e.prior_response
    label = np.concatenate([e.noise.label, np.full(slope.size, len(e.noise.covariates))])
    return np.vstack([e.rows(), e.prior_rows]), np.concatenate([e.response, slope]), label


def with_draws(law: Encoded, draws: Draws, *, chains: int = 1) -> FittedLaw:
    """A fitted law with given posterior draws; without divergence, and not past the gate."""
    sample = Sample(draws, chains, xr.Dataset(), 1.0, np.nan)
    return FittedLaw(law.encoding, law.priors, sample, 0)


def repeated(law, n, rng):
    """Draws of everything but the hyper-parameters, which stand at one point near the mode."""
    space = HyperSpace(law.encoding.data, law.priors)
    x = space.mode()
    x = np.clip(x, space.mean - 1.5 * space.sd, space.mean + 1.5 * space.sd)
    hyper = space.split(x)
    every = np.ones(law.encoding.data.tree.n_combinations, dtype=bool)
    draws, ratio, _ = recover(space, space.split(np.tile(x, (n, 1))), every, rng)
    np.testing.assert_allclose(ratio, 0.0, atol=1e-9)
    return hyper, draws


def check_moments(found, mean, cov):
    """Mean and covariance of draws within Monte-Carlo error."""
    n, sd = len(found), np.sqrt(np.diag(cov))
    z = (found.mean(axis=0) - mean) / (sd / np.sqrt(n))
    assert np.abs(z).max() < 4.8
    centred = (found - mean) / sd
    error = centred.T @ centred / n - cov / np.outer(sd, sd)
    assert np.abs(error).max() < 5 * np.sqrt(2 / n)


def dense_prediction(law, hyper, table):
    """Mean and covariance of the expected log losses less the centre, by n x n Gaussian algebra.

    Of a law with discrepancy and one combination of exponents, hyper-parameters known.
    """
    data, d = law.encoding.data, law.encoding.discrepancy
    rows, y, label = everything(law)
    selected, q = data.tree.selected(0), data.column_block.size
    n_fields, n_cells = len(d.fields), len(d.cells)
    x = law.encoding.standardizer(law.encoding.features.dictionary(table))[:, selected]
    sd = coefficient_sd(data, law.priors, hyper)[selected]
    to_runs = (x * sd**2) @ rows[:, selected].T
    among = (x * sd**2) @ x.T
    # fields: candidates share a cell's own part only with that very cell
    s = scales(table) - d.centre
    own = hyper["cell_sd"][0] ** 2
    gap = lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=2) < 1e-6  # noqa: E731
    length = hyper["scale_length"][0]
    over = squared_exponential(s, d.cells, length) + own * gap(s, d.cells)
    inside = squared_exponential(s, s, length) + own * gap(s, s)
    amplitude = np.concatenate([hyper["level_sd"], hyper["slope_sd"]])
    slope = d.slopes(table)
    for f in range(n_fields):
        block = rows[:, q + f * n_cells : q + (f + 1) * n_cells]
        to_runs += amplitude[f] ** 2 * slope[:, [f]] * (over @ block.T)
        among += amplitude[f] ** 2 * np.outer(slope[:, f], slope[:, f]) * inside
    # local correction: what the runs inform, and the rest of its kernel, independent of them
    points, scale = d.local_points(table), [1.25, 3.0]
    first = q + n_fields * n_cells
    local = rows[:, first : first + d.n_local]
    to_runs += hyper["local_sd"][0] ** 2 * d.local_functions(points) @ local.T
    # drifts: segments inside the table, an integrated Wiener process beyond
    first += d.n_local
    for j, (drift, x) in enumerate(zip(d.drifts, s.T, strict=True)):
        own, variance = drift.basis(x), hyper["drift_sd"][j] ** 2
        to_runs += variance * own @ rows[:, first : first + drift.n_columns].T
        h = drift.beyond(x)
        among += variance * (own @ own.T + beyond_covariance(h, h))
        first += drift.n_columns
    growth = np.exp(points[:, 2 + d.varying.index("lr")])
    kernel = squared_exponential(points[:, :2] / scale, points[:, :2] / scale, 1.0)
    kernel *= matern52(points[:, 2:], points[:, 2:], 2.0)
    among += hyper["local_sd"][0] ** 2 * np.outer(growth, growth) * kernel
    # settings that never varied: effects that change over scales with the length of the fields
    u = d.unseen(table)
    among += law.priors.unseen_sd**2 * squared_exponential(s, s, length) * (u @ u.T)
    cov = covariance(data, law.priors, hyper, 0, rows, label)
    gain = np.linalg.solve(cov, to_runs.T)
    return gain.T @ y, among - to_runs @ gain


def with_neighbours(law: FittedLaw, share=0.6, scale=0.6, setting=0.8) -> FittedLaw:
    """The law, corrected by the residuals of neighbouring runs with this share and lengths."""
    learned = Learned(share, scale, setting, gain=10.0, standard_error=1.0)
    return residuals.corrected(law, learned)


def dense_kriging(law: FittedLaw, table, runs=None):
    """Weights of the residuals and the variance that is left, by an n x n solve of all runs.

    ``runs`` are the residuals used, all by default.
    """
    known, learned = law.neighbours, law.neighbours.learned
    every = known.residuals.points
    runs = np.arange(len(every)) if runs is None else runs
    train, new = every[runs] / known.lengths, law.encoding.discrepancy.local_points(table)
    share, r = learned.share, known.residuals
    own = ((1 - share) * r.single + r.known) / r.weight
    cov = share * matern52(train, train, 1.0) + np.diag(own[runs])
    to_new = share * matern52(new / known.lengths, train, 1.0)
    weight = np.linalg.solve(cov, to_new.T).T
    return weight, 1 - np.sum(weight * to_new, axis=1)
