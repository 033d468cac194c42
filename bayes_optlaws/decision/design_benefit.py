"""What a plan buys: the probability of the right choice before and after, and Monte-Carlo errors.

Outcomes of the planned runs and the truth about the candidates are simulated together from the
posterior; after each simulated outcome the candidate of lowest posterior mean is chosen, and held
against the truth. (Own choice.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayes_optlaws.decision.design_scorers import MIN_EFFECTIVE, Outlook, Scorer
from bayes_optlaws.decision.design_value import temper

SIMULATIONS = 1024
"""Simulated outcomes of a plan."""


@dataclass(frozen=True)
class Benefit:
    """Probability of the right choice, before and after a plan.

    Parameters
    ----------
    before, after : float
        Probability that the candidate chosen is within ``tie`` of the lowest expected loss.
    before_se, gain_se : float
        Monte-Carlo standard errors of the first, and of the difference.
    tie : float
        Nats.
    """

    before: float
    after: float
    before_se: float
    gain_se: float
    tie: float


def benefit(
    joint: Outlook, scorer: Scorer, candidates: pd.DataFrame, chosen: pd.DataFrame, *, tie: float,
    seed: int,
) -> Benefit:  # fmt: skip
    """Simulate what the chosen runs do for the choice among candidates.

    Parameters
    ----------
    joint : Outlook
    scorer : Scorer
        Whose loss scale is used.
    candidates, chosen : DataFrame
        As the scorer sees them; ``chosen`` has at least one row.
    tie : float
        Nats.
    seed : int
    """
    rng = np.random.default_rng([seed, 1 << 23])
    c, b = len(candidates), len(chosen)
    t = joint.targets(pd.concat([candidates, chosen]))
    noise = t.noise[:, c:]
    source = rng.permutation(np.resize(np.arange(joint.n), SIMULATIONS))
    factor = np.linalg.cholesky(
        t.cov + 1e-10 * np.trace(t.cov, axis1=1, axis2=2)[:, None, None] * np.eye(c + b)
    )
    value = t.mean[source] + np.einsum(
        "fij,fj->fi", factor[source], rng.standard_normal((SIMULATIONS, c + b))
    )
    y = value[:, c:] + np.sqrt(noise[source]) * rng.standard_normal((SIMULATIONS, b))
    truth = scorer.scale * (1.0 + value[:, :c] - scorer.log_mean)
    prior = (scorer.scale * (1.0 + t.mean[:, :c] - scorer.log_mean)).mean(axis=0)

    known = t.cov[:, c:, c:] + noise[:, :, None] * np.eye(b)
    inverse = np.linalg.inv(known)
    log_det = np.linalg.slogdet(known)[1]
    rest = y[:, None, :] - t.mean[None, :, c:]
    scaled = np.einsum("fsb,sbd->fsd", rest, inverse)
    log_weight = -0.5 * (np.einsum("fsb,fsb->fs", scaled, rest) + log_det)
    weight = temper(log_weight, MIN_EFFECTIVE)
    mean = np.einsum("fs,sc->fc", weight, t.mean[:, :c])
    mean += np.einsum("fs,fsb,sbc->fc", weight, scaled, t.cov[:, c:, :c], optimize=True)
    posterior = scorer.scale * (1.0 + mean - scorer.log_mean)

    right = truth <= truth.min(axis=1, keepdims=True) + tie
    first = right[:, int(np.argmin(prior))].astype(float)
    then = right[np.arange(SIMULATIONS), np.argmin(posterior, axis=1)].astype(float)
    root = np.sqrt(SIMULATIONS)
    return Benefit(
        float(first.mean()), float(then.mean()), float(first.std() / root),
        float((then - first).std() / root), float(tie),
    )  # fmt: skip
