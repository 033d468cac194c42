"""One change of the plain run table each: it must read as that does, or say what settles it."""

import warnings

import numpy as np
import pandas as pd
import pytest
from run_tables import SEQUENCE, asks, faults, plain, same

from bayes_optlaws.runs.readers import RunTableError, RunTableWarning, read_runs
from bayes_optlaws.text.numbers import short


def change(**columns):
    return plain().assign(**columns)


def renamed(**names):
    return plain().rename(columns=names)


def test_numbers_as_people_write_them(truth):
    t = plain()
    for write in (short, "{:,.0f}".format, "{:.1e}".format, lambda v: f"{v / 1e9} B"):
        same(read_runs(change(n_params=[write(v) for v in t["n_params"]])), truth)
    steps = t["tokens"] / t["batch_tokens"]
    same(read_runs(change(steps=[f"{v / 1e3:.2f}k" for v in steps])), truth)
    rounded = change(steps=[f"{v / 1e3:.2f}k" for v in steps]).drop(columns="tokens")
    same(read_runs(rounded), truth, rtol=0.01, but=("cooldown_start_step",))
    same(
        read_runs(change(batch_tokens=[f"2**{int(np.log2(v))}" for v in t["batch_tokens"]])), truth
    )


def test_units_in_names_and_by_argument(truth):
    same(read_runs(change(tokens=plain()["tokens"] / 1e9), units={"tokens": 1e9}), truth)
    same(read_runs(change(tokens=plain()["tokens"] / 1e9), units={"tokens": "B"}), truth)
    for name in ("tokens (B)", "tokens_B", "tokens [billions]", "tokens_in_billions"):
        table = change(tokens=plain()["tokens"] / 1e9).rename(columns={"tokens": name})
        same(read_runs(table), truth)
    table = change(n_params=plain()["n_params"] / 1e6).rename(columns={"n_params": "size [M]"})
    same(read_runs(table, columns={"size [M]": "n_params"}, units={"size [M]": "M"}), truth)
    same(read_runs(renamed(peak_lr="lr_x"), columns={"lr_x": "peak_lr"}), truth)
    same(read_runs(renamed(peak_lr="lr_x"), columns={"peak_lr": "lr_x"}), truth)  # either way round


def test_columns_far_too_small_are_one_question(truth):
    t = plain()
    same(asks(change(tokens=t["tokens"] / 1e9), units={"tokens": "B"}), truth)
    same(asks(change(tokens=t["tokens"] / 1e6), units={"tokens": "M"}), truth)
    same(asks(change(n_params=t["n_params"] / 1e6), units={"n_params": "M"}), truth)
    same(asks(change(n_params=t["n_params"] / 1e9), units={"n_params": "B"}), truth)
    same(asks(change(batch_tokens=t["batch_tokens"] / 1e6), units={"batch_tokens": "M"}), truth)
    both = change(tokens=t["tokens"] / 1e9, n_params=t["n_params"] / 1e6)
    same(asks(both, units={"n_params": "M", "tokens": "B"}), truth)
    steps = t["tokens"] / t["batch_tokens"]
    same(asks(change(steps=steps / 1e3), units={"steps": 1e3}), truth)
    same(asks(change(steps=steps / 1e3).drop(columns="tokens"), units={"steps": 1e3}), truth)
    assert len(str(faults(change(tokens=t["tokens"] / 1e9)).iloc[0]).splitlines()) < 10


def test_what_was_settled_is_not_asked_again():
    tiny = change(n_params=[300.0, 600.0] * 12)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runs = read_runs(tiny, units={"n_params": 1})
    assert "fewer than 10,000 parameters" in str(caught[0].message)
    assert read_runs(runs)["n_params"].tolist() == [300.0, 600.0] * 12
    short = change(warmup_steps=0.5)
    with pytest.warns(RunTableWarning, match="below one step"):
        runs = read_runs(short, units={"warmup_steps": "steps"})
    assert (read_runs(runs)["warmup_steps"] == 0.5).all()


