"""Tables as people have them: names, units, statuses and schedules of trainers and trackers.

Every variant is made from one plain table, and must read as the plain table does, or be refused
with the argument that makes it do so.
"""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from run_tables import faults

import bayes_optlaws as bo
from bayes_optlaws.runs.readers import RunTableError, RunTableWarning, read_candidates, read_runs
from bayes_optlaws.text.numbers import short

COMPARED = [
    "n_params", "tokens", "batch_tokens", "steps", "peak_lr", "warmup_steps", "schedule", "min_lr",
    "cooldown_start_step", "diverged",
]  # fmt: skip
SEQUENCE = 2048


def plain(n=24, seed=3):
    """A table of small language models: whole steps, cosine, linear and wsd, two diverged runs."""
    rng = np.random.default_rng(seed)
    size = rng.choice([5e7, 1e8, 4e8], n)
    batch = rng.choice([128, 256], n) * float(SEQUENCE)
    steps = np.round(20 * size / batch)
    kind = np.array(["cosine", "linear", "wsd"])[np.arange(n) % 3]
    lr = np.round(10 ** rng.uniform(-3.5, -2, n), 5)
    loss = 1.7 + 400 / size**0.34 + 0.1 * np.log(lr / 2e-3) ** 2 + rng.normal(0, 0.003, n)
    diverged = np.arange(n) % 12 == 5
    return pd.DataFrame(
        {
            "run_id": [f"run{k:03d}" for k in range(n)],
            "n_params": size,
            "tokens": steps * batch,
            "batch_tokens": batch,
            "peak_lr": lr,
            "warmup_steps": np.round(0.03 * steps),
            "schedule": kind,
            "min_lr": np.where(kind == "cosine", 0.1 * lr, 0.0),
            "cooldown_start_step": np.where(kind == "wsd", np.round(0.8 * steps), np.nan),
            "final_loss": np.where(diverged, np.nan, loss),
            "diverged": diverged,
        }
    )


@pytest.fixture(scope="module")
def truth():
    return read_runs(plain())


def same(runs, truth, *, rtol=1e-9, loss_rtol=1e-9, but=()):
    """Assert that two run tables say the same of the same runs."""
    for name in COMPARED:
        if name in but:
            continue
        if truth[name].dtype.kind == "f":
            np.testing.assert_allclose(runs[name], truth[name], rtol=rtol, err_msg=name)
        else:
            assert runs[name].tolist() == truth[name].tolist(), name
    np.testing.assert_allclose(runs["final_loss"], truth["final_loss"], rtol=loss_rtol)


def asks(source, **answers):
    """Assert that a table is refused with these arguments, and return it read with them."""
    with pytest.raises(RunTableError) as caught:
        read_runs(source)
    error = caught.value
    assert error.answers == answers
    call = ", ".join(f"{name}={value!r}" for name, value in answers.items())
    assert f"bo.read_runs(..., {call})" in str(error)
    return read_runs(source, **answers)


# Trainers and trackers: a table as each writes it.
def wandb():
    t = plain()
    steps = t["tokens"] / t["batch_tokens"]
    return pd.DataFrame(
        {
            "Name": t["run_id"],
            "State": np.where(t["diverged"], "diverged", "finished"),
            "params": [short(v) for v in t["n_params"]],
            "tokens (B)": t["tokens"] / 1e9,
            "global_batch_size": t["batch_tokens"] / SEQUENCE,
            "seq_len": SEQUENCE,
            "lr": [f"{v:.5e}" for v in t["peak_lr"]],
            "warmup": t["warmup_steps"],
            "lr_scheduler_type": t["schedule"].replace(
                {"cosine": "cosine_with_min_lr", "wsd": "WSD", "linear": "linear_with_warmup"}
            ),
            "min_lr": t["min_lr"],
            "decay_ratio": 1 - t["cooldown_start_step"] / steps,
            "max_steps": [short(v) for v in steps],
            "train/loss": t["final_loss"],
            "eval/ppl": np.exp(t["final_loss"]),
            "train/grad_norm": 0.3,
        }
    )


