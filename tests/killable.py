"""Work of a few seconds that may be killed: each writes its result as the last thing that it does.

Functions of a folder, where unfinished work is kept, and of the path of the result.
"""

import bayes_optlaws as bo
from bayes_optlaws import datasets
from bayes_optlaws.text import files
from studies import replay, sbc

TINY = {"scale": (-0.3, 0.3), "mixed": (0.15,), "escape": (0.3,), "cross": (0.2,)}


def _runs(every):
    return bo.read_runs(datasets.load("pocket")).iloc[::every].reset_index(drop=True)


def evaluation(folder, result):
    found = bo.evaluate(
        bo.baselines.Chinchilla(n_starts=2), _runs(3), "kfold-within-block", k=4, n_boot=5,
        folder=folder, baselines=["constant", "linear"],
    )  # fmt: skip
    table = found.drop(columns=["seconds", "cpu_seconds"])
    files.write(result, table.to_csv(float_format="%.9g"))


def calibration_study(folder, result):
    table = sbc.study(
        _runs(5), 5, folder, draws=50, chains=2,
        law_options={"transfer": False, "exponents": TINY},
    )  # fmt: skip
    columns = ["replication", "quantity", "truth", "rank", "lower", "upper"]
    files.write(result, table[columns].to_csv(float_format="%.9g"))


def replayed(folder, result):
    table = replay.study(
        "pocket", folder, objectives=("random",), shares=(0.002,), repeats=3, law_repeats=1,
        draws=100, tune=100,
    )  # fmt: skip
    measures = [m for m in replay.MEASURES if m != "seconds"]
    files.write(result, table[measures].to_csv(float_format="%.9g"))


def fit(folder, result):
    law = bo.OptLaw(transfer=False, divergence=False, exponents=TINY)
    law.fit(
        _runs(3), draws=100, chains=2, random_seed=3, progressbar=False, method="importance"
    ).save(result)


def saves(folder, result):
    """Save one law and another in turn, without end."""
    first, second = (bo.OptLaw.load(folder / f"{name}.nc") for name in ("first", "second"))
    while True:
        first.save(result)
        second.save(result)
