"""Joint posterior of the expected log loss of pool runs and candidates, draw by draw.

Given one draw of hyper-parameters and exponents everything is Gaussian and linear in whitened
coefficients v ~ N(0, I): those of the law's columns, of the fields over scales and of the
local functions and drifts.  Their posterior is N(B^-1 b, B^-1) with B = I + T' P T in closed
form.  What a run shares with another beyond these coefficients (the same scale not seen yet, what
the local functions leave out, what is new of a drift beyond the table, an effect of a setting
that never varied) is a covariance of its own, the one that `Predictor` draws from.  Residuals of
neighbouring runs are linear in v, too: a row's features are less theirs by the weights of
`bayes_optlaws.model.neighbours`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.linalg import block_diag
from scipy.sparse import csr_array

from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.draws import Draws
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.kernels.hyper import hyper_inputs
from bayes_optlaws.model.drift import beyond_covariance
from bayes_optlaws.model.neighbours import Kriging

WORKERS = 2

REACH_NATS = 2.0
"""Expected log losses are taken to lie within this of the runs' mean, for the loss scale."""


@dataclass(frozen=True)
class Near:
    """Neighbouring finished runs of some rows.

    Parameters
    ----------
    rows : Rows
        The runs.
    weight : sparse array, shape (n, n_runs)
        Of their standardised residuals.
    response : array, shape (n_runs,)
        Their log loss less its mean.
    sd, own_sd : arrays, shapes (n_draws, n_runs), (n_draws, n)
        Sd of what is not explained, of the runs and of the rows.
    """

    rows: Rows
    weight: csr_array
    response: np.ndarray
    sd: np.ndarray
    own_sd: np.ndarray


@dataclass(frozen=True)
class Rows:
    """What the moments need of a table: standardised columns, coordinates, noise variance.

    ``left`` is the share of the sd of what is not explained that neighbouring runs do not tell.
    """

    x: np.ndarray
    scale: np.ndarray
    which: np.ndarray
    slopes: np.ndarray
    points: np.ndarray
    local: np.ndarray
    unseen: np.ndarray
    beyond: np.ndarray
    noise: np.ndarray
    left: np.ndarray
    near: Near | None = None

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
        self._predictor = law.predictor(draws).without_neighbours()
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
        known = self.law.neighbours
        rows = self._own_rows(table, dtype)
        if known is None:
            return rows
        found = known.at(table)
        left = np.sqrt(found.left)
        rows = replace(rows, left=left, noise=rows.noise * found.left)
        return replace(rows, near=self._near(found, table, dtype)) if found.used.size else rows

    def _near(self, found: Kriging, table: pd.DataFrame, dtype: type[np.floating]) -> Near:
        used = found.used
        runs = self.encoding.finished.iloc[used]
        return Near(
            self._own_rows(runs, dtype), found.matrix(used).astype(dtype),
            self.encoding.response[used], self._predictor.unexplained_sd(runs),
            self._predictor.unexplained_sd(table),
        )  # fmt: skip

    def _own_rows(self, table: pd.DataFrame, dtype: type[np.floating]) -> Rows:
        """`rows` apart from what neighbouring runs tell."""
        e, n = self.encoding, len(table)
        x = e.standardizer(e.features.dictionary(table)).astype(dtype)
        none = np.zeros((n, 0), dtype)
        scale, which, slopes = np.zeros((1, 2)), np.zeros(n, dtype=int), none
        points, local, unseen, beyond = none, none, none, none
        noise = self._predictor.noise_sd(table) ** 2
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
            x, scale.astype(dtype), which.ravel(), slopes, points, local, unseen, beyond, noise,
            np.ones(n),
        )  # fmt: skip

    def features(
        self, s: int, rows: Rows, exact: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Whitened features of the rows (n, n_whitened), scale part by distinct scale, constant.

        The constant (n,) is what the losses of neighbouring runs add to the mean.
        """
        phi, over = self._own_features(s, rows, exact)
        near = rows.near
        if near is None:
            return phi, over, np.zeros(rows.n, phi.dtype)
        sd, own = near.sd[s].astype(phi.dtype), near.own_sd[s].astype(phi.dtype)
        theirs = self._own_features(s, near.rows, exact)[0] / sd[:, None]
        phi -= own[:, None] * (near.weight @ theirs)
        return phi, over, own * (near.weight @ (near.response.astype(phi.dtype) / sd))

    def _own_features(self, s: int, rows: Rows, exact: bool) -> tuple[np.ndarray, np.ndarray]:
        """`features` apart from what neighbouring runs tell."""
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
            return d.local_missed_variance(a.points, mine) * a.left**2
        missed = d.local_missed(a.points, mine, b.points, b.local[:, : d.n_local])
        return missed * np.outer(a.left, b.left)

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
            phi, g, known = self.features(s, rows, exact=True)
            mean.append(self.encoding.centre + known + phi @ self.coefficient[s])
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
                phi, g, known = self.features(s, rows, exact=False)
                inverse, coefficient = self._single[s][:2]
                mean[:, s] = self.encoding.centre + known + phi @ coefficient
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
