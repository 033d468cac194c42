"""The part of a report that says whether to trust it: gate, leave-one-out, plots of the fit."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binom

from bayes_optlaws import plots
from bayes_optlaws.inference import gate
from bayes_optlaws.inference.caveats import FAR
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.inference.loo import loo, loo_pit
from bayes_optlaws.inference.odd_runs import odd_runs, odd_sentence
from bayes_optlaws.report import parts as parts
from bayes_optlaws.text import html

MOST_LEFT_OUT = 5_000
"""With more runs than this the leave-one-out checks are omitted, to save time."""


def trust(law: FittedLaw, table: pd.DataFrame, predicted: pd.DataFrame, random_seed: int) -> str:
    """Return the section of a report that says whether to trust it.

    Parameters
    ----------
    law : FittedLaw
    table : DataFrame
        Candidates.
    predicted : DataFrame
        What ``law.predict`` says of them.
    random_seed : int
    """
    checks, pit = _checks(law, predicted)
    out = [
        html.paragraphs(
            [
                "The first rows are the gate: without them no interval is given. The others are "
                "leave-one-out checks on the fitted runs; they say nothing about scales that were "
                "not fitted. For that, hold out the largest scale: bayes-optlaws evaluate."
            ]
        ),
        parts.wide(html.table(checks, index=False)),
    ]
    if len(law.encoding.finished) <= MOST_LEFT_OUT:
        odd = odd_runs(law)
        said = odd_sentence(odd) if len(odd) else "No run is contradicted by the others."
        out.append(html.paragraphs([said]))
    drawn = []
    if pit is not None:
        drawn.append(
            parts.drawing(
                lambda: plots.pit(law),
                alt="leave-one-out probability integral transform",
                caption="Flat is calibrated. A hill: the intervals are too wide; a valley: too "
                "narrow; a slope: the law is biased.",
            )
        )
    if not law.failures:
        drawn += _fit_drawings(law, table, random_seed)
    return "".join([*out, parts.pair(*drawn)])


def _fit_drawings(law: FittedLaw, table: pd.DataFrame, random_seed: int) -> list[str]:
    scale = table[["n_params", "tokens"]].value_counts().index[0]
    family = table["schedule"].mode().iloc[0]
    at: dict[str, Any] = {
        "n_params": float(scale[0]),
        "tokens": float(scale[1]),
        "batch_tokens": float(table["batch_tokens"].median()),
        "schedule": family if family in ("linear", "cosine", "wsd", "wsd-sqrt") else "linear",
        "random_seed": random_seed,
    }
    out = [
        parts.drawing(
            lambda: plots.predictions(law, random_seed=random_seed),
            alt="predicted against observed loss of the fitted runs",
            caption="In-sample: points far off the line show lack of fit; points on it say "
            "nothing about runs not yet made.",
        ),
        parts.drawing(
            lambda: plots.predictive_check(law, random_seed=random_seed),
            alt="residuals of the fitted runs over those of replicated runs",
            caption="A cell that lies on one side of zero, or points far outside the bands, "
            "show where the model does not fit.",
        ),
        parts.drawing(
            lambda: plots.loss_surface(law, **at),
            alt="expected loss over peak LR and warm-up at the scale of the candidates",
            caption="The scale of the candidates. Where the bottom is flat, settings are a tie.",
        ),
    ]
    if law.models_divergence:
        out.append(
            parts.drawing(
                lambda: plots.stable_region(law, **at),
                alt="probability of divergence over peak LR and warm-up",
                caption="The dashed lines show how well the runs locate the boundary.",
            )
        )
    return out


def _checks(law: FittedLaw, predicted: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Rows of the table of checks, and the leave-one-out PIT where it was computed."""
    found = law.diagnostics
    limits = {
        "rhat": ("R-hat, worst", f"at most {gate.MAX_RHAT}", "{:.3f}"),
        "ess_bulk": ("effective sample size, bulk", f"at least {gate.MIN_ESS:.0f}", "{:.0f}"),
        "ess_tail": ("effective sample size, tails", f"at least {gate.MIN_ESS:.0f}", "{:.0f}"),
        "divergent": ("divergent transitions", "none", "{:.0f}"),
        "bfmi": ("E-BFMI, worst", f"at least {gate.MIN_BFMI}", "{:.2f}"),
        "pareto_k": (
            "importance sampling, Pareto k", f"at most {gate.MAX_PARETO_K}", "{:.2f}"
        ),
        "effective_draws": (
            "importance sampling, effective draws", f"at least {gate.MIN_EFFECTIVE:.0f}",
            "{:.0f}",
        ),
    }  # fmt: skip
    low, high = ("rhat", "divergent", "pareto_k"), ("ess_bulk", "ess_tail", "bfmi")
    ideal = dict.fromkeys(low, 0.0) | dict.fromkeys((*high, "effective_draws"), np.inf)
    by = {"nuts": "NUTS", "importance": "importance sampling"}[law.method]
    rows = [("posterior of the losses by", by, "", law.sample.note)]
    for name, (what, limit, form) in limits.items():
        if name not in found:
            continue
        failed = bool(gate.failures(ideal | {name: found[name]}))
        rows.append((what, form.format(found[name]), limit, "FAILS" if failed else "passes"))
    pit = None
    n = int((~law.runs["diverged"]).sum())
    if n <= MOST_LEFT_OUT:
        with warnings.catch_warnings():  # said in the table instead
            warnings.filterwarnings("ignore", message="Estimated shape parameter")
            left_out = loo(law)
        pit = loo_pit(law)
        for share in (0.5, 0.9):
            inside = float(np.mean(np.abs(pit - 0.5) <= share / 2))
            low, high = binom.ppf([0.025, 0.975], n, share) / n
            verdict = "as said"
            if not low <= inside <= high:
                verdict = "too narrow" if inside < low else "too wide"
            rows.append(
                (f"left-out runs in their {100 * share:g} % intervals", f"{100 * inside:.0f} %",
                 f"{100 * low:.0f} to {100 * high:.0f} %", verdict)
            )  # fmt: skip
        rows.append(
            ("expected log density of a left-out run", f"{left_out.elpd / n:.2f} "
             f"± {left_out.se / n:.2f}", "higher is better", "")
        )  # fmt: skip
        bad = int(np.sum(np.asarray(left_out.pareto_k) > left_out.good_k))
        rows.append(
            ("runs whose leaving out is unreliable (Pareto k)", f"{bad} of {n}", "few",
             "passes" if bad <= 0.02 * n else "look at them")
        )  # fmt: skip
    far = predicted["extrapolation"].to_numpy()
    rows.append(
        ("decades beyond the fitted scales", f"{far.min():.2f} to {far.max():.2f}",
         f"at most {FAR}", "far" if far.max() > FAR else "near")
    )  # fmt: skip
    return pd.DataFrame(rows, columns=["check", "value", "limit", "verdict"]), pit
