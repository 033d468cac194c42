"""Priors that a user states: seen in the posterior and in prior draws, refused where wrong."""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
from laws import encoded, everything
from scipy.stats import norm

from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.prior import draw_priors, prior_law
from bayes_optlaws.inference.reference import draw_prior, noise_sd
from bayes_optlaws.law import OptLaw
from bayes_optlaws.model.priors import CoefficientPrior, LogNormal, Priors

ONE = {
    "model_size": (-0.2,), "data": (-0.2,), "settings": (0.3,), "mixed": (0.3,), "escape": (0.3,),
    "cross": (0.3,),
}  # fmt: skip
BY = {"method": "importance", "random_seed": 1, "progressbar": False}


def features(law):
    return [f.name for f in law.encoding.features.features]


def closed_form(law, hyper, own):
    """Posterior mean of the coefficients of the one combination, from n x p rows and priors."""
    data = law.encoding.data
    rows, y, label = everything(law)
    keep = np.arange(len(y)) < len(law.encoding.finished) + law.encoding.n_slopes
    selected = data.tree.selected(0)
    names = ["intercept", *(features(law)[j] for j in law.encoding.features.column_feature[1:])]
    block = law.encoding.features.column_block
    prior_sd = np.where(block < 0, law.priors.intercept_sd, hyper["coefficient_sd"][block])
    prior_mean = np.zeros(len(block))
    for name, (mean, sd) in own.items():
        prior_mean[names.index(name)], prior_sd[names.index(name)] = mean, sd
    x, w = rows[keep], 1.0 / noise_sd(data, hyper)[label[keep]] ** 2
    x, m, d = x[:, selected], prior_mean[selected], 1.0 / prior_sd[selected] ** 2
    mean = np.linalg.solve((x.T * w) @ x + np.diag(d), (x.T * w) @ y[keep] + d * m)
    out = np.zeros(len(block))
    out[selected] = mean
    return out


def test_a_stated_prior_of_a_coefficient_is_seen_in_the_posterior(pocket):
    """Posterior means given hyper-parameters, in closed form, averaged over their draws."""
    own = {"lr": (0.4, 0.05), "Ew": (-0.1, 0.02)}
    found = {}
    for word, stated in (("default", {}), ("own", own)):
        priors = Priors(coefficients=stated)
        law = OptLaw(transfer=False, divergence=False, exponents=ONE, priors=priors)
        law.fit(pocket, **BY)
        fitted = law.fitted
        beta = fitted.draws.beta
        some = range(0, fitted.draws.n, 10)
        expected = np.mean(
            [
                closed_form(fitted, {k: v[i] for k, v in fitted.draws.hyper.items()}, stated)
                for i in some
            ],
            axis=0,
        )
        error = beta.std(axis=0) * np.sqrt(1 / 400 + 1 / 200)
        assert np.all(np.abs(beta.mean(axis=0) - expected) < 4.5 * error + 1e-12)
        found[word] = law.summary()
    moved = (found["own"]["mean"] - found["default"]["mean"]) / found["default"]["sd"]
    assert moved["lr"] > 1 and moved["Ew"] < -1


def test_weights_of_exponents_are_their_prior_and_zero_rules_one_out(pocket):
    exponents = ONE | {"escape": (0.15, 0.3, 0.5), "mixed": (0.15, 0.5)}
    plain = encoded(pocket, transfer=False, exponents=exponents)
    law = encoded(
        pocket, transfer=False, exponents=exponents,
        priors=Priors(exponents={"escape": (3, 1, 0)}),
    )  # fmt: skip
    data = law.encoding.data
    index = data.tree.candidate_index(np.arange(data.tree.n_combinations))
    g = law.encoding.features.groups.index("escape")
    weight = np.array([0.75, 0.25, 0.0])
    np.testing.assert_allclose(np.exp(data.log_prior), weight[index[:, g]] / 2)
    np.testing.assert_allclose(np.exp(data.restrict(index[:, g] < 1).log_prior), 0.5)
    drawn = draw_priors(data, law.priors, 4000, np.random.default_rng(1))
    share = np.bincount(data.tree.candidate_index(drawn.combination)[:, g], minlength=3) / 4000
    before = draw_priors(plain.encoding.data, plain.priors, 4000, np.random.default_rng(2))
    equal = np.bincount(data.tree.candidate_index(before.combination)[:, g], minlength=3) / 4000
    odds = share[0] / share[1] / (equal[0] / equal[1])  # slopes are data: weights multiply
    assert share[2] == 0 and abs(np.log(odds / 3)) < 0.6


