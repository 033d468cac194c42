r"""What runs of nearly the same settings share beyond the law: kriging of its residuals.

The noise of the fit is all that the law does not explain.  Where runs lie close together some of
it comes back in their neighbours: small ripples of the loss over settings, finer than any
function of the discrepancy.  Divided by their sds, the residuals :math:`e` of the finished runs
are taken to have the correlation

.. math::

    C_{ij} = \rho\, k(|x_i - x_j|) + (1 - \rho)\, m_i\, \delta_{ij},

with :math:`k` the Matern-5/2 correlation over scales and settings, :math:`\rho` the share that
neighbours have in common (geostatistics: the partial sill, and one less it the nugget) and
:math:`m_i` one, less for a mean over seeds.  A new run at :math:`x` is expected to be off by
:math:`\sigma(x)\, g^\top e`, with :math:`g = C^{-1} \rho k(x)` over its nearest runs, and what
is left of its variance is :math:`1 - g^\top \rho k(x)`.  Away from all runs g vanishes and nothing
is left of the correction: it is for predictions inside the grid, and does not extrapolate.

Share and lengths are those by which each run is best predicted from the others (leave-one-out
density); without a clear gain there is no correction.  The hyper-parameters are those of
independent noise; of the correction's own doubt, what the neighbours do not tell stays in the
noise of a run.  (Own choice; the paper has no such term.  Kriging in a moving neighbourhood:
Chiles and Delfiner 2012, Geostatistics, chapter 3, https://doi.org/10.1002/9781118136188.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from bayes_optlaws.model import gain
from bayes_optlaws.model.encoding import RunEncoding

NEAREST = 30
"""Runs from which a residual is predicted."""

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SCALE_LENGTHS = (0.15, 0.3, 0.6, 1.2)
SETTING_LENGTHS = (0.25, 0.5, 1.0, 2.0)
"""Tried: shares, lengths over scales in nats, and over settings in their sds."""

LEARNED_FROM = 800
"""Runs at most whose prediction from the others chooses share and lengths."""

KEPT_ROWS = 10_000
"""Of no more finished runs than this the columns of the likelihood are kept."""

_FIRST_SHARES = (0.3, 0.6)
_AT_ONCE = 5_000


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


def correlation(distance: np.ndarray) -> np.ndarray:
    """Matern-5/2 correlation at a distance in lengths."""
    r = np.sqrt(5.0) * distance
    return (1.0 + r + r**2 / 3.0) * np.exp(-r)


@dataclass(frozen=True)
class Residuals:
    """Places and residuals of finished runs, from which a correction is learned.

    Parameters
    ----------
    points : array, shape (n, 2 + n_settings)
        Scales in nats, then standardised settings.
    nugget : array, shape (n,)
        Variance of a run's own part, relative to that of one run.
    """

    points: np.ndarray
    nugget: np.ndarray

    def lengths(self, scale: float, setting: float) -> np.ndarray:
        """Length of every coordinate, shape (2 + n_settings,)."""
        return np.r_[scale, scale, np.full(self.points.shape[1] - 2, setting)]

    def nearest(
        self, points: np.ndarray, lengths: np.ndarray, own: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Distance to and index of the nearest runs, without the run itself where ``own`` is it."""
        more = 0 if own is None else 1
        k = min(NEAREST, len(self.points) - more)
        # sorted, so that which of equally near runs are taken does not hang on the table's order
        order = np.lexsort(self.points.T)
        tree = cKDTree(self.points[order] / lengths)
        distance, index = tree.query(points / lengths, list(range(1, k + more + 1)))
        index = order[index]
        if own is None:
            return distance, index
        drop = index == own[:, None]
        drop[~drop.any(axis=1), -1] = True  # more runs in one place than are asked for
        return distance[~drop].reshape(-1, k), index[~drop].reshape(-1, k)

    def others(self, learned: Learned, runs: np.ndarray) -> Kriging:
        """Weights of the others' residuals for each of these runs, as it was measured."""
        lengths = self.lengths(learned.scale_length, learned.setting_length)
        near = self.nearest(self.points[runs], lengths, runs)
        found = self.kriging(learned.share, lengths, *near)
        own = (1.0 - learned.share) * (1.0 - self.nugget[runs])
        return found._replace(left=found.left - own)

    def errors(self, learned: Learned, e: np.ndarray, runs: np.ndarray) -> np.ndarray:
        """Errors of predicting these runs' residuals from the others, over their sds.

        ``e`` (n_draws, n) are the residuals of all; shape (n_draws, n_runs).
        """
        found = self.others(learned, runs)
        told = np.einsum("snk,nk->sn", e[:, found.runs], found.weight)
        return (e[:, runs] - told) / np.sqrt(found.left)

    def all_nearest(self, runs: np.ndarray) -> np.ndarray:
        """Runs that `learn` may predict these from, sorted; these included."""
        every = [
            self.nearest(self.points[runs], self.lengths(scale, setting), runs)[1].ravel()
            for scale in SCALE_LENGTHS
            for setting in SETTING_LENGTHS
        ]
        return np.unique(np.concatenate([runs, *every]))

    def kriging(
        self, share: float, lengths: np.ndarray, distance: np.ndarray, index: np.ndarray
    ) -> Kriging:
        """Weights of the nearest runs, and what they leave of a run's variance."""
        weight, left = np.empty(distance.shape), np.empty(len(distance))
        diagonal = np.arange(distance.shape[1])
        scaled = self.points / lengths
        for start in range(0, len(distance), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            near = scaled[index[some]]
            gap = np.linalg.norm(near[:, :, None, :] - near[:, None, :, :], axis=-1)
            known = share * correlation(gap)
            known[:, diagonal, diagonal] += (1.0 - share) * self.nugget[index[some]]
            with_new = share * correlation(distance[some])
            weight[some] = np.linalg.solve(known, with_new[:, :, None])[:, :, 0]
            left[some] = 1.0 - np.sum(weight[some] * with_new, axis=1)
        far = distance[:, 0] > _FAR
        weight[far], left[far] = 0.0, 1.0
        return Kriging(index, weight, left)


_FAR = 8.0  # lengths: the correlation is below a millionth


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
        return gain.is_clear(self.gain, self.standard_error)


def chosen_runs(n: int) -> np.ndarray:
    """Runs whose prediction chooses share and lengths, the same for every table of n runs."""
    if n <= LEARNED_FROM:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, LEARNED_FROM, replace=False))


