r"""What runs of nearly the same settings share beyond the law: kriging of its residuals.

The noise of the fit is all that the law does not explain.  Where runs lie close together some of
it comes back in their neighbours: small ripples of the loss over settings, finer than any
function of the discrepancy.  Divided by their sds, the residuals :math:`e` of the finished runs
are taken to have the correlation

.. math::

    C_{ij} = \rho\, k(|x_i - x_j|)
        + \left[(1 - \rho) / n_i + m_i\right] \lambda_i^{-1}\, \delta_{ij},

with :math:`k` the Matern-5/2 correlation over scales and settings, :math:`\rho` the share that
neighbours have in common (geostatistics: the partial sill, and the rest the nugget), :math:`n_i`
the seeds that a row is the mean of, :math:`m_i` its known measurement variance over the noise
variance of one run, and :math:`\lambda_i` its weight under Student-t noise, else one.  A new run
at :math:`x` is expected to be off by :math:`\sigma(x)\, g^\top e`, with
:math:`g = C^{-1} \rho k(x)` over its nearest runs, and what is left of its variance is
:math:`1 - g^\top \rho k(x)`.  The correction fades within a few of its lengths from the nearest
run: it is for predictions inside the grid, and does not extrapolate.

Share and lengths are those by which each run is best predicted from the others (leave-one-out
density); without a clear gain there is no correction.  The hyper-parameters are those of
independent noise; of the correction's own doubt, what the neighbours do not tell stays in the
noise of a run.  (Own choice; the paper has no such term.  Kriging in a moving neighbourhood:
Chiles and Delfiner 2012, Geostatistics, chapter 3, https://doi.org/10.1002/9781118136188.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from bayes_optlaws.model.discrepancy import matern52_at
from bayes_optlaws.model.encoding import RunEncoding

LEAST_GAIN, LEAST_RATIO = 3.0, 2.0
"""The correction is used where it improves the summed leave-one-out log density of the runs by
this many nats, and by this many standard errors of that sum."""

NEAREST = 30
"""Runs from which a residual is predicted."""

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SCALE_LENGTHS = (0.15, 0.3, 0.6, 1.2)
SETTING_LENGTHS = (0.25, 0.5, 1.0, 2.0)
"""Tried: shares, lengths over scales in nats, and over settings in their sds."""

LEARNED_FROM = 500
"""Runs at most whose residuals choose share, lengths and the tails of the noise."""

KEPT_ROWS = 10_000
"""Of no more finished runs than this the columns of the likelihood are kept."""

_FIRST_SHARES = (0.3, 0.6)
_AT_ONCE = 5_000


class Nearest(NamedTuple):
    """Nearest runs of some points and their distances in lengths, both (n, k)."""

    runs: np.ndarray
    distance: np.ndarray


class Kriging(NamedTuple):
    """How standardised residuals predict those of some rows.

    Parameters
    ----------
    runs : int array, shape (n, k)
        Nearest finished runs of each row.
    weight : array, shape (n, k)
        Of their residuals.
    left : array, shape (n,)
        Variance that is left of one run, of one.
    """

    runs: np.ndarray
    weight: np.ndarray
    left: np.ndarray

    def errors(self, e: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Errors of predicting residuals ``own`` (n_draws, n) from all, ``e``, over their sds."""
        told = np.einsum("snk,nk->sn", e[:, self.runs], self.weight)
        return (own - told) / np.sqrt(self.left)

    @property
    def used(self) -> np.ndarray:
        """Finished runs that have any weight, sorted."""
        return np.unique(self.runs[self.weight != 0.0])

    def matrix(self, used: np.ndarray) -> csr_array:
        """Weights of the residuals of the runs ``used``, shape (n, n_used)."""
        row = np.repeat(np.arange(len(self.runs)), self.runs.shape[1])
        column, weight = self.runs.ravel(), self.weight.ravel()
        some = weight != 0.0
        at = np.searchsorted(used, column[some])
        return csr_array((weight[some], (row[some], at)), shape=(len(self.runs), used.size))