def test_signs_hold_in_every_draw_and_leave_the_rest_as_a_condition(pocket):
    options = {"transfer": False, "divergence": False, "exponents": ONE}
    law = OptLaw(**options).fit(pocket, **BY)
    free, feature = law.fitted.draws, law.fitted.encoding.features.column_feature
    undecided = np.abs((free.beta > 0).mean(axis=0) - 0.5)
    undecided[0] = 1.0  # the intercept has no sign
    chosen = int(undecided.argmin())
    name = features(law.fitted)[feature[chosen]]
    priors = Priors(coefficients={name: CoefficientPrior(sign="positive")})
    law = OptLaw(priors=priors, **options).fit(pocket, **BY)
    draws = law.fitted.draws
    assert (draws.beta[:, chosen] > 0).all()
    assert law.fitted.failures == [] and law.fitted.method == "importance"
    fits = free.beta[:, chosen] > 0
    a, b = free.beta[fits], draws.beta
    error = np.sqrt(a.var(axis=0) * 10 / len(a) + b.var(axis=0) / 400)
    assert np.all(np.abs(a.mean(axis=0) - b.mean(axis=0)) < 4.5 * error + 1e-12)


def test_a_sign_that_the_runs_contradict_is_refused(pocket):
    priors = Priors(coefficients={"N trend": CoefficientPrior(sign="negative")})
    law = OptLaw(transfer=False, divergence=False, exponents=ONE, priors=priors)
    with pytest.raises(ValueError, match="contradict the signs"):
        law.fit(pocket, **BY)
    assert not law.is_fitted


def test_prior_draws_are_those_of_the_plain_reference(pocket):
    law = encoded(pocket.iloc[::5], exponents=ONE)
    data, rng = law.encoding.data, np.random.default_rng(3)
    many = draw_priors(data, law.priors, 3000, rng)
    one_by_one = [draw_prior(data, law.priors, rng) for _ in range(60)]
    plain = np.array([d.beta[0] for d in one_by_one])
    error = np.sqrt(plain.var(axis=0) / 60 + many.beta.var(axis=0) / 300)
    assert np.all(np.abs(many.beta.mean(axis=0) - plain.mean(axis=0)) < 4.5 * error + 1e-12)
    level = many.fields[:, 0, 0] / many.hyper["level_sd"][:, 0]
    level /= np.sqrt(1 + many.hyper["cell_sd"][:, 0] ** 2)
    assert abs(level.std() - 1) < 4.5 / np.sqrt(2 * 800)
    local = many.local[:, 0] / many.hyper["local_sd"][:, 0]
    assert abs(local.std() - 1) < 4.5 / np.sqrt(2 * 800)
    slopes = many.beta @ law.encoding.prior_rows[:, : many.beta.shape[1]].T
    here = slopes[:, 0] * 0.45 * 0.08  # the slope in N at the table, of unit noise in the rows
    assert (here < 0).mean() > 0.9


def test_losses_by_the_prior_are_those_of_a_prior_law(pocket, small_law):
    priors = Priors(intercept_sd=0.05, coefficient_sd=LogNormal(1e-4, 0.1))
    law = OptLaw(transfer=False, exponents="paper", priors=priors)
    found = law.prior_predictive(pocket.head(3), pocket, draws=2000)
    assert found.dims == ("sample", "candidate") and found.sizes["sample"] == 2000
    finished = pocket[~pocket["diverged"]]
    centre = np.log(finished["final_loss"]).mean()
    log_loss = np.log(found.to_numpy())
    assert np.all(np.abs(log_loss.mean(axis=0) - centre) < 4.5 * 0.05 / np.sqrt(2000) + 1e-3)
    np.testing.assert_allclose(log_loss.std(axis=0), 0.05, rtol=0.15)
    again = small_law.prior_predictive(pocket.head(3), draws=50)
    before = prior_law(small_law.fitted.encoding, small_law.fitted.priors, draws=50)
    np.testing.assert_allclose(
        again, before.draw_loss(pocket.head(3), "new_run", np.random.default_rng(0),
                                max_draws=50).loss
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="call fit"):
        law.prior_predictive(pocket.head(3))


