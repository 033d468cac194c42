"""A page with sliders: what if the run were larger, longer, hotter.

One HTML file that opens offline.  It holds some posterior draws and a small evaluator
(`explore.js`) of what the law says of one candidate: features, discrepancy, noise and risk of
divergence, as in `bayes_optlaws.inference.predictor`.  Given a draw the log loss is normal, so the
page averages closed forms over the draws: no random numbers, and the same answer as
``OptLaw.predict`` on those draws up to its Monte-Carlo error.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bayes_optlaws.inference.draws import Draws
from bayes_optlaws.inference.fitted import FittedLaw, check_prob
from bayes_optlaws.kernels.hyper import JITTER
from bayes_optlaws.model.discrepancy import (
    LOCAL_SCALE_LENGTHS,
    LOCAL_SETTING_LENGTH,
    MOST_UNUSUAL,
    SAME_SCALE,
    SETTINGS,
)
from bayes_optlaws.model.divergence import PREFIX
from bayes_optlaws.model.divergence_data import LEAST_REMAINDER
from bayes_optlaws.model.features import (
    BATCH_FEATURES,
    FEATURES,
    LR_UNIT,
    SCALE_FEATURES,
    TAPER,
    TREND_POWER,
)
from bayes_optlaws.model.neighbours import NEAREST
from bayes_optlaws.report.explore_inputs import (
    FAMILIES,
    choice,
    covariate_data,
    covariates_of,
    noise_tails,
    page_data,
    settings_of,
    slider,
)
from bayes_optlaws.text import files

__all__ = ["Explorer", "explore"]

KNOWN = {f.name for f in (*FEATURES, *BATCH_FEATURES, *SCALE_FEATURES)} | {
    "lr", "batch", "warmup", "cooldown", "shape", "floor",
}  # fmt: skip
"""Features and settings that the evaluator of the page has."""


@dataclass(frozen=True, eq=False, repr=False)
class Explorer:
    """The page; shown in Jupyter, or in any browser once it is saved.

    Made by ``OptLaw.explore``.

    Attributes
    ----------
    page : str
        The whole HTML file.
    path : Path or None
        Where it was written.
    draws : Draws
        Posterior draws in it.
    """

    page: str
    path: Path | None
    draws: Draws

    def save(self, path: str | Path) -> Path:
        """Write the page; a file that is there is replaced.

        Parameters
        ----------
        path : path
        """
        files.write(Path(path), self.page)
        return Path(path)

    def __repr__(self) -> str:
        """Say where the page is."""
        where = "not saved; .save(path)" if self.path is None else str(self.path)
        return f"Explorer({self.draws.n} draws, {len(self.page) / 1e6:.1f} MB, {where})"

    def _repr_html_(self) -> str:
        return (
            f'<iframe title="What if" srcdoc="{escape(self.page)}" '
            'style="width: 100%; height: 900px; border: 0;" sandbox="allow-scripts"></iframe>'
        )


def explore(
    law: FittedLaw,
    path: str | Path | None = None,
    *,
    baseline: pd.DataFrame | str | Path | None = None,
    draws: int = 300,
    prob: float = 0.9,
    title: str = "What if?",
    allow_unconverged: bool = False,
) -> Explorer:
    """Make the page with sliders.

    Parameters
    ----------
    law : FittedLaw
    path : path, optional
        Where to write it.
    baseline : DataFrame or path, optional
        Candidate table of one row, where the sliders begin. Default: of the finished runs of
        the largest scale the one of lowest loss.
    draws : int
        Posterior draws in the page, evenly spaced; 50 or more.
    prob : float
        Probability of the intervals.
    title : str
    allow_unconverged : bool

    Returns
    -------
    Explorer

    Raises
    ------
    ValueError
        If the baseline is not one row of a schedule that the page has (`FAMILIES`) with the
        covariates of the law, the law has a column that the page has no slider for, or an option
        is out of its range.
    ConvergenceError
        If the posterior does not pass the gate; with ``allow_unconverged`` the page says so.
    """
    check_prob(prob)
    if not (isinstance(draws, int | np.integer) and draws >= 50):
        raise ValueError(f"draws is {draws!r}: give a whole number of at least 50")
    _require_known(law)
    converged = law.require_converged(allow_unconverged)
    table = _default(law) if baseline is None else law.encoding.candidates(baseline)
    if len(table) != 1:
        raise ValueError(f"the baseline has {len(table)} rows: give the one to begin with")
    some = law.draws.thin(int(draws))
    start = settings_of(table.iloc[0]) | covariates_of(law, table)
    payload = {
        **_posterior(law, some),
        **page_data(law, start),
        "covariates": covariate_data(law),
        "prob": float(prob),
        "divergence": _divergence(law, some),
    }
    page = _page(title, payload, law, converged=converged)
    if path is not None:
        files.write(Path(path), page)
    return Explorer(page, None if path is None else Path(path), some)


def _require_known(law: FittedLaw) -> None:
    """Refuse a law with columns that the evaluator would leave out."""
    e = law.encoding
    used = [f.name for f in e.features.features] + [*SETTINGS, *e.noise.names]
    unknown = sorted(set(used) - KNOWN)
    if unknown:
        raise ValueError(
            f"the law has {', '.join(unknown)}, which the page with sliders does not know: ask "
            "law.predict(candidates)"
        )


def _default(law: FittedLaw) -> pd.DataFrame:
    finished = law.encoding.finished
    known = finished[finished["schedule"].isin(FAMILIES)]
    if not len(known):
        raise ValueError(f"no fitted run has one of {', '.join(FAMILIES)}: give baseline=")
    largest = known[known["n_params"] == known["n_params"].max()]
    largest = largest[largest["tokens"] == largest["tokens"].max()]
    return largest.nsmallest(1, "final_loss")


def _packed(values: np.ndarray, dtype: str = "<f8") -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode("ascii")


def _posterior(law: FittedLaw, draws: Draws) -> dict[str, Any]:
    """Draws of the loss, and what the evaluator needs of the encoding."""
    e, hyper = law.encoding, draws.hyper
    d, features = e.discrepancy, e.features
    name = [None if j < 0 else features.features[j].name for j in features.column_feature]
    arrays = {"beta": draws.beta, "noise_sd": hyper["noise_sd"]}
    if e.noise.names:
        arrays |= {k: hyper[k] for k in ("noise_growth", "noise_slope")}
    if e.transfer or e.covariates:
        arrays["local"] = draws.local
    if e.transfer:
        slope_sd = hyper.get("slope_sd", np.zeros((draws.n, 0)))
        arrays |= {k: hyper[k] for k in ("scale_length", "cell_sd", "drift_sd")}
        arrays |= {
            "fields": draws.fields,
            "field_sd": np.concatenate([hyper["level_sd"], slope_sd], axis=1),
        }  # fmt: skip
        if d.n_local:
            arrays["local_sd"] = hyper["local_sd"]
    return {
        "n_draws": draws.n,
        "draws": {k: _packed(v) for k, v in arrays.items()},
        **_neighbours(law, draws),
        "local": {"points": _packed(d.points), "directions": _packed(d.directions)},
        "centre": e.centre,
        "transfer": bool(e.transfer),
        "untrained_loss": law.priors.untrained_loss,
        "features": {
            "column": name,
            "exponent": features.column_exponent.tolist(),
            "mean": e.standardizer.mean.tolist(),
            "sd": e.standardizer.sd.tolist(),
            "top": {k: v for k, v in features.top.items() if np.isfinite(v)},
            "reference_batch": features.reference_batch,
            "data_is_tokens": bool(features.trends and not features.batch),
            "lr_unit": LR_UNIT, "trend_power": TREND_POWER, "taper": float(TAPER),
        },
        "discrepancy": {
            "centre": d.centre.tolist(),
            "seen": d.seen.tolist(),
            "cells": d.cells.tolist(),
            "fields": len(d.fields),
            "varying": list(d.varying),
            "unseen": [k for k in SETTINGS if k not in d.varying],
            "location": d.location, "unit": d.unit,
            "n_local": d.n_local, "n_points": len(d.points),
            "drifts": [
                {"lower": x.lower, "upper": x.upper, "sides": [list(s) for s in x.sides]}
                for x in d.drifts
            ],
            "same_scale": SAME_SCALE, "jitter": JITTER, "unseen_sd": law.priors.unseen_sd,
            "local_scale_lengths": LOCAL_SCALE_LENGTHS.tolist(),
            "local_setting_length": LOCAL_SETTING_LENGTH,
            "numbers": list(d.numbers), "usual": d.usual, "most_unusual": MOST_UNUSUAL,
        },
        "noise": {
            "names": list(e.noise.names), "covariates": e.noise.covariates.tolist(),
            "tails": noise_tails(law.noise_df),
        },
    }  # fmt: skip


def _neighbours(law: FittedLaw, draws: Draws) -> dict[str, Any]:
    """The finished runs whose residuals correct the law nearby."""
    known = law.neighbours
    if known is None:
        return {"neighbours": None, "residuals": {}}
    r, every = known.residuals, np.arange(len(known.residuals.points))
    e = law.predictor(draws).standard_residuals(law.encoding, known.rows(every), every)
    return {
        "neighbours": {
            "share": known.learned.share, "lengths": known.lengths.tolist(), "nearest": NEAREST,
        },
        "residuals": {
            "points": _packed(r.points), "e": _packed(e, "<f4"),
            "own": _packed(r.own(known.learned.share) / r.weight),
        },
    }  # fmt: skip


def _divergence(law: FittedLaw, draws: Draws) -> dict[str, Any] | None:
    if not law.models_divergence:
        return None
    scale = law.encoding.divergence.scale
    names = ("kappa", "gamma", "c1", "c2", "c3", "slope", "correction")
    return {
        "draws": {n: _packed(draws.divergence[PREFIX + n]) for n in names},
        "names": list(scale.names[: len(scale.names) - len(scale.covariates.risk_names)]),
        "lr_unit": scale.lr_unit,
        "centre": scale.centre, "spread": scale.spread,
        "lowest": scale.lowest, "highest": scale.highest,
        "least_remainder": LEAST_REMAINDER,
    }  # fmt: skip


_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"

_CSS = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #555; --back: #fff; --card: #eef5fa;
  --line: #0072B2; --band: #0072B233; --mark: #c24e00; --edge: #8a8a8a; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --soft: #b5b5b5; --back: #16181b;
  --card: #20262c; --line: #56B4E9; --band: #56B4E944; --mark: #ffab4a; --edge: #7d7d7d; } }
* { box-sizing: border-box; }
body { font: 16px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  color: var(--ink); background: var(--back); max-width: 68rem; margin: 0 auto; padding: 1.2rem; }
h1 { font-size: 1.5rem; margin: 0; } p { margin: .3rem 0; } .soft { color: var(--soft); }
main { display: grid; gap: 1.2rem 2rem; grid-template-columns: minmax(0, 5fr) minmax(0, 6fr); }
.warn { border-left: 6px solid var(--mark); padding: .3rem .8rem; font-weight: 600; }
.control { display: grid; grid-template-columns: 1fr 7rem; gap: .1rem .6rem; margin: .55rem 0; }
.control label { grid-column: 1 / 3; font-size: .92rem; }
input[type=range] { width: 100%; accent-color: var(--line); }
input[type=text], select, button { font: inherit; color: inherit; background: var(--back);
  border: 1px solid var(--edge); border-radius: 4px; padding: .2rem .4rem; width: 100%; }
button { width: auto; padding: .3rem .8rem; cursor: pointer; }
:disabled { opacity: .45; } [aria-invalid=true] { border-color: var(--mark); }
:focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; }
dl { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .7rem 1.2rem; margin: 0;
  background: var(--card); padding: .9rem 1.1rem; border-radius: 6px; }
dt { font-size: .85rem; color: var(--soft); }
dd { margin: 0; font-size: 1.25rem; font-weight: 600; }
dd small { display: block; font-size: .85rem; font-weight: 400; min-height: 1.2em; }
svg { width: 100%; height: auto; display: block; font-size: 13px; }
svg text { fill: var(--ink); } .band { fill: var(--band); }
.mean { fill: none; stroke: var(--line); stroke-width: 2.5; }
.grid { stroke: var(--edge); stroke-opacity: .35; } .dot { fill: var(--mark); }
.now { stroke: var(--mark); stroke-dasharray: 4 4; }
pre { overflow-x: auto; background: var(--card); padding: .6rem .8rem; font-size: .85rem; }
#notes { min-height: 2.9em; color: var(--mark); }
@media (max-width: 46rem) {
  main { grid-template-columns: minmax(0, 1fr); gap: .2rem; }
  main > section { display: contents; } main > section > * { order: 2; }
  main > section > dl { order: 1; position: sticky; top: 0; z-index: 1; padding: .5rem .8rem;
    gap: .3rem .8rem; }
  dd { font-size: 1rem; }
}
"""


