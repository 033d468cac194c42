"""Value of extra runs, against dense linear algebra, quadrature, and real refits."""

import importlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from design_oracle import condition, fixed_law, function_space
from scipy.stats import norm

import bayes_optlaws as bo
from bayes_optlaws.decision import design_joint, design_scorers
from bayes_optlaws.decision.design import (
    COMPARISONS,
    LEAST_SHARE,
    OBJECTIVES,
    DesignPlan,
    _slim,
    design,
)
from bayes_optlaws.decision.design_benefit import benefit
from bayes_optlaws.decision.design_joint import Joint
from bayes_optlaws.decision.design_rules import order_by_rule
from bayes_optlaws.decision.design_scorers import Information, Pooled, Regret, Scorer
from bayes_optlaws.decision.design_value import (
    contrast_variance,
    expected_drop,
    mutual_information,
    pair_gain,
    temper,
)
from bayes_optlaws.runs.readers import read_candidates

SETTINGS = {"allow_unconverged": True, "progressbar": False}


def close_race(law, plan, block):
    """The five candidates predicted best, and the run that tells most about them."""
    candidates = block.iloc[np.argsort(law.predictor().law(block).mean(axis=0))[:5]]
    scores = Regret(Joint(law, law.draws), _slim(candidates), 0).score(_slim(plan))
    return candidates, plan.iloc[[int(np.argmax(scores))]]


def test_regret_equals_real_refits_over_all_exponents(split):
    """Oracle: for each outcome refit all 16 combinations densely, then take the best candidate.

    The oracle's losses are exact (log-normal means), its outcomes a fine grid; ours has 400
    draws of the combination, so four sets of draws give the standard error.
    """
    runs, plan, block = split
    runs = runs[~runs["diverged"]].iloc[::12]  # so few that much is left to learn
    candidates, x = close_race(fixed_law(runs, transfer=False), plan, block)
    values = []
    for seed in range(4):
        law = fixed_law(runs, transfer=False, seed=seed)
        made = design(law, x, decide=candidates, n_runs=1, cost=None, random_seed=seed, **SETTINGS)
        values.append(made.table["value"].iloc[0] if len(made.table) else 0.0)
    k = law.encoding.data.tree.n_combinations
    each = replace(law.draws.take(np.zeros(k, dtype=int)), combination=np.arange(k))
    law = replace(law, sample=replace(law.sample, draws=each))
    train, sd = law.encoding.finished, law.draws.hyper["noise_sd"][0, 0]
    y = np.log(train["final_loss"].to_numpy()) - law.encoding.centre
    n, c = len(y), len(candidates)
    log_evidence, mean, cov = np.empty(k), np.empty((k, c + 1)), np.empty((k, c + 1, c + 1))
    for s in range(k):
        mean[s], cov[s] = condition(law, s, pd.concat([candidates, x]))
        prior = function_space(law, s, _slim(train)) + sd**2 * np.eye(n)
        _, log_det = np.linalg.slogdet(prior)
        log_evidence[s] = -0.5 * (log_det + y @ np.linalg.solve(prior, y))
    weight = np.exp(log_evidence - log_evidence.max())
    weight /= weight.sum()
    out_sd = np.sqrt(cov[:, c, c] + sd**2)
    grid = np.linspace(
        (mean[:, c] - 6 * out_sd)[weight > 1e-6].min(),
        (mean[:, c] + 6 * out_sd)[weight > 1e-6].max(), 4001,
    )  # fmt: skip
    density = weight * norm.pdf(grid[:, None], mean[:, c], out_sd)
    gain = cov[:, :c, c] / out_sd[:, None] ** 2
    after = mean[:, :c] + gain * (grid[:, None, None] - mean[:, c, None])
    left = np.diagonal(cov, axis1=1, axis2=2)[:, :c] - gain**2 * out_sd[:, None] ** 2
    loss = np.einsum("qs,qsc->qc", density, np.exp(after + 0.5 * left))
    now = weight @ np.exp(mean[:, :c] + 0.5 * np.diagonal(cov, axis1=1, axis2=2)[:, :c])
    step = grid[1] - grid[0]
    exact = now.min() - loss.min(axis=1).sum() * step
    assert loss.sum(axis=0) * step == pytest.approx(now, rel=1e-6)
    error = np.std(values, ddof=1) / 2
    assert exact > 1e-3
    assert abs(np.mean(values) - exact) < 4 * error + 0.03 * exact


