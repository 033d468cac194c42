"""The page with sliders, in a real browser: it says what the law says on the same draws."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from laws import Encoded, encoded, with_neighbours
from scipy.stats import norm
from scipy.stats import t as student

from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.draws import recover
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.inference.nuts import Sample
from bayes_optlaws.model.divergence import DivergencePriors, parameters
from bayes_optlaws.model.priors import Priors
from bayes_optlaws.model.tails import PRIOR
from bayes_optlaws.report.explore import explore
from bayes_optlaws.report.explore_inputs import FAMILIES, LABELS, noise_tails
from bayes_optlaws.runs.readers import read_candidates, read_runs

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome")
     if (found := shutil.which(name))),
    None,
)  # fmt: skip
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no browser")

N_DRAWS, REPEATS = 60, 40
GROUPS = {
    "model_size": (-0.2, 0.0), "data": (-0.2, 0.0), "settings": (0.3,), "mixed": (0.3,),
    "escape": (0.3,), "cross": (0.15, 0.3),
}  # fmt: skip

DRIVER = """<script>
(async () => {
  const out = [], by = (id) => document.getElementById(id);
  const wait = () => new Promise((r) => setTimeout(r, 5));
  const note = (name) => out.push({ name, loss: by("loss").textContent,
    shown: by("better").textContent, ...JSON.parse(by("state").textContent) });
  const set = async (id, value, event) => {
    by(id).value = value; by(id).dispatchEvent(new Event(event)); await wait();
  };
  note("start");
  for (const key of KEYS) for (const place of PLACES) {
    by("reset").click();
    await set("s-schedule", key === "cooldown" ? "wsd" : "linear", "change");
    await set("s-" + key, place, "input");
    note(key + " " + place);
  }
  for (const family of FAMILIES) {
    by("reset").click();
    await set("s-schedule", family, "change");
    note(family);
  }
  for (const key of LEVELS) for (const option of by("s-" + key).options) {
    by("reset").click();
    await set("s-" + key, option.value, "change");
    note(key + " " + option.value);
  }
  by("reset").click();
  await set("v-n_params", "0.5M", "change"); note("typed");
  await set("v-n_params", "a lot", "change"); note("refused " + by("v-n_params").ariaInvalid);
  by("keep").click(); note("kept");
  const pre = document.createElement("pre");
  pre.id = "results"; pre.textContent = JSON.stringify(out); document.body.append(pre);
})();
</script>"""


def made_law(runs, *, transfer, divergence=True, scatter=0.15, **options) -> FittedLaw:
    """A law about the mode of its hyper-parameters, every draw with others; no sampling."""
    given: Encoded = encoded(runs, transfer=transfer, exponents=GROUPS, **options)
    e, rng = given.encoding, np.random.default_rng(2)
    space = HyperSpace(e.data, given.priors)
    x = space.mode() + scatter * rng.standard_normal((N_DRAWS, space.mode().size))
    every = np.ones(e.data.tree.n_combinations, dtype=bool)
    draws, *_ = recover(space, space.split(x), every, rng)
    priors = DivergencePriors() if divergence else None
    if divergence:
        size = 6 + len(e.divergence.scale.names)
        z = 0.5 * rng.standard_normal((N_DRAWS, size))
        draws = replace(draws, divergence=parameters(z, e.divergence, priors, np.eye(size)))
    sample = Sample(draws, 1, xr.Dataset(), 1.0, np.nan)
    return FittedLaw(e, given.priors, sample, 0, priors)


@pytest.fixture(scope="module")
def tables(pocket):
    """The grid as it is, and with a batch size that varies."""
    batch = np.where(np.arange(len(pocket)) % 3 == 0, 4096.0, 1024.0)
    varied = pocket.assign(batch_tokens=batch, tokens=batch * pocket["steps"])
    columns = ["run_id", "n_params", "tokens", "batch_tokens", "peak_lr", "warmup_steps",
               "schedule", "final_loss", "diverged"]  # fmt: skip
    i = np.arange(len(pocket))
    more = {
        "decay": 0.05 * (i % 4), "beta2": np.where(i % 5 == 0, 0.99, 0.9),
        "optimizer": np.where(i % 7 < 3, "<b>muon", 'adam, "w"'),
        "group": np.where(i % 2 == 0, "web", "code"),
    }  # fmt: skip
    settings = read_runs(pocket[columns].assign(**more), mixed_groups=True)
    return {"grid": pocket, "batches": read_runs(varied[columns]), "settings": settings}


OPTIONS = {
    "batches": {"priors": Priors(noise_df=4.0)},
    "settings": {
        "covariates": {"decay": "linear", "beta2": "log(1-x)", "optimizer": "category"},
        "groups": "pooled",
    },
}


def driven(page: str, folder, places=(60, 330)):
    """What the page shows after each slider was moved, and each schedule chosen."""
    script = DRIVER.replace("PLACES", json.dumps(places)).replace(
        "of FAMILIES", "of " + json.dumps(FAMILIES)
    )
    path = folder / "driven.html"
    path.write_text(page.replace("</body>", script + "</body>"), encoding="utf-8")
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=60000",
         "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    found = re.search(r'<pre id="results">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-500:]
    return json.loads(unescape(found.group(1)))


def repeated(law, table, kind):
    """Losses drawn again and again from the same posterior draws, (repeats, draws, rows)."""
    many = law.draws.take(np.tile(np.arange(N_DRAWS), REPEATS))
    law = replace(law, sample=replace(law.sample, draws=many))
    loss = law.draw_loss(table, kind, np.random.default_rng(1), max_draws=many.n).loss
    return loss.reshape(REPEATS, N_DRAWS, -1)


@needs_browser
@pytest.mark.parametrize("name", ["grid", "batches", "settings", "neighbours"])
def test_every_slider_says_what_the_law_predicts(tables, name, tmp_path):
    """On the same draws: means and P(better) within 4.5 standard errors, risks to rounding."""
    law = made_law(tables.get(name, tables["grid"]), transfer=True, **OPTIONS.get(name, {}))
    if name == "neighbours":
        law = with_neighbours(law)
    said = driven(explore(law, draws=N_DRAWS, allow_unconverged=True).page, tmp_path)
    assert [s["name"] for s in said[-3:]] == ["typed", "refused true", "kept"]
    base = pd.DataFrame([said[0]["row"]])
    moved = 0
    for state in said[:-1]:
        a = state["answer"]
        pair = read_candidates(
            pd.concat([pd.DataFrame([state["row"]]), base], ignore_index=True),
            warn=False, mixed_groups=True,
        )  # fmt: skip
        loss = repeated(law, pair.iloc[[0]], "new_run")[:, :, 0]
        # given the draws only what is drawn afresh scatters: over repeats of one draw
        se = np.sqrt(np.mean(loss.var(axis=0, ddof=1)) / loss.size)
        assert abs(a["loss_mean"] - loss.mean()) < 4.5 * se, state["name"]
        assert float(state["loss"]) == pytest.approx(a["loss_mean"], abs=5.1e-5)
        for p, key in ((0.05, "loss_lower"), (0.95, "loss_upper")):
            below = np.mean(loss < a[key])
            assert abs(below - p) < 4.5 * np.sqrt(p * (1 - p) / loss.size), (state["name"], key)
        assert a["loss_sd"] == pytest.approx(loss.std(), rel=0.15)
        risk = law.risk(pair)[:, 0]
        np.testing.assert_allclose(
            [a["p_diverge"], a["p_diverge_lower"], a["p_diverge_upper"]],
            [risk.mean(), *np.quantile(risk, [0.05, 0.95])], rtol=1e-6, atol=1e-12,
        )  # fmt: skip
        assert a["extrapolation"] == pytest.approx(law.extrapolation(pair)[0], abs=1e-9)
        if state["row"] == said[0]["row"]:
            assert state["shown"] == "it is the baseline"
            continue
        both = repeated(law, pair, "mean").reshape(-1, 2)
        gap = both[:, 1] - both[:, 0]
        better = np.mean(gap > 0) + 0.5 * np.mean(gap == 0)
        error = np.sqrt(max(better * (1 - better), 1 / len(gap)) / len(gap))
        assert abs(a["p_better"] - better) < 4.5 * error, state["name"]
        moved += 1
    # all but the baseline's own schedule and levels; typed and refused are two more
    more = law.encoding.covariates.items
    numbers = sum(not c.is_category for c in more)
    assert moved == 2 * (len(LABELS) + numbers) + len(FAMILIES) + 1 + len(more) - numbers
    kept = said[-1]
    assert kept["shown"] == "it is the baseline" and kept["row"]["n_params"] == 5e5


@needs_browser
def test_a_law_without_discrepancy_is_exact(tables, tmp_path):
    """Mean and sd of the noise alone, in closed form; covariates are columns of the mean."""
    law = made_law(tables["settings"], transfer=False, divergence=False, **OPTIONS["settings"])
    said = driven(explore(law, draws=N_DRAWS, allow_unconverged=True).page, tmp_path, (200,))
    for state in said[:-1]:
        one = read_candidates(pd.DataFrame([state["row"]]), warn=False)
        assert {"decay", "beta2", "optimizer", "group"} <= {*one}
        mean = law.predictor().mean(one, np.random.default_rng(0))[:, 0]
        variance = law.predictor().noise_sd(one)[:, 0] ** 2
        expected = np.mean(np.exp(mean + variance / 2))
        assert state["answer"]["loss_mean"] == pytest.approx(expected, rel=1e-9)
        assert "p_diverge" not in state["answer"]


@pytest.fixture(scope="module")
def law(pocket):
    return made_law(pocket, transfer=False, divergence=False)


def test_the_page_fetches_nothing_and_labels_every_control(law, tmp_path):
    title = "</title></script><script>alert(1)</script>"
    made = explore(law, tmp_path / "x.html", title=title, allow_unconverged=True)
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert text == made.page and "alert(1)</script><" not in text.replace("&lt;", "")
    assert title not in text
    outside = re.sub(r"http://www.w3.org/2000/svg", "", text)
    assert "http:" not in outside and "https:" not in outside and "src=" not in outside
    assert "default-src 'none'" in unescape(text) and "prefers-color-scheme: dark" in text
    for key in LABELS:
        assert f'<label for="s-{key}">' in text and f'id="v-{key}" aria-label=' in text
    assert "UNCONVERGED" in text
    assert len(text) < 2e6
    html = made._repr_html_()
    assert html.startswith("<iframe") and "<script" not in html and "&lt;script" in html
    assert "x.html" in repr(made)


def test_labels_of_the_table_cannot_leave_the_data(law, pocket):
    row = pocket.iloc[[0]].assign(run_id="</script><img src=x onerror=alert(1)>")
    page = explore(law, baseline=row.set_index("run_id"), allow_unconverged=True).page
    assert "onerror" not in page


def test_a_law_of_other_columns_is_refused(law, monkeypatch):
    from bayes_optlaws.report import explore as module

    monkeypatch.setattr(module, "KNOWN", module.KNOWN - {"Ew", "floor"})
    with pytest.raises(ValueError, match="the law has Ew, floor, which the page"):
        explore(law, allow_unconverged=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optimizer": "lion"}, "no fitted run had it"),
        ({"optimizer": ""}, "must not be empty"),
        ({"decay": "a lot"}, "must be a finite number"),
        ({"beta2": 1.0}, "must be a number below 1"),
        ({"beta2": None}, "the table has no column beta2"),
    ],
)
def test_a_baseline_that_does_not_say_its_covariates_is_refused(tables, change, said):
    law = made_law(tables["settings"], transfer=False, divergence=False, **OPTIONS["settings"])
    row = tables["settings"].iloc[[0]].drop(columns=["final_loss", "diverged"])
    row = row.drop(columns="beta2") if None in change.values() else row.assign(**change)
    with pytest.raises(ValueError, match=said):
        explore(law, baseline=row, allow_unconverged=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"draws": 10}, "draws is 10: give a whole number of at least 50"),
        ({"prob": 0.0}, "prob must lie strictly"),
        ({"baseline": 2}, "the baseline has 2 rows"),
        ({"baseline": "polygon"}, "the baseline's schedule is polygon: the page has linear"),
    ],
)
def test_wrong_options_are_refused(law, pocket, options, said):
    if options.get("baseline") == 2:
        options = {"baseline": pocket.iloc[:2]}
    elif options.get("baseline"):
        polygon = {"schedule": "polygon", "decay_end_step": 500.0, "plateau_lr": 1e-3,
                   "cooldown_start_step": 900.0}  # fmt: skip
        options = {"baseline": pocket.iloc[[0]].assign(**polygon)}
    with pytest.raises(ValueError, match=said):
        explore(law, allow_unconverged=True, **options)


@pytest.mark.parametrize("df", PRIOR)
def test_the_normals_of_the_page_have_the_probabilities_of_the_tails(df):
    z = np.linspace(-8, 8, 321)
    found = sum(share * norm.cdf(z / np.sqrt(v)) for v, share in noise_tails(df))
    scale = np.sqrt((df - 2) / df) if np.isfinite(df) else 1.0
    assert np.abs(found - student.cdf(z, df, scale=scale)).max() < 1e-4
