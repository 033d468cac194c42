r"""How the law may be wrong: a discrepancy that grows with distance from the scales seen.

A law with independent noise is exact about its own coefficients and silent about its own form.
Fitted at small scale and read at a larger one, its intervals are far too narrow.  This module
adds, to the log loss of run r at scale :math:`s = (\log N, \log D)` and settings :math:`z`,

.. math::

    \delta(r) = u(s) + \sum_j z_j\, v_j(s) + e^{z_\text{LR}} f(s, z)
        + g_N(\log N) + g_D(\log D),

with Gaussian processes :math:`u` (level) and :math:`v_j` (slopes in log LR, batch, warm-up and
schedule shape) over scales, sharing one length-scale and a part that every (N, tokens) cell has
for itself, and one local correction :math:`f` over scales and settings together, larger towards
the edge of divergence, where a smooth law misses most.  With covariates it is multiplied by
:math:`e^{m}`, too, m the largest :math:`|z|` among covariates and settings other than the LR: what
an extreme setting does differs more from scale to scale, and between optimizers, than what a usual
one does.  Beyond `MOST_UNUSUAL` it goes on in proportion to m.  (By the log density at
the posterior mode on four training folds of Marin's runs, normal noise, without that limit: 55
nats better in sum than no growth, 35 better than :math:`1 + \sum z^2`.)
Candidates of one cell share :math:`u`,
so a doubtful level does not blur their ranking.  The drifts :math:`g_N` and :math:`g_D` of
`bayes_optlaws.model.drift` are what never stops growing with distance.  (Own choice; the paper
has no such term.)

The processes over scales are carried by inducing points (the cells themselves while they are
few), the local correction by the leading eigenfunctions of its kernel, so that the runs enter
through a Gram matrix whose size does not depend on their number.
Budgets are rounded to whole steps: scales that differ by no more than `SAME_SCALE` are one cell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.cluster.vq import kmeans2
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from bayes_optlaws.model.covariates import Covariates
from bayes_optlaws.model.drift import Drift
from bayes_optlaws.schedules import integrals

MAX_CELLS = 20
"""Inducing points over scales; with no more (N, tokens) cells than this the form is exact."""

SAME_SCALE = 0.02
"""Scales that differ by no more than this in log N and in log tokens are the same cell."""

LOCAL_SHARE, MAX_LOCAL = 0.999, 90
"""Eigenfunctions of the local correction that the runs inform: this share of its variance over
the table, by at most this many (twice with covariates); the rest is drawn from its prior."""

LOCAL_POINTS = 400
"""Points from which the eigenfunctions are learned."""

LOCAL_SCALE_LENGTHS = np.array([1.25, 3.0])
"""Length-scales of the local correction over scales, in nats of log N and of log tokens.

With the next one near the best of a coarse grid by the marginal likelihood of the pocket grid and
of Step Law, whole and without their largest scales: (1, 3) and (1.5, 3) are about as good."""

LOCAL_SETTING_LENGTH = 2.0
"""Length-scale of the local correction over settings, in their sds."""

MOST_UNUSUAL = 3.0
"""Sds from the mean up to which the local correction grows exponentially: a number that few runs
vary has a small sd, and must not put those few out of reach."""

INTERPOLATION_LENGTH = 1.0
"""Length-scale of the fixed interpolation from inducing points to runs."""

SETTINGS = ("lr", "batch", "warmup", "cooldown", "shape", "floor")
"""Coordinates of a run's settings, see `settings`."""

_VARIES = {"lr": 0.02, "batch": 0.02, "warmup": 0.3, "cooldown": 0.02, "shape": 0.02, "floor": 0.1}
_UNIT = {"lr": 1.0, "batch": 2.0, "warmup": 3.0, "cooldown": 0.5, "shape": 0.7, "floor": 0.35}
# the sd of a setting that few runs vary is small, and must not put those few out of reach
_LEAST_SD = _UNIT | {"lr": 0.5, "batch": 0.5, "warmup": 0.5}


def scales(table: pd.DataFrame) -> np.ndarray:
    """Scale coordinates (log N, log tokens) in nats, shape (n, 2)."""
    return np.log(table[["n_params", "tokens"]].to_numpy(float))


