r"""How a law's slope over scales may drift: an uncertainty that grows with every decade.

Between the smallest and the largest scale fitted, runs say how the law bends; beyond them nothing
does.  To the log loss is added, for log model size and for log tokens each, an integrated Wiener
process :math:`g` that is zero, with zero slope, at the table's centre,

.. math::

    g''(x) = q\,\dot W(x), \qquad g(0) = g'(0) = 0,

so that the slope of the log loss changes by :math:`q` (sd) over one nat of scale.  Seen from the
edge of the table, at a distance of h nats, its sd is :math:`q\,h^{3/2}/\sqrt 3`, beside the
uncertain slope at the edge times h: it never stops growing.  Inside the table the process is
carried by a few segments of constant curvature, exact at their ends; beyond, it is Markov in value
and slope, and drawn exactly.  (Own choice; Wahba 1978 has the process behind the cubic spline.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_SEGMENTS = 5
"""Segments of constant curvature on either side of the table's centre."""

SEGMENT = 0.5
"""Least length of a segment, nats."""


@dataclass(frozen=True)
class Drift:
    """Integrated Wiener process over one scale coordinate, measured from the table's centre.

    Parameters
    ----------
    lower, upper : float
        Edges of the table, nats: not above and not below zero.

    Examples
    --------
    >>> drift = Drift(-1.0, 1.5)
    >>> drift.n_columns, drift.beyond(np.array([-2.0, 0.0, 4.0]))
    (5, array([-1. ,  0. ,  2.5]))
    """

    lower: float
    upper: float

    @property
    def sides(self) -> tuple[tuple[float, float, int], ...]:
        """Sign, length and number of segments of each side."""
        out = []
        for sign, edge in ((-1.0, -self.lower), (1.0, self.upper)):
            n = int(np.clip(np.ceil(edge / SEGMENT - 1e-9), 0, MAX_SEGMENTS))
            out.append((sign, edge, n))
        return tuple(out)

    @property
    def n_columns(self) -> int:
        """Number of segments."""
        return sum(n for _, _, n in self.sides)

    def basis(self, x: np.ndarray) -> np.ndarray:
        """Columns whose coefficients are independent with sd q, shape (n, n_columns).

        Beyond the edge they go on with the slope that they have there.
        """
        parts = [np.zeros((len(x), 0))]
        for sign, edge, n in self.sides:
            length = edge / max(n, 1)
            inside = sign * x[:, None] - np.arange(n) * length
            within = np.clip(inside, 0.0, length)
            columns = within**2 / (2 * length) + np.maximum(inside - length, 0.0)
            parts.append(columns * np.sqrt(length))
        return np.hstack(parts)

    def beyond(self, x: np.ndarray) -> np.ndarray:
        """Distance beyond the edges: negative below, positive above, zero inside, shape (n,)."""
        return np.minimum(x - self.lower, 0.0) + np.maximum(x - self.upper, 0.0)


def beyond_covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Covariance, per unit of q squared, of what is new beyond the edges, shape (n_a, n_b).

    Parameters
    ----------
    a, b : arrays
        Distances from `Drift.beyond`.
    """
    low = np.minimum(np.abs(a)[:, None], np.abs(b))
    high = np.maximum(np.abs(a)[:, None], np.abs(b))
    return np.where(np.sign(a)[:, None] == np.sign(b), low**2 * (3 * high - low) / 6, 0.0)


def draw_beyond(h: np.ndarray, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """Joint draws, of unit q, of what is new beyond the edges, shape (n_draws, n).

    One walk outwards on each side: value and slope at the next distance are normal given those
    at the last one, so that any number of points comes from one function at linear cost.
    """
    distinct, which = np.unique(np.abs(h) * np.sign(h), return_inverse=True)
    out = np.zeros((n_draws, distinct.size))
    for side in (-1.0, 1.0):
        rows = np.flatnonzero(np.sign(distinct) == side)
        rows = rows[np.argsort(np.abs(distinct[rows]))]
        value, slope, at = np.zeros(n_draws), np.zeros(n_draws), 0.0
        for i in rows:
            step = abs(distinct[i]) - at
            first, second = rng.standard_normal((2, n_draws))
            value = value + slope * step + step**1.5 * (first / 2 + second / np.sqrt(12))
            slope = slope + np.sqrt(step) * first
            out[:, i], at = value, abs(distinct[i])
    return out[:, which.ravel()]
