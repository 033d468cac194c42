"""Other settings and several groups: one law for all against a law for each.

``python -m studies.other_settings DIR`` fits the laws (each result is kept below DIR, so a run that
was stopped goes on) and writes ``docs/other-settings.md``.
"""

from __future__ import annotations

import argparse
import json
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import bayes_optlaws as bo
from bayes_optlaws.evaluation.scores import log_score
from bayes_optlaws.model import student_t
from bayes_optlaws.text import files

OTHER = {
    "weight_decay": "linear", "beta1": "log(1-x)", "beta2": "log(1-x)", "epsilon": "log",
    "max_grad_norm": "category",
}  # fmt: skip
"""Settings of Marin's runs that the run table does not have, and how they are read: a moment is a
mean over 1 / (1 - beta) steps, and a norm of 0 stands for no clipping."""

TABLES = {
    "marin": ("marin-optimizers", "optimizer", ("cautious", "mini", "nadamw")),
    "loss-to-loss": (
        "loss-to-loss", "group", ("fineweb-edu-100b", "proof-pile-2", "smollm-corpus"),
    ),
    "openlm": ("openlm", "group", ("c4_original", "rw_original")),
}  # fmt: skip
"""Study to table, the column that tells its parts, and those that are held out in turn."""

SIZES = (8, 16)
FOLDS = 4
PARTS = ("adamw", "nadamw", "mini", "cautious", "all")
DRAWS = 800

HEAVY, TAILS = ", Student-t noise", 4.0
"""Suffix of the laws whose noise has these degrees of freedom."""

HOWS = (
    "apart", "apart" + HEAVY, "apart with settings", "one law, blind", "one law, optimizer",
    "one law, all settings", "one law, all settings" + HEAVY,
)  # fmt: skip

WORST = 5
"""Tested runs of lowest density that a second mean of the log score leaves out."""


def runs_of(study: str, folder: str | None) -> pd.DataFrame:
    """Finished runs of a study, with a column ``part``."""
    name, column, _ = TABLES[study]
    table = bo.datasets.load(name, folder=folder)
    if column != "group":
        table = table.assign(group=table[column])
    runs = bo.read_runs(table, mixed_groups=True)
    return runs[~runs["diverged"]].assign(part=table[column]).reset_index(drop=True)


def scores(law: bo.OptLaw, test: pd.DataFrame) -> dict[str, Any]:
    """Error, log score of log loss and coverage of held-out runs."""
    predictor = law.fitted.predictor()
    mean = predictor.mean(test, np.random.default_rng(0))
    sd = predictor.noise_sd(test)
    y = np.log(test["final_loss"].to_numpy(float))
    df = predictor.noise_df
    density = log_score(np.exp(y), cond_mean=mean, cond_sd=sd, cond_df=df)
    pit = student_t.probability_below(y - mean, np.zeros(mean.shape), sd, df).mean(axis=0)
    off = np.abs(np.expm1(np.median(mean, axis=0) - y))
    covered = float(np.mean(np.abs(pit - 0.5) <= 0.45))
    return {
        "error": float(off.mean()),
        "log_score": float(density.mean()),
        "lowest": np.sort(density)[:WORST].tolist(),
        "coverage_90": covered,
        "as_low": float(np.mean(coverages(mean, sd, df) <= covered + 1e-9)),
        "n_test": len(test),
        "passed": not law.fitted.failures,
    }


def coverages(mean: np.ndarray, sd: np.ndarray, df: float, times: int = 100) -> np.ndarray:
    """Coverage of the 90 % intervals where the law is right: of outcomes by its own joint draws.

    Runs of a part share the errors of its level and slopes, so that many of them are missed
    together.
    """
    rng = np.random.default_rng(1)
    out = np.empty(times)
    for i, s in enumerate(rng.choice(len(mean), times)):
        y = mean[s] + sd[s] * student_t.draw(rng, mean[s].shape, df)
        other = np.delete(np.arange(len(mean)), s)
        zero = np.zeros(mean[other].shape)
        pit = student_t.probability_below(y - mean[other], zero, sd[other], df).mean(axis=0)
        out[i] = np.mean(np.abs(pit - 0.5) <= 0.45)
    return out