def _figure(name: str, label: str, small: str | None = None) -> str:
    more = f'<small id="{small}"></small>' if small else ""
    return f'<div><dt>{escape(label)}</dt><dd><span id="{name}"></span>{more}</dd></div>'


def _page(title: str, payload: Mapping[str, Any], law: FittedLaw, *, converged: bool) -> str:
    """Return the whole page; labels of a table get into its markup escaped."""
    here = Path(__file__).parent
    code = [(here / name).read_text(encoding="utf-8") for name in ("explore.js", "explore_page.js")]
    data = json.dumps(payload, allow_nan=False).replace("<", "\\u003c")
    sliders = {k: payload["labels"][k] for k in payload["ranges"]}
    along = "".join(f'<option value="{k}">{escape(v)}</option>' for k, v in sliders.items())
    controls = choice("schedule", "Schedule", FAMILIES) + "".join(
        choice(k, payload["labels"][k], levels) if (levels := payload["levels"].get(k)) else
        slider(k, payload["labels"][k]) for k in payload["labels"]
    )  # fmt: skip
    prob = f"{100 * payload['prob']:g} %"
    warning = "" if converged else (
        '<p class="warn">UNCONVERGED: the posterior did not pass its checks; do not decide by '
        "this page.</p>"
    )  # fmt: skip
    note = law.divergence_note
    about = (
        f"{len(law.runs)} runs, {payload['n_draws']} posterior draws. Losses in nats a token. The "
        "interval is that of one new run that finishes; better means a lower expected loss, if "
        "both finish."
    )
    figures = "".join([
        _figure("loss", "Loss of one run, mean"),
        _figure("interval", f"{prob} interval"),
        _figure("risk", "Risk of divergence", "risk-interval"),
        _figure("better", "P(better than the baseline)", "gain"),
        _figure("distance", "Distance from the table"),
        _figure("steps", "Length and cost"),
    ])  # fmt: skip
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8" />'
        '<meta name="viewport" content="width=device-width, initial-scale=1" />'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}" />'
        f"<title>{escape(title)}</title><style>{_CSS}</style></head><body>"
        f'<h1>{escape(title)}</h1><p class="soft">{escape(about)}</p>{warning}'
        + (f'<p class="soft">{escape(note[0].upper() + note[1:])}.</p>' if note else "")
        + '<main><section aria-label="Settings">'
        f'{controls}<p><button id="reset" type="button">Back to the baseline</button> '
        '<button id="keep" type="button">Make this the baseline</button></p></section>'
        f'<section aria-label="Prediction"><dl aria-live="polite">{figures}</dl>'
        '<p id="notes" role="status"></p><p><label for="along">Loss, nats a token, along </label>'
        f'<select id="along" style="width: auto">{along}</select></p>'
        '<svg id="chart" viewBox="0 0 640 300" role="img"></svg>'
        '<p class="soft">These settings, as a row of a candidate table:</p>'
        '<pre id="row" tabindex="0"></pre></section></main>'
        '<script type="application/json" id="state"></script>'
        f'<script type="application/json" id="law">{data}</script>'
        f"<script>{code[0]}\n{code[1]}</script></body></html>\n"
    )
