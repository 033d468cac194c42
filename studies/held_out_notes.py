"""Two notes on the held-out evaluation: the model of the noise before and now, and modest pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from bayes_optlaws.evaluation.protocols import POOLED
from studies.scenarios import LAW, NEAR

BEFORE = "noise-of-a-class.csv"
"""Figures of the model with the noise of a class, as they were."""

PARTS = "pair-parts.csv"
"""From `studies.pair_parts`."""

TITLES = {s.name: s.title for s in NEAR}


def noise_lines(tables: Mapping[str, pd.DataFrame], out: str | Path) -> list[str]:
    """Coverage and pairs with the noise of a class and with one noise model, side by side.

    Parameters
    ----------
    tables : mapping
        Of `studies.held_out.read_tables`.
    out : path
        Folder of the stored figures; without them there is nothing to say.
    """
    path = Path(out) / BEFORE
    if not path.is_file():
        return []
    before = pd.read_csv(path).set_index("study")
    lines = [
        "## The noise of a class, and one noise model",
        "",
        "Up to a point the noise of a run was that of its class in the likelihood and another in "
        "predictions; now likelihood, leave-one-out, predictions and replicated data have one. "
        "Left the figures with the noise of a class, right with one noise model. Between the two "
        "evaluations trends over scales, a cap on losses and what is learned from residuals came "
        "in too, and refits changed from NUTS to importance sampling, so the table shows both "
        "models and not the noise alone.",
        "",
        "| held out | 50 % | | 95 % | | pairs: said / right | | pair error | |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, table in tables.items():
        if name not in before.index:
            continue
        both = before.loc[name], table.loc[(LAW, POOLED)]
        cells = [
            *(f"{100 * r['coverage_50']:.0f}" for r in both),
            *(f"{100 * r['coverage_95']:.1f}" for r in both),
            *(f"{r['pair_said']:.2f} / {r['pair_accuracy']:.2f}" for r in both),
            *(f"{r['pair_calibration_error']:.3f}" for r in both),
        ]
        lines.append(f"| {TITLES[name]} | {' | '.join(cells)} |")
    return [*lines, ""]


def pair_lines(out: str | Path) -> list[str]:
    """Why pairs are said too modestly: said without each part of the variance, and what remains.

    Parameters
    ----------
    out : path
        Folder with the table of `studies.pair_parts`; without it there is nothing to say.
    """
    path = Path(out) / PARTS
    if not path.is_file():
        return []
    parts = pd.read_csv(path).set_index("study")
    names = [c.removeprefix("without ") for c in parts if c.startswith("without ")]
    names = [n for n in names if parts[f"share {n}"].max() >= 0.05]
    lines = [
        "## Pairs are said too modestly: by which part",
        "",
        "The probability said of pairs of single runs, with all parts of the variance of their "
        "difference and with one part left out (`python -m studies.pair_parts`): *noise* of the "
        "two runs, *scale*: level and slopes drawn anew for a scale that was not run, *local*: "
        "what the local correction leaves unlearned, *informed*: all that the runs inform. In "
        "brackets the mean share of the variance.",
        "",
        f"| held out | right | said | {' | '.join(f'without {n}' for n in names)} |",
        f"|---|---:|---:|{'---:|' * len(names)}",
    ]
    for study, r in parts.iterrows():
        cells = [f"{r[f'without {n}']:.2f} ({100 * r[f'share {n}']:.0f} %)" for n in names]
        lines.append(
            f"| {TITLES[study]} | {r['right']:.2f} | {r['said']:.2f} | {' | '.join(cells)} |"
        )
    gap = parts["right"] - parts["said"]
    raised = {n: parts[f"without {n}"] - parts["said"] for n in ("noise", "scale", "local")}
    most = pd.DataFrame(raised).idxmax(axis=1)
    by = {n: int((most == n).sum()) for n in most.unique()}
    often = " and ".join(f"the {n} part in {k}" for n, k in by.items())
    lines += [
        "",
        f"Right is {gap.min():.2f} to {gap.max():.2f} above said; the part whose absence raises "
        f"what is said the most is {often} of {len(parts)} tables. The noise belongs to a "
        'difference of two single runs; a ranking by expected losses (`kind="mean"`) does not '
        "count it. What remains is the discrepancy that no run informs, in the order of settings "
        "as well as in the level: intervals owe it their coverage, each table is a few cells, and "
        "it was not made smaller on these.",
        "",
    ]
    return lines