def fitted(runs: pd.DataFrame, seed: int, **options: Any) -> bo.OptLaw:
    """A law of these options, by importance sampling."""
    law = bo.OptLaw(divergence=False, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd runs, and NUTS where importance sampling fails
        return law.fit(runs, draws=DRAWS // 4, random_seed=seed, progressbar=False,
                       method="importance")  # fmt: skip


def few(study: str, target: str, n: int, repeat: int, how: str, folder: str | None) -> dict:
    """Test one part, n runs of which were fitted: alone, or with all runs of the other parts.

    The n runs are taken at random from the cheaper half of the part.
    """
    runs = runs_of(study, folder)
    own = np.flatnonzero(runs["part"] == target)
    cost = (runs["n_params"] * runs["tokens"]).to_numpy(float)[own]
    cheap = own[np.argsort(cost, kind="stable")[: max(len(own) // 2, 2 * n if n < 12 else n)]]
    rng = np.random.default_rng([repeat, n, zlib.crc32(target.encode())])
    chosen = rng.choice(cheap, n, replace=False)
    test = runs.iloc[np.setdiff1d(own, chosen)]
    rows = chosen if how == "alone" else np.union1d(chosen, np.flatnonzero(runs["part"] != target))
    train = runs.iloc[np.sort(rows)]
    options: dict[str, Any] = {}
    if how == "pooled":
        options = {"groups": "pooled"}
    elif how == "covariate":
        train, test = (t.assign(group="one") for t in (train, test))
        options = {"covariates": {"part": "category"} | OTHER}
    return scores(fitted(train, repeat, **options), test)


def together(fold: int, how: str, folder: str | None) -> list[dict]:
    """Test a fold of Marin's runs: each variant fitted apart, or all by one law."""
    runs = runs_of("marin", folder)
    label = np.random.default_rng(5).permutation(len(runs)) % FOLDS
    train, test = runs[label != fold], runs[label == fold]
    out = []
    tails = {"priors": bo.Priors(noise_df=TAILS)} if HEAVY in how else {}
    how = how.removesuffix(HEAVY)
    if how in ("apart", "apart with settings"):
        for part, mine in test.groupby("part"):
            own = train[train["part"] == part]
            kinds = {
                name: kind for name, kind in OTHER.items() if own[name].nunique() > 1
                and (kind != "category" or mine[name].isin(own[name]).all())
            } if "with" in how else None  # fmt: skip
            out.append({"part": part} | scores(fitted(own, fold, covariates=kinds, **tails), mine))
        return out
    train, test = (t.assign(group="one") for t in (train, test))
    options = {
        "one law, blind": {},
        "one law, optimizer": {"covariates": ["part"]},
        "one law, all settings": {"covariates": {"part": "category"} | OTHER},
    }[how]
    law = fitted(train, fold, **options, **tails)
    return [{"part": part} | scores(law, mine) for part, mine in test.groupby("part")]


def tasks(repeats: int) -> list[dict]:
    """Everything that is fitted."""
    out = []
    for repeat in range(repeats):
        for study, (_, column, targets) in TABLES.items():
            for target in targets:
                for n in SIZES:
                    for how in ("alone", "covariate" if column == "optimizer" else "pooled"):
                        out.append({"kind": "few", "study": study, "target": target, "n": n,
                                    "repeat": repeat, "how": how})  # fmt: skip
    for fold in range(FOLDS):
        for how in HOWS:
            out.append({"kind": "together", "fold": fold, "how": how})
    return out


def run(task: dict, directory: Path, folder: str | None) -> list[dict]:
    """Result of a task, one row a tested part; read where it is there."""
    key = json.dumps(task, sort_keys=True)
    path = directory / f"{zlib.crc32(key.encode()):08x}.json"
    if path.is_file():
        return json.loads(path.read_text())
    given = {k: v for k, v in task.items() if k != "kind"}
    if task["kind"] == "few":
        found = [few(**given, folder=folder)]
    else:
        found = together(**given, folder=folder)
    rows = [task | row for row in found]
    files.write(path, json.dumps(rows).encode())
    return rows


WORDS = {
    "marin": "Marin, by optimizer", "loss-to-loss": "loss-to-loss, by data set",
    "openlm": "open_lm, by training set",
}  # fmt: skip


def few_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over repeats of the tested part: alone, and with all runs of the others."""
    few_runs = rows[rows["kind"] == "few"].assign(
        how=lambda t: np.where(t["how"] == "alone", "alone", "with the others")
    )
    keys = ["study", "target", "n"]
    out = few_runs.groupby([*keys, "how"], sort=False)[
        ["error", "log_score", "coverage_90", "as_low"]
    ].mean().unstack("how")  # fmt: skip
    tested = few_runs.groupby(keys, sort=False)["n_test"].first()
    return out.assign(tested=tested.astype(int))


def together_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Error and log score of every variant by every way, means over the tested runs."""
    own = rows[rows["kind"] == "together"]

    def pooled(t: pd.DataFrame) -> pd.Series:
        weight = t["n_test"] / t["n_test"].sum()
        names = ["error", "log_score", "coverage_90"]
        return (t[names].mul(weight, axis=0)).sum()

    each = own.groupby(["how", "part"], sort=False)[[*own.columns]].apply(pooled)
    total = own.groupby("how", sort=False)[[*own.columns]].apply(pooled)
    total.index = pd.MultiIndex.from_product([total.index, ["all"]], names=["how", "part"])
    return pd.concat([each, total])


def without_worst(rows: pd.DataFrame, how: str) -> float:
    """Mean log score of a way over all tested runs but the `WORST` of lowest density."""
    own = rows[(rows["kind"] == "together") & (rows["how"] == how)]
    worst = np.sort(np.concatenate(own["lowest"].to_list()))[:WORST]
    total = float((own["log_score"] * own["n_test"]).sum())
    return (total - worst.sum()) / (own["n_test"].sum() - WORST)


def page(rows: pd.DataFrame) -> str:
    """The page of figures, in Markdown."""
    few_runs, whole = few_table(rows), together_table(rows)
    lines = [
        "# Other settings and several groups",
        "",
        'What `OptLaw(covariates=...)` and `OptLaw(groups="pooled")` are worth, by '
        "`python -m studies.other_settings DIR`. Errors are mean absolute errors of the loss in %, "
        "log scores are of log loss in nats a run (higher is better), 90 % is the share of tested "
        "runs in their 90 % interval. Fits are by importance sampling; runs that diverged take no "
        "part.",
        "",
        "## Few runs of one part",
        "",
        "8 or 16 runs of one part, taken at random from its cheaper half, are fitted alone, or "
        "with all runs of the other parts; all other runs of the part are tested, the dearest too; "
        f"draws of these runs: {rows.loc[rows['kind'] == 'few', 'repeat'].nunique()}. "
        "Marin's optimizers are a covariate, beside weight decay, betas, epsilon and clipping; "
        "the data sets are groups.",
        "",
        "| study | part | runs | tested | error: alone | with the others | log score: alone | "
        "with the others | 90 %: alone | with the others | so few if right |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (study, part, n), r in few_runs.iterrows():
        cells = [WORDS[study], part, f"{n:.0f}", str(int(r["tested"].iloc[0]))]
        for name, form in (("error", "{:.2f}"), ("log_score", "{:.2f}"), ("coverage_90", "{:.0f}")):
            scale = 1 if name == "log_score" else 100
            cells += [form.format(scale * r[name, how]) for how in ("alone", "with the others")]
        cells.append(f"{100 * r['as_low', 'with the others']:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    better = few_runs["log_score"]["with the others"] > few_runs["log_score"]["alone"]
    nearer = few_runs["error"]["with the others"] < few_runs["error"]["alone"]
    lines += [
        "",
        f"With the others the log score is better in {better.sum()} of {len(better)} rows, the "
        f"error smaller in {nearer.sum()}. Runs of a part share the errors of its level and its "
        "slopes, so that many are missed together: the last column is how often (in %) no more "
        "would be covered if the law were right, by its own joint draws.",
        "",
        "## All runs: one law, or a law for each variant",
        "",
        f"Marin's four variants of Adam, {FOLDS}-fold cross-validation over single runs. The mean "
        "log score hangs on a few runs: most runs change one setting of a good one and end within "
        "1 % of it; AdamW with beta1 = 0.98 ends up to 10 % higher, Adam-mini with four times the "
        "batch 10 %, AdamW with that batch 3 %. Where such a run is held out, a law sure of the "
        "others loses tens of nats on it (the last column leaves out the five runs that each law "
        "gets most wrong); with the tails of a Student-t, `Priors(noise_df=4)`, it loses at most a "
        "dozen.",
        "",
        "| law | "
        + " | ".join(f"{p}: error, log score" for p in PARTS)
        + " | 90 % | log score but for five |",
        "|---|" + "---|" * (len(PARTS) + 2),
    ]
    for how in dict.fromkeys(whole.index.get_level_values("how")):
        cells = []
        for part in PARTS:
            r = whole.loc[(how, part)]
            cells.append(f"{100 * r['error']:.2f}, {r['log_score']:.2f}")
        cells.append(f"{100 * whole.loc[(how, 'all'), 'coverage_90']:.0f}")
        cells.append(f"{without_worst(rows, how):.2f}")
        lines.append(f"| {how} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, print, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m studies.other_settings")
    parser.add_argument("directory", type=Path, help="where results are kept")
    parser.add_argument("--folder", help="public tables; default $BAYES_OPTLAWS_DATA")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--page", type=Path, default=Path("docs/other-settings.md"))
    args = parser.parse_args(argv)
    args.directory.mkdir(parents=True, exist_ok=True)
    rows = []
    for task in tasks(args.repeats):
        found = run(task, args.directory, args.folder)
        rows += found
        print(found, flush=True)
    files.write(args.page, page(pd.DataFrame(rows)).encode())
    print(f"written to {args.page}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