def test_two_candidates_by_hand():
    """Gap 1, tilde-sigma 2: 2 phi(1/2) - Phi(-1/2) = 0.70413 - 0.30854 = 0.39559."""
    assert float(pair_gain(1.0, 2.0)) == pytest.approx(0.395593, abs=1e-6)
    one = np.float32([[1.0]])
    value = expected_drop(
        np.zeros((1, 1, 1), np.float32), np.float32([[4.0]]), np.float32([[[0.0, 4.0]]]), one,
        np.float32([[[0.0, 1.0]]]), np.array([0]), 401,
    )  # fmt: skip
    assert value[0] == pytest.approx(0.395593, rel=1e-3)


def test_one_draw_and_two_candidates_follow_the_closed_form(plain, split):
    _, plan, block = split
    joint = Joint(plain, plain.draws.take(np.array([3])))
    candidates = _slim(close_race(plain, plan, block)[0].iloc[:2])
    scorer = Regret(joint, candidates, 0)
    pool = _slim(pd.concat([plan.iloc[::10], block]))
    t = joint.targets(pd.concat([candidates, pool]))
    gap = scorer.loss[1] - scorer.loss[0]
    change = t.cov[0, :2, 2:] * scorer.loss[:, None]
    sd = np.abs(change[1] - change[0]) / np.sqrt(np.diag(t.cov[0])[2:] + t.noise[0, 2:])
    exact = pair_gain(gap, sd)
    assert scorer.score(pool) == pytest.approx(exact, rel=0.02, abs=0.01 * exact.max())


def test_information_follows_quadrature_for_two_candidates(plain, split):
    """One law in many copies, so only the joint draws of the candidates are random."""
    _, plan, block = split
    candidates, pool = _slim(block.iloc[[9, 12]]), _slim(block.iloc[[0, 9, 12]])
    joint = Joint(plain, plain.draws.take(np.full(1500, 3)))
    t = joint.targets(pd.concat([candidates, pool]))
    mean, cov = t.mean[0], t.cov[0]
    contrast = np.array([1.0, -1.0])
    gap, variance = contrast @ mean[:2], contrast @ cov[:2, :2] @ contrast
    scores = Information(joint, candidates, 0).score(pool)

    def entropy(p):
        p = np.clip(p, 1e-15, 1 - 1e-15)
        return -(p * np.log(p) + (1 - p) * np.log(1 - p))

    z = np.linspace(-8, 8, 2001)
    for i, score in enumerate(scores):
        shift = contrast @ cov[:2, 2 + i] / np.sqrt(cov[2 + i, 2 + i] + t.noise[0, 2 + i])
        rest = np.sqrt(max(variance - shift**2, 1e-18))
        after = np.sum(norm.pdf(z) * entropy(norm.cdf((gap + shift * z) / rest))) * (z[1] - z[0])
        exact = entropy(norm.cdf(gap / np.sqrt(variance))) - after
        assert score == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("kind", ["plain", "rich"])
def test_variance_equals_the_closed_form_also_in_batches(kind, split, request):
    """Oracle: condition the pooled covariance on the whole batch at once."""
    law, (_, plan, block) = request.getfixturevalue(kind), split
    made = design(law, plan, decide=block, n_runs=3, objective="variance", **SETTINGS)
    joint = Joint(law, law.draws.thin(400))
    t = joint.targets(pd.concat([_slim(block), _slim(plan.loc[made.table.index])]))
    c = len(block)
    cov = t.cov.mean(axis=0) + np.cov(t.mean.T, bias=True)
    known = cov[c:, c:] + np.diag(t.noise.mean(axis=0)[c:])
    loss = np.exp(t.mean + 0.5 * np.diagonal(t.cov, axis1=1, axis2=2)).mean(axis=0)[:c]
    scale = np.outer(loss, loss)
    before = contrast_variance(scale * cov[:c, :c])
    explained = scale * (cov[:c, c:] @ np.linalg.solve(known, cov[c:, :c]))
    assert made.table["value"].sum() == pytest.approx(contrast_variance(explained), rel=2e-3)
    assert made.perfect == pytest.approx(before)
    pairs = sum(
        explained[i, i] + explained[j, j] - 2 * explained[i, j] for i in range(c) for j in range(i)
    )
    assert contrast_variance(explained) == pytest.approx(pairs)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_values_lie_between_nothing_and_perfect_information(objective, rich, split):
    _, plan, block = split
    made = design(rich, plan, decide=block, n_runs=8, objective=objective, cost=None, **SETTINGS)
    assert (made.scores >= 0).all()
    assert (made.table["value"] > 0).all()
    assert made.table["cumulative"].iloc[-1] <= made.perfect
    assert (made.scores <= made.perfect).all()
    assert made.table["value"].sum() > 0.2 * made.perfect


