"""Write the run tables from the result files of train.py.

Usage: ``python make_runs.py RESULTS``, where RESULTS is the folder that
``python train.py PLAN RESULTS`` filled, for every plan. Tables whose results are not there are left
as they are. The result files are not shipped: every value in them that varies is a column of these
tables.
"""

import json
import pathlib
import sys

import pandas as pd

HERE = pathlib.Path(__file__).resolve().parent
# Loss of a byte-bigram model on the same held-out windows, nats a byte: a run that ends above it
# knows less than pair counts do.
DIVERGED_ABOVE = 2.448
# Losses on different data are not comparable: each corpus is a group.
GROUPS = {"A": "pocket", "W": "pocket-W", "S": "pocket-S"}
STAGE_TABLES = {
    "seeds.csv": ("seeds",),
    "families.csv": ("families",),
    "longer.csv": ("longer",),
    "stages.csv": ("strong", "weak", "tuned"),
}


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


def shape_columns(results: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the run table's columns of the shapes `wsd` and `polygon`, empty for the others."""
    return {
        "decay_end_step": results["decay_end"],
        "plateau_lr": (results["peak_lr"] * results["mid_ratio"]).round(12),
        "cooldown_start_step": results["cooldown_start"],
    }


def tidy_stage(results: pd.DataFrame, job: dict, jobs: dict[str, dict]) -> pd.DataFrame:
    """Return the rows of one job of stages.json, with its stage and the run it continues."""
    table = tidy(results, job["name"])
    stage, parent, start = 1, "", job.get("start")
    if start:
        parent = f"{start}-{jobs[start]['save']:03d}"
    while start:
        stage, start = stage + 1, jobs[start].get("start")
    names = [config["name"] for config in job["configs"]] * len(job["seeds"])
    table["group"] = GROUPS[job["corpus"]]
    table["block"] = job["name"]
    table.insert(table.columns.get_loc("min_lr"), "name", names)
    for place, (column, values) in enumerate(
        shape_columns(results).items(),
        start=table.columns.get_loc("min_lr") + 1,
    ):
        table.insert(place, column, values)
    table.insert(1, "stage", stage)
    table.insert(2, "parent", parent)
    return table


def build(folder: pathlib.Path, plan: str, kinds: tuple[str, ...] = ()) -> pd.DataFrame | None:
    """Return the rows of every job of a plan that has been trained, in the order of the plan.

    ``kinds`` are first words of job names of stages.json; the runs that these jobs continue, and
    those before them, come first.
    """
    jobs = {job["name"]: job for job in json.loads((HERE / plan).read_text())}
    tables = {}
    for name, job in jobs.items():
        file = folder / f"{name}.csv"
        if file.exists():
            results = pd.read_csv(file)
            tables[name] = tidy_stage(results, job, jobs) if kinds else tidy(results, name)
    if not kinds:
        return pd.concat(tables.values(), ignore_index=True) if tables else None
    chosen = {k: t for k, t in tables.items() if k.split("_")[0] in kinds}
    if not chosen:
        return None
    rows = pd.concat(chosen.values(), ignore_index=True)
    every = pd.concat(tables.values(), ignore_index=True)
    first = every[every["run_id"].isin(rows["parent"]) & ~every["run_id"].isin(rows["run_id"])]
    return pd.concat([first, rows], ignore_index=True)


def main(folder: pathlib.Path) -> None:
    """Write every table whose results are in the folder."""
    sources = {"runs.csv": ("grid.json", ()), "replicates.csv": ("replicates.json", ())}
    sources |= {target: ("stages.json", kinds) for target, kinds in STAGE_TABLES.items()}
    written = 0
    for target, (plan, kinds) in sources.items():
        table = build(folder, plan, kinds)
        if table is not None:
            table.to_csv(HERE / target, index=False)
            print(target, len(table), "runs,", int(table["diverged"].sum()), "diverged")
            written += 1
    if not written:
        raise SystemExit(f"{folder} holds no result; run: python train.py grid.json {folder}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(pathlib.Path(sys.argv[1]))
