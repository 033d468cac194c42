"""Names that trainers and trackers write, and what they stand for.

Collected from the argument names of Hugging Face Trainer, W&B exports, MLflow, Lightning, NeMo and
Megatron-LM, OLMo, nanoGPT, torchtitan and llm-foundry. A role is a column of the run table, or
something that becomes one: ``warmup_share``, ``batch_sequences``, ``perplexity``, ...
"""

from __future__ import annotations

import difflib
import re

from bayes_optlaws.text.numbers import SCALES

__all__ = [
    "ROLES",
    "UNFINISHED",
    "nearest",
    "normal",
    "role_of",
    "schedule_of",
    "status_of",
    "unit_in_name",
]

ROLES: dict[str, tuple[str, ...]] = {
    "run_id": (
        "run_id", "run_name", "name", "run", "exp_name", "experiment_name", "display_name",
        "tags_mlflow_run_name", "run_uuid", "id",
    ),
    "n_params": (
        "n_params", "num_params", "num_parameters", "n_parameters", "params", "parameters",
        "param_count", "parameter_count", "total_params", "total_parameters", "model_params",
        "model_parameters", "model_size", "num_total_params", "n_total_params", "trainable_params",
        "num_model_params", "nparams", "model_param_count", "n",
        "non_embedding_params", "num_non_embedding_params", "n_params_non_embedding",
    ),
    "tokens": (
        "tokens", "n_tokens", "num_tokens", "train_tokens", "training_tokens", "total_tokens",
        "tokens_seen", "tokens_trained", "n_tokens_seen", "ntokens_seen", "train_tokens_seen",
        "token_count", "token_budget", "max_tokens", "consumed_tokens", "num_train_tokens",
        "num_input_tokens_seen", "train_num_input_tokens_seen", "throughput_total_tokens",
        "total_training_tokens", "ntokens", "d",
    ),
    "batch_tokens": (
        "batch_tokens", "tokens_per_batch", "tokens_per_step", "tokens_per_iter",
        "batch_size_tokens", "batch_size_in_tokens", "global_batch_tokens",
        "global_batch_size_tokens", "train_batch_tokens", "tokens_per_iteration",
        "num_tokens_per_step",
    ),
    "batch_sequences": (
        "global_batch_size", "global_train_batch_size", "total_train_batch_size",
        "effective_batch_size", "total_batch_size", "train_batch_size", "batch_size", "gbs",
        "batch_sequences", "batch_seqs", "sequences_per_batch", "batch_size_sequences",
        "batch_size_seqs", "batch", "bs",
    ),
    "device_batch": (
        "per_device_train_batch_size", "micro_batch_size", "device_batch_size",
        "local_batch_size", "per_gpu_train_batch_size", "device_train_microbatch_size",
    ),
    "accumulation": (
        "gradient_accumulation_steps", "accumulate_grad_batches", "grad_accum_steps", "grad_accum",
        "grad_accumulation_steps",
    ),
    "devices": (
        "world_size", "data_parallel_size", "num_gpus", "n_gpus", "num_devices", "n_gpu",
        "ddp_world_size", "devices",
    ),
    "sequence_length": (
        "sequence_length", "seq_length", "seq_len", "max_seq_length", "max_seq_len",
        "max_sequence_length", "block_size", "context_length", "ctx_len", "n_ctx",
        "encoder_seq_length", "context_window", "train_seq_len", "max_length",
        "max_position_embeddings",
    ),
    "steps": (
        "steps", "max_steps", "num_train_steps", "num_training_steps", "train_steps",
        "training_steps", "total_steps", "train_iters", "max_iters", "num_iterations",
        "total_iterations", "total_iters", "n_steps", "num_steps", "iterations", "iters",
        "optimizer_steps", "max_train_steps", "global_step", "step",
    ),
    "samples": ("train_samples", "consumed_samples", "num_train_samples"),
    "peak_lr": (
        "peak_lr", "lr", "learning_rate", "max_lr", "lr_max", "lr_peak", "peak_learning_rate",
        "max_learning_rate", "base_lr", "base_learning_rate", "starting_learning_rate", "eta_max",
    ),
    "min_lr": (
        "min_lr", "lr_min", "final_lr", "lr_final", "end_lr", "lr_end", "eta_min", "minimum_lr",
        "min_learning_rate", "end_learning_rate", "final_learning_rate",
    ),
    "min_lr_share": (
        "min_lr_share", "min_lr_ratio", "lr_min_ratio", "min_lr_rate", "min_lr_factor",
        "min_lr_fraction", "min_lr_frac", "final_lr_ratio", "final_lr_fraction", "final_lr_frac",
        "cosine_min_lr_ratio", "alpha_f",
    ),
    "warmup_steps": (
        "warmup_steps", "num_warmup_steps", "n_warmup_steps", "lr_warmup_steps", "warmup_iters",
        "lr_warmup_iters", "warmup_iterations", "warmup_step", "linear_warmup_steps", "t_warmup",
    ),
    "warmup_share": (
        "warmup_share", "warmup_ratio", "warmup_frac", "warmup_fraction", "lr_warmup_fraction",
        "warmup_proportion", "warmup_pct", "warmup_percent", "pct_start", "lr_warmup_ratio",
        "warmup_steps_ratio",
    ),
    "warmup": ("warmup", "lr_warmup", "warm_up"),
    "warmup_tokens": ("warmup_tokens", "lr_warmup_tokens"),
    "warmup_samples": ("lr_warmup_samples", "warmup_samples"),
    "schedule": (
        "schedule", "lr_schedule", "lr_scheduler_type", "lr_scheduler", "scheduler",
        "scheduler_type", "scheduler_name", "lr_decay_style", "schedule_type", "lr_schedule_type",
        "schedule_name", "sched", "lr_decay_type",
    ),
    "decay_end_step": ("decay_end_step",),
    "plateau_lr": ("plateau_lr",),
    "cooldown_start_step": (
        "cooldown_start_step", "cooldown_start", "decay_start_step", "lr_decay_start_step",
        "decay_start",
    ),
    "cooldown_steps": (
        "cooldown_steps", "num_decay_steps", "n_decay_steps", "decay_steps", "cooldown_iters",
        "decay_iters", "lr_wsd_decay_iters", "wsd_decay_steps",
    ),
    "cooldown_share": (
        "cooldown_share", "cooldown_frac", "cooldown_fraction", "cooldown_ratio", "decay_ratio",
        "decay_frac", "decay_fraction", "decay_share", "wsd_decay_ratio", "cooldown_pct",
    ),
    "final_loss": (
        "final_loss", "final_val_loss", "final_eval_loss", "final_validation_loss", "val_loss",
        "eval_loss", "validation_loss", "valid_loss", "lm_loss_validation", "final_train_loss",
        "train_loss", "training_loss", "loss", "lm_loss", "reduced_train_loss",
        "cross_entropy_loss", "train_cross_entropy_loss", "ce_loss", "train_ce_loss",
        "loss_metrics_global_avg_loss", "global_avg_loss", "loss_final", "last_loss",
    ),
    "perplexity": (
        "perplexity", "ppl", "final_ppl", "final_perplexity", "val_ppl", "eval_ppl",
        "val_perplexity", "eval_perplexity", "validation_perplexity", "valid_ppl", "train_ppl",
        "train_perplexity",
    ),
    "bits_per_token": ("bits_per_token", "bpt", "loss_bits", "val_bpt"),
    "bits_per_byte": ("bits_per_byte", "bpb", "val_bpb", "eval_bpb", "final_bpb"),
    "diverged": ("diverged", "is_diverged", "has_diverged", "divergent", "loss_diverged"),
    "status": ("status", "state", "run_status", "run_state"),
    "loss_sd": ("loss_sd",),
    "n_seeds": ("n_seeds",),
    "group": ("group",),
    "stage": ("stage",),
    "parent": ("parent",),
    "seed": ("seed",),
}  # fmt: skip
"""Role -> normalised names, the likeliest first. The first is the name of this package."""

