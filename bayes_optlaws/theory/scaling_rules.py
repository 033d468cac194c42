r"""How learning rate, momentum and batch should move with the budget: the rules of the LMO paper.

For methods that step by a linear minimisation oracle over a norm ball (normalised SGD with
momentum, signSGD, Muon) with constant learning rate :math:`\eta`, momentum
:math:`\beta = 1-\alpha`, batch :math:`B` and :math:`K` steps, the bound on the mean dual norm of
the gradient is

.. math::

    F = \frac{\Delta}{\eta K} + \frac{2\rho\sigma}{\alpha\sqrt B K}
        + 2\rho\sigma\sqrt{\frac{\alpha}{B}} + \frac32 L\eta + \frac{2L\eta}{\alpha}.

Minimised under a budget of tokens :math:`T = BK` it gives power laws in four regimes, by what is
tuned: ``"A"`` the learning rate; ``"B"`` and momentum; ``"C"`` learning rate and batch; ``"D"``
all three.

Source: arXiv 2603.15958 and Theorem 2 of arXiv 2503.12645, from which the bound is quoted; the
mini-batch form and the constants of the closed forms are inferred, the exponents of B and D
quoted, those of A and C inferred.  The bound is of a constant learning rate at a fixed model size
with a matched initialisation: what it says of a schedule with warm-up and cooldown, or of Adam,
is an analogy that `weigh` lets be tried and data contradict.

What Step Law says (cosine, AdamW; ``python -m studies.decisions``).  With the
best batch at each budget, the batch moves with an exponent of 0.40 to 0.66 in tokens at model sizes
with three or more budgets, where C says 0.5; the best LR moves with +0.08 to +0.65, where C says
-0.25, and at a fixed batch with -0.08 to +0.11, where A says -0.5: the rules for the LR do not
hold there.  As prior on laws fitted below 29B tokens, mean of the six longer cells (CRPS in
thousandths of a nat, regret of the choice in nats):

==========================  ==============  =====  ======
prior                       relative error  CRPS   regret
==========================  ==============  =====  ======
none                        0.52 %          9.2    0.0021
C, sd 0.2                   0.47 %          8.6    0.0021
C, sd 0.1                   0.46 %          8.6    0.0023
D, sd 0.2                   0.52 %          9.2    0.0023
A, sd 0.2                   0.58 %          9.9    0.0027
==========================  ==============  =====  ======

A with sd 0.1 was refused in five cells and B with sd 0.2 in four, where regret rose to 0.025 in
the two others.  The gain of C comes from two cells of six (difference in CRPS -0.6 +- 0.6), so no
prior is the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from bayes_optlaws.inference.fitted import FittedLaw, HasFitted
from bayes_optlaws.theory.exponent_prior import WeighedDraws, weigh_draws

__all__ = [
    "EXPONENTS",
    "REGIMES",
    "Problem",
    "Setting",
    "WeighedDraws",
    "bound",
    "exponent",
    "optimum",
    "ridge",
    "transfer",
    "weigh",
]

REGIMES: dict[str, tuple[str, ...]] = {
    "A": ("lr",),
    "B": ("lr", "alpha"),
    "C": ("lr", "batch"),
    "D": ("lr", "alpha", "batch"),
}
"""What each regime tunes; the rest is held fixed."""

EXPONENTS: dict[str, dict[str, dict[str, Fraction]]] = {
    "A": {
        "steps": {"lr": Fraction(-1, 2)},
        "tokens": {"lr": Fraction(-1, 2)},
    },
    "B": {
        "steps": {"lr": Fraction(-3, 4), "alpha": Fraction(-1, 2)},
        "tokens": {"lr": Fraction(-3, 4), "alpha": Fraction(-1, 2)},
    },
    "C": {
        "steps": {"lr": Fraction(-1, 2), "batch": Fraction(1)},
        "tokens": {"lr": Fraction(-1, 4), "batch": Fraction(1, 2)},
    },
    "D": {
        "steps": {"lr": Fraction(-7, 10), "alpha": Fraction(-2, 5), "batch": Fraction(1, 5)},
        "tokens": {"lr": Fraction(-7, 12), "alpha": Fraction(-1, 3), "batch": Fraction(1, 6)},
    },
}
"""Exponents of the optimum in steps K and in tokens T = BK, to leading order."""


@dataclass(frozen=True)
class Problem:
    r"""Constants of the bound.

    Attributes
    ----------
    gap : float
        :math:`\Delta`, loss at the start less the lowest loss, nats.
    noise : float
        :math:`\rho\sigma`: sd of the gradient of one token, times the constant between the norms.
    smoothness : float
        L, of the gradient in the norm of the steps.

    Raises
    ------
    ValueError
        When one is not positive and finite.
    """

    gap: float = 1.0
    noise: float = 1.0
    smoothness: float = 1.0

    def __post_init__(self) -> None:
        """Check the constants."""
        for name in ("gap", "noise", "smoothness"):
            _positive(name, getattr(self, name))


@dataclass(frozen=True)
class Setting:
    """Hyper-parameters by a closed form, and the bound that they reach.

    Attributes
    ----------
    lr, alpha, batch, steps : float
        Learning rate, 1 - momentum, tokens a step, steps.
    bound : float
        F there, all terms included.
    limited : tuple of str
        What was set to its limit (``alpha`` <= 1, 1 <= ``batch`` <= tokens) because the rule
        points beyond it; the others are then the optimum given that.
    """

    lr: float
    alpha: float
    batch: float
    steps: float
    bound: float
    limited: tuple[str, ...] = ()

    @property
    def momentum(self) -> float:
        """1 - alpha."""
        return 1.0 - self.alpha

    @property
    def tokens(self) -> float:
        """Batch times steps."""
        return self.batch * self.steps


def bound(
    problem: Problem, *, lr: ArrayLike, alpha: ArrayLike, batch: ArrayLike, steps: ArrayLike
) -> np.ndarray:
    """Bound F on the mean dual gradient norm; arguments broadcast.

    Parameters
    ----------
    problem : Problem
    lr, alpha, batch, steps : array_like
        Learning rate, 1 - momentum in (0, 1], tokens a step, steps; all positive.

    Returns
    -------
    ndarray
        In nats per unit of length in the norm of the steps.

    Raises
    ------
    ValueError
        When an argument is not positive, or ``alpha`` is over 1.

    Examples
    --------
    >>> float(bound(Problem(), lr=0.01, alpha=1.0, batch=1.0, steps=10_000)).__round__(6)
    2.0452
    """
    lr, alpha, batch, steps = (
        _positive(name, value)
        for name, value in (("lr", lr), ("alpha", alpha), ("batch", batch), ("steps", steps))
    )
    if np.any(alpha > 1):
        raise ValueError(f"alpha is {alpha.max():g}: it is 1 - momentum, at most 1")
    p = problem
    return (
        p.gap / (lr * steps)
        + 2 * p.noise / (alpha * np.sqrt(batch) * steps)
        + 2 * p.noise * np.sqrt(alpha / batch)
        + 1.5 * p.smoothness * lr
        + 2 * p.smoothness * lr / alpha
    )


def optimum(
    problem: Problem,
    regime: str,
    *,
    tokens: float | None = None,
    steps: float | None = None,
    alpha: float | None = None,
    batch: float | None = None,
) -> Setting:
    """Closed-form optimum of a regime.

    Parameters
    ----------
    problem : Problem
    regime : {"A", "B", "C", "D"}
    tokens, steps : float
        Budget, one of them; tokens where the batch is tuned, because at given steps the bound
        falls with the batch for ever.
    alpha, batch : float
        What the regime holds fixed, and only that.

    Returns
    -------
    Setting

    Raises
    ------
    ValueError
        When an argument is missing, not part of the regime, or out of range.

    Notes
    -----
    With ``c = 3/2 + 2 / alpha``: A, exact, ``lr = sqrt(gap / (c L K))``. B, leading order,
    ``alpha = sqrt(2 gap L B / K) / noise``, ``lr = sqrt(gap alpha / (2 L K))``. C, leading order,
    ``batch = noise sqrt(alpha T / (c gap L))``. D: to leading order only ``alpha / batch`` counts
    (see `ridge`); the place on the ridge balances ``3/2 L lr`` against the burn-in
    ``2 noise / (alpha sqrt(B) K)``, a second-order effect, so in practice rely on B or C.

    Examples
    --------
    >>> at = optimum(Problem(gap=2.0), "C", tokens=1e12, alpha=0.1)
    >>> later = optimum(Problem(gap=2.0), "C", tokens=16e12, alpha=0.1)
    >>> round(later.lr / at.lr, 6), round(later.batch / at.batch, 6)
    (0.5, 4.0)
    """
    tuned = _regime(regime)
    tokens = _budget(regime, tokens=tokens, steps=steps, alpha=alpha, batch=batch)
    limited: list[str] = []
    if "batch" in tuned:
        if "alpha" in tuned:
            ratio = np.sqrt(2 * problem.gap * problem.smoothness / tokens) / problem.noise
            slope = 1.5 * np.sqrt(problem.smoothness * problem.gap * ratio / (2 * tokens))
            batch = (problem.noise / (ratio * tokens) / slope) ** (2 / 3)
            alpha = ratio * batch
            if alpha > 1:
                alpha, batch = 1.0, _best_batch(problem, 1.0, tokens)
                limited.append("alpha")
        else:
            alpha = _alpha(alpha)
            batch = _best_batch(problem, alpha, tokens)
        if not 1 <= batch <= tokens:
            batch = float(np.clip(batch, 1.0, tokens))
            limited.append("batch")
    batch = float(_positive("batch", batch))
    steps = tokens / batch
    if "alpha" in tuned and "alpha" not in limited and ("batch" not in tuned or limited):
        alpha = np.sqrt(2 * problem.gap * problem.smoothness * batch / steps) / problem.noise
        if alpha > 1:
            alpha = 1.0
            limited.append("alpha")
    alpha = _alpha(alpha)
    # The learning rate of A is exact given the rest; in B and D its 3/2 L lr is of second order.
    curve = 2 / alpha if "alpha" in tuned and not limited else 1.5 + 2 / alpha
    lr = float(np.sqrt(problem.gap / (curve * problem.smoothness * steps)))
    reached = float(bound(problem, lr=lr, alpha=alpha, batch=batch, steps=steps))
    return Setting(lr, alpha, batch, steps, reached, tuple(limited))


def _budget(
    regime: str,
    *,
    tokens: float | None,
    steps: float | None,
    alpha: float | None,
    batch: float | None,
) -> float:
    """Tokens of the budget, where `optimum` has what its regime needs and no more."""
    tuned = _regime(regime)
    for name, value in {"alpha": alpha, "batch": batch}.items():
        if name in tuned and value is not None:
            raise ValueError(f"{name} is {value}: regime {regime} tunes it; leave it out")
        if name not in tuned and value is None:
            raise ValueError(f"{name} is missing: regime {regime} holds it fixed; give its value")
    if (tokens is None) == (steps is None):
        raise ValueError("give the budget as tokens or as steps, one of them")
    if tokens is None and "batch" in tuned:
        raise ValueError(
            f"steps is {steps}: regime {regime} tunes the batch, and at given steps the bound "
            "falls with the batch for ever; give the budget as tokens"
        )
    if tokens is None:
        tokens = float(_positive("steps", steps)) * float(_positive("batch", batch))
    return float(_positive("tokens", tokens))


def _best_batch(problem: Problem, alpha: float, tokens: float) -> float:
    curve = 1.5 + 2 / alpha
    return problem.noise * np.sqrt(alpha * tokens / (curve * problem.gap * problem.smoothness))


def ridge(problem: Problem, *, tokens: float, batch: ArrayLike) -> pd.DataFrame:
    """Settings that are equally good to leading order: ``alpha`` and ``lr`` along the batch.

    Parameters
    ----------
    problem : Problem
    tokens : float
        Budget.
    batch : array_like
        Tokens a step at which the ridge is wanted, at most ``tokens``.

    Returns
    -------
    DataFrame
        One row a batch at which alpha is at most 1: ``batch``, ``alpha``, ``momentum``, ``lr``,
        ``steps``, ``bound`` and ``excess``, the bound over the lowest of the rows, less 1. Both
        alpha and lr are proportional to the batch.

    Raises
    ------
    ValueError
        When no batch has an alpha of at most 1.

    Examples
    --------
    >>> found = ridge(Problem(), tokens=1e16, batch=[10, 1000, 100_000])
    >>> found["alpha"].round(8).tolist(), bool(found["excess"].max() < 0.01)
    ([1.4e-07, 1.414e-05, 0.00141421], True)
    """
    tokens = float(_positive("tokens", tokens))
    batches = np.atleast_1d(_positive("batch", batch))
    if np.any(batches > tokens):
        raise ValueError(
            f"batch is {batches.max():g}: it is at most the budget of {tokens:g} tokens"
        )
    ratio = np.sqrt(2 * problem.gap * problem.smoothness / tokens) / problem.noise
    alpha = ratio * batches
    keep = alpha <= 1
    if not keep.any():
        raise ValueError(
            f"batch is {batches.min():g} or more: on the ridge alpha = {ratio:.3g} x batch must be "
            f"at most 1; give batches up to {1 / ratio:.3g}"
        )
    batches, alpha = batches[keep], alpha[keep]
    lr = batches * np.sqrt(problem.gap * ratio / (2 * problem.smoothness * tokens))
    value = bound(problem, lr=lr, alpha=alpha, batch=batches, steps=tokens / batches)
    columns = {
        "batch": batches, "alpha": alpha, "momentum": 1 - alpha, "lr": lr,
        "steps": tokens / batches, "bound": value, "excess": value / value.min() - 1,
    }  # fmt: skip
    return pd.DataFrame(columns)


def exponent(regime: str, name: str = "lr", *, of: str = "tokens") -> float:
    """Exponent of one hyper-parameter in the budget, 0 where the regime holds it fixed.

    Parameters
    ----------
    regime : {"A", "B", "C", "D"}
    name : {"lr", "alpha", "batch"}
    of : {"tokens", "steps"}

    Returns
    -------
    float

    Examples
    --------
    >>> exponent("C"), exponent("C", "batch"), exponent("B", of="steps")
    (-0.25, 0.5, -0.75)
    """
    _regime(regime)
    if name not in REGIMES["D"]:
        raise ValueError(f"name is {name!r}: it must be one of {', '.join(REGIMES['D'])}")
    if of not in ("tokens", "steps"):
        raise ValueError(f"of is {of!r}: it must be 'tokens' or 'steps'")
    return float(EXPONENTS[regime][of].get(name, 0))


def transfer(
    setting: Mapping[str, float], regime: str, *, start: float, target: float, of: str = "tokens"
) -> dict[str, float]:
    """Carry a tuned setting from one budget to another.

    Parameters
    ----------
    setting : mapping
        Tuned at ``start``: any of ``lr``, ``alpha`` or ``momentum``, ``batch``.
    regime : {"A", "B", "C", "D"}
        What is tuned at both budgets.
    start, target : float
        Budgets, tokens or steps.
    of : {"tokens", "steps"}

    Returns
    -------
    dict
        The same keys. Each is multiplied by ``(target / start) ** exponent``; momentum through
        its alpha, which is kept at most 1, and a batch at least 1.

    Raises
    ------
    ValueError
        When a key is unknown or a value out of range.

    Examples
    --------
    >>> now = transfer({"lr": 4e-3, "momentum": 0.9}, "B", start=1e9, target=16e9)
    >>> round(now["lr"], 6), round(now["momentum"], 6)
    (0.0005, 0.975)
    """
    ratio = float(_positive("target", target)) / float(_positive("start", start))
    if {"alpha", "momentum"} <= set(setting):
        raise ValueError("the setting has alpha and momentum: give one, alpha is 1 - momentum")
    out = {}
    for name, value in setting.items():
        if name == "momentum":
            alpha = _alpha(1.0 - float(value)) * ratio ** exponent(regime, "alpha", of=of)
            out[name] = 1.0 - min(alpha, 1.0)
        elif name in REGIMES["D"]:
            moved = float(_positive(name, value)) * ratio ** exponent(regime, name, of=of)
            if name == "alpha":
                _alpha(float(value))
                moved = min(moved, 1.0)
            out[name] = max(moved, 1.0) if name == "batch" else moved
        else:
            raise ValueError(
                f"the setting has {name!r}: it may have lr, alpha or momentum, and batch"
            )
    return out


def weigh(
    law: FittedLaw | HasFitted,
    candidates: pd.DataFrame,
    *,
    regime: str = "C",
    sd: float = 0.1,
    batch_tokens: ArrayLike | None = None,
    enabled: bool = True,
    **options: Any,
) -> WeighedDraws:
    """Predict candidates with the rule's LR exponent as prior on where the best LR moves.

    Each posterior draw of the law implies how its best learning rate moves with tokens. The draws
    are re-weighted by a normal prior on that exponent, centred on the rule's, so that the law's
    own posterior and the rule are multiplied.

    Parameters
    ----------
    law : OptLaw
        Fitted.
    candidates : DataFrame
        Candidate table to predict.
    regime : {"A", "B", "C", "D"}
        Which rule; in C and D the best LR is taken over the batches too.
    sd : float
        Sd of the prior on the exponent (own choice); the smaller, the more the rule counts.
    batch_tokens : float or array_like, optional
        Batches at which the best LR is sought. Default: the median batch of the fitted runs in A
        and B, all their batches (at most 12) in C and D.
    enabled : bool
        False gives the same draws with equal weights, to see what the prior does.
    **options
        Of `theory.exponent_prior.weigh_draws`: ``n_params``, ``tokens``, ``max_draws``,
        ``random_seed``, ``kind``, ``min_ess``, ``max_k``, ``allow_unconverged``.

    Returns
    -------
    WeighedDraws
        ``draws`` (joint, for ``Ranking.from_draws``), ``predict()``, ``exponent``, ``weights``,
        ``ess``, ``pareto_k``, ``summary()``.

    Raises
    ------
    ValueError
        When too few draws would count: an effective sample size below ``min_ess`` (100), or a
        Pareto k above ``max_k`` (0.7). The runs then contradict the rule, or ``sd`` is too small.

    Examples
    --------
    >>> found = scaling_rules.weigh(law, candidates, regime="C", sd=0.1)  # doctest: +SKIP
    >>> found.summary(), found.predict()  # doctest: +SKIP
    """
    tuned = _regime(regime)
    if not (np.isfinite(sd) and sd > 0):
        raise ValueError(f"sd is {sd}: it must be positive and finite")
    return weigh_draws(
        law, candidates, mean=exponent(regime), sd=float(sd), over_batches="batch" in tuned,
        batch_tokens=batch_tokens, enabled=enabled, **options,
    )  # fmt: skip


def _regime(regime: str) -> tuple[str, ...]:
    if regime not in REGIMES:
        tunes = "; ".join(f"{k} tunes {', '.join(v)}" for k, v in REGIMES.items())
        raise ValueError(f"regime is {regime!r}: {tunes}")
    return REGIMES[regime]


def _alpha(alpha: float | None) -> float:
    if alpha is None or not 0 < alpha <= 1:
        raise ValueError(f"alpha is {alpha}: it is 1 - momentum, above 0 and at most 1")
    return float(alpha)


def _positive(name: str, value: ArrayLike | None) -> np.ndarray:
    out = np.asarray(value, dtype=float)
    if not np.all(np.isfinite(out) & (out > 0)):
        bad = out[~(np.isfinite(out) & (out > 0))].flat[0]
        raise ValueError(f"{name} is {bad:g}: it must be positive and finite")
    return out
