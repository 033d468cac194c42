"""Joint posterior of the expected log loss of pool runs and candidates, draw by draw.

Given one draw of hyper-parameters and exponents everything is Gaussian and linear in whitened
coefficients v ~ N(0, I): those of the law's columns, of the fields over scales and of the
local functions and drifts.  Their posterior is N(B^-1 b, B^-1) with B = I + T' P T in closed
form.  What a run shares with another beyond these coefficients (the same scale not seen yet, what
the local functions leave out, what is new of a drift beyond the table, an effect of a setting
that never varied) is a covariance of its own, the one that `Predictor` draws from.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.linalg import block_diag

from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.draws import Draws
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.kernels.hyper import hyper_inputs
from bayes_optlaws.model.drift import beyond_covariance

WORKERS = 2

REACH_NATS = 2.0
"""Expected log losses are taken to lie within this of the runs' mean, for the loss scale."""


@dataclass(frozen=True)
class Rows:
    """What the moments need of a table: standardised columns, coordinates, noise variance."""

    x: np.ndarray
    scale: np.ndarray
    which: np.ndarray
    slopes: np.ndarray
    points: np.ndarray
    local: np.ndarray
    unseen: np.ndarray
    beyond: np.ndarray
    noise: np.ndarray

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.x)


@dataclass(frozen=True)
class Moments:
    """Means and covariance of some rows for every draw.

    Parameters
    ----------
    mean, noise : arrays, shape (n_draws, n)
        Expected log loss; noise variance of one run.
    cov : array, shape (n_draws, n, n)
        Covariance of the expected log losses.
    """

    mean: np.ndarray
    noise: np.ndarray
    cov: np.ndarray


@dataclass(frozen=True)
class Targets(Moments):
    """Moments of rows, with the whitened features that give their covariance with others.

    Parameters
    ----------
    mean, noise, cov
        As of `Moments`.
    rows : Rows
    feature : array, shape (n_draws, n, n_whitened)
        Features times the inverse posterior factor: inner products are covariances.
    over_scale : array, shape (n_draws, n, n_cells)
        Whitened correlation of each row's scale with the cells.
    """

    rows: Rows
    feature: np.ndarray
    over_scale: np.ndarray


@dataclass(frozen=True)
class Block:
    """Moments of some pool rows: arrays of shape (n, n_draws), ``cov`` (n, n_draws, n_targets)."""

    mean: np.ndarray
    var: np.ndarray
    noise: np.ndarray
    cov: np.ndarray


