"""What a fit costs: CPU and wall seconds, effective draws, memory, by table and method.

``python -m studies.speed [WORLDS]`` writes ``docs/benchmark.md``; `make benchmark` runs it.  WORLDS
is a folder of simulated tables, ``NAME.runs.csv``.  Public tables that cannot be had are named.
Every fit runs in a process of its own, whose highest memory is that of the fit, after a fit of a
part of the table that loads the compiled kernels.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import bayes_optlaws as bo

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmark.md"
TABLES = ("pocket", "steplaw", "schaipp", "marin")
GROUPS = {"schaipp": "slimpajama"}
"""Groups of runs that are fitted, of tables that have several."""

WORLDS = ("s1_150", "s3_200")
OURS = ("nuts", "importance")
RIVALS = ("gaussian-process", "step-law", "quadratic")
NAIVE = "naive PyMC"
LIMIT = 300
"""Seconds after which a fit is given up."""

NAIVE_DRAWS, NAIVE_TUNE, NAIVE_CHAINS = 200, 200, 2


def read(table: str, worlds: Path | None) -> pd.DataFrame:
    """Run table of a name: of the folder of simulated ones, or shipped or public."""
    if worlds is not None and (worlds / f"{table}.runs.csv").exists():
        return bo.read_runs(worlds / f"{table}.runs.csv")
    return bo.read_runs(bo.datasets.load(table), group=GROUPS.get(table))


def fit_ours(runs: pd.DataFrame, method: str) -> Callable[[], dict[str, Any]]:
    """A fit by the package, as by default."""
    few = runs[~runs["diverged"]].iloc[:: max(len(runs) // 60, 1)]
    bo.OptLaw().fit(few, 100, 50, 2, random_seed=1, progressbar=False, method=method)

    def work() -> dict[str, Any]:
        law = bo.OptLaw().fit(runs, random_seed=1, progressbar=False, method=method)
        d = law.diagnostics
        ess = d.get("effective_draws", min(d.get("ess_bulk", 0), d.get("ess_tail", 0)))
        used = law.fitted.method
        return {"effective": float(ess), "note": "" if used == method else f"fell back on {used}"}

    return work


def fit_rival(runs: pd.DataFrame, name: str) -> Callable[[], dict[str, Any]]:
    """A rival's fit, with the draws that its intervals come from."""

    def work() -> dict[str, Any]:
        law = bo.baselines.get(name).fit(runs)
        law.predict_draws(runs.head(20), n=200, random_seed=1)
        return {"effective": 200.0, "note": ""}

    return work


def fit_naive(runs: pd.DataFrame) -> Callable[[], dict[str, Any]]:
    """Coefficients in the graph, the paper's exponents summed out, few draws."""
    import nutpie
    from arviz_stats.base import array_stats

    from bayes_optlaws.inference.reference import naive_model

    data = bo.OptLaw(transfer=False, exponents="paper").encode(runs).data
    model = nutpie.compile_pymc_model(naive_model(data, bo.Priors()))

    def work() -> dict[str, Any]:
        trace = nutpie.sample(
            model, draws=NAIVE_DRAWS, tune=NAIVE_TUNE, chains=NAIVE_CHAINS, seed=1,
            progress_bar=False,
        )  # fmt: skip
        beta = trace["posterior"]["beta"].to_numpy()
        each = [beta[..., j] for j in range(beta.shape[2])]
        rhat = max(float(array_stats.rhat(x)) for x in each)
        ess = min(float(array_stats.ess(x, method="bulk")) for x in each)
        return {"effective": ess, "note": f"law alone, {beta.shape[1]} draws; R-hat {rhat:.2f}"}

    return work


def one(table: str, method: str, worlds: Path | None) -> dict[str, Any]:
    """Cost of one fit, in this process."""
    warnings.simplefilter("ignore")
    runs = read(table, worlds)
    work = (
        fit_ours(runs, method) if method in OURS
        else fit_naive(runs) if method == NAIVE else fit_rival(runs, method)
    )  # fmt: skip
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    found = work()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    size = {"table": table, "runs": len(runs), "method": method}
    return size | {"cpu": cpu, "wall": wall, "gigabytes": after.ru_maxrss / 1e6} | found


def measured(table: str, method: str, worlds: Path | None) -> dict[str, Any]:
    """`one` in a process of its own; a failure is a note."""
    command = [sys.executable, "-m", "studies.speed", "--one", table, method, str(worlds or "")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {"table": table, "method": method, "note": f"given up after {LIMIT} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"table": table, "method": method, "note": f"failed: {last[:100]}"}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def machine() -> str:
    """The machine in words."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            x.split(":")[1].strip() for x in info.read_text().splitlines() if "model name" in x
        ]
        cpu = names[0] if names else cpu
    return (
        f"{os.cpu_count()} cores ({cpu}), {platform.system()}, Python {platform.python_version()}"
    )


def page(rows: list[dict[str, Any]], load: float) -> str:
    """The page of the documentation."""
    lines = [
        "# What a fit costs",
        "",
        "Written by `make benchmark`; do not edit.",
        "",
        f"On {machine()}; load when it began {load:.1f}.",
        "Wall seconds mean something only where that is near 0; CPU seconds do so otherwise too.",
        "",
        "Kernels were compiled before. **nuts** and **importance** are the two methods of",
        "`OptLaw.fit`, with the risk of divergence and 2,000 draws (NUTS: from chains that go on",
        "until the gate passes); **effective** is the least",
        "effective number of draws of any hyper-parameter. The rivals have no posterior: 200 draws",
        f"of their predictions are counted. **{NAIVE}** is the law alone (no transfer, no risk)",
        "with its coefficients in the graph, on the pocket grid only: with",
        "transfer it is too slow to show.",
        "",
        "| table | runs | method | CPU s | wall s | effective | per CPU s | peak GB | |",
        "|---|---:|---|---:|---:|---:|---:|---:|---|",
    ]
    for r in rows:
        if "cpu" not in r:
            lines.append(f"| {r['table']} | | {r['method']} | | | | | | {r['note']} |")
            continue
        rate = r["effective"] / max(r["cpu"], 1e-3)
        lines.append(
            f"| {r['table']} | {r['runs']:,} | {r['method']} | {r['cpu']:.1f} | {r['wall']:.1f} "
            f"| {r['effective']:,.0f} | {rate:,.1f} | {r['gigabytes']:.2f} | {r['note']} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    """Measure all and write the page, or one fit and print it."""
    if argv[:1] == ["--one"]:
        table, method, worlds = argv[1:]
        print(json.dumps(one(table, method, Path(worlds) if worlds else None)))
        return 0
    worlds = Path(argv[0]) if argv else None
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else np.nan
    tables = [*TABLES, *(WORLDS if worlds is not None else ())]
    todo = [(t, m) for t in tables for m in (*OURS, *RIVALS)] + [("pocket", NAIVE)]
    rows = []
    for table, method in todo:
        rows.append(measured(table, method, worlds))
        print(
            {k: round(v, 2) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True
        )
    PAGE.write_text(page(rows, load))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
