"""The commands ``allocate``, ``watch`` and ``explore``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_optlaws.cli.law import DONE, candidates_of, law_of, show_progress, warn_unconverged
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
    write_figure,
)
from bayes_optlaws.runs.files import load
from bayes_optlaws.text.html import percent, significant
from bayes_optlaws.text.numbers import short

if TYPE_CHECKING:
    import pandas as pd


def allocate(arguments: argparse.Namespace) -> int:
    """Split a budget."""
    target = free(arguments.output, arguments.force, inputs=[arguments.law])
    figures = [free_figure(f, arguments.force, inputs=[arguments.law])
               for f in (arguments.figure, arguments.frontier)]  # fmt: skip
    if arguments.frontier is not None and arguments.tokens is not None:
        raise UsageError("--frontier with --tokens: a frontier is over compute, give --flops")
    law = law_of(arguments)
    note("searching settings of each size ...")
    found = law.allocate(
        flops=arguments.flops,
        gpu_hours=arguments.gpu_hours,
        tokens=arguments.tokens,
        flops_per_second=arguments.flops_per_second,
        batch_tokens=arguments.batch_tokens,
        n_params=arguments.n_params,
        families=arguments.families,
        max_p_diverge=arguments.max_risk,
        tie=arguments.tie,
        prob=arguments.prob,
        random_seed=arguments.seed or 0,
        progressbar=show_progress(arguments),
        allow_unconverged=arguments.allow_unconverged,
    )
    write_csv(found.profile, target)
    if figures[0] is not None:
        save_figure(found, figures[0])
    if figures[1] is not None:
        use_file_backend()
        write_figure(found.plot_frontier(), figures[1], dpi=150)
        note(f"written to {figures[1]}")
    if arguments.json:
        print_json(
            {
                "answer": found.answer(),
                "notes": list(found.notes),
                "optimum": found.optimum.to_dict(),
                "exponents": found.exponents.to_dict("index"),
                "at_edge": found.at_edge,
                "tie": found.tie,
                "profile": records(found.profile),
                "frontier": records(found.frontier, index=False),
            }
        )
        return DONE
    warn_unconverged(law)
    print_wrapped(found.answer(notes=False))
    print_notes(found.notes)
    rows = [
        [
            short(r.n_params), short(r.tokens), significant(r.peak_lr), r.schedule,
            f"{r.loss_mean:.4f}", f"{r.loss_lower:.4f} to {r.loss_upper:.4f}",
            percent(r.p_tied), percent(r.p_worse), percent(r.p_optimal), percent(r.p_diverge),
        ]
        for r in found.profile.itertuples()
    ]  # fmt: skip
    interval = f"{100 * found.prob:g} % interval"
    heads = ["parameters", "tokens", "peak LR", "schedule", "loss", interval, "tied", "worse",
             "best size", "diverges"]  # fmt: skip
    print_table(heads, rows, left=(3,))
    return DONE


def watch(arguments: argparse.Namespace) -> int:
    """Update what is expected of a run."""
    tables = [t for t in (arguments.candidate, arguments.others) if t is not None]
    inputs = [arguments.law, arguments.curve, *tables]
    target = free(arguments.output, arguments.force, inputs=inputs)
    figure = free_figure(arguments.figure, arguments.force, inputs=inputs)
    if len(arguments.shift) > 2:
        raise UsageError("--shift takes nats, and their sd where it is not known exactly")
    candidate = _one(candidates_of(arguments.candidate, arguments), arguments)
    others = None
    if arguments.others is not None:
        others = candidates_of(arguments.others, arguments)
        others = others[~others.index.isin(candidate.index)]
        others = others if len(others) else None
    curve = load(arguments.curve)
    law = law_of(arguments)
    found = law.watch(
        curve,
        candidate,
        others=others,
        target=arguments.target,
        shift=tuple(arguments.shift) if len(arguments.shift) == 2 else arguments.shift[0],
        step=arguments.step_column,
        loss=arguments.loss_column,
        prob=arguments.prob,
        tie=arguments.tie,
        threshold=arguments.threshold,
        flops_per_second=arguments.flops_per_second,
        random_seed=arguments.seed or 0,
        allow_unconverged=arguments.allow_unconverged,
    )
    write_csv(found.ranking, target)
    if figure is not None:
        save_figure(found, figure)
    if arguments.json:
        print_json(
            {
                "answer": found.answer(),
                "notes": list(found.notes),
                "stop": found.stop,
                "p_stop": found.p_stop,
                "progress": found.progress,
                "saved": dict(found.saved),
                "table": records(found.table.rename_axis("by").reset_index(), index=False),
                "ranking": records(found.ranking),
            }
        )
        return DONE
    warn_unconverged(law)
    print_wrapped(found.answer(notes=False))
    print_notes(found.notes)
    rows = [
        [by, f"{r.loss_mean:.4f}", f"{r.loss_lower:.4f} to {r.loss_upper:.4f}",
         percent(r.p_diverge)]
        for by, r in zip(found.table.index, found.table.itertuples(), strict=True)
    ]  # fmt: skip
    interval = f"{100 * found.prob:g} % interval"
    print_table(["end by", "loss", interval, "diverges"], rows)
    if len(found.ranking) > 1:
        rows = [
            [str(label), f"{r.loss_mean:.4f}", f"{r.loss_lower:.4f} to {r.loss_upper:.4f}",
             percent(r.p_best), percent(r.p_best_before), f"{r.expected_rank:.1f}"]
            for label, r in zip(found.ranking.index, found.ranking.itertuples(), strict=True)
        ]  # fmt: skip
        print_table(["candidate", "loss", interval, "P(best)", "before", "rank"], rows)
    return DONE


def _one(table: pd.DataFrame, arguments: argparse.Namespace) -> pd.DataFrame:
    """Row of the run that is watched."""
    if arguments.run is not None:
        some = table[table.index.astype(str) == arguments.run]
        if len(some) != 1:
            raise UsageError(
                f"--run {arguments.run}: {arguments.candidate} has "
                f"{', '.join(map(str, table.index[:8]))}"
            )
        return some
    if len(table) != 1:
        raise UsageError(
            f"{arguments.candidate} has {len(table)} rows: name the one that is running by --run"
        )
    return table


def explore(arguments: argparse.Namespace) -> int:
    """Write the page with sliders."""
    inputs = [arguments.law, *([arguments.candidate] if arguments.candidate else [])]
    target = free(arguments.output, arguments.force, inputs=inputs)
    if target.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{target}: a page ends in .html")
    baseline = None
    if arguments.candidate is not None:
        baseline = candidates_of(arguments.candidate, arguments).iloc[:1]
    law = law_of(arguments)
    page = law.explore(
        target,
        baseline=baseline,
        draws=arguments.page_draws,
        prob=arguments.prob,
        allow_unconverged=arguments.allow_unconverged,
    )
    warn_unconverged(law)
    if arguments.json:
        print_json({"page": str(page.path), "bytes": os.path.getsize(Path(target))})
    else:
        print(f"written to {target}: open it in any browser")
    return DONE
