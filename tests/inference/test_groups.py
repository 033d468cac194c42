"""ArviZ's functions run on a law's posterior as it is, and its groups hold what they say."""

import copy
import pickle

import arviz as az
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm

from bayes_optlaws.inference.groups import log_priors
from bayes_optlaws.inference.loo import loo_density, loo_pit
from bayes_optlaws.law import OptLaw
from bayes_optlaws.model.priors import Priors

pytestmark = [
    # one run stands out, and all of few draws may have one exponent, which has no R-hat
    pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto"),
    pytest.mark.filterwarnings("ignore:Your data appears to have a single value"),
    pytest.mark.filterwarnings("ignore:invalid value encountered in scalar divide"),
]

QUICK = [
    "summary", "ess", "rhat", "loo", "loo_pit", "psense_summary", "plot_ppc_dist", "plot_forest",
    "plot_trace_dist", "plot_ess", "plot_convergence_dist", "plot_loo_pit",
]  # fmt: skip
LONG = ["plot_rank", "plot_psense_dist", "plot_rank_dist", "plot_mcse", "plot_prior_posterior"]


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in LONG)])
def test_arviz_runs_on_the_posterior_without_arguments(name, small_law):
    found = getattr(az, name)(small_law.posterior)
    if name.startswith("plot"):
        assert found.viz
        plt.close("all")
    elif name in ("summary", "psense_summary"):
        assert "coefficient[lr]" in found.index and "exponent[escape]" in found.index
        rows = found[found.index.str.startswith("coefficient")]
        assert np.isfinite(rows.select_dtypes(float).to_numpy()).all()


@pytest.mark.slow
def test_laws_are_compared_without_arguments(pocket):
    laws = {
        name: OptLaw(**options).fit(pocket, method="importance", random_seed=1, progressbar=False)
        for name, options in (
            ("ours", {}), ("no transfer", {"transfer": False}), ("paper", {"exponents": "paper"})
        )
    }  # fmt: skip
    table = az.compare({name: law.posterior for name, law in laws.items()})
    assert set(table.index) == set(laws) and table.index[-1] == "no transfer"
    assert np.isfinite(table["elpd"]).all()


def test_groups_are_those_of_arviz_and_dimensions_have_names(small_law, pocket):
    tree = small_law.posterior
    assert {
        "posterior", "posterior_predictive", "prior", "prior_predictive", "log_likelihood",
        "log_prior", "observed_data", "constant_data", "sample_stats",
    } <= set(tree.children)  # fmt: skip
    finished = pocket[~pocket["diverged"]]
    for group in ("posterior_predictive", "prior_predictive", "log_likelihood", "observed_data"):
        assert list(tree[group]["run"].to_numpy()) == list(finished["run_id"])
    assert tree["posterior"]["coefficient"].dims == ("chain", "draw", "feature")
    assert tree["prior"]["exponent"].dims == ("chain", "draw", "exponent_group")
    np.testing.assert_allclose(
        tree["observed_data"]["log_loss"], np.log(finished["final_loss"].to_numpy())
    )
    assert small_law.posterior is tree


def test_pointwise_densities_are_those_of_leave_one_out(small_law):
    law = small_law.fitted
    density = small_law.posterior["log_likelihood"]["log_loss"]
    assert density.shape == (4, 400, 232)
    np.testing.assert_array_equal(
        density.to_numpy().reshape(1600, -1), loo_density(law, max_draws=1600)
    )
    few = small_law.loo()
    whole = az.loo(small_law.posterior)
    # a third of the draws, with the same efficiency: Monte-Carlo error alone
    assert abs(few.elpd - whole.elpd) < 1.0
    pit = az.loo_pit(small_law.posterior)["log_loss"].to_numpy()
    assert np.abs(pit - loo_pit(law)).max() < 0.08  # a share of 1600 replicates beside a density


def test_replicates_have_the_predictive_distribution(small_law, pocket):
    replicated = small_law.posterior["posterior_predictive"]["log_loss"]
    flat = replicated.to_numpy().reshape(1600, -1)
    finished = pocket[~pocket["diverged"]]
    other = np.log(small_law.predict_draws(finished, finished=True, random_seed=9).to_numpy())
    error = np.sqrt((flat.var(axis=0) + other.var(axis=0)) / 400)  # effective draws of the gate
    assert np.all(np.abs(flat.mean(axis=0) - other.mean(axis=0)) < 4.5 * error)


def test_log_priors_are_those_of_the_densities_that_are_sampled(small_law):
    law = small_law.fitted
    found = log_priors(law)
    hyper = law.draws.hyper
    prior = law.priors.coefficient_sd
    expected = norm.logpdf(np.log(hyper["coefficient_sd"]), np.log(prior.median), prior.log_sd)
    np.testing.assert_allclose(found["coefficient_sd"], expected.sum(axis=1))
    assert set(found) == set(small_law.posterior["log_prior"].data_vars)
    assert np.ptp(found["exponents"]) == 0 and "coefficients" not in found
    known = {f.split("[")[0] for f in Priors().table().index} | {"divergence"}
    assert set(found) <= known


def test_costly_groups_are_not_computed_unless_read(small_law, tmp_path):
    law = OptLaw.load(small_law.save(tmp_path / "law.nc"))
    tree = law.posterior
    assert "log_loss" in repr(tree["log_likelihood"])
    assert set(law.fitted.cache) == {"arviz"}
    tree["prior"]["coefficient"].load()
    assert "log_likelihood" not in law.fitted.cache
    law.save(tmp_path / "again.nc")
    assert "log_likelihood" not in law.fitted.cache
    copied = copy.deepcopy(tree)
    xr.testing.assert_equal(copied["prior"].to_dataset(), tree["prior"].to_dataset())
    again = pickle.loads(pickle.dumps(law))
    xr.testing.assert_equal(again.posterior["prior"].to_dataset(), tree["prior"].to_dataset())
