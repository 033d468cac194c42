"""Predictive draws of log loss for any table of candidates, from joint posterior draws."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from bayes_optlaws.inference.draws import Draws
from bayes_optlaws.kernels.hyper import JITTER
from bayes_optlaws.model import student_t
from bayes_optlaws.model.discrepancy import Discrepancy
from bayes_optlaws.model.drift import draw_beyond
from bayes_optlaws.model.effects import Effects
from bayes_optlaws.model.encoding import RunEncoding
from bayes_optlaws.model.features import FeatureSet, Standardizer
from bayes_optlaws.model.measurement import Measurement, seeds
from bayes_optlaws.model.neighbours import Kriging, Neighbours
from bayes_optlaws.model.noise import NoiseClasses
from bayes_optlaws.model.priors import Priors

MAX_SCALES = 64
"""New scales drawn jointly at once; beyond, in blocks of this many."""

MANY_ROWS = 50
"""Rows for each scale from which fields are evaluated scale by scale, which is then faster."""

MAX_POINTS = 1024
"""With no more distinct candidates than this, what the local functions leave out is drawn from
its exact covariance; beyond, from this many random features, so that all see one function."""


@dataclass(frozen=True)
class Predictor:
    """Joint predictive draws of log loss for any candidates.

    Parameters
    ----------
    features, standardizer, discrepancy, noise
        Learned from the training runs; ``discrepancy`` is used only when ``transfer``.
    transfer : bool
    centre : float
        Mean log loss of the training runs.
    priors : Priors
    draws : Draws
    least : float
        Log loss that no prediction goes below.
    effects : Effects, optional
        Columns of the covariates.
    noise_df : float
        Degrees of freedom of the noise; infinite: normal.
    neighbours : Neighbours, optional
        Correction from runs of nearly the same settings.
    """

    features: FeatureSet
    standardizer: Standardizer
    discrepancy: Discrepancy
    noise: NoiseClasses
    transfer: bool
    centre: float
    priors: Priors
    draws: Draws
    least: float = -np.inf
    effects: Effects | None = None
    noise_df: float = np.inf
    neighbours: Neighbours | None = None

    def without_neighbours(self) -> Predictor:
        """The same without the correction from neighbouring runs."""
        return replace(self, neighbours=None)

    def thinned(self, limit: int) -> Predictor:
        """The same with at most ``limit`` draws."""
        return replace(self, draws=self.draws.thin(limit))

    def law(self, table: pd.DataFrame) -> np.ndarray:
        """Log loss by the law alone, shape (n_draws, n)."""
        x = self.standardizer(self.features.dictionary(table))
        return self.centre + self.draws.beta @ x.T

    def mean(self, table: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
        """Expected log loss of a run (no noise), joint over candidates, shape (n_draws, n)."""
        return self._mean(table, rng, self._near(table))

    def noise_sd(self, table: pd.DataFrame) -> np.ndarray:
        """Noise sd of log loss that neighbouring runs do not tell, shape (n_draws, n)."""
        return self._noise_sd(table, self._near(table))

    def mean_and_noise_sd(
        self, table: pd.DataFrame, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """`mean` and `noise_sd`, in less time than one after the other."""
        near = self._near(table)
        return self._mean(table, rng, near), self._noise_sd(table, near)

    def _near(self, table: pd.DataFrame) -> Kriging | None:
        return None if self.neighbours is None else self.neighbours.at(table)

    def _noise_sd(self, table: pd.DataFrame, near: Kriging | None) -> np.ndarray:
        sd = self.whole_noise_sd(table)
        return sd if near is None else sd * np.sqrt(near.left)

    def _mean(
        self, table: pd.DataFrame, rng: np.random.Generator, near: Kriging | None
    ) -> np.ndarray:
        out = self.law(table)
        if self.effects is not None and self.effects.covariates:
            x = self.effects.columns(table)
            out += self.draws.local[:, self.draws.local.shape[1] - x.shape[1] :] @ x.T
        if not self.transfer:
            return self.capped(out)
        out += self._over_scales(table, rng)
        missed = np.zeros(len(table))
        if self.discrepancy.n_local:
            local, missed = self._local(table, rng, 1.0 if near is None else np.sqrt(near.left))
            out += local
        out += self._drift(table, rng)
        out += self._never_varied(table, rng)
        if near is not None:
            out += self._from_neighbours(table, near, missed)
        return self.capped(out)

    def capped(self, log_loss: np.ndarray) -> np.ndarray:
        """Log losses, none above that of an untrained model (`Priors.untrained_loss`).

        Nor below ``least``: far from all runs draws go astray downwards as they do upwards.
        """
        return np.clip(log_loss, self.least, np.log(self.priors.untrained_loss))

    def measured_sd(
        self, measurement: Measurement, table: pd.DataFrame, log_loss: np.ndarray
    ) -> np.ndarray:
        """Noise sd of rows as they are measured: of means over seeds, with standard errors.

        What a run shares with its neighbours is the same for all its seeds.

        Parameters
        ----------
        measurement : Measurement
        table : DataFrame
            Validated run table; its losses are not read.
        log_loss : array, shape (..., n)
            Log loss of each row, measured or expected.

        Returns
        -------
        array, shape (n_draws, n)
        """
        whole = self.whole_noise_sd(table)
        sd = measurement.sd(whole, table, log_loss)
        if self.neighbours is None:
            return sd
        share, left = self.neighbours.learned.share, self.neighbours.at(table).left
        return np.sqrt(sd**2 + whole**2 * (left - (1.0 - share) - share / seeds(table)))

    def whole_noise_sd(self, table: pd.DataFrame) -> np.ndarray:
        """Sd of all that the law leaves unexplained in the log loss of a run, (n_draws, n)."""
        hyper = self.draws.hyper
        floor = np.repeat(hyper["noise_sd"], len(table), axis=1)
        if not self.noise.names:
            return floor
        covariates = self.noise.at(table, self.discrepancy)
        growth = hyper["noise_growth"] * np.exp(hyper["noise_slope"] @ covariates.T)
        return np.hypot(floor, growth)

    def noise_draws(self, sd: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Noise of log loss of one run each, drawn, of the shape of its sds."""
        return sd * student_t.draw(rng, sd.shape, self.noise_df)

    def unexplained_sd(self, table: pd.DataFrame) -> np.ndarray:
        """Sd of what is neither the law's nor the local functions', shape (n_draws, n)."""
        missed = np.zeros(len(table))
        if self.transfer and self.discrepancy.n_local:
            missed = self.discrepancy.local_missed_variance(self.discrepancy.local_points(table))
        return self._with_missed(self.whole_noise_sd(table), missed)

    def _with_missed(self, noise: np.ndarray, missed: np.ndarray) -> np.ndarray:
        """Noise sds with what the local functions miss, of this variance per unit sd."""
        if not missed.any():
            return noise
        return np.hypot(noise, self.draws.hyper["local_sd"] * np.sqrt(missed))

    def standard_residuals(
        self, encoding: RunEncoding, rows: np.ndarray, runs: np.ndarray
    ) -> np.ndarray:
        """Residuals of some finished runs over their `unexplained_sd`, shape (n_draws, n_runs).

        Parameters
        ----------
        encoding : RunEncoding
        rows : array, shape (n_runs, p)
            Columns of the likelihood of these runs.
        runs : int array
        """
        draws = self.draws
        fitted = draws.beta @ rows[:, : draws.beta.shape[1]].T
        other = np.hstack([draws.fields.reshape(draws.n, -1), draws.local])
        fitted += other @ rows[:, draws.beta.shape[1] :].T
        return (encoding.response[runs] - fitted) / self.unexplained_sd(
            encoding.finished.iloc[runs]
        )

    def _from_neighbours(
        self, table: pd.DataFrame, near: Kriging, missed: np.ndarray
    ) -> np.ndarray | float:
        """What the residuals of neighbouring runs tell of each candidate."""
        known, used = self.neighbours, near.used
        if known is None or not used.size:
            return 0.0
        e = self.standard_residuals(known.encoding, known.rows(used), used)
        sd = self._with_missed(self.whole_noise_sd(table), missed)
        return sd * (near.matrix(used) @ e.T).T

    def _over_scales(self, table: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
        """Level and slopes at the candidates' scales, given those at the cells."""
        d, draws = self.discrepancy, self.draws
        s = d.standard_scales(table)
        distinct, which = np.unique(np.round(s, 9), axis=0, return_inverse=True)
        which = which.ravel()
        sd = np.concatenate(
            [draws.hyper["level_sd"], draws.hyper.get("slope_sd", np.zeros((draws.n, 0)))], axis=1
        )
        slopes = d.slopes(table)
        out = np.zeros((draws.n, len(table)))
        for block in _blocks(len(distinct), MAX_SCALES):
            value = _conditional(
                d.cells,
                distinct[block],
                draws.hyper["scale_length"],
                draws.hyper["cell_sd"],
                sd,
                draws.fields,
                rng,
            )
            mine = np.flatnonzero((which >= block.start) & (which < block.stop))
            out[:, mine] = _at_scales(value, which[mine] - block.start, slopes[mine])
        return out

    def _never_varied(self, table: pd.DataFrame, rng: np.random.Generator) -> np.ndarray | float:
        """Effects of settings that never varied; each changes over scales as the slopes do."""
        d, draws = self.discrepancy, self.draws
        unseen = d.unseen(table)
        if not unseen.shape[1] or np.abs(unseen).max() <= 1e-9:
            return 0.0
        s = np.round(d.standard_scales(table), 9)
        distinct, which = np.unique(s, axis=0, return_inverse=True)
        which, k = which.ravel(), unseen.shape[1]
        out = np.zeros((draws.n, len(table)))
        for block in _blocks(len(distinct), MAX_SCALES):
            effect = _conditional(
                distinct[:0],
                distinct[block],
                draws.hyper["scale_length"],
                np.zeros((draws.n, 1)),
                np.full((draws.n, k), self.priors.unseen_sd),
                np.zeros((draws.n, k, 0)),
                rng,
            )
            mine = np.flatnonzero((which >= block.start) & (which < block.stop))
            out[:, mine] = _at_scales(effect, which[mine] - block.start, unseen[mine])
        return out

    def _drift(self, table: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
        """Drift of the slopes over scales: what the runs inform, and what is new beyond them."""
        d, draws = self.discrepancy, self.draws
        distinct, which = np.unique(d.standard_scales(table), axis=0, return_inverse=True)
        columns = d.drift_columns(distinct)
        own = draws.local[:, d.n_local : d.n_local + columns.shape[1]]
        out = own @ columns.T
        for j, drift in enumerate(d.drifts):
            fresh = draw_beyond(drift.beyond(distinct[:, j]), draws.n, rng)
            out += draws.hyper["drift_sd"][:, [j]] * fresh
        return out[:, which.ravel()]

    def _local(
        self, table: pd.DataFrame, rng: np.random.Generator, left: np.ndarray | float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Local correction: what the runs inform, plus what the local functions leave out.

        ``left`` is the share of the latter's sd that neighbouring runs do not tell, (n,). Also
        returns the variance of the latter per unit sd, (n,).
        """
        d, draws = self.discrepancy, self.draws
        points = np.round(d.local_points(table), 9)
        distinct, which = np.unique(points, axis=0, return_inverse=True)
        which = which.ravel()
        phi = d.local_functions(distinct)
        out = (draws.local[:, : d.n_local] @ phi.T)[:, which]
        variance = d.local_missed_variance(distinct, phi)[which]
        if len(distinct) <= MAX_POINTS:
            factor = _psd_factor(d.local_missed(distinct, phi, distinct, phi))
            fresh = rng.standard_normal((draws.n, len(factor))) @ factor.T
            return out + draws.hyper["local_sd"] * fresh[:, which] * left, variance
        features = d.local_frequencies(MAX_POINTS, rng)
        normal = rng.standard_normal((draws.n, MAX_POINTS)) * draws.hyper["local_sd"]
        for block in _blocks(len(distinct), MAX_POINTS):
            missed = d.local_missed_features(distinct[block], phi[block], features)
            mine = np.flatnonzero((which >= block.start) & (which < block.stop))
            new = (normal @ missed.T)[:, which[mine] - block.start]
            out[:, mine] += new * np.broadcast_to(left, which.shape)[mine]
        return out, variance


def _blocks(n: int, size: int) -> list[slice]:
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def _at_scales(value: np.ndarray, which: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Fields (n_draws, n_fields, n_scales) at the scale of each row, times its slopes, summed."""
    out = np.empty((len(value), which.size))
    if which.size < MANY_ROWS * value.shape[2]:
        for part in np.array_split(np.arange(which.size), max(1, which.size // 2000)):
            out[:, part] = np.einsum("sfc,cf->sc", value[:, :, which[part]], slopes[part])
        return out
    for scale in range(value.shape[2]):
        rows = np.flatnonzero(which == scale)
        out[:, rows] = value[:, :, scale] @ slopes[rows].T
    return out


def _psd_factor(matrix: np.ndarray) -> np.ndarray:
    value, vector = np.linalg.eigh(0.5 * (matrix + np.swapaxes(matrix, -1, -2)))
    return vector * np.sqrt(np.maximum(value, 0.0))[..., None, :]


def _conditional(
    known: np.ndarray,
    new: np.ndarray,
    length: np.ndarray,
    nugget: np.ndarray,
    sd: np.ndarray,
    values: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw squared-exponential Gaussian-process fields at new points given known values.

    All fields share the correlation; ``length`` and ``nugget`` (n_draws, 1), ``sd`` (n_draws,
    n_fields), ``values`` (n_draws, n_fields, n_known).  Returns (n_draws, n_fields, n_new).
    """
    n_draws, n_fields, _ = values.shape
    out = np.empty((n_draws, n_fields, len(new)))
    size = max(1, int(2e6 // (len(known) + len(new)) ** 2))
    for start in range(0, n_draws, size):
        i = slice(start, min(start + size, n_draws))
        points = np.concatenate([known, new])
        d2 = np.sum((points[:, None, :] - points[None, :, :]) ** 2, axis=-1)
        corr = np.exp(-0.5 * d2 / length[i][:, :, None] ** 2)
        corr += nugget[i][:, :, None] ** 2 * (d2 < 1e-12)  # a known scale keeps what is its own
        m = len(known)
        inner = corr[:, :m, :m] + JITTER * np.eye(m)
        weight = np.linalg.solve(inner, corr[:, :m, m:])  # (draws, known, new)
        rest = corr[:, m:, m:] - np.swapaxes(corr[:, :m, m:], 1, 2) @ weight
        factor = _psd_factor(rest)
        normal = rng.standard_normal((corr.shape[0], n_fields, len(new)))
        fresh = np.einsum("sij,sfj->sfi", factor, normal) * sd[i][:, :, None]
        out[i] = np.einsum("sfk,skn->sfn", values[i], weight) + fresh
    return out