def hugging_face():
    t = plain()
    steps = t["tokens"] / t["batch_tokens"]
    return pd.DataFrame(
        {
            "run_name": t["run_id"],
            "model/num_parameters": t["n_params"],
            "per_device_train_batch_size": t["batch_tokens"] / SEQUENCE / 32,
            "gradient_accumulation_steps": 4,
            "world_size": 8,
            "max_seq_length": SEQUENCE,
            "learning_rate": t["peak_lr"],
            "warmup_ratio": t["warmup_steps"] / steps,
            "lr_scheduler_type": t["schedule"].replace("wsd", "warmup_stable_decay"),
            "num_decay_steps": steps - t["cooldown_start_step"],
            "min_lr_ratio": t["min_lr"] / t["peak_lr"],
            "max_steps": steps,
            "eval_loss": t["final_loss"],
            "train/learning_rate": 0.0,
            "state": np.where(t["diverged"], "diverged", "completed"),
        }
    )


def megatron():
    t = plain()
    steps = t["tokens"] / t["batch_tokens"]
    return pd.DataFrame(
        {
            "exp_name": t["run_id"],
            "args.num_params": t["n_params"],
            "args.global_batch_size": t["batch_tokens"] / SEQUENCE,
            "args.seq_length": SEQUENCE,
            "args.train_iters": steps,
            "args.lr": t["peak_lr"],
            "args.min_lr": t["min_lr"],
            "args.lr_warmup_fraction": t["warmup_steps"] / steps,
            "args.lr_decay_style": t["schedule"].str.upper(),
            "args.lr_wsd_decay_iters": steps - t["cooldown_start_step"],
            "lm loss validation": t["final_loss"],
            "diverged": t["diverged"],
        }
    )


def torchtitan():
    t = plain()
    steps = t["tokens"] / t["batch_tokens"]
    return pd.DataFrame(
        {
            "run_id": t["run_id"],
            "model.n_params": t["n_params"],
            "training.global_batch_size": t["batch_tokens"] / SEQUENCE,
            "training.seq_len": SEQUENCE,
            "training.steps": steps,
            "optimizer.lr": t["peak_lr"],
            "lr_scheduler.warmup_steps": t["warmup_steps"],
            "lr_scheduler.decay_ratio": 1 - t["cooldown_start_step"] / steps,
            "lr_scheduler.min_lr_factor": t["min_lr"] / t["peak_lr"],
            "lr_scheduler_type": t["schedule"],
            "loss_metrics/global_avg_loss": t["final_loss"],
            "diverged": t["diverged"],
        }
    )


def nanogpt():
    t = plain()
    steps = t["tokens"] / t["batch_tokens"]
    return pd.DataFrame(
        {
            "run": t["run_id"],
            "n_params": t["n_params"],
            "tokens_per_iter": t["batch_tokens"],
            "max_iters": steps,
            "learning_rate": t["peak_lr"],
            "min_lr": t["min_lr"],
            "warmup_iters": t["warmup_steps"],
            "schedule": t["schedule"],
            "cooldown_iters": steps - t["cooldown_start_step"],
            "val_loss": t["final_loss"],
            "diverged": t["diverged"],
        }
    )


def olmo():
    t = plain()
    steps = t["tokens"] / t["batch_tokens"]
    return pd.DataFrame(
        {
            "name": t["run_id"],
            "config.model.num_params": t["n_params"],
            "config.global_train_batch_size": t["batch_tokens"] / SEQUENCE,
            "config.model.max_sequence_length": SEQUENCE,
            "throughput/total_tokens": t["tokens"],
            "config.optimizer.learning_rate": t["peak_lr"],
            "config.scheduler.t_warmup": t["warmup_steps"],
            "config.scheduler.alpha_f": t["min_lr"] / t["peak_lr"],
            "config.scheduler.name": "unused",
            "lr_schedule": t["schedule"].replace("linear", "linear_with_warmup"),
            "cooldown_start": t["cooldown_start_step"],
            "train/CrossEntropyLoss": t["final_loss"],
            "diverged": t["diverged"],
            "steps": steps,
        }
    )


