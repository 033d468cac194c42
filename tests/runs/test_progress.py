"""A curve that cannot be used is refused with one error that names all faults."""

import numpy as np
import pandas as pd
import pytest

from bayes_optlaws.runs.progress import CurveError, read_progress


def curve(n=40, **columns):
    step = np.arange(1, n + 1) * 10.0
    return pd.DataFrame({"step": step, "loss": 4.0 - 0.001 * step} | columns)


def test_a_sound_curve_is_read_as_it_is(tmp_path):
    sound = curve()
    sound.to_csv(tmp_path / "curve.csv", index=False)
    for source in (sound, tmp_path / "curve.csv"):
        pd.testing.assert_frame_equal(read_progress(source, n_steps=1000), sound)
    named = sound.rename(columns={"step": "iter", "loss": "val/loss"}).astype({"iter": int})
    read = read_progress(named, n_steps=1000, step="iter", loss="val/loss")
    pd.testing.assert_frame_equal(read, sound)


def broken(rows, column, value):
    table = curve().astype(object)
    table.loc[rows, column] = value
    return table


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (curve().rename(columns={"loss": "val"}), "no column 'loss': it has step, val"),
        (curve().iloc[:0], "no row"),
        (broken([3], "loss", np.nan), "NaN or infinite in row 3: leave out"),
        (broken([38, 39], "loss", np.nan), "row 38, row 39: a run whose loss stays NaN has diverg"),
        (broken([1], "loss", "n/a?"), r"loss is no number in row 1 \('n/a\?'\)"),
        (broken([5], "step", None), "step is empty in row 5"),
        (curve().iloc[::-1], r"not in order: 390 follows 400 \(row 1\); sort them"),
        (broken([4], "step", 40.0), r"step 40 is there more than once \(row 4\)"),
        (curve().drop(index=range(10, 30)), "nothing was logged between the steps 100 and 310"),
        (curve(loss=np.exp(4.0) * np.ones(40)), "no loss of text; if it is a perplexity"),
        (curve(loss=np.linspace(0.1, -1, 40)), "lowest loss is -1"),
        (curve(step=np.arange(1, 41) * 5000.0), "if these are tokens divide them by batch_tokens"),
        (curve(step=np.arange(1, 41) * 1e7), "has 1000 steps: give the candidate's own tokens"),
        (curve(step=np.arange(1, 41) / 80), "the last step is 0.5: if these are epochs"),
        (curve(step=np.arange(-5, 35.0)), "step -5 is negative"),
    ],
)
def test_each_fault_is_named_with_its_remedy(table, said):
    with pytest.raises(CurveError, match=said):
        read_progress(table, n_steps=1000, batch_tokens=512)


def test_all_faults_come_at_once():
    table = broken([3], "loss", np.nan).iloc[::-1]
    with pytest.raises(CurveError, match="2 problems; nothing was read") as error:
        read_progress(table, n_steps=1000)
    assert "not in order" in str(error.value) and "NaN" in str(error.value)
