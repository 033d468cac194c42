"""A law in a notebook: what was fitted, whether to use it; well-formed HTML."""

import xml.etree.ElementTree as ET

from bayes_optlaws.law import OptLaw
from bayes_optlaws.text.html import table


def words(html):
    return " ".join("".join(ET.fromstring(html).itertext()).split())


def test_a_law_not_fitted_says_so():
    assert "not fitted" in repr(OptLaw()) and "not fitted" in words(OptLaw()._repr_html_())


def test_a_fitted_law_shows_its_cells_and_its_state(small_law, pocket):
    assert repr(small_law).endswith("4 blocks; by NUTS, converged")
    said = words(small_law._repr_html_())
    assert "fitted to 232 finished of 260 runs" in said and "Converged: R-hat" in said
    lowest = pocket.loc[pocket["n_params"] == 246240, "final_loss"].min()
    assert f"{lowest:.4f}" in said
    assert "divergence is not modelled" not in said.lower()


def test_a_law_that_did_not_converge_says_so_first(small_law, monkeypatch):
    bad = small_law.diagnostics | {"rhat": 1.3}
    monkeypatch.setitem(small_law.fitted.__dict__, "diagnostics", bad)
    assert "R-hat 1.300 > 1.01" in repr(small_law)
    assert "UNCONVERGED (R-hat 1.300 > 1.01): predict and rank refuse" in words(
        small_law._repr_html_()
    )


def test_long_text_is_broken_into_lines_and_numbers_are_not(small_law):
    frame = small_law.runs[["cooldown_start_step"]].head(2).assign(why=["x" * 80, "y"])
    html = table(frame)
    assert "<wbr/>" in html and "min-width: 18em" in html
    assert html.count("nowrap") > 2  # labels and numbers