# Too general to be believed once a prefix was taken off, as in model.name or eval/step.
_WHOLE = {
    "n", "d", "id", "name", "run", "state", "status", "batch", "bs", "group", "stage", "parent",
    "seed", "devices", "step", "max_length", "schedule_type", "params", "parameters",
}  # fmt: skip
# Values of the last step of a training curve, never the setting of the same name.
_CURVES = {"train_learning_rate", "train_lr", "optim_lr", "last_lr", "train_step", "train_epoch"}
_PREFIXES = {
    "config", "configs", "cfg", "args", "params", "hparams", "hyperparameters", "hyper_parameters",
    "summary", "metrics", "train", "training", "trainer", "optim", "optimizer", "scheduler",
    "lr_scheduler", "sched", "model", "data", "dataset", "final", "run", "adamw", "wsd", "metric",
    "settings", "loader", "train_loader", "data_loader", "job", "init_args", "args_0", "value",
}  # fmt: skip
_BY_NAME = {name: role for role, names in ROLES.items() for name in names}
_UNIT = re.compile(r"^(.*?)[\s_]*[(\[]\s*(?:in\s+)?([^)\]]+?)\s*[)\]]\s*$")
_LOSS_UNITS = {
    "nats": "final_loss", "nat": "final_loss", "bits": "bits_per_token", "bpb": "bits_per_byte",
    "bits/byte": "bits_per_byte", "bits per byte": "bits_per_byte", "ppl": "perplexity",
    "bits/token": "bits_per_token", "bits per token": "bits_per_token", "nats/token": "final_loss",
}  # fmt: skip