@dataclass(frozen=True)
class Residuals:
    """Places and residuals of finished runs, from which a correction is learned.

    Parameters
    ----------
    points : array, shape (n, 2 + n_settings)
        Scales in nats, then standardised settings.
    single : array, shape (n,)
        Part of the noise variance of one run that a row has: one over its seeds.
    known : array, shape (n,)
        Known measurement variance, over the noise variance of one run.
    weight : array, shape (n,)
        Of the rows under Student-t noise, else one.
    """

    points: np.ndarray
    single: np.ndarray
    known: np.ndarray
    weight: np.ndarray

    def own(self, share: float) -> np.ndarray:
        """Variance of what a row does not share with its neighbours, over that of one run, (n,)."""
        return (1.0 - share) * self.single + self.known

    def lengths(self, scale: float, setting: float) -> np.ndarray:
        """Length of every coordinate, shape (2 + n_settings,)."""
        return np.r_[scale, scale, np.full(self.points.shape[1] - 2, setting)]

    def nearest(
        self, points: np.ndarray, lengths: np.ndarray, own: np.ndarray | None = None
    ) -> Nearest:
        """Nearest runs of some points, without the run itself where ``own`` is it."""
        more = 0 if own is None else 1
        k = min(NEAREST, len(self.points) - more)
        # sorted, so that which of equally near places are taken does not hang on the table's order
        order = np.lexsort(self.points.T)
        tree = cKDTree(self.points[order] / lengths)
        distance, index = tree.query(points / lengths, list(range(1, k + more + 1)))
        index = order[index]
        if own is not None:
            drop = index == own[:, None]
            drop[~drop.any(axis=1), -1] = True  # more runs in one place than are asked for
            distance, index = distance[~drop].reshape(-1, k), index[~drop].reshape(-1, k)
        return Nearest(index, distance)

    def correlations(self, found: Nearest, lengths: np.ndarray) -> np.ndarray:
        """Correlations of the nearest runs with one another, shape (n, k, k)."""
        near = (self.points / lengths)[found.runs]
        square = np.sum(near**2, axis=-1)
        gap = square[:, :, None] + square[:, None, :] - 2.0 * near @ near.transpose(0, 2, 1)
        return matern52_at(np.sqrt(np.maximum(gap, 0.0)))

    def kriging(self, share: float, found: Nearest, among: np.ndarray) -> Kriging:
        """Weights of the nearest runs, and what they leave of a run's variance.

        ``among`` are their `correlations`.
        """
        known, diagonal = share * among, np.arange(among.shape[1])
        known[:, diagonal, diagonal] += (self.own(share) / self.weight)[found.runs]
        to_new = share * matern52_at(found.distance)
        weight = np.linalg.solve(known, to_new[:, :, None])[:, :, 0]
        left = 1.0 - np.sum(weight * to_new, axis=1)
        far = found.distance[:, 0] > _FAR
        weight[far], left[far] = 0.0, 1.0
        return Kriging(found.runs, weight, left)

    def told(self, share: float, lengths: np.ndarray, points: np.ndarray) -> Kriging:
        """`kriging` of new points."""
        parts = []
        for start in range(0, len(points), _AT_ONCE):
            found = self.nearest(points[start : start + _AT_ONCE], lengths)
            parts.append(self.kriging(share, found, self.correlations(found, lengths)))
        return Kriging(*map(np.concatenate, zip(*parts, strict=True)))

    def as_measured(self, told: Kriging, share: float, runs: np.ndarray) -> Kriging:
        """`kriging` of finished runs, with the variance left of them as they were measured."""
        return told._replace(left=told.left - (1.0 - share) + self.own(share)[runs])

    def nearby(self, runs: np.ndarray) -> dict[tuple[float, float], Nearest]:
        """Nearest others of these runs, by all lengths that are tried: over scales, settings."""
        return {
            (a, b): self.nearest(self.points[runs], self.lengths(a, b), runs)
            for a in SCALE_LENGTHS
            for b in SETTING_LENGTHS
        }


_FAR = 8.0  # lengths: the correlation is two millionths