@pytest.mark.parametrize("kind", ["plain", "rich"])
@pytest.mark.parametrize("objective", ["variance", "v-optimal", "d-optimal"])
def test_columns_kept_give_the_values_of_conditioning_anew(kind, objective, split, request):
    law, (_, plan, block) = request.getfixturevalue(kind), split
    joint, rows = Joint(law, law.draws.thin(60)), _slim(plan)
    scorer = Pooled(joint, _slim(block.iloc[::4]), 0, objective=objective)
    open_ = np.arange(40, len(rows), 3)
    for chosen in ([7], [7, 3, len(rows) - 1]):
        quick = scorer.given(rows, chosen, open_)
        anew = Scorer.given(scorer, rows, chosen, open_)
        np.testing.assert_allclose(quick, anew, rtol=5e-3, atol=1e-3 * anew.max())


def test_contrasts_decide_when_no_single_run_is_worth_anything(rich, split, monkeypatch):
    module = importlib.import_module("bayes_optlaws.decision.design")
    _, plan, block = split
    kwargs = {"decide": block.iloc[::4], "n_runs": 3, **SETTINGS}
    by_variance = design(rich, plan, objective="variance", **kwargs)
    usual = design(rich, plan, objective="regret", **kwargs)
    assert "variance" not in usual.rule and (usual.table["value"] > 0).all()
    monkeypatch.setattr(module, "TRACE", 2.0)  # no run can be worth twice perfect information
    spared = design(rich, plan, objective="regret", **kwargs)
    assert list(spared.table.index) == list(by_variance.table.index)
    assert "the last 3 by the variance of contrasts" in spared.rule
    assert (spared.table["value"] == 0).all()


def test_components_narrower_than_the_grid_are_worth_no_more_than_perfect_information():
    mean = np.array([[[0.0, 1.0]]], dtype=np.float32)
    weight = np.full((1, 2), 0.5, dtype=np.float32)
    var = np.full((1, 2), 1e-12, dtype=np.float32)
    label = np.tile(np.eye(2, dtype=np.float32), (1, 2))
    label[:, 2:] = 0.5  # labels that chance shuffles evenly tell nothing
    for nodes in (15, 33):
        found = mutual_information(mean, var, weight, label, 2, 1, nodes)
        assert 0.95 * np.log(2) < found[0] < np.log(2) + 1e-4
        target = np.array([[[0.0, 1.0], [0.0, -1.0]]], dtype=np.float32)
        drop = expected_drop(
            mean, var, np.zeros((1, 2, 2), np.float32), weight, target, np.zeros(1, int), nodes
        )
        assert 0.475 < drop[0] < 0.5 + 1e-4  # blurred by the grid, so a little less


def test_losses_of_a_law_that_knows_little_stay_in_reach(split):
    """Without the bound the expected loss of an exponential is beyond all measure."""
    runs, plan, block = split
    few = runs[~runs["diverged"]].nsmallest(5, "tokens").reset_index(drop=True)
    law = fixed_law(few, transfer=True, n_draws=60)
    scorer = Pooled(Joint(law, law.draws), _slim(block), 0)
    free = scorer._first.mean + 0.5 * np.diagonal(scorer._first.cov, axis1=1, axis2=2)
    assert free.max() > law.encoding.centre + 2 * design_joint.REACH_NATS
    assert (scorer.loss <= np.exp(law.encoding.centre + 2 * design_joint.REACH_NATS)).all()
    assert (scorer.loss >= np.exp(law.encoding.centre - design_joint.REACH_NATS)).all()


