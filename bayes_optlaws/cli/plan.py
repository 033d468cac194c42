"""The commands ``design``, ``report`` and ``evaluate``."""

from __future__ import annotations

import argparse
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayes_optlaws.cli.law import (
    DONE,
    NOT_CONVERGED,
    candidates_of,
    law_of,
    law_options,
    say_progress,
    show_progress,
    stages_of,
    warn_unconverged,
)
from bayes_optlaws.cli.output import (
    UsageError,
    free,
    free_figure,
    note,
    print_json,
    print_notes,
    print_table,
    print_wrapped,
    records,
    save_figure,
    use_file_backend,
    write_csv,
)
from bayes_optlaws.cli.reading import reading
from bayes_optlaws.runs.readers import read_runs
from bayes_optlaws.text.html import known, percent, significant

if TYPE_CHECKING:
    from bayes_optlaws.decision.design import DesignPlan

_SHOWN = {
    "n_runs": ("runs", "{:.0f}"),
    "relative_error": ("error %", "{:.2f}"),
    "spearman": ("Spearman", "{:.2f}"),
    "regret": ("regret", "{:.4f}"),
    "coverage_50": ("in 50 %", "{:.0%}"),
    "coverage_95": ("in 95 %", "{:.0%}"),
    "log_score": ("log score", "{:.2f}"),
    "pair_calibration_error": ("pairs off by", "{:.3f}"),
}


def design(arguments: argparse.Namespace) -> int:
    """Propose the runs that would help most to decide."""
    stages = stages_of(arguments)
    inputs = [arguments.law, arguments.decide, *filter(None, [arguments.pool]), *stages.values()]
    target = free(arguments.output, arguments.force, inputs=inputs)
    figure = free_figure(arguments.figure, arguments.force, inputs=inputs)
    decide = candidates_of(arguments.decide, arguments)
    pool = None if arguments.pool is None else candidates_of(arguments.pool, arguments)
    law = law_of(arguments)
    plan = law.design(
        pool,
        decide,
        n_runs=arguments.n_runs,
        objective=arguments.objective,
        cost=None if arguments.cost == "none" else arguments.cost,
        budget=arguments.budget,
        fill=arguments.fill,
        **stages,
        random_seed=arguments.seed or 0,
        progressbar=show_progress(arguments),
        allow_unconverged=arguments.allow_unconverged,
    )
    write_csv(plan.table, target, index_label="run")
    if figure is not None:
        save_figure(plan, figure)
    if arguments.json:
        print_json(
            {
                "answer": plan.answer(),
                "notes": list(plan.notes),
                "probability_right_now": plan.benefit and plan.benefit.before,
                "probability_right_after": plan.benefit and plan.benefit.after,
                "decide_cost": plan.decide_cost,
                "objective": plan.objective,
                "unit": plan.unit,
                "perfect": plan.perfect,
                "cost_unit": plan.cost_label,
                "budget": plan.budget,
                "rule": plan.rule,
                "pool": len(plan.scores),
                "table": records(plan.table, index=False),
            }
        )
        return DONE
    warn_unconverged(law)
    print_plan(plan, default=arguments.pool is None)
    return DONE


def print_plan(plan: DesignPlan, *, default: bool) -> None:
    """Print what a plan says; the names of runs of the ``default`` pool tell their settings."""
    print_wrapped(" ".join(plan.sentences(notes=False)))
    print_notes(plan.notes)
    if not len(plan.table):
        return
    print()
    heads, rows = ["run"], [[str(label)] for label in plan.table.index]
    if not default:
        heads += ["parameters", "tokens", "peak LR", "warm-up", "schedule"]
        for cells, row in zip(rows, plan.table.itertuples(), strict=True):
            cells += [f"{row.n_params:,.0f}", f"{row.tokens:,.0f}", f"{row.peak_lr:.3g}",
                      f"{row.warmup_steps:g}", row.schedule]  # fmt: skip
    for cells, row in zip(rows, plan.table.itertuples(), strict=True):
        share = percent(row.cost_share)
        cells += [significant(row.cost), share, known(row.value, row.value_se),
                  percent(row.p_diverge)]  # fmt: skip
    print_table(
        [*heads, "cost", "of one to decide", "worth", "diverges"],
        rows,
        left=(0, 5) if not default else (0,),
    )
    print(f"cost in {plan.cost_label}; worth in {plan.unit}, each given those above it.")
    for label, words in zip(plan.table.index, plan.table["settles"], strict=True):
        print_wrapped(f"{label}: {words}.", indent="  ")
    if default and plan.of_later_stage:
        print_wrapped(
            f"Chosen among {len(plan.scores):,} runs from the checkpoint: the candidates, whole "
            "and over a half and a quarter of their tokens, two seeds of each; `design --pool` "
            "takes your own."
        )
    elif default:
        print_wrapped(
            f"Chosen among {len(plan.scores):,} runs like those that were made, named by schedule, "
            "parameters, tokens, peak LR and steps of warm-up; `design --pool` takes your own."
        )


