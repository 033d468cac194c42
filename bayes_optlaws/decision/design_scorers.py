"""Score every pool run, given the candidates and the runs already chosen.

Three scorers share one interface: `Pooled` treats the posterior over all draws as one Gaussian
with the total covariance (within draws and between them); `Regret` and `Information` keep the
mixture, so an outcome also re-weights the draws.  For them the outcomes of runs already chosen
are simulated ("fantasies") and values are averaged over these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import numpy as np
import pandas as pd
from scipy.stats import norm, qmc

from bayes_optlaws.decision.design_covariance import PooledCovariance
from bayes_optlaws.decision.design_joint import Block, Joint, Moments
from bayes_optlaws.decision.design_value import (
    contrast_reduction,
    contrast_variance,
    expected_drop,
    mutual_information,
    temper,
)

FANTASIES = 16
"""Simulated outcomes of the runs already chosen."""

FIRST_NODES, LATER_NODES = 33, 15
"""Points of the grid over an outcome, for the first run and given fantasies."""

REPEATS = 4
"""Joint draws of the candidates for each posterior draw, in `Information`."""

SHUFFLES = 2
"""Shufflings of the labels, by which chance information is measured."""

PERFECT = 64
"""The same where perfect information is valued."""

MIN_EFFECTIVE = 20.0
"""Least effective number of draws after re-weighting by fantasies."""

CELLS = 2.5e7
"""Covariances held at once: pool rows x draws x targets."""

KEPT = 5e5
"""Pool rows times draws up to which `Pooled` keeps the features of all rows, for all draws."""

RIDGE = 1e-5
"""Share of the mean variance added to candidates before they are conditioned on."""


class Outlook[M: Moments](Protocol):
    """What is known of runs: a mixture of Gaussians, as `Joint`."""

    @property
    def n(self) -> int:
        """Number of components, all of one weight."""
        ...

    def targets(self, table: pd.DataFrame, /) -> M:
        """Means and full covariance of a few rows."""
        ...

    def block(self, table: pd.DataFrame, targets: M, /) -> Block:
        """Moments of pool rows, and their covariances with the targets."""
        ...

    def linearised(self, moments: M, /) -> tuple[np.ndarray, np.ndarray]:
        """Scale and centre of each row: its loss is scale * (1 + log loss - centre), nats."""
        ...


class Scorer(ABC):
    """What the scorers share: targets, the loss scale of the candidates, the pass over a pool.

    Parameters
    ----------
    joint : Outlook
    candidates : DataFrame
        Rows as ``joint`` takes them, at least one.
    seed : int
    """

    def __init__(self, joint: Outlook, candidates: pd.DataFrame, seed: int) -> None:
        self.joint, self.candidates, self.seed = joint, candidates, seed
        self.n_candidates = len(candidates)
        t = joint.targets(candidates)
        self.scale, self.log_mean = joint.linearised(t)
        self.loss = self.scale * (1.0 + t.mean.mean(axis=0) - self.log_mean)
        self.pooled_cov = t.cov.mean(axis=0) + np.cov(t.mean.T, bias=True).reshape(t.cov.shape[1:])
        self._first = t
        self.condition(candidates.iloc[:0])

    def condition(self, chosen: pd.DataFrame) -> None:
        """Take the outcomes of these rows as known from now on."""
        self.chosen = chosen
        both = pd.concat([self.candidates, chosen]) if len(chosen) else self.candidates
        self.targets = self.joint.targets(both) if len(chosen) else self._first
        self._prepare()

    @abstractmethod
    def _prepare(self) -> None:
        """Compute what depends on the chosen runs and not on the pool."""

    @abstractmethod
    def _score(self, block: Block) -> np.ndarray:
        """Value of each row of a block of the pool."""

    @property
    @abstractmethod
    def perfect(self) -> float:
        """Value of knowing everything about the candidates."""

    def score(self, pool: pd.DataFrame, report: Callable[[int], None] | None = None) -> np.ndarray:
        """Value of each pool row, shape (n,), never negative."""
        size = int(max(64, CELLS // (self.joint.n * (self.n_candidates + len(self.chosen) + 8))))
        out = np.empty(len(pool))
        for start in range(0, len(pool), size):
            part = slice(start, start + size)
            block = self.joint.block(pool.iloc[part], self.targets)
            out[part] = self._score(block)
            if report is not None:
                report(len(block.mean))
        return out

    def given(self, pool: pd.DataFrame, chosen: list[int], open_: np.ndarray) -> np.ndarray:
        """Value of the rows ``open_`` of a pool, once those of ``chosen`` have been run."""
        self.condition(pool.iloc[chosen])
        return self.score(pool.iloc[open_])

    def contrast_moments(self, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Covariance of the candidates' losses now, and its part that the rows' runs explain.

        Pooled over draws, given the rows already conditioned on; shapes (C, C).
        """
        c, new = self.n_candidates, len(rows)
        t = self.joint.targets(pd.concat([self.candidates, self.chosen, rows]))
        cov = t.cov.mean(axis=0) + np.cov(t.mean.T, bias=True).reshape(t.cov.shape[1:])
        diagonal = np.arange(c, len(cov))
        cov[diagonal, diagonal] += t.noise.mean(axis=0)[c:]
        if len(self.chosen):
            known = slice(c, len(cov) - new)
            cov = cov - cov[:, known] @ np.linalg.solve(cov[known, known], cov[known])
        scale = np.outer(self.scale, self.scale)
        explained = cov[:c, -new:] @ np.linalg.solve(cov[-new:, -new:], cov[-new:, :c])
        return scale * cov[:c, :c], scale * explained

    def _fantasy_normals(self, count: int) -> np.ndarray:
        """Standard normals of the fantasies, one column a chosen run, the same in every round."""
        columns = []
        for b in range(count):
            rng = np.random.default_rng([self.seed, b])
            columns.append(qmc.Sobol(1, rng=rng).random(FANTASIES)[rng.permutation(FANTASIES), 0])
        u = np.clip(np.stack(columns, axis=1), 1e-6, 1 - 1e-6)
        return norm.ppf(u)

    def _fantasy_sources(self, count: int) -> np.ndarray:
        """Component that each fantasy is simulated from: evenly spread over all."""
        start = np.random.default_rng([self.seed, 1 << 20]).random()
        return ((np.arange(FANTASIES) + start) * count / FANTASIES).astype(int)


