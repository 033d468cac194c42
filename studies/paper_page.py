"""The page of the paper's tables: our figures beside the printed ones, and why they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from bayes_optlaws.datasets import load
from studies.held_out import LAW
from studies.paper_words import HEADINGS, INTRO, NAMES, TITLES, WHY

__all__ = ["page", "section", "verdicts"]

MEASURES = {
    "relative_error": ("relative error", 2),
    "spearman": ("Spearman", 3),
    "top2": ("Top-2", 3),
    "regret": ("regret", 4),
    "log_score": ("log score", 2),
}


def page(out: str | Path) -> str:
    """Return the page in Markdown, with the tables whose results lie in `out`."""
    parts = [INTRO]
    for number in HEADINGS:
        if (Path(out) / f"paper-table-{number}.csv").is_file():
            parts.append("\n".join(section(number, out)))
    return "\n\n".join(parts) + "\n"


def section(number: str, out: str | Path) -> list[str]:
    """Return the lines of one table: heading, reasons, ours beside the paper's."""
    body = _SECTIONS[number](Path(out))
    return [f"## {HEADINGS[number]}", "", WHY[number].strip(), "", *body]


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Whether the law is best in each column, from `side_by_side`.

    Parameters
    ----------
    table : DataFrame
        One row a study and method, with ``<metric>_lead`` of the law and its standard error.

    Returns
    -------
    DataFrame
        One row a study and metric: ``best`` (method, the law where it shares the best value),
        ``best_value``, ``law_value``, ``lead`` and ``lead_se`` of the law over the best, and
        ``says``: ``best``; ``tied`` (behind by at most one standard error); ``behind``; or
        ``behind, no standard error``.
    """
    rows = []
    for study, part in table.groupby("study", sort=False):
        part = part.set_index("method")
        for metric in MEASURES:
            sign = -1 if metric in ("relative_error", "regret") else 1
            value = (sign * part[metric]).dropna()
            best = LAW if value[LAW] >= value.max() else value.idxmax()
            lead, se = part.loc[best, [f"{metric}_lead", f"{metric}_lead_se"]].astype(float)
            if best == LAW:
                says = "best"
            elif not np.isfinite(se):
                says = "behind, no standard error"
            else:
                says = "tied" if lead >= -se else "behind"
            rows.append(
                (study, metric, best, part.loc[best, metric], part.loc[LAW, metric], lead, se, says)
            )
    columns = ["study", "metric", "best", "best_value", "law_value", "lead", "lead_se", "says"]
    return pd.DataFrame(rows, columns=columns)


def _table(header: Sequence[str], rows: Iterable[Sequence[object]], text: int = 1) -> list[str]:
    """Markdown table whose first `text` columns are words."""
    marks = ["---"] * text + ["---:"] * (len(header) - text)
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join(marks)}|"]
    return lines + [f"| {' | '.join(str(c) for c in row)} |" for row in rows]


def _n(value: float, digits: int) -> str:
    return "" if pd.isna(value) else f"{value:.{digits}f}"


def _pm(row: pd.Series, name: str, digits: int, scale: float = 1.0) -> str:
    se = row.get(f"{name}_se", np.nan)
    tail = f" ± {_n(scale * se, digits)}" if np.isfinite(se) else ""
    return _n(scale * row[name], digits) + tail


def _read(out: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(out / f"paper-table-{name}.csv")


def _bold(name: str) -> str:
    return f"**{name}**" if name == LAW else name


_METHOD_HEADER = (
    "data", "method", "R2", "error %", "Spearman", "Top-2 %", "regret", "95 %", "log score",
    "pairs",
)  # fmt: skip


_GATE = (
    "(*): a refit, made with fewer draws than `fit` takes, did not pass the convergence gate; its "
    "row is to be read with care."
)


def _method_rows(table: pd.DataFrame) -> list[list[str]]:
    rows, last = [], ""
    for _, r in table.iterrows():
        title = TITLES[r["study"]]
        rows.append(
            ["" if title == last else title,
             _bold(r["method"]) + ("" if r["converged"] else " (*)"), _n(r["r2"], 3),
             _pm(r, "relative_error", 2), _pm(r, "spearman", 3), _pm(r, "top2", 0, 100),
             _pm(r, "regret", 4), _n(100 * r["coverage_95"], 1), _pm(r, "log_score", 2),
             _n(r["pair_calibration_error"], 3)]
        )  # fmt: skip
        last = title
    return rows


def _verdict_lines(table: pd.DataFrame) -> list[str]:
    lines = [] if table["converged"].all() else [_GATE, ""]
    lines += [
        "Is opt-law best? Its lead over the best of the others, ± one standard error of the paired "
        "difference over blocks (*tied*: behind by at most that):",
        "",
    ]
    found = verdicts(table)
    for study, part in found.groupby("study", sort=False):
        said = []
        for _, v in part.iterrows():
            name, digits = MEASURES[v["metric"]]
            if v["says"] == "best":
                said.append(f"{name}: **best**")
            else:
                se = f" ± {v['lead_se']:.{digits}f}" if np.isfinite(v["lead_se"]) else ""
                said.append(
                    f"{name}: {v['says']} ({v['best']} leads by {-v['lead']:.{digits}f}{se})"
                )
        lines.append(f"- {TITLES[study]}: {'; '.join(said)}.")
    return lines


def _one(out: Path) -> list[str]:
    ours, paper = _read(out, "1"), load("paper-table-1")
    rows = [
        ["paper" if i == 0 else "", NAMES[p["method"]], _n(p["r2"], 3),
         _n(p["relative_error_pct"], 2), _n(p["spearman"], 2), _n(p["top2_pct"], 0),
         _n(p["regret"], 3), "", "", ""]
        for i, (_, p) in enumerate(paper.iterrows())
    ]  # fmt: skip
    rows += _method_rows(ours)
    return [*_table(_METHOD_HEADER, rows, 2), "", *_verdict_lines(ours)]


def _two(out: Path) -> list[str]:
    ours, paper = _read(out, "2"), load("paper-table-2")
    keys = ["group", "n_params", "tokens", "name", "peak_lr", "warmup_steps"]
    wide = ours.pivot_table(
        ["predicted_loss", "error_pct"], [*keys, "actual_loss"], "method", sort=False
    )
    rows = []
    for key, r in wide.iterrows():
        group, n, tokens, name, lr, warmup, actual = key
        cells = [
            f"{_n(r[('predicted_loss', m)], 3)} ({_n(r[('error_pct', m)], 1)} %)"
            for m in ("generalized", LAW)
        ]
        rows.append([group, f"{n:,.0f}", f"{tokens:,.0f}", name, f"{lr:g}", f"{warmup:.0f}",
                     _n(actual, 3), *cells])  # fmt: skip
    lines = _table(
        ("group", "parameters", "tokens", "shape", "peak LR", "warm-up", "actual", "generalized",
         f"**{LAW}**"), rows, 1,
    )  # fmt: skip
    cells = [
        [p["group"], p["model"], f"{p['tokens_billion']:g}B",
         f"{p['warmup_steps']:g}, {p['decay_end_step']:g}, {p['cooldown_start_step']:g}",
         _n(p["actual_loss"], 3), _n(p["predicted_loss"], 3), _n(p["error_pct"], 2)]
        for _, p in paper.iterrows()
    ]  # fmt: skip
    header = ("group", "model", "tokens", "a1, a2, a3", "actual", "generalized", "error %")
    lines += ["", "The paper's:", "", *_table(header, cells, 1)]
    printed = paper.loc[paper["group"] == "loss-equivalent", "actual_loss"]
    measured = ours[ours["group"] == "loss-equivalent"].groupby("peak_lr")["actual_loss"]
    said = [f"{np.ptp(loss):.4f} nats at peak LR {lr:g}" for lr, loss in measured]
    lines += [
        "",
        "Shapes that are to be loss-equivalent end within "
        f"{np.ptp(printed):.3f} nats in the paper; ours within {', '.join(said)}. "
        "`OptLaw.loss_equivalent` finds such shapes with the probability that they are.",
    ]
    return lines


def _three(out: Path) -> list[str]:
    ours = _read(out, "3").set_index("method")
    paper = load("paper-table-3")
    paper = paper.assign(method=paper["method"].map(NAMES)).set_index("method")
    groups = ("single-phase", "multi-phase", "loss-equivalent", "all")
    rows = []
    for method in ours.index:
        printed = [""] * 4
        if method in paper.index:
            printed = [_n(v, 1) for v in paper.loc[method]]
        rows.append([_bold(method), *printed, *(_n(ours.loc[method, g], 2) for g in groups)])
    header = ("method", *(f"paper, {g}" for g in groups), *(f"pocket, {g}" for g in groups))
    lines = _table(header, rows)
    best = ours["all"].idxmin()
    lines += ["", f"Best of all: {best} ({_n(ours['all'].min(), 2)} %)."]
    if (out / "paper-table-3-held-out.csv").is_file():
        held = _read(out, "3-held-out")
        lines += ["", "Whole scales held out (not in the paper):", ""]
        lines += _table(_METHOD_HEADER, _method_rows(held), 2)
        lines += ["", *_verdict_lines(held)]
    return lines


def _stages(out: Path) -> list[str]:
    rows = []
    four, five = load("paper-table-4"), load("paper-table-5")
    sets = [("strong", "strong", t) for _, t in four[four["shift"] == "strong"].groupby("shift")]
    sets += [("weak", "weak", t) for _, t in four[four["shift"] == "weak"].groupby("shift")]
    sets += [("tuned", "tuned", t) for _, t in five.groupby("tokens_billion")]
    for kind in ("strong", "weak", "tuned"):
        mine = [t for k, _, t in sets if k == kind]
        order = [spearmanr(t["predicted_score"], t["observed_loss"]).statistic for t in mine]
        top = [t["predicted_score"].argmin() == t["observed_loss"].argmin() for t in mine]
        rows.append(["paper", kind, "least squares", len(mine), _n(np.mean(order), 2),
                     _n(100 * np.mean(top), 0), "", "", ""])  # fmt: skip
    for _, r in _read(out, "4-5").iterrows():
        if r["kind"] == "all":
            continue
        name = f"**{r['method']}**" if r["method"].startswith("law") else r["method"]
        rows.append(["pocket", r["kind"], name, r["n_sets"], _n(r["spearman"], 2),
                     _n(100 * r["top1"], 0), _n(r["regret"], 4), _n(r["said"], 2),
                     _n(r["right"], 2)])  # fmt: skip
    header = ("data", "stage", "method", "sets", "Spearman", "best found %", "regret",
              "pairs: said", "right")  # fmt: skip
    return _table(header, rows, 3)


def _nine(out: Path) -> list[str]:
    ours, paper = _read(out, "9"), load("paper-table-9")
    rows = [
        ["paper", p["variant"], p["n_features"], _n(p["r2"], 3), _n(p["relative_error_pct"], 2),
         _n(p["spearman"], 2), _n(p["top2_pct"], 0), _n(p["regret"], 4)]
        for _, p in paper.iterrows()
    ]  # fmt: skip
    rows += [
        [TITLES[r["study"]], r["variant"], r["n_features"], _n(r["r2"], 3),
         _n(r["relative_error"], 2), _n(r["spearman"], 3), _n(100 * r["top2"], 0),
         _n(r["regret"], 4)]
        for _, r in ours.iterrows()
    ]  # fmt: skip
    header = ("data", "blocks", "features", "R2", "error %", "Spearman", "Top-2 %", "regret")
    return _table(header, rows, 2)


def _ten(out: Path) -> list[str]:
    paper = load("paper-table-10")
    pre = paper[paper["part"] == "pre-training"]
    rows = [
        ["paper", "generalized", p["schedule"], "", _n(p["default_error_pct"], 2),
         _n(p["with_decay_error_pct"], 2)]
        for _, p in pre.iterrows()
    ]  # fmt: skip
    ours = _read(out, "10")
    for method, part in ours.groupby("method", sort=False):
        rows += [
            ["pocket", _bold(method), r["name"], f"{r['peak_lr']:g}",
             _n(r["default_error_pct"], 2), _n(r["with_decay_error_pct"], 2)]
            for _, r in part.iterrows()
        ]  # fmt: skip
        mean = part[["default_error_pct", "with_decay_error_pct"]].mean()
        rows.append(["pocket", _bold(method), "mean", "", *(_n(v, 2) for v in mean)])
    lines = _table(("data", "law", "shape", "peak LR", "from a2, error %", "from a1, error %"),
                   rows, 3)  # fmt: skip
    rows = []
    for part, mine in paper[paper["part"] != "pre-training"].groupby("part"):
        found = [
            spearmanr(mine[f"{c}_score"], mine["actual_loss"]).statistic
            for c in ("default", "with_decay")
        ]
        rows.append(["paper", "generalized", part, *(_n(v, 2) for v in found)])
    stage = _read(out, "10-stages")
    rows += [
        ["pocket", _bold(r["method"]), r["set"], _n(r["default_spearman"], 2),
         _n(r["with_decay_spearman"], 2)]
        for _, r in stage.sort_values("method", kind="stable").iterrows()
    ]  # fmt: skip
    header = ("data", "law", "continual training", "from a2, Spearman", "from a1, Spearman")
    return [*lines, "", "Order of schedules in continual training:", "", *_table(header, rows, 3)]


def _eleven(out: Path) -> list[str]:
    paper = load("paper-table-11")
    rows = [
        ["paper", p["perturbed_group"], _n(p["value"], 2), "", _n(p["r2"], 3), "",
         _n(p["spearman"], 2), _n(p["top2_pct"], 0)]
        for _, p in paper.iterrows()
    ]  # fmt: skip
    rows += [
        [TITLES[r["study"]], r["perturbed_group"], _n(r["value"], 2), _n(r["default"], 2),
         _n(r["r2"], 3), _n(r["relative_error"], 2), _n(r["spearman"], 3),
         _n(100 * r["top2"], 0)]
        for _, r in _read(out, "11").iterrows()
    ]  # fmt: skip
    header = ("data", "group", "exponent", "selected", "R2", "error %", "Spearman", "Top-2 %")
    return _table(header, rows, 2)


def _twelve(out: Path) -> list[str]:
    names = ("precision", "recall", "f1", "balanced_accuracy")
    rows = [
        ["paper", p["method"], *(_n(p[c], 2) for c in names), ""]
        for _, p in load("paper-table-12").iterrows()
    ]
    ours = _read(out, "12")
    rows += [
        [TITLES[r["study"]], _bold(r["method"]), *(_pm(r, c, 2) for c in names),
         _pm(r, "log_loss", 3)]
        for _, r in ours.iterrows()
    ]  # fmt: skip
    header = ("data", "method", "precision", "recall", "F1", "balanced accuracy", "log loss")
    lines = [*_table(header, rows, 2), ""]
    for study, part in ours.groupby("study", sort=False):
        part = part.set_index("method")
        f1, log_loss = part["f1"].idxmax(), part["log_loss"].idxmin()
        lines.append(
            f"- {TITLES[study]}: best F1 by {f1} ({part['f1'].max():.2f}; {LAW} "
            f"{_pm(part.loc[LAW], 'f1', 2)}), best log loss by {log_loss}."
        )
    return lines


def _thirteen(out: Path) -> list[str]:
    paper = load("paper-table-13")
    best, right = [], []
    for _, one in paper.groupby(["model", "tokens_billion"], sort=False):
        y, f = one["actual_loss"].to_numpy(), one["predicted_loss"].to_numpy()
        i, j = np.triu_indices(y.size, k=1)
        best.append(y.argmin() == f.argmin())
        right.extend((y[i] < y[j]) == (f[i] < f[j]))
    rows = [["paper", "generalized", len(best), _n(100 * np.mean(best), 0),
             _n(100 * np.mean(right), 0), "", _n(paper["error_pct"].mean(), 1)]]  # fmt: skip
    rows += [
        ["pocket", _bold(r["method"]), r["n_sets"], _n(100 * r["best_right"], 0),
         _n(100 * r["order_right"], 0), _n(r["regret"], 4), _n(r["error_pct"], 1)]
        for _, r in _read(out, "13-choice").iterrows()
    ]  # fmt: skip
    header = ("data", "method", "sets", "best family found %", "pairs right %", "regret", "error %")
    lines = _table(header, rows, 2)
    losses = _read(out, "13")
    keys = ["n_params", "tokens", "schedule"]
    mean = losses.pivot_table("predicted_loss", keys, "method", sort=False)
    actual = losses.groupby(keys, sort=False)["actual_loss"].mean()
    rows = [
        ["pocket", f"{n:,.0f}", f"{d:,.0f}", kind, _n(actual[(n, d, kind)], 3),
         _n(r["generalized"], 3), _n(r[LAW], 3) if LAW in mean else ""]
        for (n, d, kind), r in mean.iterrows()
    ]  # fmt: skip
    rows += [
        ["paper", p["model"], f"{p['tokens_billion']:g}B", p["cooldown"], _n(p["actual_loss"], 3),
         _n(p["predicted_loss"], 3), ""]
        for _, p in paper.iterrows()
    ]  # fmt: skip
    header = ("data", "model", "tokens", "family", "actual", "generalized", f"**{LAW}**")
    return [*lines, "", "Losses (pocket: mean over peak LRs and seeds):", "",
            *_table(header, rows, 1)]  # fmt: skip


_SECTIONS: dict[str, Callable[[Path], list[str]]] = {
    "1": _one,
    "2": _two,
    "3": _three,
    "4-5": _stages,
    "9": _nine,
    "10": _ten,
    "11": _eleven,
    "12": _twelve,
    "13": _thirteen,
}