def test_unknown_names_are_refused_with_those_that_there_are(pocket):
    with pytest.raises(TypeError, match=r"unknown priors \['nois_sd'\]; valid ones are .*noise_sd"):
        Priors(nois_sd=LogNormal(0.1, 1.0))
    with pytest.raises(ValueError, match=r"unknown coefficients \['LR'\]; valid ones are .*'lr'"):
        OptLaw(priors=Priors(coefficients={"LR": (0, 0.1)}))
    with pytest.raises(ValueError, match=r"exponent groups \['scale'\]; valid ones are .*'escape'"):
        OptLaw(priors=Priors(exponents={"scale": (1, 2)}))
    with pytest.raises(ValueError, match="2 weights, and the group has 3 candidates"):
        OptLaw(priors=Priors(exponents={"escape": (1, 2)}))
    own = OptLaw(priors=Priors(coefficients={"batch": (0, 0.1)}))
    with pytest.raises(ValueError, match=r"unknown coefficients \['batch'\]"):
        own.encode(pocket)  # one batch size: the law has no such feature


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"coefficients": {"lr": (0.0, 1.5)}}, "must be below intercept_sd"),
        ({"coefficients": {"lr": 0.1}}, "pair"),
        ({"exponents": {"escape": (1, -1, 1)}}, "none below zero"),
        ({"exponents": {"escape": (0, 0, 0)}}, "no positive weight"),
        ({"noise_sd": 0.1}, "must be a LogNormal"),
        ({"unseen_sd": -1.0}, "must be a positive number"),
    ],
)
def test_what_is_no_distribution_is_refused(given, said):
    with pytest.raises((TypeError, ValueError), match=said):
        Priors(**given)


@pytest.mark.parametrize(
    "given", [{}, {"mean": 0.1}, {"sd": -1.0}, {"sd": 0.1, "sign": "up"}, {"mean": np.nan, "sd": 1}]
)
def test_a_prior_of_a_coefficient_that_says_nothing_or_nonsense_is_refused(given):
    with pytest.raises(ValueError, match="CoefficientPrior"):
        CoefficientPrior(**given)


def test_the_table_of_priors_names_units_sources_and_what_was_stated():
    priors = Priors(
        noise_sd=LogNormal(0.002, 0.5), coefficients={"lr": CoefficientPrior(0.0, 0.1, "positive")}
    )
    table = priors.table()
    assert table.loc["noise_sd", "source"] == "stated"
    assert table.loc["level_sd", "source"] == "own choice"
    assert "Hoffmann" in table.loc["slopes", "source"]
    low, high = table.loc["coefficients[lr]", ["from", "to"]]
    np.testing.assert_allclose([low, high], 0.1 * norm.ppf([0.525, 0.975]), rtol=5e-3)
    assert not table[["of", "unit", "source"]].isna().any(axis=None)
    for name in table.index[:14]:
        assert name in str(priors) and name in priors._repr_html_()
    assert eval(repr(priors), {"Priors": Priors, "LogNormal": LogNormal,
                               "CoefficientPrior": CoefficientPrior}) == priors  # fmt: skip
    assert repr(Priors()) == "Priors()" and replace(priors, coefficients={}) == Priors(
        noise_sd=LogNormal(0.002, 0.5)
    )


def test_the_mode_of_a_law_with_own_priors_is_found(pocket, rng):
    priors = Priors(coefficients={"N": (0, 0.01)})
    law = encoded(pocket, transfer=False, exponents=ONE, priors=priors)
    space = HyperSpace(law.encoding.data, law.priors)
    assert np.abs(space.log_density(space.mode())[1]).max() < 0.05


def test_every_field_is_in_the_table():
    names = {f.name for f in dataclasses.fields(Priors)} - {"coefficients", "exponents"}
    table = Priors().table()
    assert names < set(table.index)
    assert table.loc[sorted(names), ["of", "unit", "source"]].notna().all(axis=None)