def report(arguments: argparse.Namespace) -> int:
    """Write the page."""
    given = (arguments.candidates, arguments.pool)
    stages = stages_of(arguments)
    if stages and arguments.candidates is None:
        raise UsageError("--history without --candidates: name the later stages to rank")
    inputs = [arguments.law, *filter(None, given), *stages.values()]
    target = free(arguments.output, arguments.force, inputs=inputs)
    if target.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{target}: a report ends in .html")
    sliders = None
    if arguments.explore:
        beside = str(target.with_name(f"{target.stem}-explore{target.suffix}"))
        sliders = free(beside, arguments.force, inputs=inputs)
    candidates, pool = (None if path is None else candidates_of(path, arguments) for path in given)
    law = law_of(arguments)
    use_file_backend()
    say_progress(arguments, "writing the report ...")
    path = law.report(
        candidates,
        pool,
        target,
        **stages,
        kind=arguments.kind,
        prob=arguments.prob,
        tie=arguments.tie,
        search=not arguments.no_search,
        n_runs=arguments.n_runs,
        random_seed=arguments.seed or 0,
        progressbar=show_progress(arguments),
        allow_unconverged=arguments.allow_unconverged,
    )
    if sliders is not None:
        law.explore(
            sliders, prob=arguments.prob, allow_unconverged=arguments.allow_unconverged
        )  # fmt: skip
    warn_unconverged(law)
    if arguments.json:
        said = {"report": str(path), "bytes": os.path.getsize(path)}
        print_json(said if sliders is None else said | {"explore": str(sliders)})
        return DONE
    print(f"written to {path}: open it in any browser, or print it")
    if sliders is not None:
        print(f"written to {sliders}: sliders, what if")
    return DONE


def evaluate(arguments: argparse.Namespace) -> int:
    """Judge the law on runs that it was not fitted to."""
    target = free(arguments.output, arguments.force, inputs=[arguments.runs])
    options = law_options(arguments)
    runs = read_runs(
        Path(arguments.runs), group=arguments.group, mixed_groups=options["groups"] is not None,
        **reading(arguments),
    )  # fmt: skip
    from bayes_optlaws import baselines
    from bayes_optlaws.evaluation import evaluate as judge
    from bayes_optlaws.law import OptLaw

    rivals = _rivals() if arguments.baselines is None else arguments.baselines
    unknown = sorted({*rivals} - {*baselines.available()})
    if unknown:
        raise UsageError(
            f"no baseline {', '.join(unknown)}: there are {', '.join(baselines.available())}"
        )
    # which runs finish is not judged here, so the divergence part is not fitted
    law = OptLaw(divergence=False, **options)
    say_progress(
        arguments, f"fitting and testing parts of {len(runs)} runs, {arguments.protocol} ..."
    )
    table = judge(
        law,
        runs,
        arguments.protocol,
        arguments.n_jobs,
        baselines=rivals,
        folder=arguments.folder,
        random_seed=arguments.seed or 0,
        draws=arguments.draws,
        tune=arguments.tune,
        chains=arguments.chains,
        method=arguments.method,
        k=arguments.k,
    )
    if target is not None:
        write_csv(table.reset_index(), target, index=False)
    pooled = table.xs("all", level="block")
    if arguments.json:
        print_json(
            {
                "protocol": arguments.protocol,
                "table": table.reset_index().to_dict("records"),
            }
        )
    else:
        _print_evaluation(pooled, table)
    if not bool(pooled["converged"].iloc[0]):
        note(
            "error: a refit of the law did not pass the convergence gate: read its row with care, "
            "or evaluate again with more --draws and --tune"
        )
        return NOT_CONVERGED
    return DONE


def _rivals() -> list[str]:
    """Laws to compare with, unless they are named: those whose libraries are there."""
    if find_spec("sklearn"):
        return ["chinchilla", "gaussian-process"]
    note("scikit-learn is not installed, so no Gaussian process: pip install 'bayes-optlaws[ml]'")
    return ["chinchilla"]


def _print_evaluation(pooled: pd.DataFrame, table: pd.DataFrame) -> None:
    rows = [
        (str(method), *(_cell(row, name, form) for name, (_, form) in _SHOWN.items()))
        for method, row in pooled.iterrows()
    ]
    print_table(["method", *(head for head, _ in _SHOWN.values())], rows)
    blocks = len(table.xs(pooled.index[0], level="method")) - 1
    print_wrapped(
        f"On held-out runs in {blocks} block{'s' if blocks > 1 else ''} of model size and tokens. "
        "Regret in nats: what taking the run predicted best loses. Log score: higher is better. "
        "Pairs off by: how far the probability of an order is from the share that came true."
    )
    for method, row in pooled.iterrows():
        if isinstance(row.get("error"), str) and row["error"]:
            print_wrapped(f"{method} could not be fitted: {row['error']}")


def _cell(row: pd.Series, name: str, form: str) -> str:
    value = row[name]
    if pd.isna(value):
        return "–"
    se = row.get(f"{name}_se", np.nan)
    tail = f" ± {form.format(se)}" if pd.notna(se) and name != "n_runs" else ""
    return form.format(value) + tail
