"""Risk behaves: signs, invariances, what the prior alone says, what a diverged run costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_optlaws.inference.divergence_sampling import sample_divergence
from bayes_optlaws.inference.gate import diagnose, failures
from bayes_optlaws.model.divergence import (
    DivergenceData,
    DivergencePriors,
    divergence_logit,
    divergence_probability,
    parameters,
    starting_point,
)
from bayes_optlaws.model.risk import NOT_MODELLED, divergence_price, risk_basis

PRIORS = DivergencePriors()
SMALL = settings(max_examples=25, deadline=None)
SIZES = ("n_params", "tokens", "batch_tokens", "peak_lr")


def world(seed: int, n: int = 60, *, calm: bool = False) -> pd.DataFrame:
    """Runs of a plausible world: the threshold LR falls with N and rises with the warm-up."""
    rng = np.random.default_rng(seed)
    steps = np.exp(rng.uniform(np.log(1e3), np.log(5e4), n))
    batch = 2.0 ** rng.integers(17, 20, n)
    table = pd.DataFrame(
        {
            "n_params": rng.choice([5e7, 1e8, 2e8, 4e8], n),
            "tokens": steps * batch,
            "batch_tokens": batch,
            "steps": steps,
            "peak_lr": np.exp(rng.uniform(np.log(3e-4), np.log(2e-3 if calm else 2e-2), n)),
            "warmup_steps": rng.choice([100.0, 250.0, 500.0], n),
        }
    )
    edge = np.log(6e-3) - 0.25 * np.log(table["n_params"] / 2e8)
    edge += 0.2 * np.log(table["warmup_steps"] / 250)
    logit = 8.0 * (np.log(table["peak_lr"]) - edge)
    return table.assign(diverged=False if calm else rng.logistic(size=n) < logit)


def one_setting(table: pd.DataFrame, **columns) -> pd.DataFrame:
    """The middle of a table, repeated, with some columns set."""
    middle = {c: float(np.exp(np.log(table[c]).mean())) for c in (*SIZES, "warmup_steps", "steps")}
    return pd.DataFrame(middle | columns, index=range(len(next(iter(columns.values())))))


def any_draws(data: DivergenceData, seed: int, n: int = 200) -> dict[str, np.ndarray]:
    """Draws of the prior: whatever holds for all of them holds for every posterior."""
    size = PRIORS.moments(len(data.scale.names))[0].size
    z = 1.5 * np.random.default_rng(seed).standard_normal((n, size))
    return parameters(z, data, PRIORS, np.eye(size))


def posterior(table: pd.DataFrame, seed: int = 0) -> tuple[DivergenceData, dict[str, np.ndarray]]:
    data = DivergenceData.from_runs(table)
    draws, stats = sample_divergence(data, PRIORS, draws=500, tune=500, chains=4, random_seed=seed)
    z = draws["divergence_z"].reshape(4, 500, -1)
    assert failures(diagnose({"z": z}, stats)) == []
    return data, draws


def risk(table: pd.DataFrame, candidates: pd.DataFrame) -> np.ndarray:
    data, draws = posterior(table)
    return divergence_probability(draws, data.scale.inputs(candidates)).mean(axis=0)


def mode_logit(table: pd.DataFrame, candidates: pd.DataFrame) -> np.ndarray:
    """Logits at the posterior mode: deterministic, so invariances can be held to rounding."""
    data = DivergenceData.from_runs(table)
    rotation, start, _ = starting_point(data, PRIORS)
    values = parameters(start, data, PRIORS, rotation)
    return divergence_logit(values, data.scale.inputs(candidates))[0]


# signs


@given(seed=st.integers(0, 10_000))
@SMALL
def test_a_higher_lr_or_a_larger_model_never_lowers_the_risk_in_any_draw(seed):
    table = world(seed)
    data = DivergenceData.from_runs(table)
    draws = any_draws(data, seed)
    for name in ("peak_lr", "n_params"):
        grid = np.geomspace(0.01 * table[name].min(), 100 * table[name].max(), 12)
        logit = divergence_logit(draws, data.scale.inputs(one_setting(table, **{name: grid})))
        assert np.all(np.diff(logit, axis=1) >= -1e-9 * np.abs(logit[:, 1:]))


@given(seed=st.integers(0, 10_000), row=st.integers(0, 59))
@SMALL
def test_past_the_longest_warmup_a_longer_one_never_raises_the_risk_in_any_draw(seed, row):
    table = world(seed)
    data = DivergenceData.from_runs(table)
    candidate = table.iloc[[row] * 6].assign(
        warmup_steps=table["warmup_steps"].max() * 2.0 ** np.arange(6)
    )
    logit = divergence_logit(any_draws(data, seed), data.scale.inputs(candidate))
    assert np.all(np.diff(logit, axis=1) <= 1e-9 * np.abs(logit[:, 1:]))


@pytest.mark.parametrize("seed", [1, 2])
def test_within_a_table_that_does_not_contradict_a_longer_warmup_is_safer(seed):
    table = world(seed, 150)
    data, draws = posterior(table)
    inside = one_setting(table, warmup_steps=np.array([100.0, 200.0, 400.0]))
    logit = divergence_logit(draws, data.scale.inputs(inside))
    assert np.all(np.mean(np.diff(logit, axis=1) > 0, axis=0) < 0.05)
    p = risk(table, inside.assign(peak_lr=6e-3))
    assert np.all(np.diff(p) < 0)


def test_runs_that_say_so_clearly_make_long_warmups_risky_inside_the_table_alone():
    """Short runs that are all warm-up diverge and the others do not."""
    table = world(3, 200).assign(peak_lr=5e-3, n_params=1e8)
    share = np.tile([0.02, 0.1, 0.5, 0.9], 50)
    table["warmup_steps"] = share * table["steps"]
    table["diverged"] = share > 0.6
    p = risk(table, table)
    assert p[share > 0.6].mean() > 0.8 > 0.2 > p[share < 0.6].mean()


# invariances


@given(seed=st.integers(0, 10_000))
@SMALL
def test_the_order_of_the_runs_changes_nothing(seed):
    table = world(seed)
    mixed = table.sample(frac=1.0, random_state=seed)
    np.testing.assert_allclose(
        mode_logit(mixed, table), mode_logit(table, table), rtol=1e-3, atol=1e-3
    )


@given(seed=st.integers(0, 10_000), log_unit=st.floats(-7, 7), name=st.sampled_from(SIZES))
@SMALL
def test_units_of_size_tokens_and_lr_change_nothing(seed, log_unit, name):
    table, unit = world(seed), np.exp(log_unit)
    # tokens counted in other units: the batch with them, so that steps remain what they are
    names = ("tokens", "batch_tokens") if name in ("tokens", "batch_tokens") else (name,)
    other = table.assign(**{c: table[c] * unit for c in names})
    np.testing.assert_allclose(
        mode_logit(other, other), mode_logit(table, table), rtol=1e-3, atol=1e-3
    )


# the prior alone chooses nothing


@pytest.mark.parametrize("n", [1, 12, 60])
def test_without_a_diverged_run_what_ran_safely_is_safe_and_the_risk_rises_beyond(n):
    table = world(5, n, calm=True)
    top = float(table["peak_lr"].max())
    assert risk(table, table).max() < 0.06  # the corner: largest model, highest LR, least warm-up
    assert risk(table, table).mean() < 0.02
    p = risk(table, one_setting(table, peak_lr=top * np.array([0.3, 1.0, 3.0, 10.0, 30.0])))
    assert p[0] < 0.01 and p[1] < 0.025
    assert np.all(np.diff(p) > 0) and p[-1] > 0.3


@pytest.mark.parametrize("name", ["s1_150", "s3_200", "s5_30", "s7_12", "s10_oneND", "s12_120"])
@pytest.mark.public
def test_probabilities_on_worlds_of_known_risk(name, public_folder):
    from bayes_optlaws.runs.readers import read_candidates, read_runs

    folder = Path(public_folder).parent / "cases" / "small_worlds"
    if not folder.exists():
        pytest.skip(f"no simulated worlds in {folder}")
    candidates = read_candidates(folder / f"{name}.candidates.csv")
    p = risk(read_runs(folder / f"{name}.runs.csv"), candidates)
    assert np.abs(p - candidates["true_p_diverge"]).mean() <= 0.1


# what it rests on


def test_a_law_without_a_divergence_part_says_so():
    basis = risk_basis(None, world(0))
    assert (basis.modelled, basis.note) == (False, NOT_MODELLED)


def test_candidates_beyond_all_runs_are_named_with_their_side():
    table = world(0)
    data = DivergenceData.from_runs(table)
    assert risk_basis(data, table).note is None
    asked = table.iloc[:4].assign(peak_lr=[1e-3, 1e-3, 0.5, 0.5], warmup_steps=[300, 1, 300, 9000])
    basis = risk_basis(data, asked)
    assert "peak LR above 0.0" in basis.note and "(2 of 4)" in basis.note
    assert "warm-up below 100 (1 of 4)" in basis.note
    assert "warm-up above" not in basis.note  # the safe side
    none = risk_basis(DivergenceData.from_runs(table.assign(diverged=False)), asked)
    assert none.note.startswith("none of the 60 runs diverged")


def test_share_of_the_prior_is_one_without_runs_worth_the_name_and_falls_with_them():
    many, few = world(7, 400), world(7, 2, calm=True)
    shares = []
    for table in (few, many):
        data, draws = posterior(table)
        asked = one_setting(many, peak_lr=np.array([6e-3]))
        shares.append(float(risk_basis(data, asked, posterior=draws).prior_share[0]))
    assert shares[1] < 0.3 < 0.6 < shares[0] <= 1.0


# what it costs


def test_price_is_the_median_recorded_loss_of_diverged_runs_else_one_nat_above():
    table = pd.DataFrame(
        {"final_loss": [2.0, 3.0, 6.0, 9.0, np.inf], "diverged": [False, False, True, True, True]}
    )
    assert divergence_price(table) == 7.5
    table.loc[table["diverged"], "final_loss"] = np.nan
    assert divergence_price(table) == 4.0
    assert divergence_price(table, price=11) == 11.0
    with pytest.raises(ValueError, match="finite loss"):
        divergence_price(table, price=np.nan)
    with pytest.raises(ValueError, match="no finite final_loss"):
        divergence_price(table[table["diverged"]])