def test_batch_in_sequences(truth):
    t = plain()
    seqs = t["batch_tokens"] / SEQUENCE
    table = change(batch_size=seqs).drop(columns="batch_tokens")
    same(asks(table, sequence_length=SEQUENCE), truth)
    same(read_runs(table.assign(block_size=SEQUENCE)), truth)
    same(read_runs(table, sequence_length=SEQUENCE), truth)
    # tokens and steps say how long a sequence is
    same(read_runs(table.assign(steps=t["tokens"] / t["batch_tokens"])), truth)
    # a batch_size in tokens is recognised by its size, or by tokens and steps
    same(read_runs(renamed(batch_tokens="batch_size")), truth)
    # under the name of the run table: said, and read when the length is given
    named = change(batch_tokens=seqs)
    with pytest.warns(RunTableWarning, match="sequence_length=2048"):
        read_runs(named)
    same(read_runs(named, sequence_length=SEQUENCE), truth)
    alone = named.assign(steps=t["tokens"] / t["batch_tokens"]).drop(columns="tokens")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_runs(alone)
    said = [str(w.message) for w in caught]
    assert len(said) == 2 and "tokens per parameter" in said[0] and "a batch of" in said[1]
    same(read_runs(alone, sequence_length=SEQUENCE), truth)
    same(asks(named.assign(steps=t["tokens"] / t["batch_tokens"]), sequence_length=2048), truth)


def test_warmup_as_a_share(truth):
    t = plain()
    share = t["warmup_steps"] / (t["tokens"] / t["batch_tokens"])
    for name in ("warmup_ratio", "warmup_frac", "lr_warmup_fraction", "warmup"):
        same(read_runs(change(**{name: share}).drop(columns="warmup_steps")), truth)
    percent = change(warmup_pct=100 * share).drop(columns="warmup_steps")
    same(read_runs(percent), truth)
    words = change(warmup_steps=[f"{100 * s:.12g}%" for s in share])
    same(read_runs(words), truth)
    same(asks(change(warmup_steps=share), units={"warmup_steps": "share"}), truth)
    some = change(warmup_steps=np.where(t.index < 3, share, t["warmup_steps"]))
    with pytest.warns(RunTableWarning, match="3 of 24 runs .*a warm-up below one step"):
        read_runs(some)


def test_no_warmup_is_a_share_of_the_steps():
    with pytest.warns(RunTableWarning, match="5 % of the steps"):
        runs = read_runs(plain().drop(columns="warmup_steps"))
    np.testing.assert_allclose(runs["warmup_steps"], 0.05 * runs["steps"])


def test_names_of_schedules(truth):
    t = plain()
    names = {"cosine": "CosineAnnealingLR", "linear": "one-cycle", "wsd": "Warmup-Stable-Decay"}
    runs = read_runs(change(schedule=t["schedule"].replace(names)))
    same(runs, truth)
    assert any("one-cycle has two meanings" in n for n in runs.attrs["notes"])
    own = change(schedule=t["schedule"].replace({"cosine": "my-cos"}))
    assert "unknown schedule" in faults(own)["rule"][0]
    same(read_runs(own, schedules={"my-cos": "cosine"}), truth)
    assert "unknown schedule" in faults(change(schedule="inverse_sqrt"))["rule"][0]


def test_wsd_without_its_cooldown(truth):
    same(asks(plain().drop(columns="cooldown_start_step"), cooldown=0.2), truth)
    same(asks(change(cooldown_start_step=None), cooldown=0.2), truth)


def test_units_of_the_loss(truth):
    loss = plain()["final_loss"]
    ppl, bits = np.exp(loss), loss / np.log(2)
    for columns in ({"perplexity": ppl}, {"eval/ppl": ppl}, {"bits_per_token": bits},
                    {"loss (bits)": bits}):  # fmt: skip
        same(read_runs(change(**columns).drop(columns="final_loss")), truth)
    same(read_runs(change(final_loss=np.exp(loss)), loss_unit="ppl"), truth)
    same(read_runs(change(final_loss=loss / np.log(2)), loss_unit="bits"), truth)
    bpb = loss / np.log(2) / 4.2
    same(read_runs(change(final_loss=bpb), loss_unit="bpb", bytes_per_token=4.2), truth)
    kept = read_runs(change(bpb=bpb).drop(columns="final_loss"))
    assert kept.attrs["loss_unit"] == "bits per byte"
    np.testing.assert_allclose(kept["final_loss"], bpb)
    assert any("stays in bits per byte" in n for n in kept.attrs["notes"])
    assert "loss_unit" not in read_runs(plain()).attrs


def test_two_losses_that_differ_are_asked_about(truth):
    loss = plain()["final_loss"]
    table = change(**{"eval/loss": loss, "train/loss": loss - 0.05}).drop(columns="final_loss")
    same(asks(table, columns={"eval/loss": "final_loss"}), truth)
    runs = read_runs(table, columns={"train/loss": "final_loss"})
    np.testing.assert_allclose(runs["final_loss"], loss - 0.05)


