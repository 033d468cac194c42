"""Runs that the others contradict: leave-one-out residuals beyond what the noise allows."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.stats import norm

from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.inference.gate import ConvergenceWarning
from bayes_optlaws.inference.loo import loo_moments

DRAWS = 64
"""Posterior draws in use."""

MOST_RUNS = 5000
"""With more runs than this none is looked for after a fit, to save time."""

FALSE_ALARM = 0.01
"""Probability that some run of a table without a fault is named, under normal residuals."""

LEAST_Z = 3.0
"""A run is named only if its residual is also this many of the law's own sds."""

_BITS = np.log(2.0)


class OddRunWarning(UserWarning):
    """A fitted run that the others contradict; the message names it and the likely mistake."""


def odd_runs(law: FittedLaw, *, max_draws: int = DRAWS) -> pd.DataFrame:
    """Name the runs whose loss the others contradict.

    The residual of a run given all others, over its sd, is z.  A bad run makes the noise look
    large and hides itself, so z is also measured by the median absolute z of all runs, and held
    against the normal quantile that some run of a good table exceeds with probability 0.01 (own
    choice).

    Parameters
    ----------
    law : FittedLaw
    max_draws : int

    Returns
    -------
    DataFrame
        Index ``run_id``, the oddest first: ``final_loss``, ``expected`` (nats, given the other
        runs), ``off_percent``, ``z`` (of the law's own sds), ``z_robust``, ``likely`` (mistakes).
    """
    # by the law alone: an odd run would make its neighbours look odd
    moments = loo_moments(replace(law, neighbours=None), max_draws=max_draws)
    error, sd = moments.error, moments.sd
    runs = law.encoding.finished
    mean = error.mean(axis=0)
    z = mean / np.sqrt(np.mean(sd**2, axis=0) + error.var(axis=0))
    typical = max(1.4826 * float(np.median(np.abs(z - np.median(z)))), 1e-9)
    robust = z / typical
    bound = norm.isf(FALSE_ALARM / (2 * len(z)))
    table = pd.DataFrame(
        {
            "final_loss": runs["final_loss"].to_numpy(float),
            "expected": runs["final_loss"].to_numpy(float) * np.exp(-mean),
            "off_percent": 100 * np.expm1(mean),
            "z": z,
            "z_robust": robust,
        },
        index=pd.Index(runs["run_id"].astype(str).to_numpy(), name="run_id"),
    )
    named = (np.abs(robust) > bound) & (np.abs(z) > LEAST_Z)
    table = table[named]
    table["likely"] = [likely_mistakes(v) for v in mean[named]]
    return table.iloc[np.argsort(-table["z"].abs().to_numpy(), kind="stable")]


def likely_mistakes(error: float) -> str:
    """Name what may be wrong with a run, by its log loss less what was expected.

    Examples
    --------
    >>> likely_mistakes(-np.log(np.log(2)))
    'loss in bits instead of nats'
    >>> likely_mistakes(0.1)
    'ended early or diverged without being marked, or a wrong label or unit (LR, tokens, batch)'
    """
    if abs(error + np.log(_BITS)) < 0.03:
        return "loss in bits instead of nats"
    if abs(error - np.log(_BITS)) < 0.03:
        return "loss in a unit of its own (nats times 0.69)"
    if error > np.log(2.5):
        return "perplexity instead of loss, or diverged without being marked"
    if error > 0:
        return (
            "ended early or diverged without being marked, or a wrong label or unit "
            "(LR, tokens, batch)"
        )
    return "longer than stated, other data, or a wrong label or unit (LR, tokens, batch)"


def warn_of_fit(law: FittedLaw) -> None:
    """Warn where a fit does not pass the gate, and of runs that the others contradict.

    Parameters
    ----------
    law : FittedLaw
    """
    odd = odd_runs(law) if len(law.encoding.finished) <= MOST_RUNS else pd.DataFrame()
    if law.failures:
        names = listed(law.failing_quantities)
        which = f"; quantities: {names}" if names else ""
        warnings.warn(
            f"the posterior did not converge ({'; '.join(law.failures)}{which}): predict and rank "
            "refuse it; fit again with more tune and draws",
            ConvergenceWarning,
            stacklevel=3,
        )
    if len(odd):
        warnings.warn(odd_sentence(odd), OddRunWarning, stacklevel=3)


def listed(names: list[str], most: int = 5) -> str:
    """Join the first names by commas, and say how many are left out.

    Examples
    --------
    >>> listed(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    text = ", ".join(names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


def odd_sentence(table: pd.DataFrame, most: int = 5) -> str:
    """Say which runs are odd, in one sentence.

    Parameters
    ----------
    table : DataFrame
        Of `odd_runs`, at least one row.
    most : int
        Runs named.
    """
    named = [
        f"{run} ({row['off_percent']:+.1f} %, z = {row['z']:.1f}: {row['likely']})"
        for run, row in table.head(most).iterrows()
    ]
    more = f" and {len(table) - most} more" if len(table) > most else ""
    which = "This run stands" if len(table) == 1 else "These runs stand"
    return (
        f"{which} out from what all others let expect: {'; '.join(named)}{more}. Check "
        f"{'it' if len(table) == 1 else 'them'} before trusting the fit."
    )
