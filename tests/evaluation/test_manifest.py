"""Results of earlier work are taken only where everything they were made from is the same."""

import numpy as np
import pandas as pd
import pytest

from bayes_optlaws.evaluation import manifest, protocols
from bayes_optlaws.evaluation.manifest import (
    MANIFEST,
    DamagedResultWarning,
    FolderError,
    open_folder,
    read_result,
    table_digest,
)


@pytest.fixture
def inputs():
    return {
        "runs": pd.DataFrame({"run_id": ["a", "b"], "lrs": [[0.1, 0.2], [0.3]]}),
        "random_seed": 1,
        "options": {"draws": 10, "exponents": None},
    }


def test_the_same_inputs_are_taken(tmp_path, inputs):
    open_folder(tmp_path / "a", **inputs)
    (tmp_path / "a" / "replication-00000.json").write_text("{}")
    assert open_folder(tmp_path / "a", **inputs) == tmp_path / "a"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"random_seed": 2}, "random_seed was 1, now 2"),
        ({"options": {"draws": 11, "exponents": None}}, "options was .*10.*, now .*11"),
        ({"runs": pd.DataFrame({"run_id": ["a", "b"], "lrs": [[0.1, 0.2], [0.4]]})}, "runs was"),
        ({"runs": pd.DataFrame({"run_id": ["a", "B"], "lrs": [[0.1, 0.2], [0.3]]})}, "runs was"),
        ({"more": 1}, "more was null, now 1"),
    ],
)
def test_other_inputs_are_refused_with_what_differs(tmp_path, inputs, change, said):
    open_folder(tmp_path, **inputs)
    with pytest.raises(FolderError, match=f"results of other inputs: {said}"):
        open_folder(tmp_path, **(inputs | change))


def test_other_code_is_refused(tmp_path, inputs, monkeypatch):
    open_folder(tmp_path, **inputs)
    monkeypatch.setattr(manifest, "code_digest", lambda: "0" * 64)
    with pytest.raises(FolderError, match="code was"):
        open_folder(tmp_path, **inputs)


def test_the_code_digest_sees_a_change_of_one_kernel(tmp_path, monkeypatch):
    whole = manifest.code_digest()
    folder = tmp_path / "package"
    for path in manifest._PACKAGE.rglob("*.py"):
        copy = folder / path.relative_to(manifest._PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(manifest, "_PACKAGE", folder)
    assert manifest.code_digest.__wrapped__() == whole
    kernel = folder / "kernels" / "marginal.py"
    kernel.write_text(kernel.read_text() + "\n# changed\n")
    assert manifest.code_digest.__wrapped__() != whole


def test_results_without_or_with_a_damaged_manifest_are_refused(tmp_path, inputs):
    (tmp_path / "replication-00000.json").write_text("{}")
    with pytest.raises(FolderError, match=f"has results but no {MANIFEST}"):
        open_folder(tmp_path, **inputs)
    for text in ("", "{", "[]"):
        (tmp_path / MANIFEST).write_text(text)
        with pytest.raises(FolderError, match="is damaged"):
            open_folder(tmp_path, **inputs)


def test_a_table_digest_sees_types_labels_and_order():
    table = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    others = [
        table.astype({"a": float}), table.iloc[::-1], table[["b", "a"]], table.set_axis(["p", "q"]),
        table.rename(columns={"a": "c"}),
    ]  # fmt: skip
    assert table_digest(table) == table_digest(table.copy())
    assert len({table_digest(t) for t in [table, *others]}) == 6


@pytest.mark.filterwarnings("ignore::bayes_optlaws.evaluation.manifest.DamagedResultWarning")
def test_no_flipped_bit_of_a_task_file_gives_another_result(tmp_path, rng):
    path = tmp_path / "task.npz"
    protocols._write(path, {"draws": rng.normal(size=(4, 3)), "predicted": 1.0, "converged": True})
    whole = path.read_bytes()
    known = read_result(path, protocols._read)
    n_bits = 8 * len(whole)
    # the end of a zip file says where its table of contents is: no checksum looks there
    bits = [*range(n_bits - 8 * 22, n_bits), *rng.integers(0, n_bits, 150)]
    damaged = 0
    for bit in bits:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        found = read_result(path, protocols._read)
        damaged += found is None
        if found is not None:
            assert {*found} == {*known}
            assert all(np.array_equal(found[k], known[k]) for k in known)
    assert damaged > 100


def _load(path):
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        return {k: stored[k] for k in stored}


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9])
def test_a_truncated_result_is_named_and_made_again(tmp_path, share):
    path = tmp_path / "task.npz"
    np.savez_compressed(path, a=np.arange(5000.0))
    assert read_result(path, _load)["a"].size == 5000
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.warns(DamagedResultWarning, match=r"task\.npz is damaged .* and is made again"):
        assert read_result(path, _load) is None