_SCHEDULES = {
    "linear": (
        "linear", "linear_with_warmup", "linear_warmup", "linear_decay", "warmup_decay_lr",
        "warmup_linear", "linear_lr", "linear_with_linear_warmup", "linear_warmup_linear_decay",
        "linear_schedule", "polynomial_1",
    ),
    "cosine": (
        "cosine", "cosine_with_min_lr", "cosine_with_warmup", "cosine_annealing", "cos",
        "cosine_annealing_lr", "cosine_decay", "cosine_warmup", "warmup_cosine", "cosine_lr",
        "linear_warmup_cosine_annealing", "warmup_cosine_lr", "cosine_schedule", "one_cycle_lr",
        "linear_warmup_cosine", "cosine_warmup_with_min_lr", "cosine_with_linear_warmup",
        "cosine_warmup_lr", "linear_warmup_cosine_decay",
    ),
    "wsd": (
        "wsd", "warmup_stable_decay", "wsd_linear", "trapezoidal", "trapezoid", "wsd_schedule",
        "stable_decay", "constant_with_linear_cooldown", "constant_with_cooldown",
        "constant_linear_cooldown", "wsd_lr", "linear_cooldown", "wsd_linear_decay",
    ),
    "wsd-sqrt": (
        "wsd_sqrt", "wsd_1_sqrt", "wsd_minus_sqrt", "minus_sqrt", "1_sqrt", "constant_with_sqrt",
        "constant_with_sqrt_cooldown", "wsd_1_minus_sqrt", "1_minus_sqrt", "trapezoidal_sqrt",
    ),
    "polygon": ("polygon", "piecewise_linear"),
    "constant": (
        "constant", "constant_with_warmup", "const", "warmup_constant", "warmup_lr", "none",
        "constant_lr", "flat",
    ),
    "array": ("array",),
}  # fmt: skip
_SCHEDULE_BY_NAME = {name: kind for kind, names in _SCHEDULES.items() for name in names}
# Names with two meanings: the reading proposed, and the other.
_TWO_MEANINGS = {
    "one_cycle": ("linear", "cosine"), "1cycle": ("linear", "cosine"),
    "onecycle": ("linear", "cosine"), "polynomial": ("linear", "cosine"),
    "polynomial_with_warmup": ("linear", "cosine"), "poly": ("linear", "cosine"),
}  # fmt: skip

FINISHED = {"finished", "completed", "complete", "success", "succeeded", "done", "ok", "converged"}
UNFINISHED = {
    "crashed", "failed", "killed", "running", "preempted", "preempting", "pending", "queued",
    "scheduled", "stopped", "canceled", "cancelled", "aborted", "error", "oom", "timeout",
    "interrupted", "unknown",
}  # fmt: skip
"""Words of trackers for a run of which they do not say whether it diverged."""
DIVERGED = {"diverged", "divergent", "nan", "nan_loss", "loss_nan", "exploded", "blown_up"}


def normal(name: object) -> str:
    """Return a column name in lower case with ``_`` between words.

    Examples
    --------
    >>> normal("Peak LR"), normal("train/loss"), normal("maxSteps"), normal("N_Params")
    ('peak_lr', 'train_loss', 'max_steps', 'n_params')
    """
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", str(name).strip())
    text = text.replace("%", " pct ")
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def unit_in_name(name: object) -> tuple[str, str]:
    """Split a name into what it names and its unit, "" where it has none.

    Examples
    --------
    >>> unit_in_name("tokens (B)"), unit_in_name("loss [bits/byte]"), unit_in_name("tokens_B")
    (('tokens', 'B'), ('loss', 'bits/byte'), ('tokens', 'B'))
    >>> unit_in_name("params_millions"), unit_in_name("val_loss")
    (('params', 'millions'), ('val_loss', ''))
    """
    text = str(name).strip()
    if found := _UNIT.match(text):
        return found[1], found[2]
    head, _, tail = text.replace(" ", "_").rpartition("_")
    if head.endswith("_in"):
        head = head.removesuffix("_in")
    known = tail in ("K", "M", "B", "T", "k", "m", "b", "t", "bn") or len(tail) > 6
    if head and tail.lower() in SCALES and known and normal(text) not in _BY_NAME:
        return head, tail
    return text, ""