def settings(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Setting coordinates of every run.

    Parameters
    ----------
    table : DataFrame
        Validated run or candidate table.

    Returns
    -------
    dict of str to array, shape (n,)
        ``lr`` log peak LR; ``batch`` log batch tokens; ``warmup`` log of the warm-up steps;
        ``cooldown`` share of the time after warm-up spent cooling down (1 for linear and cosine,
        0 for constant); ``shape`` log of the cooldown's squared-slope integral over
        that of a straight line (0 for straight, 0.21 for cosine); ``floor`` final LR over peak.
        Rows with schedule ``array`` have those of the named family of the same integrals.
    """
    steps = table["steps"].to_numpy(float)
    warm = np.maximum(table["warmup_steps"].to_numpy(float), 1.0)
    peak = table["peak_lr"].to_numpy(float)
    cool_time = np.maximum(steps - table["cooldown_start_step"].to_numpy(float), 0.0)
    drop = table["plateau_lr"].to_numpy(float) - table["min_lr"].to_numpy(float)
    constant = (table["schedule"] == "constant").to_numpy()
    cool_time[constant] = 0.0
    straight = drop**2 / np.maximum(cool_time, 1e-12)
    escape = integrals(table).escape_cooldown
    flat = (cool_time <= 0) | (drop <= 0) | (escape <= 0)
    shape = np.log(np.where(flat, 1.0, escape) / np.where(flat, 1.0, straight))
    final = np.where(constant, peak, table["min_lr"].to_numpy(float))
    share = cool_time / np.maximum(steps - warm, 1.0)
    given = (table["schedule"] == "array").to_numpy()
    if given.any():
        share[given], shape[given] = _by_integrals(table[given])
    return {
        "lr": np.log(peak),
        "batch": np.log(table["batch_tokens"].to_numpy(float)),
        "warmup": np.log(warm),
        "cooldown": share,
        "shape": shape,
        "floor": final / peak,
    }


CURVED, STEEPEST = 0.8, 1.5
"""Area times slope integral of a cool-down (1/2 for a straight line, 0.62 for a cosine) from which
its area is taken for that of one minus square root; greatest `shape` of an array, whose jumps would
have an unbounded one."""


def _by_integrals(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Share and shape of the cool-down of rows that are given by their integrals.

    The area below the peak that is missing after the warm-up gives the length of the cool-down,
    were it straight (or a cosine, or one minus square root: told by the slope integral); so a
    curve has the coordinates of its named family. (Own choice.)
    """
    start = np.maximum(table["warmup_steps"].to_numpy(float), 1.0)
    time = np.maximum(table["steps"].to_numpy(float) - start, 1.0)
    peak, final = table["peak_lr"].to_numpy(float), table["min_lr"].to_numpy(float)
    drop = peak - final
    area = table["conv_cooldown"].to_numpy(float)
    # what lies between the end of the warm-up and the split was counted as warm-up
    split = np.maximum(table["decay_end_step"].to_numpy(float) - start, 0.0)
    missing = np.maximum(peak * (time - split) - area, 0.0)
    escape = table["escape_cooldown"].to_numpy(float)
    flat = (drop <= 1e-9 * peak) | (missing <= 0) | (escape <= 0)
    drop = np.where(flat, 1.0, drop)
    length, slope = missing / drop, escape / drop**2
    length = length / np.where(length * slope < CURVED, 0.5, 2.0 / 3.0)
    length = np.minimum(length, time)
    shape = np.log(np.where(flat, 1.0, slope * length))
    return np.where(flat, 0.0, length / time), np.where(flat, 0.0, np.clip(shape, -1, STEEPEST))


def squared_exponential(x: np.ndarray, y: np.ndarray, length: float) -> np.ndarray:
    """Squared-exponential correlation between the rows of x and y."""
    return np.exp(-0.5 / length**2 * cdist(x, y, "sqeuclidean"))


def matern52(x: np.ndarray, y: np.ndarray, length: float) -> np.ndarray:
    """Matern-5/2 correlation between the rows of x and y."""
    return matern52_at(cdist(x, y) / length)


def matern52_at(distance: np.ndarray) -> np.ndarray:
    """Matern-5/2 correlation at a distance in lengths."""
    r = np.sqrt(5.0) * distance
    return (1.0 + r + r**2 / 3.0) * np.exp(-r)


def local_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of the local correction, apart from its growth: scales, then settings."""
    s = LOCAL_SCALE_LENGTHS
    over_scales = squared_exponential(a[:, :2] / s, b[:, :2] / s, 1.0)
    return over_scales * matern52(a[:, 2:], b[:, 2:], LOCAL_SETTING_LENGTH)


def _leading(points: np.ndarray, limit: int) -> np.ndarray:
    """Leading eigenvectors of the local correlation at points, over the roots of their values."""
    value, vector = np.linalg.eigh(local_correlation(points, points))
    value, vector = value[::-1], vector[:, ::-1]
    n = min(np.searchsorted(np.cumsum(value), LOCAL_SHARE * value.sum()) + 1, limit)
    return vector[:, :n] / np.sqrt(value[:n])


def _cosines(points: np.ndarray, frequency: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """Random Fourier features at points, shape (n_points, n_features)."""
    return np.sqrt(2.0 / phase.size) * np.cos(points @ frequency + phase)


_AT_ONCE = 20_000
_NO_LOCAL = (np.zeros((0, 2)), np.zeros((0, 0)))


def inducing_points(points: np.ndarray, limit: int) -> np.ndarray:
    """All distinct rows while there are at most ``limit``, else k-means centres of them."""
    distinct = np.unique(np.round(points, 9), axis=0)
    if len(distinct) <= limit:
        return distinct
    if len(distinct) > 5000:
        rng = np.random.default_rng(0)
        distinct = distinct[rng.choice(len(distinct), 5000, replace=False)]
    centres, label = kmeans2(distinct, limit, minit="++", seed=0, iter=20)
    return centres[np.unique(label)]


def merge_scales(points: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Put one scale in place of all those that are the same: a known one, else their centre.

    Parameters
    ----------
    points : array, shape (n, 2)
        Scale coordinates in nats.
    known : array, shape (n_known, 2)
        Scales that keep their place.

    Returns
    -------
    array, shape (n, 2)

    Examples
    --------
    >>> merge_scales(np.array([[0.0, 1.0], [0.0, 1.01], [0.0, 2.0]]), np.array([[0.0, 1.99]]))
    array([[0.   , 1.005],
           [0.   , 1.005],
           [0.   , 1.99 ]])
    """
    distinct, inverse = np.unique(points, axis=0, return_inverse=True)
    merged = distinct.copy()
    new = np.ones(len(distinct), dtype=bool)
    if len(known):
        distance, nearest = cKDTree(known).query(distinct, p=np.inf)
        new = distance > SAME_SCALE
        merged[~new] = known[nearest[~new]]
    for size in _near(distinct[:, 0], np.flatnonzero(new)):
        for cell in _near(distinct[:, 1], size):
            merged[cell] = 0.5 * (distinct[cell].min(axis=0) + distinct[cell].max(axis=0))
    return merged[inverse.ravel()]


def _near(x: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    """Split rows into groups within which x differs by at most `SAME_SCALE`."""
    rows = rows[np.argsort(x[rows], kind="stable")]
    groups, start = [], 0
    while start < len(rows):
        end = np.searchsorted(x[rows], x[rows[start]] + SAME_SCALE, side="right")
        groups.append(rows[start:end])
        start = end
    return groups


def interpolation(points: np.ndarray, inducing: np.ndarray) -> np.ndarray:
    """Fixed weights that carry fields at inducing points to other points, shape (n, m)."""
    gram = squared_exponential(inducing, inducing, INTERPOLATION_LENGTH)
    gram[np.diag_indices_from(gram)] += 1e-8
    distinct, inverse = np.unique(np.round(points, 9), axis=0, return_inverse=True)
    weights = np.linalg.solve(gram, squared_exponential(inducing, distinct, INTERPOLATION_LENGTH)).T
    exact = np.max(np.abs(distinct[:, None, :] - inducing[None, :, :]), axis=2) < 1e-8
    rows = exact.any(axis=1)
    weights[rows] = exact[rows]
    return weights[inverse.ravel()]


@dataclass(frozen=True)
class Discrepancy:
    """Coordinates, inducing points and basis of the discrepancy, learned from a run table.

    Parameters
    ----------
    centre : array, shape (2,)
        Mean of the scale coordinates, which are measured from it in nats.
    seen : array, shape (n_seen, 2)
        Distinct scales of the table.
    cells : array, shape (n_cells, 2)
        Inducing points over scales.
    varying : tuple of str
        Setting coordinates that vary in the table.
    location, unit : dict
        Mean and sd of each setting coordinate; a natural unit where it varies less or not at all.
    points : array, shape (n_points, 2 + n_varying)
        Where the local correction's kernel was decomposed: scale, standardised settings, then
        coordinates of covariates.
    directions : array, shape (n_points, n_local)
        Its eigenvectors there, over the roots of the eigenvalues.
    drifts : tuple of Drift
        Over log N and over log tokens.
    covariates : Covariates
        Further coordinates of the local correction.
    usual : float
        Mean of `unusual` over the table.
    """

    centre: np.ndarray
    seen: np.ndarray
    cells: np.ndarray
    varying: tuple[str, ...]
    location: dict[str, float]
    unit: dict[str, float]
    points: np.ndarray
    directions: np.ndarray
    drifts: tuple[Drift, ...]
    covariates: Covariates = Covariates()
    usual: float = 0.0

    @classmethod
    def fit(
        cls,
        table: pd.DataFrame,
        *,
        max_cells: int = MAX_CELLS,
        covariates: Covariates = Covariates(),  # noqa: B008 (frozen)
    ) -> Discrepancy:
        """Learn coordinates and inducing points from a validated run table."""
        s = scales(table)
        centre = s.mean(axis=0)
        z = settings(table)
        varying = tuple(k for k in SETTINGS if np.std(z[k]) > _VARIES[k])
        location = {k: float(np.mean(z[k])) for k in SETTINGS}
        unit = {
            k: max(float(np.std(z[k])), _LEAST_SD[k]) if k in varying else _UNIT[k]
            for k in SETTINGS
        }
        seen = np.unique(merge_scales(s - centre, np.zeros((0, 2))), axis=0)
        cells = inducing_points(seen, max_cells)
        edges = zip(seen.min(axis=0), seen.max(axis=0), strict=True)
        drifts = tuple(Drift(min(low, 0.0), max(high, 0.0)) for low, high in edges)
        found = cls(centre, seen, cells, varying, location, unit, *_NO_LOCAL, drifts, covariates)
        if not (varying or covariates):
            return found
        every = found.local_points(table)
        points = inducing_points(every, LOCAL_POINTS)
        limit = MAX_LOCAL * (2 if covariates.beside_groups else 1)
        usual = float(found.unusual(every).mean())
        return replace(found, points=points, directions=_leading(points, limit), usual=usual)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields over scales: the level, then the slopes."""
        return ("level", *self.varying)

    @property
    def n_local(self) -> int:
        """Number of local functions."""
        return self.directions.shape[1]

    @property
    def n_columns(self) -> int:
        """Number of discrepancy columns."""
        return len(self.fields) * len(self.cells) + self.n_local + sum(self.n_drift)

    @property
    def n_drift(self) -> tuple[int, ...]:
        """Number of columns of each drift."""
        return tuple(d.n_columns for d in self.drifts)

    def drift_columns(self, scale: np.ndarray) -> np.ndarray:
        """Columns of both drifts at standard scales, shape (n, sum(n_drift))."""
        return np.hstack([d.basis(x) for d, x in zip(self.drifts, scale.T, strict=True)])

    def standard_scales(self, table: pd.DataFrame) -> np.ndarray:
        """Scale coordinates from the centre, one for all runs of a cell, shape (n, 2)."""
        return merge_scales(scales(table) - self.centre, self.seen)

    def standard_settings(self, table: pd.DataFrame, names: tuple[str, ...]) -> np.ndarray:
        """Standardised setting coordinates, shape (n, len(names))."""
        z = settings(table)
        columns = [(z[k] - self.location[k]) / self.unit[k] for k in names]
        return np.column_stack(columns) if columns else np.zeros((len(table), 0))

    def slopes(self, table: pd.DataFrame) -> np.ndarray:
        """Multiplier of each field, shape (n, n_fields): one, then the slope coordinates."""
        return np.hstack([np.ones((len(table), 1)), self.standard_settings(table, self.varying)])

    def local_points(self, table: pd.DataFrame) -> np.ndarray:
        """Coordinates of the local correction, shape (n, 2 + n_varying + n_covariates)."""
        z = self.standard_settings(table, self.varying)
        if self.covariates:
            z = np.hstack([z, self.covariates.coordinates(table)])
        return np.hstack([self.standard_scales(table), z])

    @property
    def numbers(self) -> tuple[int, ...]:
        """Coordinates that count for `unusual`; none for a law without covariates."""
        if not self.covariates.beside_groups:
            return ()
        own = [2 + i for i, name in enumerate(self.varying) if name != "lr"]
        return (*own, *(2 + len(self.varying) + i for i in self.covariates.numbers))

    def unusual(self, points: np.ndarray) -> np.ndarray:
        """Largest absolute standardised setting or covariate but the LR, shape (n,)."""
        return np.abs(points[:, self.numbers]).max(axis=1, initial=0.0)

    def local_growth(self, points: np.ndarray) -> np.ndarray:
        """Factor of the local correction: of the log LR, with covariates of `unusual`, (n,)."""
        far = self.unusual(points)
        inside = np.minimum(far, MOST_UNUSUAL)
        out = np.exp(inside - self.usual) * np.maximum(far / MOST_UNUSUAL, 1.0)
        if "lr" in self.varying:
            out *= np.exp(points[:, 2 + self.varying.index("lr")])
        return out

    def local_functions(self, points: np.ndarray) -> np.ndarray:
        """Local functions, each with a coefficient of unit sd, shape (n, n_local)."""
        distinct, inverse = np.unique(points, axis=0, return_inverse=True)
        values = np.empty((len(distinct), self.n_local))
        for start in range(0, len(distinct), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            values[some] = local_correlation(distinct[some], self.points) @ self.directions
        values *= self.local_growth(distinct)[:, None]
        return values[inverse.ravel()]

    def local_missed(
        self, a: np.ndarray, phi_a: np.ndarray, b: np.ndarray, phi_b: np.ndarray
    ) -> np.ndarray:
        """Covariance of what the local functions leave out, per unit sd, shape (n_a, n_b).

        ``phi_a`` and ``phi_b`` are the `local_functions` at the points a and b.
        """
        growth = np.outer(self.local_growth(a), self.local_growth(b))
        return growth * local_correlation(a, b) - phi_a @ phi_b.T

    def local_missed_variance(
        self, points: np.ndarray, phi: np.ndarray | None = None
    ) -> np.ndarray:
        """Variances of what the local functions leave out, per unit sd, shape (n,).

        ``phi`` are the `local_functions` at the points, where they are at hand.
        """
        phi = self.local_functions(points) if phi is None else phi
        return np.maximum(self.local_growth(points) ** 2 - np.sum(phi**2, axis=1), 0.0)

    def local_frequencies(
        self, n: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Random features of the local correction: frequencies, phases, their inner products.

        Cosines of normal frequencies over scales and Student-t ones (5 degrees of freedom) over
        settings have its correlation on average (Rahimi and Recht 2007, random Fourier features).
        The last array, (n_local, n), is what the local functions carry of each feature.
        """
        over_scales = rng.standard_normal((2, n)) / LOCAL_SCALE_LENGTHS[:, None]
        heavy = np.sqrt(5.0 / rng.chisquare(5.0, size=n)) / LOCAL_SETTING_LENGTH
        over_settings = rng.standard_normal((self.points.shape[1] - 2, n)) * heavy
        frequency = np.vstack([over_scales, over_settings])
        phase = rng.uniform(0.0, 2 * np.pi, n)
        return frequency, phase, self.directions.T @ _cosines(self.points, frequency, phase)

    def local_missed_features(
        self,
        points: np.ndarray,
        phi: np.ndarray,
        features: tuple[np.ndarray, np.ndarray, np.ndarray],
    ) -> np.ndarray:
        """What the local functions leave out, as functions with coefficients of unit sd, (n, m).

        Their covariance is that of `local_missed`, up to the error of random features; but any
        number of points, also in parts, sees the same functions.  ``phi`` are the
        `local_functions` at the points, ``features`` come from `local_frequencies`.
        """
        frequency, phase, carried = features
        growth = self.local_growth(points)[:, None]
        return growth * _cosines(points, frequency, phase) - phi @ carried

    def basis(self, table: pd.DataFrame) -> np.ndarray:
        """Columns of the runs, shape (n, n_columns): fields by cell, local, drifts."""
        over_cells = interpolation(self.standard_scales(table), self.cells)
        slopes = self.slopes(table)
        parts = [slopes[:, [j]] * over_cells for j in range(slopes.shape[1])]
        if self.n_local:
            parts.append(self.local_functions(self.local_points(table)))
        parts.append(self.drift_columns(self.standard_scales(table)))
        return np.hstack(parts)

    def unseen(self, table: pd.DataFrame) -> np.ndarray:
        """Coordinates that did not vary in training, in their natural units from it, (n, k)."""
        return self.standard_settings(table, tuple(k for k in SETTINGS if k not in self.varying))

    def distance(self, table: pd.DataFrame) -> np.ndarray:
        """Distance in nats from each run's scale to the nearest scale of the table, shape (n,)."""
        return cKDTree(self.seen).query(self.standard_scales(table))[0]
