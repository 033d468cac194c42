"""Joint posterior of the expected log loss of candidates and possible runs of a later stage.

Given the sds of deviation and noise everything is Gaussian, with the covariance that
`bayes_optlaws.inference.stage_posterior.condition` draws from; over the sds it is a mixture, of
which equally weighted points are taken. So what is said of a run not yet made is what a ranking
with it among the measured runs would say. (Own choice.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayes_optlaws.decision.design_joint import Block, Moments
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.inference.stage_posterior import given_data
from bayes_optlaws.inference.stages import StageScores

COMPONENTS = 64
"""Points that stand for the posterior of the sds."""

NONE = -1
"""In the column ``second``: the outcome is that of one run."""


def places(
    first: Sequence[int] | np.ndarray, second: Sequence[int] | np.ndarray | None = None
) -> pd.DataFrame:
    """Rows as `StageJoint` takes them.

    Parameters
    ----------
    first : sequence of int
        Positions in the candidates of the stage.
    second : sequence of int, optional
        The outcome is then the difference of two runs of one set, whose level cancels.
    """
    other = [NONE] * len(first) if second is None else second
    return pd.DataFrame({"first": first, "second": other}, dtype=int)


@dataclass(frozen=True)
class StageTargets(Moments):
    """Moments of some runs, and which they are.

    Parameters
    ----------
    mean, noise, cov
        As of `Moments`.
    place : int array, shape (n,)
    """

    place: np.ndarray


class StageJoint:
    """What is known of the runs of a stage: an `Outlook` of `design_scorers`.

    Parameters
    ----------
    law : FittedLaw
    stage : StageScores
        Of the candidates and of the runs that could be made.
    draws : int
        Posterior draws whose mean and covariance the scores have.
    components : int
    seed : int

    Attributes
    ----------
    mean, cov : array, shape (components, n), (components, n, n)
        Of the expected log losses of ``stage.candidates``.
    noise : array, shape (components,)
        Noise variance of one run.
    """

    def __init__(
        self,
        law: FittedLaw,
        stage: StageScores,
        *,
        draws: int,
        components: int = COMPONENTS,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.law, self.stage = law, stage
        scores = stage.scores(law.predictor(law.draws.thin(draws)), rng)
        scales = stage.scales(scores)
        cells, which = np.unique(scales.draw(components, rng), return_inverse=True)
        i, j = np.unravel_index(cells, scales.weight.shape)
        found = [
            given_data(
                scores, stage.data, stage.which_set, stage.configuration, deviation, noise,
                stage.prior.level_sd,
            )
            for deviation, noise in zip(scales.deviation[i], scales.noise[j], strict=True)
        ]  # fmt: skip
        self.mean = np.array([mean for mean, _ in found])[which]
        self.cov = np.array([cov for _, cov in found])[which]
        self.noise = (scales.noise[j] ** 2)[which]

    @property
    def n(self) -> int:
        """Number of components."""
        return len(self.mean)

    def targets(self, table: pd.DataFrame) -> StageTargets:
        """Moments of runs, from `places`."""
        at = table["first"].to_numpy(int)
        noise = np.repeat(self.noise[:, None], at.size, axis=1)
        mean, cov = self.mean[:, at], self.cov[:, at[:, None], at]
        return StageTargets(np.ascontiguousarray(mean), noise, np.ascontiguousarray(cov), at)

    def block(self, table: pd.DataFrame, targets: StageTargets) -> Block:
        """Moments of outcomes, from `places`, and their covariances with the targets."""
        first, second = (table[name].to_numpy(int) for name in ("first", "second"))
        pair = (second != NONE).astype(float)
        other = np.where(second == NONE, first, second)
        own, rest = self.cov[:, first, first], self.cov[:, other, other]
        to = targets.place
        return Block(
            (self.mean[:, first] - pair * self.mean[:, other]).T,
            (own + pair * (rest - 2 * self.cov[:, first, other])).T,
            self.noise * (1 + pair)[:, None],
            (
                self.cov[:, first[:, None], to] - pair[:, None] * self.cov[:, other[:, None], to]
            ).transpose(1, 0, 2),
        )

    def linearised(self, moments: StageTargets) -> tuple[np.ndarray, np.ndarray]:
        """One loss and log loss for all rows, so that a level that is not known cancels."""
        centre = np.full(moments.mean.shape[1], moments.mean.mean())
        return np.exp(centre), centre
