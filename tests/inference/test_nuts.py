"""Screening against sampling in full, and chains that go on until they pass."""

import numpy as np
import pytest
from arviz_stats.base import array_stats
from laws import encoded

from bayes_optlaws.inference import gate
from bayes_optlaws.inference import nuts as sampling
from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.resampling import systematic

MANY = {
    "scale": (-0.3, -0.15, 0.15, 0.3), "mixed": (0.15, 0.3), "escape": (0.15, 0.3, 0.5),
    "cross": (0.15, 0.3),
}  # fmt: skip


def test_systematic_resampling_takes_each_draw_its_expected_number_of_times(rng):
    weight = rng.dirichlet(np.ones(50))
    index = systematic(weight, 50, rng)
    count = np.bincount(index, minlength=50)
    assert count.sum() == 50
    assert np.all(np.abs(count - 50 * weight) < 1 + 1e-9)
    np.testing.assert_array_equal(systematic(np.ones(8), 8, rng), np.arange(8))


def test_combination_weights_are_those_of_the_evidence(pocket, rng):
    law = encoded(pocket, transfer=False, exponents=MANY)
    space = HyperSpace(law.encoding.data, law.priors)
    x = space.mode()
    weight = sampling.combination_weights(space, space.split(x))
    assert weight.sum() == pytest.approx(1.0)
    whole = space.log_density(x)[0]
    for k in (int(weight.argmax()), 5):
        only = np.zeros(weight.size, dtype=bool)
        only[k] = True
        part = HyperSpace(law.encoding.data.restrict(only), law.priors).log_density(x)[0]
        # alone its prior probability is one, among all it is one over their number
        expected = part - np.log(weight.size) - whole
        assert np.log(weight[k]) == pytest.approx(expected, abs=1e-6)


def test_more_combinations_are_chosen_where_those_left_out_mattered(rng):
    """At the pilot's points the first 80 have all weight; at a few others the last ten have."""
    usual = np.full((64, 300), 1e-9)
    usual[:, :80] = rng.dirichlet(np.full(80, 50.0), 64)
    few = sampling.screened(usual)
    assert few.sum() == 64 and not few[80:].any()  # shares are even, though not near one
    tail = np.full((64, 300), 1e-9)
    tail[:, -10:] = 0.1
    more = sampling.screened(np.concatenate([usual, tail]), above=64, least=0.5)
    assert more.sum() == 128 and more[:80].all() and more[-10:].all()
    assert sampling.screened(np.full((8, 2000), 1 / 2000), above=1024).all()


def test_weights_that_move_next_to_nothing_are_left_out(pocket, rng, monkeypatch):
    """A few weights of 1.01 among thousands of ones have a tail, whose shape says nothing."""
    weight = np.ones(4000)
    weight[:40] += 0.01 * rng.pareto(0.8, 40).clip(max=3)
    assert sampling._unevenness(weight) < sampling.NEGLIGIBLE
    weight[:400] = 2.0
    assert sampling._unevenness(weight) == pytest.approx(
        0.5 * (0.9 * 0.1 / 1.1 + 0.1 * 0.9 / 1.1), rel=0.01
    )
    monkeypatch.setattr(sampling, "NEGLIGIBLE", 1.0)
    law = encoded(pocket, transfer=False, exponents=MANY)
    options = {"draws": 100, "tune": 100, "chains": 2, "progressbar": False}
    found = sampling.sample(law.encoding.data, law.priors, random_seed=1, **options)
    assert np.isnan(found.pareto_k)


def test_screened_sampling_agrees_with_sampling_in_full(pocket, monkeypatch):
    law = encoded(pocket, transfer=False, exponents=MANY)
    options = {"draws": 1000, "tune": 300, "chains": 4, "progressbar": False}
    # so few that the importance weights have work to do
    monkeypatch.setattr(sampling, "SCREEN_SIZES", (1,))
    monkeypatch.setattr(sampling, "MIN_EFFICIENCY", 0.2)
    monkeypatch.setattr(sampling, "NEGLIGIBLE", 1e-9)
    monkeypatch.setattr(sampling, "MAX_PARETO_K", 2.0)  # that of weights this even says little
    screened = sampling.sample(law.encoding.data, law.priors, random_seed=1, **options)
    monkeypatch.setattr(sampling, "SCREEN_SIZES", ())
    full = sampling.sample(law.encoding.data, law.priors, random_seed=2, **options)
    assert screened.kept <= 1 / 48 < full.kept == 1.0
    assert np.isfinite(screened.pareto_k)
    assert np.isnan(full.pareto_k)
    used = full.draws.beta.std(axis=0) > 0
    pairs = [(screened.draws.beta[:, used], full.draws.beta[:, used])]
    pairs += [(np.log(screened.draws.hyper[k]), np.log(full.draws.hyper[k])) for k in
              ("noise_sd", "coefficient_sd")]  # fmt: skip
    exponent = [
        law.encoding.data.tree.candidate_index(s.draws.combination).astype(float)[:, :]
        for s in (screened, full)
    ]
    pairs.append(tuple(e + 1e-9 * np.arange(len(e))[:, None] for e in exponent))
    for a, b in pairs:
        for j in range(a.shape[1]):
            x, y = a[:, j].reshape(4, -1), b[:, j].reshape(4, -1)
            error = np.hypot(array_stats.mcse(x, method="mean"), array_stats.mcse(y, method="mean"))
            # resampling repeats draws, which the standard error does not see in full
            assert abs(x.mean() - y.mean()) < 5 * np.sqrt(2) * error + 1e-4


def test_the_same_seed_gives_the_same_draws(pocket):
    law = encoded(pocket, transfer=False, exponents=MANY)
    options = {"draws": 100, "tune": 100, "chains": 2, "progressbar": False}
    a, b, c = (
        sampling.sample(law.encoding.data, law.priors, random_seed=s, **options).draws
        for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(a.beta, b.beta)
    assert not np.array_equal(a.beta, c.beta)


@pytest.mark.parametrize(
    ("least", "verdicts", "lengths"), [(100, 3, 2), (1000, 3, 1), (100, 99, 8)]
)
def test_chains_that_do_not_agree_are_made_longer(pocket, monkeypatch, least, verdicts, lengths):
    law = encoded(pocket, transfer=False, exponents=MANY)
    judged = iter([["R-hat"]] * (verdicts - 1) + [[]])
    monkeypatch.setattr(gate, "failures", lambda figures: next(judged))
    monkeypatch.setattr(gate, "MIN_ESS", least)
    found = sampling.sample(
        law.encoding.data, law.priors, random_seed=1, draws=100, tune=50, chains=2,
        progressbar=False,
    )  # fmt: skip
    assert found.draws.n == 200  # with fewer draws than the gate wants, nothing would help
    assert found.sample_stats["energy"].shape == (2, 100 * lengths)
