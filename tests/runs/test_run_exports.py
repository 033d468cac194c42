"""Exports of trainers and trackers: each reads as one plain table does, or asks."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from run_tables import COMPARED, SEQUENCE, asks, faults, plain, same

import bayes_optlaws as bo
from bayes_optlaws.runs.readers import read_candidates, read_runs
from bayes_optlaws.text.numbers import short


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
