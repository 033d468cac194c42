r"""How the law may be wrong: a discrepancy that grows with distance from the scales seen.

A law with independent noise is exact about its own coefficients and silent about its own form.
Fitted at small scale and read at a larger one, its intervals are far too narrow.  This module
adds, to the log loss of run r at scale :math:`s = (\log N, \log D)` and settings :math:`z`,

.. math::

    \delta(r) = u(s) + \sum_j z_j\, v_j(s) + f(z),

with Gaussian processes :math:`u` (level) and :math:`v_j` (slopes in log LR, its exponential,
batch, warm-up, their products with log LR, and schedule shape) over scales, sharing one
length-scale and a part that every (N, tokens) cell has for itself, and one correction :math:`f`
over settings, shared by all scales.  Candidates of one cell share :math:`u`, so a
doubtful level does not blur their ranking.  (Own choice; the paper has no such term.)

Every process is carried by a fixed set of inducing points (the cells themselves while they are
few), so that the runs enter through a Gram matrix whose size does not depend on their number.
Budgets are rounded to whole steps: scales that differ by no more than `SAME_SCALE` are one cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.cluster.vq import kmeans2
from scipy.spatial import cKDTree

from bayes_optlaws.schedules import integrals

MAX_CELLS = 20
"""Inducing points over scales; with no more (N, tokens) cells than this the form is exact."""

SAME_SCALE = 0.02
"""Scales that differ by no more than this in log N and in log tokens are the same cell."""

MAX_SHARED = 45
"""Inducing points of the correction over settings."""

INTERPOLATION_LENGTH = 1.0
"""Length-scale of the fixed interpolation from inducing points to runs."""

HIGH_LR = "high lr"
"""Slope that acts near the edge of divergence only: the exponential of standardised log LR."""

_EXP_SD = 2.16  # sd of exp of a standard normal

PRODUCTS = {"lr x batch": ("lr", "batch"), "lr x warmup": ("lr", "warmup")}
"""Slopes in products: where the best LR sits depends on batch and warm-up."""

SETTINGS = ("lr", "batch", "warmup", "cooldown", "shape", "floor")
"""Coordinates of a run's settings, see `settings`."""

_VARIES = {"lr": 0.02, "batch": 0.02, "warmup": 0.3, "cooldown": 0.02, "shape": 0.02, "floor": 0.1}
_UNIT = {"lr": 1.0, "batch": 2.0, "warmup": 3.0, "cooldown": 0.5, "shape": 0.7, "floor": 0.35}


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
    return {
        "lr": np.log(peak),
        "batch": np.log(table["batch_tokens"].to_numpy(float)),
        "warmup": np.log(warm),
        "cooldown": cool_time / np.maximum(steps - warm, 1.0),
        "shape": shape,
        "floor": final / peak,
    }


def squared_exponential(x: np.ndarray, y: np.ndarray, length: float | np.ndarray) -> np.ndarray:
    """Squared-exponential correlation between the rows of x and y."""
    d = (x[:, None, :] - y[None, :, :]) / length
    return np.exp(-0.5 * np.sum(d**2, axis=-1))


def matern52(x: np.ndarray, y: np.ndarray, length: float | np.ndarray) -> np.ndarray:
    """Matern-5/2 correlation between the rows of x and y."""
    d = (x[:, None, :] - y[None, :, :]) / length
    r = np.sqrt(5.0 * np.sum(d**2, axis=-1))
    return (1.0 + r + r**2 / 3.0) * np.exp(-r)


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


def interpolation(kernel, points: np.ndarray, inducing: np.ndarray) -> np.ndarray:
    """Fixed weights that carry values at inducing points to other points, shape (n, m)."""
    gram = kernel(inducing, inducing, INTERPOLATION_LENGTH)
    gram[np.diag_indices_from(gram)] += 1e-8
    distinct, inverse = np.unique(np.round(points, 9), axis=0, return_inverse=True)
    weights = np.linalg.solve(gram, kernel(inducing, distinct, INTERPOLATION_LENGTH)).T
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
        Mean and sd of each setting coordinate (a natural unit where it does not vary).
    shared : array, shape (n_shared, n_varying)
        Inducing points of the correction over settings, standardised.
    """

    centre: np.ndarray
    seen: np.ndarray
    cells: np.ndarray
    varying: tuple[str, ...]
    location: dict[str, float]
    unit: dict[str, float]
    shared: np.ndarray

    @classmethod
    def fit(cls, table: pd.DataFrame, *, max_cells: int = MAX_CELLS) -> Discrepancy:
        """Learn coordinates and inducing points from a validated run table."""
        s = scales(table)
        centre = s.mean(axis=0)
        z = settings(table)
        varying = tuple(k for k in SETTINGS if np.std(z[k]) > _VARIES[k])
        location = {k: float(np.mean(z[k])) for k in SETTINGS}
        unit = {k: float(np.std(z[k])) if k in varying else _UNIT[k] for k in SETTINGS}
        seen = np.unique(merge_scales(s - centre, np.zeros((0, 2))), axis=0)
        cells = inducing_points(seen, max_cells)
        standard = np.column_stack(
            [(z[k] - location[k]) / unit[k] for k in varying] or [np.zeros((len(table), 0))]
        )
        shared = inducing_points(standard, MAX_SHARED) if varying else np.zeros((0, 0))
        return cls(centre, seen, cells, varying, location, unit, shared)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields over scales: the level, then the slopes."""
        slopes = [x for k in self.varying for x in ((k, HIGH_LR) if k == "lr" else (k,))]
        products = [n for n, pair in PRODUCTS.items() if set(pair) <= set(self.varying)]
        return ("level", *slopes, *products)

    @property
    def n_columns(self) -> int:
        """Number of discrepancy columns."""
        return len(self.fields) * len(self.cells) + len(self.shared)

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
        z = self.standard_settings(table, self.varying)
        value = dict(zip(self.varying, z.T, strict=True))
        value["level"] = np.ones(len(table))
        if "lr" in value:
            value[HIGH_LR] = np.exp(value["lr"]) / _EXP_SD
        for name, (a, b) in PRODUCTS.items():
            if a in value and b in value:
                value[name] = value[a] * value[b]
        return np.column_stack([value[name] for name in self.fields])

    def basis(self, table: pd.DataFrame) -> np.ndarray:
        """Columns of the training runs, shape (n, n_columns): fields by cell, then shared."""
        over_cells = interpolation(squared_exponential, self.standard_scales(table), self.cells)
        slopes = self.slopes(table)
        parts = [slopes[:, [j]] * over_cells for j in range(slopes.shape[1])]
        if len(self.shared):
            z = self.standard_settings(table, self.varying)
            parts.append(interpolation(matern52, z, self.shared))
        return np.hstack(parts)

    def unseen(self, table: pd.DataFrame) -> np.ndarray:
        """Coordinates that did not vary in training, in their natural units from it, (n, k)."""
        return self.standard_settings(table, tuple(k for k in SETTINGS if k not in self.varying))

    def distance(self, table: pd.DataFrame) -> np.ndarray:
        """Distance in nats from each run's scale to the nearest scale of the table, shape (n,)."""
        return cKDTree(self.seen).query(self.standard_scales(table))[0]
