"""Schedules of the same expected loss as a given one."""

import numpy as np
import pytest

from bayes_optlaws.decision.equivalent import loss_equivalent
from bayes_optlaws.runs.readers import read_candidates

SETTINGS = [
    "schedule", "peak_lr", "warmup_steps", "decay_end_step", "plateau_lr", "cooldown_start_step",
    "min_lr", "batch_tokens",
]  # fmt: skip


@pytest.fixture(scope="module")
def candidate(pocket):
    runs = pocket[(pocket["block"] == "d64_1200") & (pocket["peak_lr"] == 0.02)]
    return runs[runs["warmup_steps"] == 256].drop(columns=["final_loss", "diverged"])


@pytest.fixture(scope="module")
def found(small_law, candidate):
    return loss_equivalent(
        small_law.fitted, candidate, families=["linear", "wsd", "polygon"], tolerance=0.01
    )


def test_probabilities_are_those_of_joint_draws(small_law, candidate, found):
    """The same schedules predicted jointly by the law, with other draws."""
    table = read_candidates(
        found[SETTINGS].assign(
            n_params=float(candidate["n_params"].iloc[0]), tokens=float(candidate["tokens"].iloc[0])
        )
    )
    draws = small_law.predict_draws(table, "mean", finished=True, random_seed=9)
    loss = draws.to_numpy()
    gap = loss - loss[:, :1]
    p = np.mean(np.abs(gap) <= 0.01, axis=0)
    # Two sets of 1,600 draws or more of a chain: five standard errors of the difference.
    se = np.sqrt(0.25 / 1600 * 2)
    np.testing.assert_allclose(found["p_within"], p, atol=5 * se)
    noise = gap.std(axis=0) / 20
    assert np.all(np.abs(found["gap"] - gap.mean(axis=0)) <= 5 * noise + 1e-12)


def test_the_candidate_comes_first_and_all_others_are_as_asked(candidate, found):
    assert len(found) >= 3 and found.attrs["tolerance"] == 0.01
    first = found.iloc[0]
    assert first["gap"] == 0 and first["p_within"] == 1
    assert first["peak_lr"] == candidate["peak_lr"].iloc[0]
    others = found.iloc[1:]
    assert (others["p_within"] >= 0.5).all() and (others["p_diverge"] <= 0.05).all()
    assert not found.duplicated(SETTINGS).any()
    # Unlike it: another family, or a peak LR or warm-up that differs by a tenth or more.
    names = ["peak_lr", "warmup_steps"]
    ratio = others[names].to_numpy(float) / first[names].to_numpy(float)
    far = (others["schedule"] != first["schedule"]) | (np.abs(np.log(ratio)) > 0.1).any(axis=1)
    assert far.all()


def test_a_wider_tolerance_holds_more_often(small_law, candidate):
    narrow = loss_equivalent(small_law.fitted, candidate, tolerance=0.005, prob=0.2, n=2)
    same = loss_equivalent(small_law.fitted, candidate, tolerance=0.005, prob=0.2, n=2)
    assert narrow.equals(same)
    default = loss_equivalent(small_law.fitted, candidate, n=2)
    assert default.attrs["tolerance"] > 0.005
    assert default["loss_mean"].iloc[0] == pytest.approx(narrow["loss_mean"].iloc[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tolerance": 0.0}, "tolerance is 0.0"),
        ({"prob": 0.0}, "prob is 0.0"),
        ({"n": 0}, "n is 0"),
        ({"max_p_diverge": 2.0}, "max_p_diverge is 2.0"),
    ],
)
def test_arguments_out_of_range(small_law, candidate, change, message):
    with pytest.raises(ValueError, match=message):
        loss_equivalent(small_law.fitted, candidate, **change)


def test_the_law_has_it_as_a_method(small_law, candidate, found):
    again = small_law.loss_equivalent(
        candidate, tolerance=0.01, families=["linear", "wsd", "polygon"]
    )
    assert again.equals(found)


def test_one_row_only(small_law, pocket):
    with pytest.raises(ValueError, match="3 rows"):
        loss_equivalent(small_law.fitted, pocket.iloc[:3].drop(columns=["final_loss", "diverged"]))