def learn(residuals: Residuals, e: np.ndarray, runs: np.ndarray) -> Learned:
    """Share and lengths by which runs are best predicted from the others.

    Parameters
    ----------
    residuals : Residuals
    e : array, shape (n_draws, n)
        Draws of the standardised residuals.
    runs : int array
        Those that are predicted.
    """
    own = residuals.nugget[runs]
    alone = e[:, runs] ** 2 / own + np.log(own)
    best = Learned(0.0, 1.0, 1.0, 0.0, 0.0)

    def tried(share: float, scale: float, setting: float) -> Learned:
        one = Learned(share, scale, setting, 0.0, 0.0)
        left = residuals.others(one, runs).left
        z = residuals.errors(one, e, runs)
        found = gain.summed(0.5 * (alone - z**2 - np.log(left)))
        return Learned(share, scale, setting, *found)

    for share in _FIRST_SHARES:
        for scale in SCALE_LENGTHS:
            for setting in SETTING_LENGTHS:
                best = max(best, tried(share, scale, setting), key=lambda x: x.gain)
    if best.gain > 0:
        rest = [tried(r, best.scale_length, best.setting_length) for r in SHARES]
        best = max(best, *rest, key=lambda x: x.gain)
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
        near = self.residuals.nearest(distinct, self.lengths)
        found = self.residuals.kriging(self.learned.share, self.lengths, *near)
        which = which.ravel()
        return Kriging(found.runs[which], found.weight[which], found.left[which])

    def leave_one_out(self) -> Kriging:
        """Weights of the other runs' residuals for each finished run, as it was measured."""
        return self.residuals.others(self.learned, np.arange(len(self.residuals.points)))

    @cached_property
    def _rows(self) -> np.ndarray:
        return self.encoding.rows()

    def rows(self, runs: np.ndarray) -> np.ndarray:
        """Columns of the likelihood of some finished runs, shape (n_runs, p)."""
        if len(self.encoding.finished) <= KEPT_ROWS:
            return self._rows[runs]
        return self.encoding.rows(self.encoding.finished.iloc[runs])
