"""Train the runs of a plan, and write them as a run table.

Usage: ``python train_runs.py PLAN.csv RUNS.csv [--corpora FOLDER]``, where PLAN.csv is what
``bayes-optlaws design ... -o PLAN.csv`` or ``plan.table.to_csv`` wrote. Protocol, corpus and seed
are those of grid.json, so RUNS.csv continues runs.csv: append its rows and fit again. Rows are
added one by one; runs that RUNS.csv has already are skipped.
"""

import argparse
import hashlib
import pathlib
import time

import numpy as np
import pandas as pd
from make_plan import check_same, job_of
from make_runs import shape_columns, tidy
from train import corpus, result_rows, train

CORPUS_SHA256 = "00d6f69bada2e91fff09ea9c81d27c3b3c9a590b3ec10b56e8b5303971feb0ee"


def train_row(job: dict, tokens) -> pd.DataFrame:
    """Train one job of a single run; return its row of the run table."""
    curve, val, _ = train(
        job["size"], job["configs"], job["steps"], tokens, job["batch"], job["ctx"], job["seed"],
        compile_=False,
    )  # fmt: skip
    results = pd.DataFrame(result_rows(job, curve, val)).replace("", np.nan)
    row = tidy(results, job["name"])
    row["run_id"], row["block"] = job["name"], f"{job['size']}_{job['steps']}"
    return row.join(pd.DataFrame(shape_columns(results)).dropna(axis="columns"))


def main() -> None:
    """Train what RUNS.csv does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plan")
    parser.add_argument("runs")
    parser.add_argument("--corpora", metavar="FOLDER", help="read the corpora from these files")
    args = parser.parse_args()
    plan, target = pd.read_csv(args.plan), pathlib.Path(args.runs)
    done = pd.read_csv(target) if target.exists() else pd.DataFrame({"run_id": []})
    missing = {"run_id", "n_params", "tokens", "batch_tokens", "schedule"} - set(plan)
    if missing:
        raise SystemExit(f"{args.plan} is no plan: it has no column {', '.join(sorted(missing))}")
    try:
        jobs = [job_of(row) for row in plan.to_dict("records")]
        for job in jobs:
            check_same(job, done)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    tokens = corpus("A", args.corpora)
    if hashlib.sha256(tokens.tobytes()).hexdigest() != CORPUS_SHA256:
        raise SystemExit(
            "corpus A is not that of runs.csv, so losses would not compare: it must come from the "
            "CPU build of torch 2.13.0 (another build names itself in its files), or --corpora"
        )
    for job in jobs:
        if job["name"] in set(done["run_id"]):
            continue
        began = time.time()
        row = train_row(job, tokens)
        done = row if done.empty else pd.concat([done, row], ignore_index=True)
        unfinished = target.with_suffix(".tmp")
        done.to_csv(unfinished, index=False)
        unfinished.replace(target)  # the table is whole, whenever this is stopped
        loss = row["final_loss"].iloc[0]
        print(f"{job['name']}: {loss:.4f} nats in {time.time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