def lightning_mlflow():
    t = plain()
    steps = t["tokens"] / t["batch_tokens"]
    return pd.DataFrame(
        {
            "tags.mlflow.runName": t["run_id"],
            "status": "FINISHED",
            "params.num_params": t["n_params"].astype(str),
            "params.total_batch_size": (t["batch_tokens"] / SEQUENCE).astype(str),
            "params.seq_len": str(SEQUENCE),
            "params.trainer.max_steps": steps.astype(str),
            "params.lr": t["peak_lr"].astype(str),
            "params.eta_min": t["min_lr"].astype(str),
            "params.num_warmup_steps": t["warmup_steps"].astype(str),
            "params.lr_scheduler": t["schedule"].replace("cosine", "LinearWarmupCosineAnnealingLR"),
            "params.decay_steps": steps - t["cooldown_start_step"],
            "metrics.val_loss": t["final_loss"],
            "metrics.diverged": t["diverged"].astype(float),
        }
    )


@pytest.mark.parametrize(
    "export", [wandb, hugging_face, megatron, torchtitan, nanogpt, olmo, lightning_mlflow]
)
def test_exports_of_trainers_read_as_the_plain_table(export, truth, tmp_path):
    path = tmp_path / "export.csv"
    export().to_csv(path, index=False)
    for source in (export(), path):
        runs = read_runs(source)
        same(runs, truth, rtol=1e-6)
        if export is not olmo:
            assert runs["run_id"].tolist() == truth["run_id"].tolist()
        assert runs.attrs["notes"]
    mapping = bo.suggest_mapping(path)
    assert not len(mapping.questions) and not mapping.missing
    assert mapping.call == "bo.read_runs(source)"


def test_notes_name_every_conversion():
    notes = " ".join(read_runs(wandb()).attrs["notes"])
    for words in (
        "Name was taken as run_id", "params: text such as", "tokens (B): read in billions",
        "batch_tokens = global_batch_size x seq_len", "steps is rounded",
        "warmup was taken as warmup_steps", "linear_with_warmup as linear",
        "cosine_with_min_lr as cosine",
        "decay_ratio", "eval/ppl says the same as train/loss", "2 runs were marked as diverged",
    ):  # fmt: skip
        assert words in notes, words
    assert read_runs(plain()).attrs["notes"] == []


def test_notes_are_kept_when_the_table_is_read_again():
    once = read_runs(wandb())
    assert read_runs(once).attrs["notes"] == once.attrs["notes"]


# One change of the plain table each, and what settles it.
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


def test_candidates_are_read_likewise(truth):
    table = wandb().drop(columns=["State", "train/loss", "eval/ppl"])
    plan = read_candidates(table)
    for name in COMPARED[:-1]:
        if truth[name].dtype.kind == "f":
            np.testing.assert_allclose(plan[name], truth[name], rtol=1e-6)
    rows = [
        {"n_params": "1.5B", "tokens": "30B", "batch_tokens": 1e6, "lr": lr, "warmup": 0.02,
         "schedule": "WSD", "cooldown_share": 0.2, "run_id": f"lr {lr}"}
        for lr in ("1e-3", "2e-3")
    ]  # fmt: skip
    plan = read_candidates(rows)
    assert plan["run_id"].tolist() == ["lr 1e-3", "lr 2e-3"]
    assert plan["warmup_steps"].tolist() == [600.0, 600.0]
    assert plan["cooldown_start_step"].tolist() == [24000.0, 24000.0]


