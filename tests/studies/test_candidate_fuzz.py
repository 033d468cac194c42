"""No candidate, however absurd, gets an answer that cannot be."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bayes_optlaws.runs.readers import read_runs
from studies import candidate_fuzz as study


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_candidates_are_answered_soundly_or_refused(small_law, seed):
    plan = study.candidates(small_law.runs, np.random.default_rng(seed))
    assert study.answer(small_law, plan) in ([], ["refused"])


@pytest.mark.slow
@pytest.mark.parametrize("name", study.LAWS)
def test_a_thousand_sets_of_candidates_a_law(name):
    count = study.fuzz(study.fitted(name), 1000)
    assert count["sound"] > 900
    assert {*count} <= {"sound", "refused"}, count


def test_a_schedule_shape_that_no_run_has_is_wide_and_said_to_be_unseen():
    law = study.fitted("constant only")
    runs = law.runs.iloc[[0]].drop(columns=["final_loss", "diverged", "plateau_lr", "run_id"])
    plan = pd.concat([runs, runs.assign(schedule="cosine", min_lr=0.0)], ignore_index=True)
    found = law.predict(plan.drop(columns=["decay_end_step", "cooldown_start_step"]))
    width = found["loss_upper"] - found["loss_lower"]
    assert width[1] > 5 * width[0]
    lowest, highest = law.runs["final_loss"].min(), law.runs["final_loss"].max()
    assert found["loss_lower"].min() > 0.3 * lowest and found["loss_upper"].max() < 3 * highest
    assert any("No fitted run has the schedule cosine" in note for note in found.attrs["notes"])


def test_settings_that_only_moved_together_are_named_where_candidates_part_them():
    from bayes_optlaws.inference.caveats import setting_notes

    runs = read_runs(study.rate_follows_size())
    on_line = runs.iloc[[0, -1]]
    assert not any("only together" in note for note in setting_notes(runs, on_line))
    (said,) = [
        note for note in setting_notes(runs, on_line.assign(peak_lr=2 * on_line["peak_lr"]))
        if "only together" in note
    ]  # fmt: skip
    assert said.startswith("Model size, token budget and peak LR changed only together")
    assert "runs that change one of them by itself would tell" in said


def test_faults_of_a_prediction_are_seen():
    sound = pd.DataFrame(
        {"loss_mean": [3.0], "loss_sd": 0.1, "loss_lower": 2.9, "loss_upper": 3.2,
         "p_diverge": 0.5, "extrapolation": 0.0}
    )  # fmt: skip
    assert study.faults(sound, most=11.8) == []
    for column, value, fault in (
        ("loss_upper", np.inf, "not finite"), ("loss_upper", 12.0, "above an untrained model"),
        ("loss_lower", 0.0, "below 0.001 nats"), ("loss_mean", 4.0, "mean outside the interval"),
        ("p_diverge", 1.5, "probability outside 0 to 1"),
    ):  # fmt: skip
        assert fault in study.faults(sound.assign(**{column: value}), most=11.8)