def test_a_run_at_the_target_is_worth_more_without_noise_and_nothing_when_known(rich, split):
    """A candidate already observed many times adds little to what is known of it."""
    _, plan, block = split
    joint = Joint(rich, rich.draws)
    scorer = Pooled(joint, _slim(block.iloc[:6]), 0)
    x = _slim(block.iloc[[2]])
    first = scorer.score(x)[0]
    scorer.condition(pd.concat([x] * 30))
    assert scorer.score(x)[0] < 0.05 * first


def test_fantasies_keep_the_expected_means(rich, split):
    """Martingale: averaged over simulated outcomes the candidates' means stay where they were."""
    _, plan, block = split
    scorer = Regret(Joint(rich, rich.draws), _slim(block.iloc[::5]), 0)
    before = scorer.target.astype(float).mean(axis=(0, 1))
    spread = scorer.target[0].std(axis=0).max()
    scorer.condition(_slim(block.iloc[[7]]))
    after = np.einsum("fs,fsc->fc", scorer.weight, scorer.target)
    error = after.std(axis=0) / np.sqrt(design_scorers.FANTASIES)
    assert np.all(np.abs((after - after[:, [0]]).mean(axis=0) - (before - before[0]))
                  < 4 * error + 0.1 * spread)  # fmt: skip


def test_budget_cost_and_divergence(rich, split):
    _, plan, block = split
    cost = np.full(len(plan), 2.0)
    cost[0] = 1.0
    kwargs = {"decide": block.iloc[::4], "objective": "variance", **SETTINGS}
    made = design(rich, plan, n_runs=None, cost=cost, budget=7.0, **kwargs)
    assert made.table["cumulative_cost"].iloc[-1] <= 7.0
    assert len(made.table) in (3, 4) and made.table.index.is_unique
    alone = design(rich, plan, n_runs=1, cost=None, **kwargs)
    best = alone.table.index[0]
    p = (plan.index == best).astype(float)
    other = design(rich, plan, n_runs=1, cost=None, p_diverge=p, **kwargs)
    assert other.table.index[0] != best and other.scores[best] == 0
    half = design(rich, plan.assign(p_diverge=0.5), n_runs=1, cost=None, **kwargs)
    assert half.table["value"].iloc[0] == pytest.approx(0.5 * alone.table["value"].iloc[0])
    by_flops = design(rich, plan, n_runs=1, **kwargs)
    assert by_flops.costs.to_numpy() == pytest.approx(6 * plan["n_params"] * plan["tokens"])


@pytest.mark.parametrize("rule", COMPARISONS)
def test_comparison_rules_make_plans(rule, rich, split):
    _, plan, block = split
    made = design(rich, plan, decide=block.iloc[::5], n_runs=3, objective=rule, **SETTINGS)
    assert len(made.table) == 3 and made.table.index.is_unique
    if rule == "cheapest":
        assert made.table["cost"].max() <= made.costs.nsmallest(3).max()


def test_plan_says_and_shows_what_it_is(rich, split):
    import matplotlib as mpl

    mpl.use("Agg")
    _, plan, block = split
    made = design(rich, plan, decide=block.iloc[::4], n_runs=2, cost=None, **SETTINGS)
    assert isinstance(made, DesignPlan)
    first = made.table["settles"].iloc[0]
    named = [label for label in block.index[::4] if label in first]
    assert len(named) == 2 and "nats" in first
    assert "of what knowing every candidate exactly would be" in made.answer()
    assert made.table.index[0] in repr(made)
    assert made.table.index[0] in made._repr_html_()
    figure = made.plot()
    assert figure.axes[0].get_xlabel() == "cost, runs"
    mpl.pyplot.close(figure)
    assert set(plan.columns) <= set(made.table.columns)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"objective": "luck"}, "objective"),
        ({"n_runs": None}, "no budget"),
        ({"n_runs": 0}, "at least 1"),
        ({"budget": -1.0}, "positive"),
        ({"cost": "euros"}, "column of the pool"),
        ({"cost": [1.0, 2.0]}, "one for each"),
        ({"cost": -np.ones(231)}, "positive and finite"),
        ({"p_diverge": np.full(231, 1.5)}, r"\[0, 1\]"),
    ],
)
def test_wrong_options_are_refused(change, words, rich, split):
    _, plan, block = split
    options = {"decide": block.iloc[:3], "n_runs": 1, **SETTINGS} | change
    with pytest.raises(ValueError, match=words):
        design(rich, plan.iloc[:231], **options)


