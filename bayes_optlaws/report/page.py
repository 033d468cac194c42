"""One page that answers: which schedule, how sure, which ties, what risk, which runs next.

Then whether to trust it, and last what was learned. The page is one HTML file with its figures
inside; it fetches nothing and prints.
"""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from bayes_optlaws import plots
from bayes_optlaws.decision.design import DesignPlan, design
from bayes_optlaws.decision.rank import rank
from bayes_optlaws.decision.ranking import Ranking
from bayes_optlaws.inference.describe import law_text
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.report import parts as parts
from bayes_optlaws.report.checks import trust
from bayes_optlaws.report.sensitivity import sensitivity
from bayes_optlaws.runs.readers import read_candidates
from bayes_optlaws.text import files, html
from bayes_optlaws.text.html import known, number, percent, significant
from bayes_optlaws.text.numbers import scale_label, short

__all__ = ["report"]

DESIGN_DRAWS = 200
"""Posterior draws that the plan of the next runs uses."""

_RANKING = {
    "loss_mean": "loss",
    "loss_lower": "from",
    "loss_upper": "to",
    "p_best": "P(best)",
    "p_best_or_tied": "best or tied",
    "expected_regret": "regret",
    "p_diverge": "P(diverges)",
    "tie_group": "tie group",
    "rank_without_risk": "without risk",
}
_WHAT = {"mean": "expected loss over seeds", "new_run": "loss of one run"}
_SCORES = {"score": "score", "gap_lower": "from", "gap_upper": "to"} | {
    k: v for k, v in _RANKING.items() if not k.startswith("loss_")
}
_PLAN = {
    "n_params": "parameters",
    "tokens": "tokens",
    "peak_lr": "peak LR",
    "warmup_steps": "warm-up",
    "schedule": "schedule",
    "cost": "cost",
    "cost_share": "of one to decide",
    "value": "worth",
    "p_diverge": "P(diverges)",
    "settles": "what it does most for",
}
_OUTCOME = ("cost", "cost_share", "value", "p_diverge", "settles")