def test_crashed_runs_are_asked_about_once(truth):
    t = plain()
    words = np.where(t["diverged"], "crashed", "finished")
    by_status = change(status=words).drop(columns="diverged")
    by_flag = change(diverged=words)
    no_word = plain().drop(columns="diverged")
    for table, word in ((by_status, "crashed"), (by_flag, "crashed"), (no_word, "no loss")):
        same(asks(table, status={word: "diverged"}), truth)
        dropped = read_runs(table, status={word: "drop"})
        assert dropped["run_id"].tolist() == truth["run_id"][~truth["diverged"]].tolist()
        assert dropped.index.tolist() == truth.index[~truth["diverged"]].tolist()
    several = change(status=np.where(t.index == 0, "running", words)).drop(columns="diverged")
    runs = asks(several, status={"running": "drop", "crashed": "diverged"})
    assert len(runs) == len(t) - 1


def test_index_columns_and_repeated_rows(truth, tmp_path):
    plain().to_csv(tmp_path / "indexed.csv")
    runs = read_runs(tmp_path / "indexed.csv")
    same(runs, truth)
    assert "Unnamed: 0" not in runs.columns
    assert "counts the rows" in runs.attrs["notes"][0]
    twice = pd.concat([plain(), plain().iloc[:3]], ignore_index=True).drop(columns="run_id")
    with pytest.warns(RunTableWarning, match="3 of 27 runs .*equal to another row"):
        read_runs(twice)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"n_params": [2e3] * 3 + [1e8] * 21}, "fewer than 10,000 parameters"),
        ({"peak_lr": 3.0, "min_lr": 0.0}, "peak learning rate above 1"),
        ({"n_params": np.where(np.arange(24) < 12, 2e4, 4e8)}, "two units in one column"),
        ({"final_loss": 0.1}, "below 0.2 nats"),
        ({"final_loss": [11.5] + [3.0 + 0.01 * k for k in range(23)]}, "far above the others"),
        ({"final_loss": [61.0] + [3.0 + 0.01 * k for k in range(23)]}, "worse than an untrained"),
        ({"tokens": 1e15, "schedule": "linear", "cooldown_start_step": None}, "above 100,000"),
    ],
)  # fmt: skip
def test_what_is_hardly_meant_is_said_with_its_remedy(columns, words):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loss = 3.0 + 0.01 * np.arange(24)
        runs = read_runs(change(**{"final_loss": loss, "diverged": False, **columns}))
        said = [str(w.message) for w in caught]
        assert any(words in text for text in said), said
        assert all(";" in text or "Give" in text for text in said)
        assert set(said) <= set(runs.attrs["notes"])
        assert all(w.filename == __file__ for w in caught)
        caught.clear()
        read_runs(runs)  # once a table
        assert not caught


def test_loss_above_the_vocabulary_and_rising_with_tokens():
    with pytest.warns(RunTableWarning, match=r"log\(vocabulary\) = 2\.30"):
        read_runs(plain(), vocab_size=10)
    t = change(diverged=False)
    t["tokens"] = t["batch_tokens"] * np.round(1000.0 * (1 + t.index % 4))
    t["cooldown_start_step"] = np.where(t["schedule"] == "wsd", 900.0, np.nan)
    t["warmup_steps"] = 10.0
    t["final_loss"] = 3.0 + 0.1 * (t.index % 4) + 0.001 * t.index
    with pytest.warns(RunTableWarning, match="rises with tokens"):
        read_runs(t)


def test_unknown_names_get_the_nearest_known():
    found = faults(renamed(peak_lr="peek_lr", n_params="n_prams"))
    remedies = dict(zip(found["column"], found["remedy"], strict=True))
    assert "is it peek_lr? Then pass columns={'peek_lr': 'peak_lr'}" in remedies["peak_lr"]
    assert "n_prams" in remedies["n_params"]
    with pytest.raises(RunTableError, match="did you mean peak_lr"):
        read_runs(plain(), columns={"schedule": "peek_lr"})
    with pytest.raises(RunTableError, match="must name a column"):
        read_runs(plain(), columns={"nothing": "peak_lr"})
    with pytest.raises(RunTableError, match="units="):
        read_runs(plain(), units={"nothing": 1e9})
    with pytest.raises(RunTableError, match="cannot be the same"):
        read_runs(plain(), columns={"min_lr": "peak_lr", "peak_lr": "peak_lr"})


@pytest.mark.parametrize(
    "options",
    [{"loss_unit": "nuts"}, {"status": {"crashed": "dead"}}, {"cooldown": 1.2},
     {"sequence_length": 0}, {"vocab_size": "many"}],
)  # fmt: skip
def test_options_that_cannot_be(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        read_runs(plain(), **options)
