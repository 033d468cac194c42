"""Write runs.csv and replicates.csv from the result files of train.py.

Usage: ``python make_runs.py RESULTS``, where RESULTS is the folder that
``python train.py grid.json RESULTS`` and ``python train.py replicates.json RESULTS`` filled.
The result files are not shipped: every value in them that varies is a column of runs.csv.
"""

import json
import pathlib
import sys

import pandas as pd

HERE = pathlib.Path(__file__).resolve().parent
# Loss of a byte-bigram model on the same held-out windows, nats a byte: a run that ends above it
# knows less than pair counts do.
DIVERGED_ABOVE = 2.448


def tidy(results: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the result rows of one job in the columns of the package's run table."""
    return pd.DataFrame(
        {
            "run_id": [f"{name}-{i:03d}" for i in range(len(results))],
            "group": "pocket",
            "block": name.split("_seed")[0],
            "size": results["size"],
            "n_params": results["n_params"],
            "tokens": results["tokens"],
            "batch_tokens": results["batch_tokens"],
            "steps": results["steps"],
            "peak_lr": results["peak_lr"],
            "warmup_steps": results["warmup_steps"],
            "schedule": results["schedule"],
            "min_lr": 0.0,
            "seed": results["seed"],
            "final_loss": results["val_loss"],
            "train_loss": results["train_loss"],
            "diverged": results["val_loss"] > DIVERGED_ABOVE,
        }
    )


def build(folder: pathlib.Path, plan: str) -> pd.DataFrame:
    """Return the rows of every job of a plan that has been trained, in the order of the plan."""
    tables = []
    for job in json.loads((HERE / plan).read_text()):
        file = folder / f"{job['name']}.csv"
        if file.exists():
            results = pd.read_csv(file)
            tables.append(tidy(results, job["name"]))
    if not tables:
        raise SystemExit(
            f"{folder} holds no result of {plan}; run: python train.py {plan} {folder}"
        )
    return pd.concat(tables, ignore_index=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    source = pathlib.Path(sys.argv[1])
    for plan, target in (("grid.json", "runs.csv"), ("replicates.json", "replicates.csv")):
        table = build(source, plan)
        table.to_csv(HERE / target, index=False)
        print(target, len(table), "runs,", int(table["diverged"].sum()), "diverged")