def report(
    law: FittedLaw,
    candidates: pd.DataFrame | str | Path | None = None,
    pool: pd.DataFrame | str | Path | None = None,
    path: str | Path = "report.html",
    *,
    history: pd.DataFrame | str | Path | None = None,
    stage_runs: pd.DataFrame | str | Path | None = None,
    kind: str = "mean",
    search: bool = True,
    prob: float = 0.9,
    tie: float | None = None,
    n_runs: int = 5,
    title: str = "Which schedule should the run use?",
    random_seed: int = 0,
    progressbar: bool = False,
    allow_unconverged: bool = False,
) -> Path:
    """Write the answer of a law, its checks and its posterior as one HTML page.

    Parameters
    ----------
    law : FittedLaw
    candidates : DataFrame or path, optional
        Candidate table to rank. Default: a small grid of peak LR and warm-up at the largest
        scale that was fitted, which shows what the runs say where they are.
    pool : DataFrame or path, optional
        Runs that could be made next. Default: runs like those of the table
        (`bayes_optlaws.runs.pools.default_pool`).
    path : path
        Where to write; a file that is there is replaced, once the page is complete.
    history, stage_runs : DataFrame or path, optional
        The candidates are a later stage, as in ``OptLaw.rank``; the pool is then of runs from the
        same checkpoint, by default `bayes_optlaws.runs.pools.stage_pool`.
    kind, prob, tie, search, random_seed, allow_unconverged
        As in ``OptLaw.rank``.
    n_runs : int
        Runs to propose; 0 for none.
    title : str
    progressbar : bool

    Returns
    -------
    Path

    Raises
    ------
    RunTableError
        If a table has faults.
    ConvergenceError
        If the posterior does not pass the gate, unless ``allow_unconverged``; the page then says
        so at its top.
    ValueError
        If an option is out of range.
    """
    if not (isinstance(n_runs, int | np.integer) and n_runs >= 0):
        raise ValueError(f"n_runs is {n_runs!r}: it must be a whole number, 0 for no proposal")
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the name of a file, as report.html")
    law.require_converged(allow_unconverged)
    asked = candidates is not None
    table = _named(law.candidates(candidates)) if asked else settings_to_compare(law.runs)
    if not asked and history is not None:
        raise ValueError("history is given without candidates: name the later stages to rank")
    stage = law.stage(table, history, stage_runs)
    ranking = rank(
        law, table, kind=kind, prob=prob, tie=tie, search=search, stage=stage,
        random_seed=random_seed,
        allow_unconverged=allow_unconverged,
    )  # fmt: skip
    plan = None
    if n_runs and len(table) > 1:
        own = None if pool is None else _named(law.candidates(pool))
        plan = design(
            law, own, decide=table, n_runs=n_runs, history=history, stage_runs=stage_runs,
            max_draws=DESIGN_DRAWS if stage is None else None, random_seed=random_seed,
            progressbar=progressbar, allow_unconverged=allow_unconverged,
        )  # fmt: skip
    predicted = law.predict(
        table,
        prob=prob,
        stage=stage,
        random_seed=random_seed,
        allow_unconverged=allow_unconverged,
    ).loc[ranking.table.index]
    sections = [
        ("answer", "The answer", _answer(table, ranking, asked)),
        ("next", "Which runs next", _next_runs(plan, pool is None)),
        ("trust", "Can it be trusted?", trust(law, table, predicted, random_seed)),
        *(
            [("priors", "What moves with the prior", sensitivity(law, table, random_seed))]
            if stage is None
            else []
        ),
        ("posterior", "What was learned", _posterior(law, prob)),
        ("made", "How this was made", _made(law)),
    ]
    finished = int((~law.runs["diverged"]).sum())
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    made = (
        f"bayes_optlaws {version('bayes-optlaws')}, {when}; {finished:,} runs that finished and "
        f"{len(law.runs) - finished:,} that diverged"
    )
    return files.write(path, parts.page(title, made, sections))


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """Name rows by their ``run_id`` where the index is only their number."""
    if isinstance(table.index, pd.RangeIndex) and "run_id" in table:
        return table.set_axis(table["run_id"].to_numpy(), axis=0)
    return table


