"""Priors as plain dataclasses: what is believed before the first run is read.

All of them are our own choice (the paper fits by least squares).  They are stated on scales that
mean the same for every table: log loss in nats for sds, nats of log N and log D for the
length-scale over model sizes and budgets, standardised columns for coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from bayes_optlaws.model.slopes import SlopePrior


@dataclass(frozen=True)
class LogNormal:
    """Log-normal prior of a positive quantity.

    Parameters
    ----------
    median : float
        Median, positive.
    log_sd : float
        Standard deviation of the logarithm, positive.

    Examples
    --------
    >>> LogNormal(0.01, 1.0).interval(0.95)
    (0.00141, 0.071)
    """

    median: float
    log_sd: float

    def __post_init__(self) -> None:
        """Refuse values that are not a distribution."""
        for f in fields(self):
            value = getattr(self, f.name)
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"LogNormal.{f.name} must be positive and finite, got {value!r}")

    def interval(self, prob: float) -> tuple[float, float]:
        """Central interval holding ``prob``, to three figures."""
        from scipy.stats import norm

        half = norm.ppf(0.5 + prob / 2) * self.log_sd
        low, high = (float(f"{self.median * np.exp(s * half):.3g}") for s in (-1, 1))
        return low, high


@dataclass(frozen=True)
class Priors:
    """Priors of the loss part of the model.

    Parameters
    ----------
    intercept_sd : float
        Sd of the intercept around the mean log loss of the table.
    coefficient_sd : LogNormal
        Sd of the standardised coefficients of a block, one draw for each block.
    noise_sd : LogNormal
        Sd of log loss between a run and the law where runs repeat best: the floor of the noise.
    noise_growth : LogNormal
        Sd of the part of the noise that grows with the settings, at average settings.
    noise_slope_sd : float
        Sd of the change of its log per sd of a setting (LR, batch, warm-up).
    scale_length : LogNormal
        Length-scale of the discrepancy over scales, in nats of log N and log tokens.
    cell_sd : LogNormal
        Sd of what each (N, tokens) cell has for itself, relative to the smooth discrepancy.
    level_sd, slope_sd : LogNormal
        Sd of the discrepancy in level, and in each slope per sd of its setting.
    local_sd : LogNormal
        Sd of the local correction over scales and settings, at the mean log LR.
    drift_sd : LogNormal
        Sd of the change of d log loss / d log scale over one nat of scale, see
        `bayes_optlaws.model.drift`; one draw for model size, one for tokens.
    slopes : SlopePrior
        Of d log loss / d log N and d log loss / d log tokens, see `bayes_optlaws.model.slopes`.
    unseen_sd : float
        Sd of the effect, per natural unit, of a setting that never varied in the table; over
        scales it changes as the slopes of the others do, with the length of their fields.
    untrained_loss : float
        Nats a token that no finished run ends above: the loss of an untrained model, the log of
        its vocabulary. By default that of 131,072 tokens; a smaller vocabulary has its own.

    Examples
    --------
    >>> Priors(noise_sd=LogNormal(0.002, 0.5)).noise_sd.median
    0.002
    """

    intercept_sd: float = 1.0
    coefficient_sd: LogNormal = field(default_factory=lambda: LogNormal(0.05, 1.0))
    noise_sd: LogNormal = field(default_factory=lambda: LogNormal(0.003, 1.0))
    noise_growth: LogNormal = field(default_factory=lambda: LogNormal(0.003, 1.0))
    noise_slope_sd: float = 0.5
    scale_length: LogNormal = field(default_factory=lambda: LogNormal(3.0, 0.5))
    cell_sd: LogNormal = field(default_factory=lambda: LogNormal(0.1, 1.0))
    level_sd: LogNormal = field(default_factory=lambda: LogNormal(0.01, 1.0))
    slope_sd: LogNormal = field(default_factory=lambda: LogNormal(0.005, 1.0))
    local_sd: LogNormal = field(default_factory=lambda: LogNormal(0.01, 1.0))
    drift_sd: LogNormal = field(default_factory=lambda: LogNormal(0.005, 1.0))
    slopes: SlopePrior = field(default_factory=SlopePrior)
    unseen_sd: float = 0.02
    untrained_loss: float = float(np.log(2**17))
