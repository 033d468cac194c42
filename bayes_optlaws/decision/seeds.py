"""How many seeds tell two schedules apart."""

from __future__ import annotations

import numpy as np
from scipy import stats

MOST_SEEDS = 1000
"""More are not counted."""


def seeds_to_separate(gap: float, noise_sd: float, prob: float = 0.9) -> float:
    """Seeds for each of two schedules that show a true gap with probability ``prob``.

    The smallest n with z * noise_sd * sqrt(2 / n) <= gap; infinite for no gap.

    Parameters
    ----------
    gap : float
        Difference of the expected losses, nats.
    noise_sd : float
        Sd of one run's loss over seeds, nats.
    prob : float
        Probability that the means over seeds are in the right order.

    Returns
    -------
    float

    Examples
    --------
    >>> seeds_to_separate(0.001, 0.002)
    14.0
    """
    if gap <= 0:
        return np.inf
    return float(max(1.0, np.ceil(2 * (stats.norm.ppf(prob) * noise_sd / gap) ** 2)))


def p_right_after(gap: float, gap_sd: float, noise_sd: float, seeds: float) -> float:
    r"""Probability that the order called after some seeds of each schedule is the true one.

    True gap :math:`g \sim N(\mu, s^2)`; its posterior mean after n seeds of each is
    :math:`N(\mu, \rho^2 s^2)` with :math:`\rho^2 = s^2 / (s^2 + 2 \sigma^2 / n)`, and correlation
    :math:`\rho` with g. Both have one sign with probability
    :math:`\Phi_2(a, b; \rho) + \Phi_2(-a, -b; \rho)`, :math:`a = \mu / s`, :math:`b = a / \rho`;
    without a seed it is :math:`\Phi(|a|)`.

    Parameters
    ----------
    gap, gap_sd : float
        Mean and sd of what is known of the true gap now, nats.
    noise_sd : float
        Of one run over seeds, nats.
    seeds : float
        Of each schedule.

    Returns
    -------
    float

    Examples
    --------
    Nothing known, and noise as large as the gaps are: one half and the arc sine of the correlation.

    >>> round(p_right_after(0.0, 1.0, 1.0, 2), 4)
    0.75
    """
    if gap_sd <= 0 or seeds <= 0:
        return float(stats.norm.cdf(abs(gap) / gap_sd)) if gap_sd > 0 else 1.0
    rho = gap_sd / np.sqrt(gap_sd**2 + 2 * noise_sd**2 / seeds)
    if rho >= 1 - 1e-12:
        return 1.0
    a = gap / gap_sd
    b = gap / (rho * gap_sd)
    # Plackett: the derivative of the bivariate normal by its correlation is its density
    rule = np.polynomial.legendre.leggauss(64)
    angle = np.arcsin(rho)
    t = 0.5 * angle * (rule[0] + 1)
    density = np.exp(-0.5 * (a**2 + b**2 - 2 * a * b * np.sin(t)) / np.cos(t) ** 2)
    both = stats.norm.cdf(a) * stats.norm.cdf(b) + stats.norm.sf(a) * stats.norm.sf(b)
    return float(both + 2 * 0.5 * angle * np.sum(rule[1] * density) / (2 * np.pi))


def seeds_to_decide(gap: float, gap_sd: float, noise_sd: float, prob: float = 0.9) -> float:
    """Seeds of each of two schedules after which their order is called right with ``prob``.

    Parameters
    ----------
    gap, gap_sd : float
        Mean and sd of what is known of the true gap now, nats.
    noise_sd : float
        Of one run over seeds, nats.
    prob : float
        Averaged over what the gap may be, from 0.5 to below 1.

    Returns
    -------
    float
        0 where it is known already; infinite where `MOST_SEEDS` do not suffice.

    Examples
    --------
    >>> seeds_to_decide(0.0, 0.002, 0.002), seeds_to_decide(0.01, 0.002, 0.002)
    (19.0, 0.0)
    """
    if not 0.5 <= prob < 1:
        raise ValueError(f"prob is {prob}: it must be at least 0.5 and below 1")
    if p_right_after(gap, gap_sd, noise_sd, 0) >= prob:
        return 0.0
    if p_right_after(gap, gap_sd, noise_sd, MOST_SEEDS) < prob:
        return np.inf
    low, high = 0, MOST_SEEDS  # right at high, not at low
    while high - low > 1:
        middle = (low + high) // 2
        if p_right_after(gap, gap_sd, noise_sd, middle) >= prob:
            high = middle
        else:
            low = middle
    return float(high)