def settings_to_compare(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a small grid of settings at the largest scale that finished.

    Parameters
    ----------
    runs : DataFrame
        Validated run table.

    Returns
    -------
    DataFrame
        Candidate table: five peak LRs over the range seen there, two warm-ups, the schedule that
        most runs have.

    Examples
    --------
    >>> import bayes_optlaws as bo
    >>> table = settings_to_compare(bo.read_runs(bo.datasets.load("pocket")))
    >>> len(table), table.index[0]
    (10, 'linear-lr0.003-w128')
    """
    finished = runs[~runs["diverged"]]
    finished = finished[finished["schedule"] != "array"]
    if finished.empty:
        raise ValueError("every run has schedule 'array': give the candidates to rank")
    cost = finished["n_params"] * finished["tokens"]
    largest = finished.loc[cost.idxmax()]
    same = (finished["n_params"] == largest["n_params"]) & (finished["tokens"] == largest["tokens"])
    here = finished[same]
    like = here[here["schedule"] == here["schedule"].mode().iloc[0]]
    low, high = like["peak_lr"].min(), like["peak_lr"].max()
    rows = []
    for lr in np.unique(np.geomspace(low, high, 5)):
        for warmup in np.unique(like["warmup_steps"].quantile([0.25, 0.75]).round()):
            row = like.iloc[0].drop(["final_loss", "diverged"]).to_dict()
            row |= {"peak_lr": lr, "warmup_steps": warmup, "min_lr": row["min_lr"] * (lr > 0)}
            if row["schedule"] in ("linear", "cosine", "constant"):  # corners follow the warm-up
                for column in ("decay_end_step", "plateau_lr", "cooldown_start_step"):
                    row.pop(column, None)
            row["run_id"] = f"{row['schedule']}-lr{lr:.3g}-w{warmup:g}"
            rows.append(row)
    return _named(read_candidates(pd.DataFrame(rows), warn=False))


def _answer(table: pd.DataFrame, ranking: Ranking, asked: bool) -> str:
    best = ranking.table.iloc[0]
    label = str(ranking.table.index[0])
    places = min(ranking.loss_decimals, 3)
    regret = known(best["expected_regret"], best["expected_regret_se"])
    scores = ranking.level == "score"
    names = _SCORES if scores else _RANKING
    tiles = [
        ("final loss", "not known") if scores else
        (f"loss of one run, {100 * ranking.prob:g} % interval",
         f"{best['loss_lower']:.{places}f} to {best['loss_upper']:.{places}f} nats"),
        ("lowest expected loss" if ranking.kind == "mean" else "ends lowest",
         percent(best["p_best"], best["p_best_se"])),
        (f"within {significant(ranking.tie)} nats of the lowest",
         percent(best["p_best_or_tied"], best["p_best_se"])),
        ("cost of choosing it, on average", f"{regret} nats"),
        ("diverges",
         percent(best["p_diverge"]) if ranking.divergence_modelled else "not modelled"),
    ]  # fmt: skip
    headline = ranking.headline if ranking.can_choose else f"{ranking.headline} The likeliest best:"
    shown = ranking.table[[name for name in names if name in ranking.table]].copy()
    if not ranking.risk_matters:
        shown = shown.drop(columns="rank_without_risk", errors="ignore")
    shown = shown.rename(columns=names).assign(regret=ranking.regret_texts)
    shares = ("P(best)", "best or tied", "P(diverges)")
    formats = {name: number(ranking.loss_decimals) for name in ("loss", "score", "from", "to")}
    formats |= dict.fromkeys(shares, percent)
    scales = table[["n_params", "tokens"]].drop_duplicates()
    where = scale_label(*scales.iloc[0]) if len(scales) == 1 else f"{len(scales)} scales"
    question = (
        f"{len(table):,} candidates, {where}."
        if asked
        else f"No candidates were given. These are {len(table)} settings at the largest scale that "
        f"was fitted ({where}); give a candidate table to ask about a larger run."
    )
    out = [
        parts.choice(label, headline, tiles),
        html.paragraphs([question, *ranking.sentences(notes=False)]),
        parts.care(ranking.notes),
        parts.wide(html.table(shown, formats=formats, shade=shares, max_rows=25)),
        html.paragraphs(
            [
                ("Score: ranks, and is no loss; from and to: of the gap to the first. " * scores)
                + "Loss and regret in nats per token. Loss: of one run that finishes. Regret: "
                f"how far the {_WHAT[ranking.kind]} lies above the lowest, on average, a diverged "
                f"run counting as {ranking.divergence_cost:.3g} nats. Tie group 1: none is shown "
                f"to be worse than another by more than {significant(ranking.tie)} nats."
                + " Without risk: the place if no run diverged."
                * ranking.risk_matters
            ]
        ),
        parts.drawing(
            lambda: plots.ranks(ranking),
            alt="probability of every rank, and the loss intervals",
            caption="Left: how probable each rank is, in percent. Right: the loss if the run "
            "finishes. Intervals may overlap and the order still be sure: candidates share most "
            "of their error, and what is shared cancels in a comparison.",
        ),
    ]
    if len(ranking.table) > 1:
        out.append(
            parts.drawing(
                lambda: plots.tie_graph(ranking),
                alt="which candidates are not told apart",
                caption="An arc joins two candidates that the runs do not tell apart; the darker, "
                "the likelier it is that the lower-ranked one is as good. The dots show the tie "
                "group.",
            )
        )
    return "".join(out)


def _next_runs(plan: DesignPlan | None, default: bool) -> str:
    if plan is None:
        return html.paragraphs(["There is nothing to decide, or no proposal was asked for."])
    which = (
        "Chosen from runs like those that were made (same sizes, budgets and peak LRs, also with "
        "the schedules of the candidates); give a pool to choose from your own."
        if default
        else "Chosen from the pool that was given."
    )
    if default and plan.of_later_stage:
        which = (
            "Chosen from the candidates, whole and over a half and a quarter of their tokens, two "
            "seeds of each; all start from the checkpoint, and cost is counted from there."
        )
    said = html.paragraphs(
        [*plan.sentences(notes=False), f"{len(plan.scores):,} possible runs. {which}"]
    )
    if not len(plan.table):
        return said
    short_names = default and not plan.of_later_stage
    settings = () if short_names else ("n_params", "tokens", "peak_lr", "warmup_steps", "schedule")
    names = {column: _PLAN[column] for column in (*settings, *_OUTCOME)}
    shown = plan.table[list(names)].rename(columns=names)
    formats: dict[str, html.Format] = {"parameters": short, "tokens": short}
    formats |= {c: percent for c in ("P(diverges)", "of one to decide")}
    formats |= {c: significant for c in ("peak LR", "cost", "worth")}
    formats |= {"warm-up": lambda value: f"{value:g}"}
    return (
        said
        + parts.wide(html.table(shown, formats=formats), words=True)
        + html.paragraphs([f"Cost in {plan.cost_label}; worth in {plan.unit}."])
        + parts.drawing(
            plan.plot,
            alt="what each possible run costs and is worth",
            caption="Grey: every possible run on its own. Blue: the plan, each given those before.",
        )
    )


def _posterior(law: FittedLaw, prob: float) -> str:
    table = law.summary(prob)
    columns = ["mean", "sd", "lower", "upper", "ess_bulk", "rhat", "paper_units"]
    three = lambda value: significant(value, 3)  # noqa: E731
    formats = {c: three for c in columns} | {"ess_bulk": number(0), "rhat": number(3)}
    return "".join(
        [
            parts.drawing(
                lambda: plots.coefficients(law, prob=prob),
                alt="posterior of the coefficients by block",
                caption="Features are strongly correlated: a wide interval means that the runs do "
                "not tell its features apart, not that they do nothing together.",
            ),
            parts.drawing(
                lambda: plots.exponents(law),
                alt="posterior probability of each exponent by group",
                caption="Dashed: the prior. Bars near it: the runs do not tell.",
            ),
            parts.wide(
                html.table(table[[*columns, "block"]], formats=formats, max_rows=len(table))
            ),
            html.paragraphs(
                [
                    f"mean, sd and {100 * prob:g} % interval for standardised features; "
                    "paper_units: the coefficient of the raw feature, with parameters and tokens "
                    "in billions."
                ]
            ),
        ]
    )


def _made(law: FittedLaw) -> str:
    runs = law.runs
    cells = runs.groupby(["n_params", "tokens"]).agg(
        runs=("diverged", "size"),
        diverged=("diverged", "sum"),
        lowest=("final_loss", "min"),
        lr_from=("peak_lr", "min"),
        lr_to=("peak_lr", "max"),
    )
    cells.insert(0, "parameters", [short(n) for n, _ in cells.index])
    cells.insert(1, "tokens", [short(d) for _, d in cells.index])
    names = {"lowest": "lowest loss", "lr_from": "peak LR from", "lr_to": "to"}
    formats: dict[str, html.Format] = {"lowest loss": number(4)}
    formats |= {"peak LR from": significant, "to": significant}
    given = ", ".join(f"{name}={value!r}" for name, value in law.options.items())
    options = f"OptLaw({given})\nrandom_seed={law.random_seed}"
    return (
        html.paragraphs([law_text(law.options, law)])
        + parts.wide(
            html.table(cells.rename(columns=names), formats=formats, index=False, max_rows=40)
        )
        + parts.subheading("To make it again")
        + parts.code(
            f"{options}\n\nbayes-optlaws report runs.csv --candidates candidates.csv -o report.html"
        )
    )