class Pooled(Scorer):
    """Objectives of one Gaussian with the total covariance: closed forms, no simulation.

    Parameters
    ----------
    joint, candidates, seed
        As for `Scorer`.
    objective : {"variance", "v-optimal", "d-optimal"}
        Drop of the sum of the candidates' contrast variances, of the sum of their variances
        (nats^2, losses linearised), or information about the law (log variance ratio, nats).
    """

    joint: Joint

    def __init__(
        self, joint: Joint, candidates: pd.DataFrame, seed: int, *, objective: str = "variance"
    ) -> None:
        self.objective = objective
        self._kept: tuple | None = None
        super().__init__(joint, candidates, seed)

    def _prepare(self) -> None:
        c, t = self.n_candidates, self.targets
        self.mean = t.mean.mean(axis=0)
        self.deviation = t.mean - self.mean
        cov = t.cov.mean(axis=0) + self.deviation.T @ self.deviation / self.joint.n
        known = cov[c:, c:] + np.diag(t.noise.mean(axis=0)[c:])
        self.inverse = np.linalg.inv(known)
        self.gain = self.inverse @ cov[c:, :c]

    def moments(self, block: Block) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Covariance with the candidates (n, C), outcome variance (n,), noise variance (n,)."""
        c = self.n_candidates
        deviation = block.mean - block.mean.mean(axis=1, keepdims=True)
        cov = block.cov.mean(axis=1) + deviation @ self.deviation / self.joint.n
        noise = block.noise.mean(axis=1)
        var = block.var.mean(axis=1) + np.mean(deviation**2, axis=1)
        known = cov[:, c:]
        var = var - np.einsum("nb,nb->n", known @ self.inverse, known)
        cov = cov[:, :c] - known @ self.gain
        return cov, np.maximum(var, 0.0) + noise, noise

    def given(self, pool: pd.DataFrame, chosen: list[int], open_: np.ndarray) -> np.ndarray:
        """As for `Scorer`; of a small pool by one rank-one update for each chosen row."""
        if len(pool) * self.joint.n > KEPT:
            return super().given(pool, chosen, open_)
        c = self.n_candidates
        if self._kept is None or self._kept[0] is not pool:
            whole = PooledCovariance(self.joint, pd.concat([self.candidates, pool]))
            noise = whole.rows.noise.mean(axis=0)[c:]
            self._kept = (pool, whole, noise, whole.columns(np.arange(c)), {})
        _, whole, noise, targets, columns = self._kept
        update = np.zeros((len(targets), len(chosen)))
        for b, i in enumerate(chosen):
            if i not in columns:
                columns[i] = whole.columns(np.array([c + i]))[:, 0]
            column = columns[i] - update[:, :b] @ update[c + i, :b]
            update[:, b] = column / np.sqrt(max(column[c + i], 0.0) + noise[i])
        rows = c + open_
        var = whole.diagonal[rows] - np.sum(update[rows] ** 2, axis=1)
        with_targets = targets[rows] - update[rows] @ update[:c].T
        return self._value(with_targets, np.maximum(var, 0.0) + noise[open_], noise[open_])

    def _score(self, block: Block) -> np.ndarray:
        return self._value(*self.moments(block))

    def _value(self, cov: np.ndarray, var: np.ndarray, noise: np.ndarray) -> np.ndarray:
        if self.objective == "d-optimal":
            return 0.5 * np.log(var / noise)
        cov = cov * self.scale
        if self.objective == "v-optimal":
            return np.sum(cov**2, axis=1) / var
        return contrast_reduction(cov, var)

    @property
    def perfect(self) -> float:
        """Total contrast variance (or variance) of the candidates; infinite for "d-optimal"."""
        cov = self.pooled_cov * np.outer(self.scale, self.scale)
        if self.objective == "d-optimal":
            return np.inf
        return float(np.trace(cov) if self.objective == "v-optimal" else contrast_variance(cov))


def _cholesky(matrix: np.ndarray) -> np.ndarray:
    """Cholesky factors of a stack of covariances that may be singular to rounding."""
    size = matrix.shape[-1]
    scale = np.trace(matrix, axis1=-2, axis2=-1)[..., None, None] / max(size, 1)
    return np.linalg.cholesky(matrix + 1e-10 * scale * np.eye(size))


class Regret(Scorer):
    """Expected drop of the expected regret of the choice: the knowledge gradient, nats."""

    def _prepare(self) -> None:
        c, t, n_draws = self.n_candidates, self.targets, self.joint.n
        b = t.mean.shape[1] - c
        mean = np.broadcast_to(t.mean[:, :c], (1, n_draws, c))
        weight = np.full((1, n_draws), 1.0 / n_draws)
        self.lift = np.zeros((n_draws, b, c))
        self.z = np.zeros((1, n_draws, b))
        if b:
            known = t.cov[:, c:, c:] + t.noise[:, None, c:] * np.eye(b)
            factor = _cholesky(known)
            self.solve = np.linalg.inv(factor)
            self.lift = self.solve @ t.cov[:, c:, :c]
            source = self._fantasy_sources(n_draws)
            y = t.mean[source, c:] + np.einsum(
                "fij,fj->fi", factor[source], self._fantasy_normals(b)
            )
            self.z = np.einsum("sij,fsj->fsi", self.solve, y[:, None, :] - t.mean[None, :, c:])
            log_det = np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
            weight = temper(-0.5 * np.sum(self.z**2, axis=2) - log_det, MIN_EFFECTIVE)
            mean = mean + np.einsum("fsb,sbc->fsc", self.z, self.lift)
        self.weight = weight
        loss = self.scale * (1.0 + mean - self.log_mean)
        average = np.einsum("fs,fsc->fc", weight, loss)
        self.best = np.argmin(average, axis=1)
        self.reference = int(np.argmin(average.mean(axis=0)))
        self.target = (loss - loss[:, :, [self.reference]]).astype(np.float32)

    def _score(self, block: Block) -> np.ndarray:
        c = self.n_candidates
        cov, var, mean = block.cov[:, :, :c], block.var, block.mean[:, None, :]
        kind = block.cov.dtype
        if len(self.chosen):
            h = np.matmul(
                block.cov[:, :, c:].transpose(1, 0, 2),
                self.solve.transpose(0, 2, 1).astype(kind),
            )
            var = np.maximum(var - np.sum(h**2, axis=2).T, 0.0)
            cov = cov - np.matmul(h, self.lift.astype(kind)).transpose(1, 0, 2)
            shift = np.matmul(h, self.z.transpose(1, 2, 0).astype(kind))
            mean = mean + shift.transpose(1, 2, 0)
        cov = cov * self.scale.astype(kind)
        cov = cov - cov[:, :, [self.reference]]
        # outcomes are measured from the pool run's own centre: single precision stays fine
        mean = mean - block.mean.mean(axis=1)[:, None, None]
        mean, var, cov = (
            np.ascontiguousarray(x, np.float32) for x in (mean, var + block.noise, cov)
        )
        return expected_drop(
            mean, var, cov, self.weight.astype(np.float32),
            self.target, self.best, LATER_NODES if len(self.chosen) else FIRST_NODES,
        )  # fmt: skip

    @property
    def perfect(self) -> float:
        """Expected regret of choosing now: what knowing all candidates exactly would save."""
        rng = np.random.default_rng([self.seed, 1 << 21])
        t = self._first
        factor = _cholesky(t.cov)
        normal = rng.standard_normal((self.joint.n, PERFECT, self.n_candidates))
        value = t.mean[:, None, :] + np.einsum("sij,srj->sri", factor, normal)
        loss = self.scale * (1.0 + value - self.log_mean)
        loss = loss.reshape(-1, self.n_candidates)
        return float(np.mean(loss[:, np.argmin(self.loss)] - loss.min(axis=1)))


class Information(Scorer):
    """Mutual information of the outcome and which candidate is best, nats."""

    def _prepare(self) -> None:
        c, t, n_draws = self.n_candidates, self.targets, self.joint.n
        b = t.mean.shape[1] - c
        rng = np.random.default_rng([self.seed, 1 << 22])
        ridge = RIDGE * np.trace(t.cov[:, :c, :c], axis1=1, axis2=2) / c
        diagonal = np.concatenate([np.repeat(ridge[:, None], c, axis=1), t.noise[:, c:]], axis=1)
        factor = _cholesky(t.cov + diagonal[:, :, None] * np.eye(c + b))
        self.solve = np.linalg.inv(factor)
        normal = rng.standard_normal((n_draws, REPEATS, c))
        value = t.mean[:, None, :c] + np.einsum("sij,srj->sri", factor[:, :c, :c], normal)
        winner = np.argmin(value, axis=2).ravel()
        names, index = np.unique(winner, return_inverse=True)
        self.n_labels = names.size
        shuffled = [index, *(rng.permutation(index) for _ in range(SHUFFLES))]
        self.label = np.hstack([np.eye(names.size, dtype=np.float32)[i] for i in shuffled])
        n = n_draws * REPEATS
        self.z = normal[None]
        self.weight = np.full((1, n), 1.0 / n)
        if b:
            given = t.mean[:, None, c:] + np.einsum("sbc,src->srb", factor[:, c:, :c], normal)
            source = self._fantasy_sources(n)
            lower = factor[:, c:, c:]
            y = given.reshape(n, b)[source] + np.einsum(
                "fij,fj->fi", lower[source // REPEATS], self._fantasy_normals(b)
            )
            rest = np.einsum(
                "sij,fsrj->fsri", self.solve[:, c:, c:], y[:, None, None, :] - given[None]
            )
            log_det = np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(axis=1)[:, None]
            log_weight = -0.5 * np.sum(rest**2, axis=3) - log_det
            self.weight = temper(log_weight.reshape(FANTASIES, n), MIN_EFFECTIVE * REPEATS)
            known = np.broadcast_to(normal[None], (FANTASIES, *normal.shape))
            self.z = np.concatenate([known, rest], axis=3)

    def _score(self, block: Block) -> np.ndarray:
        n, n_draws = block.mean.shape
        h = np.matmul(
            block.cov.transpose(1, 0, 2), self.solve.transpose(0, 2, 1).astype(np.float32)
        )
        var = np.maximum(block.var - np.sum(h**2, axis=2).T, 0.0) + block.noise
        f = len(self.z)
        z = self.z.transpose(1, 3, 0, 2).reshape(n_draws, -1, f * REPEATS).astype(np.float32)
        shift = np.matmul(h, z).reshape(n_draws, n, f, REPEATS).transpose(1, 2, 0, 3)
        centred = block.mean - block.mean.mean(axis=1, keepdims=True)
        mean = (centred[:, None, :, None] + shift).reshape(n, f, n_draws * REPEATS)
        return mutual_information(
            np.ascontiguousarray(mean), np.ascontiguousarray(var), self.weight.astype(np.float32),
            self.label, self.n_labels, REPEATS, LATER_NODES if len(self.chosen) else FIRST_NODES,
        )  # fmt: skip

    @property
    def perfect(self) -> float:
        """Entropy of which candidate is best, nats: what there is to know."""
        p = self.label[:, : self.n_labels].mean(axis=0, dtype=float)
        return float(-np.sum(p * np.log(p)))
