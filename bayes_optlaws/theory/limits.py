"""Limits of the Opt-Laws: broken and plain power laws, and schedule families that converge.

At fixed peak learning rate and fixed shares of the phases, every feature is a power of model size
N times a power of tokens D, so a generalized law becomes

    log L(N, D) = beta_0 + sum_j k_j (N / N_0)^a_j (D / D_0)^b_j                       (*)

`scale_terms` gives the terms. With the schedule fixed and N alone varying this is the limit of a
broken neural scaling law far from its breaks (`broken_power_law`); small terms of negative powers
give Chinchilla's law (`chinchilla_limit`); and since all terms that tell schedules apart have
b_j < 0, families converge as D grows (`family_losses`; in closed form for the simplified law
`cosine_less_wsd`, `cosine_less_wsd_rate`: Proposition 1 of arXiv 2409.04777). The printed formulas
of the paper are lost; what is derived here from its text is marked in the notes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from bayes_optlaws.model.features import PAPER_BATCH, TREND_POWER, feature_bases
from bayes_optlaws.runs.readers import read_candidates

__all__ = [
    "BrokenPowerLaw",
    "broken_power_law",
    "chinchilla_limit",
    "cosine_less_wsd",
    "cosine_less_wsd_rate",
    "family_losses",
    "opt_law_terms",
    "scale_terms",
]

_POWERS = {
    "N": (1, 0), "S": (0, 1), "lr": (0, 0),
    "1/Cw": (0, -1), "1/Cc": (0, -1), "N/C": (1, -1), "1/(Cw Cc)": (0, -2),
    "Ew": (0, -1), "Ec": (0, -1), "E/N": (-1, -1), "Ew Ec": (0, -2),
    "Ew/Cw": (0, -2), "Ec/Cc": (0, -2), "N Ew/Cw": (1, -2), "N Ec/Cc": (1, -2),
    "N trend": (-TREND_POWER, 0), "tokens trend": (0, -TREND_POWER), "N S": (1, 1),
    "tokens": (0, 1), "batch": (0, 0), "lr/batch": (0, 0), "lr/sqrt(batch)": (0, 0),
}  # fmt: skip
"""Powers of N and of D in every feature, at fixed batch, peak LR and shares of the phases."""


def scale_terms(
    parameters: pd.Series,
    exponents: pd.Series,
    candidate: pd.DataFrame,
    *,
    reference_batch: float = PAPER_BATCH,
) -> pd.DataFrame:
    """Return the terms of a generalized law as powers of model size and tokens, eq. (*).

    Parameters
    ----------
    parameters : Series
        ``constant`` and the coefficient of every feature, in the paper's units:
        ``GeneralizedOptLaw.parameters``, or a posterior draw.
    exponents : Series
        Exponent of every feature: ``GeneralizedOptLaw.exponents``.
    candidate : DataFrame
        Candidate table of one row: the schedule, N_0 and D_0.
    reference_batch : float
        Of the law, see `bayes_optlaws.model.features.feature_bases`.

    Returns
    -------
    DataFrame
        Index: the features. ``value``: k_j, the term at N_0 and D_0; ``n_power``: a_j; ``d_power``:
        b_j. ``attrs["constant"]`` is beta_0.

    Raises
    ------
    ValueError
        When there is not exactly one row, or its E_c is no power of the length (``wsd-sqrt``).

    Examples
    --------
    >>> from bayes_optlaws import baselines, datasets, read_runs
    >>> runs = read_runs(datasets.load("pocket"))
    >>> law = baselines.GeneralizedOptLaw().fit(runs)
    >>> terms = scale_terms(law.parameters, law.exponents, runs.iloc[[0]])
    >>> log_loss = terms.attrs["constant"] + terms["value"].sum()
    >>> bool(np.isclose(np.exp(log_loss), law.predict(runs.iloc[[0]])[0]))
    True
    """
    if len(candidate) != 1:
        raise ValueError(f"candidate has {len(candidate)} rows: give the one to start from")
    table = _candidates(candidate)
    if table["schedule"].iloc[0] == "wsd-sqrt":
        raise ValueError(
            "schedule is 'wsd-sqrt': its E_c has a logarithm of the length and is no power of it; "
            "use 'wsd'"
        )
    bases = feature_bases(table, reference_batch=reference_batch)
    rows = {}
    for name, power in exponents.items():
        n, d = _POWERS[name]
        value = parameters[name] * float(bases[name][0]) ** power
        rows[name] = (value, n * power + 0.0, d * power + 0.0)  # no -0.0
    out = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "n_power", "d_power"])
    out.attrs["constant"] = float(parameters["constant"])
    return out


@dataclass(frozen=True)
class BrokenPowerLaw:
    """``y = limit + scale x^-slope prod_i (1 + (x / d_i)^(1/f_i))^(-c_i f_i)``.

    Parameters
    ----------
    scale : float
    breaks : tuple of (float, float, float)
        (c, d, f) of every break: change of slope, place, sharpness.
    slope, limit : float
        0 in the limits of this module.

    Notes
    -----
    Caballero et al., doi:10.48550/arXiv.2210.14891, eq. 1.

    Examples
    --------
    >>> float(BrokenPowerLaw(2.0, ((1.0, 10.0, 1.0),))(10.0))
    1.0
    """

    scale: float
    breaks: tuple[tuple[float, float, float], ...]
    slope: float = 0.0
    limit: float = 0.0

    def __call__(self, x: ArrayLike) -> np.ndarray:
        """Value at `x` > 0."""
        x = np.asarray(x, dtype=float)
        log_y = np.log(self.scale) - self.slope * np.log(x)
        for c, d, f in self.breaks:
            log_y = log_y - c * f * np.log1p((x / d) ** (1.0 / f))
        return self.limit + np.exp(log_y)


def broken_power_law(
    constant: float, terms: Sequence[tuple[float, float]], *, at: float = 1.0, far: float = 1e6
) -> BrokenPowerLaw:
    """Return the broken power law that tends to ``exp(constant + sum_j k_j (x / at)^p_j)``.

    Parameters
    ----------
    constant : float
    terms : sequence of (float, float)
        (k_j, p_j), powers not 0; with N alone varying, ``value`` and ``n_power`` of `scale_terms`.
    at : float
        Where the terms have the values k_j.
    far : float
        Distance of the breaks: they lie at ``at * far`` for positive powers and ``at / far`` for
        negative ones.

    Returns
    -------
    BrokenPowerLaw

    Notes
    -----
    Arxiv 2409.04777, Section 4.2, says that BNSL is approximated when x is small against its
    breaks; the parameters are derived: f = 1/p, c f = -k (d / at)^p. With u = (x/d)^p the logs
    differ by ``k (x / at)^p (1 - log(1 + u) / u)``, at most ``|k| (x / at)^p u / 2`` a term, so
    the limit is reached as u -> 0.

    Examples
    --------
    >>> law = broken_power_law(0.5, [(0.3, 0.5), (-0.2, 0.25)], far=1e10)
    >>> float(law(4.0)), float(np.exp(0.5 + 0.3 * 2.0 - 0.2 * 4.0**0.25))  # doctest: +ELLIPSIS
    (2.26..., 2.26...)
    """
    if not (far > 1 and at > 0):
        raise ValueError(f"far = {far}, at = {at}: breaks lie a factor above 1 away; raise far")
    breaks = []
    for k, p in terms:
        if p == 0:
            raise ValueError("a term has power 0: it is a part of the constant; add it there")
        d = at * far ** np.sign(p)
        breaks.append((-k * p * (d / at) ** p, d, 1.0 / p))
    return BrokenPowerLaw(float(np.exp(constant)), tuple(breaks))


def opt_law_terms(law: BrokenPowerLaw) -> tuple[float, list[tuple[float, float]]]:
    """Return constant and terms (k, p) of the Opt-Law that a broken power law tends to.

    The inverse of `broken_power_law` at ``at=1``: ``exp(constant + sum k x^p)`` with
    ``k = -c f d^(-1/f)`` and ``p = 1 / f``, good where every (x / d)^p is small.

    Parameters
    ----------
    law : BrokenPowerLaw
        Without a limit and a slope of its own.

    Returns
    -------
    constant : float
    terms : list of (float, float)
        (k, p), one a break.

    Raises
    ------
    ValueError
        When the law has a limit or a slope of its own, which no term of this form has.

    Examples
    --------
    >>> constant, ((k, p),) = opt_law_terms(broken_power_law(0.5, [(0.3, 0.5)]))
    >>> round(constant, 12), round(k, 12), p
    (0.5, 0.3, 0.5)
    """
    if law.limit != 0 or law.slope != 0:
        raise ValueError(
            f"limit = {law.limit}, slope = {law.slope}: powers of x do not give them; both must "
            "be 0 (a slope is a term of log x with exponent 1)"
        )
    terms = [(float(-c * f * d ** (-1.0 / f)), 1.0 / f) for c, d, f in law.breaks]
    return float(np.log(law.scale)), terms


def chinchilla_limit(
    constant: float, n_term: tuple[float, float], d_term: tuple[float, float]
) -> dict[str, float]:
    """Return Chinchilla's law that ``exp(constant + k_N N^-alpha + k_D D^-beta)`` tends to.

    Parameters
    ----------
    constant : float
    n_term, d_term : (float, float)
        (k, power) of model size and of tokens; powers negative.

    Returns
    -------
    dict
        ``E, A, alpha, B, beta`` of ``E + A / N^alpha + B / D^beta``: E = exp(constant), A = E k_N,
        B = E k_D.

    Raises
    ------
    ValueError
        When a power is not negative: the law then has no floor.

    Notes
    -----
    Derived: with h = k_N N^-alpha + k_D D^-beta >= 0, Chinchilla's law is E (1 + h) and lies below
    the Opt-Law by at most ``E h^2 exp(h) / 2``, which vanishes as N and D grow. The paper's own way
    (Section 4.2) puts log N and exponent 1 in place of N^p: exp(b_0 + b log N) = e^b_0 N^b, a
    power law without floor.

    Examples
    --------
    >>> found = chinchilla_limit(np.log(2.0), (0.5, -0.3), (0.25, -0.4))
    >>> {k: round(v, 6) for k, v in found.items()}
    {'E': 2.0, 'A': 1.0, 'alpha': 0.3, 'B': 0.5, 'beta': 0.4}
    """
    for name, (_, power) in (("n_term", n_term), ("d_term", d_term)):
        if not power < 0:
            raise ValueError(
                f"{name} has power {power}: it must be negative for the loss to have a floor; fit "
                "with exponents='saturating'"
            )
    floor = float(np.exp(constant))
    return {
        "E": floor,
        "A": floor * n_term[0],
        "alpha": -n_term[1],
        "B": floor * d_term[0],
        "beta": -d_term[1],
    }


def cosine_less_wsd(
    parameters: Mapping[str, float],
    *,
    peak_lr: float,
    steps: ArrayLike,
    warmup: float,
    cooldown_start: float,
) -> np.ndarray:
    """Loss of a cosine schedule less that of constant + linear, by the simplified law.

    Parameters
    ----------
    parameters : mapping
        ``a1, g1, a3, g3`` of the simplified law, as in ``SimplifiedOptLaw.parameters``; the other
        terms are equal for both schedules.
    peak_lr : float
    steps : array_like, shape (n,)
        Length S of the runs.
    warmup, cooldown_start : float
        Shares r_a and r_ac of the steps, 0 < r_a <= r_ac < 1.

    Returns
    -------
    ndarray, shape (n,)
        Nats.

    Notes
    -----
    Proposition 1 of arXiv 2409.04777; the conclusion is derived from its eqs. 1 to 3: the
    convergence integrals are eta S / 2 and eta S (1 + r_ac - r_a) / 2, the escape terms after the
    warm-up pi^2 eta^2 / (8 (1 - r_a) S) and eta^2 / ((1 - r_ac) S).

    Examples
    --------
    >>> law = {"a1": 1.0, "g1": 0.5, "a3": 0.1, "g3": 0.2}
    >>> gap = cosine_less_wsd(law, peak_lr=1e-3, steps=[1e4, 1e8], warmup=0.1, cooldown_start=0.9)
    >>> bool(abs(gap[1]) < 0.1 * abs(gap[0]))
    True
    """
    _check_shares(warmup, cooldown_start)
    s = np.asarray(steps, dtype=float)
    area = peak_lr * s / 2
    conv = area ** -parameters["g1"] - (area * (1 + cooldown_start - warmup)) ** -parameters["g1"]
    cos = (np.pi**2 * peak_lr**2 / (8 * (1 - warmup) * s)) ** parameters["g3"]
    line = (peak_lr**2 / ((1 - cooldown_start) * s)) ** parameters["g3"]
    return parameters["a1"] * conv + parameters["a3"] * (cos - line)


def cosine_less_wsd_rate(
    parameters: Mapping[str, float], *, warmup: float, cooldown_start: float
) -> float:
    """Return r such that the gap of `cosine_less_wsd` falls as steps^-r.

    ``min(g1, g3)`` over the terms that differ: a term whose coefficient is 0 does not, nor does
    the convergence term where the cooldown starts with the end of the warm-up. ``inf`` where none
    does.

    Parameters
    ----------
    parameters : mapping
        ``a1``, ``g1``, ``a3``, ``g3``, as of `cosine_less_wsd`.
    warmup, cooldown_start : float
        Shares of the steps, as of `cosine_less_wsd`.

    Returns
    -------
    float

    Examples
    --------
    >>> law = {"a1": 1.0, "g1": 0.1, "a3": 0.1, "g3": 0.2}
    >>> cosine_less_wsd_rate(law, warmup=0.1, cooldown_start=0.9)
    0.1
    >>> cosine_less_wsd_rate(law, warmup=0.1, cooldown_start=0.1)
    0.2
    """
    _check_shares(warmup, cooldown_start)
    rates = [np.inf]
    if parameters["a1"] != 0 and cooldown_start > warmup:
        rates.append(parameters["g1"])
    same = np.isclose(np.pi**2 / (8 * (1 - warmup)), 1 / (1 - cooldown_start), rtol=1e-12)
    if parameters["a3"] != 0 and not same:
        rates.append(parameters["g3"])
    return float(min(rates))


def family_losses(
    predict: Callable[[pd.DataFrame], ArrayLike],
    *,
    n_params: float,
    tokens: Sequence[float],
    batch_tokens: float,
    peak_lr: float,
    warmup: float = 0.1,
    cooldown_start: float = 0.9,
) -> pd.DataFrame:
    """Return losses of the schedule families as the data grow, at fixed shares of the phases.

    Parameters
    ----------
    predict : callable
        From a candidate table to losses, shape (n,): ``law.predict`` of a baseline, or
        ``lambda t: law.predict(t, kind="mean")["loss_mean"]``.
    n_params : float
    tokens : sequence of float
    batch_tokens, peak_lr : float
    warmup, cooldown_start : float
        Shares of the steps, as for `cosine_less_wsd`.

    Returns
    -------
    DataFrame
        Index tokens; columns ``linear``, ``cosine``, ``wsd`` in nats, and ``spread``: log of the
        largest over the smallest.

    Notes
    -----
    The spread falls to 0 for every law of these features (Proposition 1), in the end as D to the
    largest ``d_power`` of `scale_terms` among the terms of the schedule. At small D terms of
    opposite sign may hide one another, and the spread may rise first.

    Examples
    --------
    >>> from bayes_optlaws import baselines, datasets, read_runs
    >>> law = baselines.SimplifiedOptLaw().fit(read_runs(datasets.load("pocket")))
    >>> found = family_losses(law.predict, n_params=1e5, tokens=[1e9, 1e12, 1e15],
    ...                       batch_tokens=1024, peak_lr=0.01)
    >>> bool(found["spread"].is_monotonic_decreasing)
    True
    """
    _check_shares(warmup, cooldown_start)
    kinds = ("linear", "cosine", "wsd")
    rows = []
    for total in tokens:
        steps = total / batch_tokens
        rows += [
            {
                "n_params": n_params, "tokens": total, "batch_tokens": batch_tokens,
                "peak_lr": peak_lr, "warmup_steps": warmup * steps, "schedule": kind,
                "min_lr": 0.0,
                "cooldown_start_step": cooldown_start * steps if kind == "wsd" else np.nan,
            }
            for kind in kinds
        ]  # fmt: skip
    loss = np.asarray(predict(read_candidates(pd.DataFrame(rows), warn=False)), dtype=float)
    index = pd.Index(np.asarray(tokens, dtype=float), name="tokens")
    out = pd.DataFrame(loss.reshape(-1, len(kinds)), index=index, columns=list(kinds))
    return out.assign(spread=np.log(out.max(axis=1) / out.min(axis=1)))


def _candidates(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of a run table as candidates."""
    return read_candidates(
        table.drop(columns=["final_loss", "diverged"], errors="ignore"), warn=False
    )


def _check_shares(warmup: float, cooldown_start: float) -> None:
    if not 0 < warmup <= cooldown_start < 1:
        raise ValueError(
            f"warmup = {warmup}, cooldown_start = {cooldown_start}: shares of the steps must obey "
            "0 < warmup <= cooldown_start < 1; order them"
        )