def test_one_candidate_leaves_nothing_to_decide(rich, split):
    with pytest.raises(ValueError, match="nothing to choose"):
        design(rich, split[1], decide=split[2].iloc[:1], **SETTINGS)


def test_tempered_weights_keep_enough_draws():
    log_weight = np.random.default_rng(0).normal(size=(3, 200)) * [[0.1], [3.0], [30.0]]
    w = temper(log_weight, 20.0)
    effective = 1.0 / np.sum(w**2, axis=1)
    assert w.sum(axis=1) == pytest.approx(1.0)
    assert np.all(effective > 19.9)
    plain_weights = np.exp(log_weight[0] - log_weight[0].max())
    assert w[0] == pytest.approx(plain_weights / plain_weights.sum())


@pytest.mark.slow
def test_value_agrees_with_nested_refits_by_nuts(split):
    """Simulate outcomes of one run, sample the whole posterior again for each, choose again."""
    runs, plan, block = split
    runs = runs[~runs["diverged"]].iloc[::8]
    fit = {"draws": 250, "tune": 200, "chains": 4, "progressbar": False}
    law = bo.OptLaw(transfer=False, divergence=False).fit(runs, random_seed=1, **fit)
    candidates, x = close_race(law, plan, block)
    made = design(law, x, decide=candidates, n_runs=1, cost=None, **SETTINGS)
    value = made.table["value"].iloc[0]
    outcome = np.sort(law.predict_draws(x, allow_unconverged=True).to_numpy()[:, 0])
    n = 16
    drops = []
    now = law.predict_draws(candidates, "mean", allow_unconverged=True).to_numpy().mean(axis=0)
    for k in range(n):
        row = runs.iloc[[0]].copy()
        for column in _slim(x).columns.intersection(runs.columns):
            row[column] = x[column].to_numpy()
        row["run_id"], row["diverged"] = "new", False
        row["final_loss"] = outcome[int((k + 0.5) / n * outcome.size)]
        again = bo.OptLaw(transfer=False, divergence=False).fit(
            pd.concat([runs, row]), random_seed=k, **fit
        )
        mean = again.predict_draws(candidates, "mean", allow_unconverged=True).to_numpy()
        after = mean.mean(axis=0)
        drops.append(after[np.argmin(now)] - after.min())
    error = np.std(drops, ddof=1) / np.sqrt(n)
    assert abs(np.mean(drops) - value) < 3 * error


def test_risks_that_a_pool_brings_go_before_those_of_the_law(small_law, pocket):
    runs = read_candidates(pocket.drop(columns=["final_loss", "diverged"]))
    options = {"decide": runs.iloc[-30::10], "n_runs": 1, "cost": None, "progressbar": False}
    pool = runs.iloc[:80:4]
    usual = small_law.design(pool, objective="variance", **options)
    assert usual.scores.max() > 0
    doomed = small_law.design(pool.assign(p_diverge=1.0), objective="variance", **options)
    assert (doomed.scores == 0).all()


# A plan stops, and says what it buys


def test_a_plan_stops_before_runs_that_add_next_to_nothing(rich, split):
    _, plan, block = split
    some = block.iloc[::8]
    short = design(rich, plan, decide=some, n_runs=12, cost=None, **SETTINGS)
    filled = design(rich, plan, decide=some, n_runs=12, cost=None, fill=True, **SETTINGS)
    values = short.table["value"]
    assert (values >= LEAST_SHARE * values.iloc[0]).all()
    assert len(filled.table) == 12 and list(filled.table.index[: len(values)]) == list(values.index)
    if len(values) < 12:
        assert "enough: any further one would add next to nothing" in short.answer()
        left = filled.table["value"].iloc[len(values)]
        bar = np.nan_to_num(filled.table["value_se"].iloc[len(values)])
        assert left <= max(LEAST_SHARE * values.iloc[0], bar)
    assert filled.stopped is None


