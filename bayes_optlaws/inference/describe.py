"""How a law shows itself: one line of text, and a block of HTML in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.inference.gate import gate_text
from bayes_optlaws.model.features import BLOCKS
from bayes_optlaws.text import html
from bayes_optlaws.text.html import number, significant
from bayes_optlaws.text.numbers import short

_MOST_CELLS = 12
_MOST_ROWS = 50


def law_text(options: Mapping[str, Any], law: FittedLaw | None) -> str:
    """Say what the law is and how far it is.

    Parameters
    ----------
    options : dict
        Of the constructor.
    law : FittedLaw, optional
        None where the law is not fitted.
    """
    said = f"features={options['features']!r}, transfer={options['transfer']}"
    if law is None:
        return f"OptLaw({said}), not fitted"
    e = law.encoding
    cells = len(e.finished[["n_params", "tokens"]].drop_duplicates())
    state = "; ".join(law.failures) or "converged"
    by = {"nuts": "NUTS", "importance": "importance sampling"}[law.method]
    return (
        f"OptLaw({said}), fitted to {len(e.finished)} finished of {len(law.runs)} runs in "
        f"{cells} (N, tokens) cells, {e.features.tree.n_combinations} exponent combinations, "
        f"{len(BLOCKS)} blocks; by {by}, {state}"
    )


def law_html(options: Mapping[str, Any], law: FittedLaw | None) -> str:
    """Show what was fitted, whether it converged, what is known about divergence.

    Parameters
    ----------
    options : dict
        Of the constructor.
    law : FittedLaw, optional
        None where the law is not fitted.
    """
    if law is None:
        return html.box(
            html.heading("OptLaw, not fitted"),
            html.paragraphs([law_text(options, None), "Call fit(runs)."]),
        )
    failed = law.failures
    found = law.diagnostics
    gate = f"{gate_text(found)}."
    said = [
        f"Converged: {gate}"
        if not failed
        else f"UNCONVERGED ({'; '.join(failed)}): predict and rank refuse. {gate}",
        *([f"Note: {law.sample.note}."] if law.sample.note else []),
        f"Noise of one run: {_noise(law)} of its loss (median over the fitted settings).",
        *_from_residuals(law),
    ]
    if not law.models_divergence:
        said.append("Divergence is not modelled.")
    elif law.divergence_note:
        said.append(f"On divergence: {law.divergence_note}.")
    cells = law.runs.groupby(["n_params", "tokens"]).agg(
        runs=("diverged", "size"), diverged=("diverged", "sum"), lowest=("final_loss", "min")
    )
    shown = pd.DataFrame(
        {
            "parameters": [short(n) for n, _ in cells.index],
            "tokens": [short(d) for _, d in cells.index],
            "runs": cells["runs"].to_numpy(),
            "diverged": cells["diverged"].to_numpy(),
            "lowest loss": cells["lowest"].to_numpy(),
        }
    )
    return html.box(
        html.heading(
            f"OptLaw fitted to {len(law.encoding.finished):,} finished of {len(law.runs):,} runs"
        ),
        html.paragraphs(said),
        html.table(shown, formats={"lowest loss": number(4)}, index=False, max_rows=_MOST_CELLS),
        html.paragraphs(
            ["Next: rank(candidates), predict(candidates), report(candidates), summary()."]
        ),
    )


def _from_residuals(law: FittedLaw) -> list[str]:
    """What the residuals of the fit told of new runs, in words."""
    said = []
    if law.neighbours is not None:
        share = law.neighbours.learned.share
        said.append(
            f"Runs of nearly the same settings share {100 * share:.0f} % of what the law does not "
            "explain: predictions near them are corrected by it."
        )
    if np.isfinite(law.noise_df):
        said.append(f"New runs have Student-t noise of {law.noise_df:g} degrees of freedom.")
    return said


def _noise(law: FittedLaw) -> str:
    """Median noise of one run over (some of) the fitted settings, in percent of the loss."""
    finished = law.encoding.finished
    some = finished.iloc[:: max(1, len(finished) // _MOST_ROWS)]
    return f"{significant(100 * float(np.median(law.predictor().whole_noise_sd(some))))} %"