class Joint:
    """Posterior means and covariances of expected log loss, for each draw.

    Parameters
    ----------
    law : FittedLaw
    draws : Draws
        Posterior draws in use; only their hyper-parameters and exponents are.
    """

    def __init__(self, law: FittedLaw, draws: Draws) -> None:
        self.law, self.encoding, self.draws = law, law.encoding, draws
        data = law.encoding.data
        q = data.column_block.size
        inputs = HyperSpace(data, law.priors).kernel_inputs(draws.hyper)
        self.length, self.field_sd, self.local_sd = inputs[3:6]
        self.drift_sd = draws.hyper.get("drift_sd", np.zeros((draws.n, 0)))
        args = data.kernel_args(law.priors)[:4]
        stats = data.statistics
        self.selected, self.column_sd = [], []
        self.scale_inverse = []
        self.inverse_factor, self.coefficient = [], []
        for s in range(draws.n):
            w, d, scale, _ = hyper_inputs(*(v[s] for v in inputs), *args)
            selected = data.tree.selected(draws.combination[s])
            index = np.concatenate([selected, np.arange(q, stats.xy.shape[1])])
            column_sd = 1.0 / np.sqrt(d[selected])
            transform = block_diag(
                np.diag(column_sd),
                *[a * scale for a in self.field_sd[s]],
                np.diag(self.local_sd[s]),
            )[: index.size, : index.size]
            precision = np.einsum("c,cij->ij", w, stats.gram[:, index[:, None], index])
            whitened = transform.T @ precision @ transform
            factor = np.linalg.cholesky(whitened + np.eye(index.size))
            inverse = np.linalg.inv(factor)
            self.selected.append(selected)
            self.column_sd.append(column_sd)
            self.scale_inverse.append(np.linalg.inv(scale) if scale.size else scale)
            self.inverse_factor.append(inverse)
            self.coefficient.append(
                inverse.T @ (inverse @ (transform.T @ (w @ stats.xy[:, index])))
            )
        self._single = [
            (
                np.ascontiguousarray(i.T, dtype=np.float32),
                c.astype(np.float32),
                sd.astype(np.float32),
            )
            for i, c, sd in zip(self.inverse_factor, self.coefficient, self.column_sd, strict=True)
        ]

    @property
    def n(self) -> int:
        """Number of draws."""
        return self.draws.n

    def linearised(self, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
        """Expected loss of each row, nats, and its mean log loss, about which losses are linear."""
        # a law that knows next to nothing may extrapolate without bound, a loss does not
        centre = self.encoding.centre
        log_loss = np.clip(moments.mean, centre - REACH_NATS, centre + REACH_NATS)
        variance = np.diagonal(moments.cov, axis1=1, axis2=2)
        loss = np.exp(log_loss + np.minimum(0.5 * variance, REACH_NATS)).mean(axis=0)
        return loss, moments.mean.mean(axis=0)

    @property
    def with_local(self) -> bool:
        """Whether the discrepancy has local functions."""
        return self.encoding.transfer and self.encoding.discrepancy.n_local > 0

    def rows(self, table: pd.DataFrame, dtype: type[np.floating] = np.float64) -> Rows:
        """Everything of a validated table that does not depend on the draw."""
        e, n = self.encoding, len(table)
        x = e.standardizer(e.features.dictionary(table)).astype(dtype)
        none = np.zeros((n, 0), dtype)
        scale, which, slopes = np.zeros((1, 2)), np.zeros(n, dtype=int), none
        points, local, unseen, beyond = none, none, none, none
        noise = self.law.predictor(self.draws).noise_sd(table) ** 2
        effects = e.effects.columns(table)
        if e.transfer:
            d = e.discrepancy
            scale, which = np.unique(
                np.round(d.standard_scales(table), 9), axis=0, return_inverse=True
            )
            slopes = d.slopes(table).astype(dtype)
            unseen = d.unseen(table).astype(dtype)
            standard = d.standard_scales(table)
            local = d.drift_columns(standard)
            edges = zip(d.drifts, standard.T, strict=True)
            beyond = np.column_stack([drift.beyond(x) for drift, x in edges])
            if d.n_local:
                points = d.local_points(table)
                local = np.hstack([d.local_functions(points), local])
        local = np.hstack([local, effects]).astype(dtype)
        return Rows(
            x, scale.astype(dtype), which.ravel(), slopes, points, local, unseen, beyond, noise
        )

    def features(self, s: int, rows: Rows, exact: bool) -> tuple[np.ndarray, np.ndarray]:
        """Whitened features of the rows (n, n_whitened), and scale part by distinct scale."""
        sd = self.column_sd[s] if exact else self._single[s][2]
        dtype = rows.x.dtype
        k, f, c, m = (
            sd.size,
            self.field_sd.shape[1],
            self.scale_inverse[s].shape[0],
            rows.local.shape[1],
        )
        out = np.empty((rows.n, k + f * c + m), dtype)
        out[:, :k] = rows.x[:, self.selected[s]] * sd
        over = np.zeros((1, 0), dtype)
        if self.encoding.transfer:
            corr = self.correlation(s, rows.scale, self.encoding.discrepancy.cells.astype(dtype))
            over = corr @ self.scale_inverse[s].T.astype(dtype)
            own = over[rows.which]
            for j in range(f):
                amplitude = rows.slopes[:, j : j + 1] * dtype.type(self.field_sd[s, j])
                np.multiply(own, amplitude, out=out[:, k + j * c : k + (j + 1) * c])
        if m:
            out[:, k + f * c :] = rows.local * self.local_sd[s].astype(dtype)
        return out, over

    def correlation(self, s: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Correlation of a field at two sets of scales, with what a scale has for itself."""
        length, nugget = self.length[s]
        d2 = (a[:, :1] - b[:, 0]) ** 2 + (a[:, 1:] - b[:, 1]) ** 2
        same = d2 < 1e-12
        d2 *= a.dtype.type(-0.5 / length**2)
        corr = np.exp(d2, out=d2)
        corr[same] += a.dtype.type(nugget**2)
        return corr

    def _missed(self, a: Rows, b: Rows | None = None) -> np.ndarray:
        """Covariance that the local functions leave out, per unit sd.

        Of a with b, shape (n_a, n_b); without b, the variances of a.
        """
        d = self.encoding.discrepancy
        mine = a.local[:, : d.n_local]
        if b is None:
            return np.maximum(d.local_growth(a.points) ** 2 - np.sum(mine**2, axis=1), 0.0)
        return d.local_missed(a.points, mine, b.points, b.local[:, : d.n_local])

    @staticmethod
    def new_drift(a: Rows, b: Rows | None = None) -> list[np.ndarray]:
        """Covariance, per unit sd, of what each drift is beyond the table, as `_missed`."""
        if b is None:
            return [np.abs(h) ** 3 / 3 for h in a.beyond.T]
        return [beyond_covariance(g, h) for g, h in zip(a.beyond.T, b.beyond.T, strict=True)]

    def own_covariance(self, a: Rows, b: Rows | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Draw-independent shares of the covariance: missed settings, unseen effects.

        The latter at one scale; `scale_correlation` is their correlation over scales.
        """
        if not self.encoding.transfer:
            return np.zeros(1), np.zeros(1)
        missed = self._missed(a, b) if self.with_local else np.zeros(1)
        right = a.unseen if b is None else b.unseen
        unseen = np.sum(a.unseen**2, axis=1) if b is None else a.unseen @ right.T
        return missed, self.law.priors.unseen_sd**2 * unseen

    def scale_correlation(self, s: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Correlation of what changes over scales with the fields' length, shape (n_a, n_b)."""
        d2 = (a[:, :1] - b[:, 0]) ** 2 + (a[:, 1:] - b[:, 1]) ** 2
        return np.exp(a.dtype.type(-0.5 / self.length[s, 0] ** 2) * d2)

    def targets(self, table: pd.DataFrame) -> Targets:
        """Means and full covariance of a few rows, in double precision."""
        rows = self.rows(table)
        missed, unseen = self.own_covariance(rows, rows)
        feature, over, mean, cov = [], [], [], []
        for s in range(self.n):
            phi, g = self.features(s, rows, exact=True)
            mean.append(self.encoding.centre + phi @ self.coefficient[s])
            a = phi @ self.inverse_factor[s].T
            c = a @ a.T
            if self.encoding.transfer:
                over_rows = self.scale_correlation(s, rows.scale, rows.scale)
                c += unseen * over_rows[rows.which[:, None], rows.which]
                rest = (self.correlation(s, rows.scale, rows.scale) - g @ g.T)[
                    rows.which[:, None], rows.which
                ]
                c += rest * ((rows.slopes * self.field_sd[s] ** 2) @ rows.slopes.T)
                if self.with_local:
                    c += self.local_sd[s, 0] ** 2 * missed
                for sd, drifted in zip(self.drift_sd[s], self.new_drift(rows, rows), strict=True):
                    c += sd**2 * drifted
            feature.append(a)
            over.append(g[rows.which] if self.encoding.transfer else np.zeros((rows.n, 0)))
            cov.append(0.5 * (c + c.T))
        return Targets(
            np.array(mean), rows.noise, np.array(cov), rows, np.array(feature), np.array(over)
        )

    def block(self, table: pd.DataFrame, targets: Targets) -> Block:
        """Means, variances and covariances with the targets of some pool rows.

        Single precision: features are already whitened, so nothing large cancels.
        """
        rows = self.rows(table, np.float32)
        n, t = rows.n, targets.rows.n
        missed_var, unseen_var = self.own_covariance(rows)
        missed, unseen = self.own_covariance(rows, targets.rows)
        missed, unseen = missed.astype(np.float32), unseen.astype(np.float32)
        drift_var = [v.astype(np.float32) for v in self.new_drift(rows)]
        drift_cov = [v.astype(np.float32) for v in self.new_drift(rows, targets.rows)]
        mean = np.empty((n, self.n), np.float32)
        var = np.empty((n, self.n), np.float32)
        cov = np.empty((n, self.n, t), np.float32)
        target_scale, target_which = targets.rows.scale.astype(np.float32), targets.rows.which
        target_slopes = targets.rows.slopes.astype(np.float32)

        def work(part: np.ndarray) -> None:
            for s in part:
                phi, g = self.features(s, rows, exact=False)
                inverse, coefficient = self._single[s][:2]
                mean[:, s] = self.encoding.centre + phi @ coefficient
                a = phi @ inverse
                v = np.einsum("ij,ij->i", a, a) + unseen_var
                c = a @ targets.feature[s].T.astype(np.float32)
                if self.encoding.transfer:
                    over_rows = self.scale_correlation(s, rows.scale, target_scale)
                    c += unseen * over_rows[rows.which[:, None], target_which]
                    amplitude = (self.field_sd[s] ** 2).astype(np.float32)
                    first = np.unique(target_which, return_index=True)[1]
                    near = targets.over_scale[s][first].astype(np.float32)
                    rest = self.correlation(s, rows.scale, target_scale) - g @ near.T
                    prior = np.float32(1.0 + self.length[s, 1] ** 2)
                    alone = np.maximum(prior - np.sum(g * g, axis=1), 0.0)
                    v += alone[rows.which] * (rows.slopes**2 @ amplitude)
                    if np.abs(rest).max() > 1e-5:
                        both = (rows.slopes * amplitude) @ target_slopes.T
                        both *= rest[rows.which[:, None], target_which]
                        c += both
                    if self.with_local:
                        square = np.float32(self.local_sd[s, 0] ** 2)
                        v += square * missed_var
                        c += square * missed
                    for j, sd in enumerate(self.drift_sd[s].astype(np.float32)):
                        v += sd**2 * drift_var[j]
                        c += sd**2 * drift_cov[j]
                var[:, s] = v
                cov[:, s] = c

        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(work, np.array_split(np.arange(self.n), WORKERS)))
        return Block(mean, var, np.ascontiguousarray(rows.noise.T, dtype=np.float32), cov)


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
            phi, g = joint.features(s, rows, exact=True)
            mean.append(phi @ joint.coefficient[s])
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
        )
        missed, unseen = self.joint.own_covariance(rows, some)
        over = self.over[rows.which[:, None], rows.which[index]]
        out = self.features @ self.features[index].T + self.local * missed + over * unseen
        for square, drifted in zip(self.drift, self.joint.new_drift(rows, some), strict=False):
            out += square * drifted
        for field, slope in zip(self.rest, rows.slopes.T, strict=True):
            out += slope[:, None] * field[rows.which[:, None], rows.which[index]] * slope[index]
        return out