def test_the_mapping_shows_what_is_taken_for_what():
    table = wandb().drop(columns="decay_ratio").rename(columns={"lr": "peek_lr"})
    mapping = bo.suggest_mapping(table)
    shown = mapping.to_frame().set_index("column")
    assert shown.loc["params", "taken_as"] == "n_params"
    assert shown.loc["tokens (B)", "conversion"] == "x 1,000,000,000"
    assert (shown["confidence"] <= 1).all() and (shown["confidence"] > 0.5).all()
    assert mapping.missing == ["peak_lr"]
    assert mapping.answers == {"cooldown": 0.2}
    text = repr(mapping)
    assert "peek_lr (did you mean peak_lr?)" in text
    assert "bo.read_runs(source, cooldown=0.2)" in text
    html = mapping._repr_html_()
    assert "<table" in html and "global_batch_size" in html.replace("<wbr/>", "")
    hostile = table.rename(columns={"params": "<b>\x1b[31mparams"})
    page = bo.suggest_mapping(hostile, columns={"<b>\x1b[31mparams": "n_params"})._repr_html_()
    assert "<b>\x1b" not in page and "\x1b" not in page


CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "tables"
READ = {
    "alias.csv": {}, "caps.csv": {}, "params_strings.csv": {}, "params_commas.csv": {},
    "params_e9.csv": {}, "steps_k.csv": {}, "semicolon.csv": {}, "with_index.csv": {},
    "sched_names.csv": {}, "sched_upper.csv": {}, "warmup_ratio.csv": {}, "ppl_named.csv": {},
    "bpb.csv": {}, "duprows.csv": {}, "no_warmup.csv": {}, "bpb_as_loss.csv": {},
    "bits.csv": {"loss_unit": "bits"}, "batch_tokens_seqs.csv": {"sequence_length": 2048},
    "batch_seqs_steps.csv": {"sequence_length": 2048},
    "groups.csv": {"group": "adamw"},
}  # fmt: skip
ASKED = {
    "tokens_billions.csv": {"units": {"tokens": "B"}},
    "batch_seqs.csv": {"sequence_length": 2048},
    "warmup_frac.csv": {"units": {"warmup_steps": "share"}},
    "wsd_no_cooldown.csv": {"cooldown": 0.2},
    "status_crashed.csv": {"status": {"crashed": "diverged"}},
    "diverged_crashed.csv": {"status": {"crashed": "diverged"}},
    "loss_nan.csv": {"status": {"no loss": "diverged"}},
    "wandb.csv": {"cooldown": 0.2, "status": {"crashed": "diverged"}},
}
REFUSED = {
    "dup_id.csv": ["run_id", "run_id"],
    "few_bad.csv": ["final_loss", "warmup_steps", "peak_lr", "schedule"],
    "nanstr.csv": ["final_loss", "final_loss"],
}
SAID = {"no_warmup.csv": "5 % of the steps"}


@pytest.mark.skipif(not CASES.is_dir(), reason="the case files are not beside this checkout")
@pytest.mark.parametrize("name", [*READ, *ASKED, *REFUSED])
def test_case_files(name):
    path = CASES / name
    if name in REFUSED:
        assert faults(path)["column"].tolist() == REFUSED[name]
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runs = asks(path, **ASKED[name]) if name in ASKED else read_runs(path, **READ[name])
        reference = read_runs(CASES / "semicolon.csv")
    said = [str(w.message) for w in caught]
    assert len(said) == (name in SAID) and all(SAID[name] in text for text in said)
    if name == "groups.csv":
        assert len(runs) == 30
        return
    assert len(runs) == len(reference) == 60
    loose = {
        "no_warmup.csv": ("warmup_steps", "cooldown_start_step"),
        "warmup_ratio.csv": ("warmup_steps", "cooldown_start_step"),
        "wandb.csv": ("min_lr",),
    }
    near = 1e-3 if name == "wsd_no_cooldown.csv" else 1e-6
    rough = name in ("params_strings.csv", "steps_k.csv", "wandb.csv")  # two digits in the file
    same(
        runs, reference, rtol=0.04 if rough else near, but=loose.get(name, ()),
        loss_rtol=1e9 if "bpb" in name else 1e-9,
    )  # fmt: skip
