"""Covariance of expected log losses over all posterior draws, for designs of many runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from bayes_optlaws.decision.design_joint import Joint


class PooledCovariance:
    """Covariance of the rows' expected log losses over all draws, column by column.

    Within draws and between them; double precision, as it may be conditioned on many rows when
    the law knows next to nothing.

    Parameters
    ----------
    joint : Joint
    table : DataFrame
        Validated rows.

    Attributes
    ----------
    diagonal : array, shape (n,)
        Variances.
    """

    def __init__(self, joint: Joint, table: pd.DataFrame) -> None:
        self.joint, self.rows = joint, joint.rows(table)
        rows, n_scales = self.rows, len(self.rows.scale)
        parts, mean = [], []
        self.rest = np.zeros((rows.slopes.shape[1], n_scales, n_scales))
        self.over = np.zeros((n_scales, n_scales))
        for s in range(joint.n):
            phi, g, known = joint.features(s, rows, exact=True)
            mean.append(known + phi @ joint.coefficient[s])
            parts.append(phi @ joint.inverse_factor[s].T)
            if joint.encoding.transfer:
                alone = joint.correlation(s, rows.scale, rows.scale) - g @ g.T
                self.rest += (joint.field_sd[s] ** 2)[:, None, None] * alone / joint.n
                self.over += joint.scale_correlation(s, rows.scale, rows.scale) / joint.n
        parts.append((mean - np.mean(mean, axis=0)).T)
        self.features = np.hstack(parts) / np.sqrt(joint.n)
        self.local = np.mean(joint.local_sd[:, 0] ** 2) if joint.with_local else 0.0
        self.drift = np.mean(joint.drift_sd**2, axis=0)
        missed, unseen = joint.own_covariance(rows)
        self.diagonal = np.einsum("ij,ij->i", self.features, self.features)
        self.diagonal += self.local * missed + unseen
        for square, drifted in zip(self.drift, joint.new_drift(rows), strict=False):
            self.diagonal += square * drifted
        for field, slope in zip(self.rest, rows.slopes.T, strict=True):
            self.diagonal += field[rows.which, rows.which] * slope**2

    def columns(self, index: np.ndarray) -> np.ndarray:
        """Covariances of all rows with those of ``index``, shape (n, len(index))."""
        rows = self.rows
        some = replace(
            rows,
            points=rows.points[index],
            local=rows.local[index],
            unseen=rows.unseen[index],
            beyond=rows.beyond[index],
            left=rows.left[index],
        )
        missed, unseen = self.joint.own_covariance(rows, some)
        over = self.over[rows.which[:, None], rows.which[index]]
        out = self.features @ self.features[index].T + self.local * missed + over * unseen
        for square, drifted in zip(self.drift, self.joint.new_drift(rows, some), strict=False):
            out += square * drifted
        for field, slope in zip(self.rest, rows.slopes.T, strict=True):
            out += slope[:, None] * field[rows.which[:, None], rows.which[index]] * slope[index]
        return out