def role_of(name: object) -> tuple[str, str, float] | None:
    """Return role, unit in the name and confidence (0 to 1) of a column, None where unknown.

    Examples
    --------
    >>> role_of("peak_lr"), role_of("config.optimizer.lr"), role_of("tokens (B)")
    (('peak_lr', '', 1.0), ('peak_lr', '', 0.8), ('tokens', 'B', 0.95))
    >>> role_of("train/learning_rate"), role_of("grad_norm")
    (None, None)
    """
    bare, unit = unit_in_name(name)
    found = _lookup(bare)
    if found is None and unit:
        found = _lookup(str(name))
        unit = ""
    if found is None:
        return None
    role, confidence = found
    if unit:
        confidence = min(confidence, 0.95)
        meant = _LOSS_UNITS.get(unit.lower())
        if role in ("final_loss", "bits_per_token", "perplexity", "bits_per_byte"):
            return (meant, "", confidence) if meant else (role, unit, confidence)
        if role in ("batch_sequences", "batch_tokens"):
            if unit.lower() in ("tokens", "tok", "toks"):
                return "batch_tokens", "", confidence
            if unit.lower() in ("sequences", "seqs", "samples"):
                return "batch_sequences", "", confidence
            if unit.lower() in SCALES:
                return "batch_tokens", unit, confidence
        if role in ("warmup", "warmup_steps") and unit.lower() in (
            "%", "pct", "percent", "share", "fraction", "frac", "ratio",
        ):  # fmt: skip
            percent = unit.lower() in ("%", "pct", "percent")
            return "warmup_share", "%" if percent else "", confidence
        if role in ("warmup", "warmup_steps") and unit.lower() in ("steps", "iters", "iterations"):
            return "warmup_steps", "", confidence
        if unit.lower() not in SCALES:
            unit = ""
    return role, unit, confidence


def _lookup(name: str) -> tuple[str, float] | None:
    key = normal(name)
    if key in _CURVES:
        return None
    if key in _BY_NAME:
        role = _BY_NAME[key]
        if key in ("warmup", "lr_warmup", "warm_up", "n", "d", "batch", "bs"):
            return role, 0.8
        return role, 1.0 if str(name).strip() == role else 0.95
    # config.optimizer.lr: known prefixes are taken off one by one
    words = [normal(w) for w in re.split(r"[./:]", str(name))]
    while len(words) > 1 and words[0] in _PREFIXES:
        words = words[1:]
        key = "_".join(words)
        if key in _CURVES or key in _WHOLE:
            return None
        if key in _BY_NAME:
            return _BY_NAME[key], 0.8
    return None


def nearest(name: object) -> str | None:
    """Return the role whose known names are most like a name, None where none is.

    Examples
    --------
    >>> nearest("peek_lr"), nearest("warmup_stps"), nearest("gpu_type")
    ('peak_lr', 'warmup_steps', None)
    """
    close = difflib.get_close_matches(normal(name), list(_BY_NAME), n=1, cutoff=0.8)
    return _BY_NAME[close[0]] if close else None


def schedule_of(name: object) -> tuple[str, str | None] | None:
    """Return what a trainer's schedule name means, and the other meaning where there are two.

    Examples
    --------
    >>> schedule_of("cosine_with_min_lr"), schedule_of("WSD"), schedule_of("one-cycle")
    (('cosine', None), ('wsd', None), ('linear', 'cosine'))
    >>> schedule_of("inverse_sqrt") is None
    True
    """
    key = normal(name)
    key = key.removeprefix("scheduler_type_").removeprefix("get_")
    if key in _TWO_MEANINGS:
        return _TWO_MEANINGS[key]
    kind = _SCHEDULE_BY_NAME.get(key)
    for ending in ("_schedule", "_scheduler", "_lr", "_with_warmup", "_decay"):
        kind = kind or _SCHEDULE_BY_NAME.get(key.removesuffix(ending))
    return None if kind is None else (kind, None)


def status_of(word: object) -> str | None:
    """Return "finished" or "diverged" for a word of a status column, None where it is to be asked.

    Examples
    --------
    >>> status_of("Finished"), status_of("NaN loss"), status_of("crashed")
    ('finished', 'diverged', None)
    """
    key = normal(str(word).lower())
    if key in FINISHED or key in {"false", "no", "0", "0_0"}:
        return "finished"
    return "diverged" if key in DIVERGED or key in {"true", "yes", "1", "1_0"} else None
