"""Compilation in set-up."""

import warnings

from bayes_optlaws.cli import warm


def test_set_up_compiles_and_says_no_more(capsys):
    """Its draws are thrown away, so what is wrong with them concerns no one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert warm.main() == 0
    assert not caught
    shown = capsys.readouterr()
    assert shown.out.startswith("numba kernels compiled") and not shown.err