@dataclass(frozen=True)
class Learned:
    """Share and lengths with the leave-one-out gain that they have.

    Parameters
    ----------
    share, scale_length, setting_length : float
    gain, standard_error : float
        Nats of the summed log density of the runs, over independent noise.
    """

    share: float
    scale_length: float
    setting_length: float
    gain: float
    standard_error: float

    @property
    def clear(self) -> bool:
        """Whether the gain is large enough for the correction to be used."""
        return self.gain >= max(LEAST_GAIN, LEAST_RATIO * self.standard_error)


def chosen_runs(n: int) -> np.ndarray:
    """Runs whose prediction chooses share and lengths, the same for every table of n runs."""
    if n <= LEARNED_FROM:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, LEARNED_FROM, replace=False))


def learn(
    residuals: Residuals,
    e: np.ndarray,
    runs: np.ndarray,
    nearby: Mapping[tuple[float, float], Nearest],
) -> Learned:
    """Share and lengths by which runs are best predicted from the others.

    Parameters
    ----------
    residuals : Residuals
    e : array, shape (n_draws, n)
        Draws of the standardised residuals; only those of ``runs`` and ``nearby`` are read.
    runs : int array
        Those that are predicted.
    nearby : mapping
        Their nearest others, from `Residuals.nearby`.
    """
    own = residuals.own(0.0)[runs]
    alone = e[:, runs] ** 2 / own + np.log(own)
    best = Learned(0.0, 1.0, 1.0, 0.0, 0.0)

    def better(best: Learned, shares: Sequence[float], scale: float, setting: float) -> Learned:
        found = nearby[scale, setting]
        among = residuals.correlations(found, residuals.lengths(scale, setting))
        for share in shares:
            told = residuals.as_measured(residuals.kriging(share, found, among), share, runs)
            z = told.errors(e, e[:, runs])
            by_run = 0.5 * (alone - z**2 - np.log(told.left)).mean(axis=0)
            error = float(by_run.std() * np.sqrt(runs.size))
            one = Learned(share, scale, setting, float(by_run.sum()), error)
            best = max(best, one, key=lambda x: x.gain)
        return best

    for scale, setting in nearby:
        best = better(best, _FIRST_SHARES, scale, setting)
    if best.gain > 0:
        best = better(best, SHARES, best.scale_length, best.setting_length)
    return best


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The correction from neighbouring runs, for one law.

    Parameters
    ----------
    encoding : RunEncoding
    residuals : Residuals
    learned : Learned
    """

    encoding: RunEncoding
    residuals: Residuals
    learned: Learned

    @property
    def lengths(self) -> np.ndarray:
        """Length of every coordinate."""
        return self.residuals.lengths(self.learned.scale_length, self.learned.setting_length)

    def at(self, table: pd.DataFrame) -> Kriging:
        """Weights of the residuals for the rows of a validated table, candidates or runs."""
        points = np.round(self.encoding.discrepancy.local_points(table), 9)
        distinct, which = np.unique(points, axis=0, return_inverse=True)
        found = self.residuals.told(self.learned.share, self.lengths, distinct)
        return Kriging(*(x[which.ravel()] for x in found))

    def leave_one_out(self, runs: np.ndarray) -> Kriging:
        """Weights of the other runs' residuals for some finished runs."""
        r, parts = self.residuals, []
        for start in range(0, len(runs), _AT_ONCE):
            some = runs[start : start + _AT_ONCE]
            found = r.nearest(r.points[some], self.lengths, some)
            among = r.correlations(found, self.lengths)
            parts.append(r.kriging(self.learned.share, found, among))
        return Kriging(*map(np.concatenate, zip(*parts, strict=True)))

    def as_measured(self, told: Kriging, runs: np.ndarray) -> Kriging:
        """The same with the variance left of these finished runs as they were measured."""
        return self.residuals.as_measured(told, self.learned.share, runs)

    @cached_property
    def _rows(self) -> np.ndarray:
        return self.encoding.rows()

    def rows(self, runs: np.ndarray) -> np.ndarray:
        """Columns of the likelihood of some finished runs, shape (n_runs, p)."""
        if len(self.encoding.finished) <= KEPT_ROWS:
            return self._rows[runs]
        return self.encoding.rows(self.encoding.finished.iloc[runs])