def test_the_probability_of_choosing_right_follows_two_candidates_by_hand(plain, split):
    """One draw and two candidates: P(right) before is Phi(gap / sd); after, by simulation."""
    law, plan, block = plain, split[1], split[2]
    joint = Joint(law, law.draws.thin(1))
    pair, row = _slim(block.iloc[[0, 9]]), _slim(plan.iloc[[5]])
    scorer = Regret(joint, pair, 0)
    found = benefit(joint, scorer, pair, row, tie=0.0, seed=0)
    t = joint.targets(pd.concat([pair, row]))
    loss = scorer.loss
    scale = np.outer(loss, loss)
    cov = scale * t.cov[0, :2, :2]
    mean = loss * (1 + t.mean[0, :2] - scorer.log_mean)
    sd = np.sqrt(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1])
    gap = abs(mean[1] - mean[0])
    assert found.before == pytest.approx(norm.cdf(gap / sd), abs=4 * max(found.before_se, 0.01))
    # the gap will move by N(0, k^2); then it is right with Phi(|gap'| / rest)
    moved = loss * t.cov[0, :2, 2]
    k = abs(moved[1] - moved[0]) / np.sqrt(t.cov[0, 2, 2] + t.noise[0, 2])
    rest = np.sqrt(max(sd**2 - k**2, 1e-30))
    z = np.random.default_rng(3).standard_normal(200_000)
    want = norm.cdf(np.abs(gap + k * z) / rest).mean()
    assert found.after == pytest.approx(want, abs=4 * max(found.before_se, 0.01))


def test_cost_is_a_share_of_the_runs_to_be_decided(rich, split):
    _, plan, block = split
    large = block.iloc[::8].assign(tokens=lambda t: t["tokens"])
    made = design(rich, plan, decide=large, n_runs=2, **SETTINGS)
    flops = (6 * large["n_params"] * large["tokens"]).median()
    assert made.decide_cost == pytest.approx(flops)
    np.testing.assert_allclose(made.table["cost_share"], made.table["cost"] / flops)
    assert "of one run to be decided" in made.answer()
    assert "The probability of choosing right" in made.answer()


def test_both_doors_to_a_design_agree(small_law, pocket):
    runs = pocket[~pocket["diverged"]]
    pool = runs.iloc[::9].drop(columns=["final_loss", "diverged"])
    decide = pool.iloc[:3].assign(tokens=lambda t: t["tokens"])
    one = small_law.design(pool, decide, n_runs=2, progressbar=False, max_draws=128)
    two = design(
        small_law.fitted, read_candidates(pool), decide=read_candidates(decide), n_runs=2,
        progressbar=False, max_draws=128,
    )  # fmt: skip
    pd.testing.assert_frame_equal(one.table, two.table)
    assert one.answer() == two.answer()
    assert len(one.table) == 0 or one.table["p_diverge"].between(0, 1).all()


def test_runs_of_middle_size_come_first(rng):
    """Sizes 1, 4, 16, 64 and 256: 16 is the geometric middle, 1 and 256 come last."""
    pool = pd.DataFrame({"n_params": np.tile(4.0 ** np.arange(5), 3)})
    order = order_by_rule("mid-size", pool, np.ones(15), rng)
    assert sorted(order) == list(range(15))
    size = pool["n_params"].to_numpy()[order]
    assert set(size[:3]) == {16.0} and set(size[3:9]) == {4.0, 64.0} and set(size[9:]) == {1, 256}


def test_a_family_never_seen_is_learned_near_the_decision(rich, split):
    """Its effect changes over scales: a run at the smallest size tells less than a large one."""
    kept = ["n_params", "tokens", "batch_tokens", "peak_lr", "warmup_steps"]
    middle = split[2][kept].iloc[[10]]
    decide = pd.concat([middle, middle]).assign(schedule=["linear", "cosine"])
    decide = read_candidates(decide.set_axis(["linear", "cosine"]))
    runs = split[0]
    cells = runs.drop_duplicates(["n_params", "tokens"])[kept]
    pool = read_candidates(cells.assign(schedule="cosine", peak_lr=middle["peak_lr"].iloc[0]))
    options = {"decide": decide, "n_runs": 1, "cost": None, "objective": "variance"}
    value = design(rich, pool, **options, **SETTINGS).scores
    size = pool["n_params"]
    assert value[size.idxmax()] > 1.5 * value[size.idxmin()] > 0
