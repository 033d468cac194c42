"""Write the plans that train.py reads.

grid.json: 260 configurations, seven (size, steps) blocks as in Appendix A.2 of arXiv 2409.04777,
five peak learning rates by seven or eight warmups in each. replicates.json: 35 of them with two
more seeds. stages.json: three blocks with three seeds, schedule families, longer and larger runs,
and what is trained after them on other data, as in Tables 13, 2, 4 and 5 of the paper. Steps are
half of the paper's (24,000 for 200B tokens), warmups and transition points with them. Its learning
rates are lost and so are the plateaus of its polygons: those here are own choices.
"""

import itertools
import json
import pathlib

import pandas as pd

HERE = pathlib.Path(__file__).resolve().parent
PEAK_LRS = [3e-3, 8e-3, 2e-2, 5.5e-2, 1.5e-1]
WARMUPS_1200 = [64, 128, 256, 384, 512, 768, 1000]
WARMUPS_2400 = [64, 128, 256, 512, 1000, 1500, 2000]
WARMUPS_3600 = [64, 128, 256, 512, 1000, 1500, 2000, 3000]
COMMON = {"corpus": "A", "batch": 16, "ctx": 64, "seed": 0}
# train.py knows them too, but needs torch
SIZE_OF = {10_320: "d16", 32_928: "d32", 115_008: "d64", 246_240: "d96", 623_488: "d128"}


def block(size: str, steps: int, warmups: list[int], **changes: int) -> dict:
    """Return one job of train.py: every peak LR with every warmup at one size and length."""
    configs = [{"peak_lr": lr, "warmup": w} for lr, w in itertools.product(PEAK_LRS, warmups)]
    suffix = f"_seed{changes['seed']}" if "seed" in changes else ""
    job = {"name": f"{size}_{steps}{suffix}", "size": size, "steps": steps, "configs": configs}
    return {**job, **COMMON, **changes}


def linear(warmup: int, name: str = "Linear") -> dict:
    """Return the shape warmup, then linear decay to zero."""
    return {"name": name, "schedule": "linear", "warmup": warmup}


def wsd(warmup: int, cooldown: int, name: str = "Const+Linear") -> dict:
    """Return the shape warmup, constant, linear decay to zero."""
    return {"name": name, "schedule": "wsd", "warmup": warmup, "cooldown_start": cooldown}


def polygon(warmup: int, decay_end: int, cooldown: int, name: str, mid_ratio: float = 0.5) -> dict:
    """Return the shape warmup, decay to ``mid_ratio`` of the peak, plateau, decay to zero."""
    return {
        "name": name,
        "schedule": "polygon",
        "warmup": warmup,
        "decay_end": decay_end,
        "cooldown_start": cooldown,
        "mid_ratio": mid_ratio,
    }


def scaled(shape: dict, factor: float) -> dict:
    """Return a shape with its transition points multiplied by ``factor``."""
    points = {k: round(factor * shape[k]) for k in POINTS if k in shape}
    return {**shape, **points}


def job(name: str, size: str, steps: int, shapes: list, lrs: list, seeds: int, **more) -> dict:
    """Return one job of train.py: every shape at every peak LR, with seeds 0 to ``seeds - 1``."""
    configs = [{"peak_lr": lr, **shape} for lr, shape in itertools.product(lrs, shapes)]
    common = {**COMMON, "seeds": list(range(seeds))}
    del common["seed"]
    return {"name": name, "size": size, "steps": steps, "configs": configs, **common, **more}


POINTS = ("warmup", "decay_end", "cooldown_start")
# Table 4: transition points of the paper at 100B tokens (23,842 steps), halved.
CONSTANT, LINEAR = wsd(600, 5000), linear(1000)
POLYGON1, POLYGON1V2 = polygon(2500, 5000, 7500, "Polygon1"), polygon(600, 2500, 5750, "Polygon1v2")
POLYGON2 = polygon(600, 3500, 6500, "Polygon2")
WEAK = [CONSTANT, LINEAR, POLYGON1V2, POLYGON2, POLYGON1]
STRONG = [POLYGON1, POLYGON2, LINEAR]
# Table 2, the seven shapes at 100B tokens.
MULTI = [
    CONSTANT,
    POLYGON2,
    POLYGON1V2,
    POLYGON1,
    LINEAR,
    polygon(1225, 3500, 6000, "Polygon3"),
    wsd(500, 4750, "Const+Linear 2"),
]


def families(size: str, steps: int, warmup: int) -> dict:
    """Return one group of Table 13: three families at three peak LRs."""
    shapes = [
        linear(warmup),
        {"name": "Cosine", "schedule": "cosine", "warmup": warmup},
        wsd(warmup, round(steps * 5 / 12)),  # where Table 4's constant phase ends
    ]
    return job(f"families_{size}_{steps}", size, steps, shapes, [3e-3, 8e-3, 2e-2], 3)


def later_stages(size: str, start: str, scale: float, lrs: list, seeds: int) -> list[dict]:
    """Return continual training on W and S and fine-tuning after S, as in Tables 4 and 5."""
    steps, suffix = round(12_000 * scale), f"{size}_{round(12_000 * scale)}"
    high = lrs[-1]
    jobs = [
        job(f"strong_{suffix}", size, steps, [scaled(s, scale) for s in STRONG], lrs, seeds)
        | {"corpus": "S", "start": start, "save": 5},  # linear at the higher peak LR
        job(f"weak_{suffix}", size, steps, [scaled(s, scale) for s in WEAK], lrs, seeds)
        | {"corpus": "W", "start": start},
    ]
    slow, middle, fast = 0.25 * high, 0.5 * high, high
    two_phase = polygon(64, 3500, 3500, "Two-phase", mid_ratio=0.2)
    usual = [
        (slow, linear(64, "Linear-S")),
        (middle, linear(256, "Linear-L")),
        (fast, linear(64, "Linear-H")),
    ]
    last = [(slow, linear(64, "Linear-S")), (fast, linear(256, "Linear-H")), (fast, two_phase)]
    for budget, shapes in {360: usual, 3600: usual, 7200: last}.items():
        steps = round(budget * scale)
        configs = [{"peak_lr": lr, **scaled(shape, scale)} for lr, shape in shapes]
        tuned = job(f"tuned_{size}_{steps}", size, steps, [], [], seeds, configs=configs)
        jobs.append({**tuned, "corpus": "W", "start": f"strong_{suffix}"})
    return jobs


def stages() -> list[dict]:
    """Return the jobs of stages.json, every job after the one whose weights it starts from."""
    third = 1 / 3
    replicates = [
        job(f"seeds_{size}_1200", size, 1200, [linear(w) for w in WARMUPS_1200], PEAK_LRS, 3)
        for size in ("d16", "d32", "d64")
    ]
    return [
        *replicates,
        families("d64", 360, 64),
        families("d64", 1200, 128),
        families("d64", 12_000, 500) | {"save": 3},  # linear at 0.008
        families("d96", 360, 64),
        families("d96", 1200, 128),
        job("longer_d128_36000", "d128", 36_000, [linear(250), linear(1000)], [3e-3, 6e-3], 3)
        | {"save": 0},
        job("longer_d96_36000", "d96", 36_000, [linear(250)], [3e-3, 6e-3], 3),
        job("longer_d128_12000", "d128", 12_000, MULTI, [3e-3, 6e-3], 2),
        job("longer_d32_12000", "d32", 12_000, [linear(250)], [8e-3], 3) | {"save": 0},
        *later_stages("d128", "longer_d128_36000", 1.0, [1e-3, 3e-3], 4),
        *later_stages("d64", "families_d64_12000", third, [3e-3, 8e-3], 5),
        *later_stages("d32", "longer_d32_12000", third, [3e-3, 8e-3], 5),
    ]


def job_of(run: dict) -> dict:
    """Return the job of train.py that trains one row of a candidate table in the grid's protocol.

    Raises ValueError where the trainer has no such run, saying why.
    """
    name, size = run["run_id"], SIZE_OF.get(int(run["n_params"]))
    if size is None:
        raise ValueError(f"{name}: n_params {run['n_params']:,.0f} is none of {sorted(SIZE_OF)}")
    ctx = COMMON["ctx"]
    steps, batch = run["tokens"] / run["batch_tokens"], run["batch_tokens"] / ctx
    if steps % 1 or batch % 1:
        raise ValueError(
            f"{name}: tokens {run['tokens']:g} must be a multiple of batch_tokens "
            f"{run['batch_tokens']:g}, and that of {ctx}"
        )
    if run.get("min_lr", 0) > 0:
        raise ValueError(f"{name}: min_lr is {run['min_lr']:g}, the trainer decays to 0")
    kind, peak = run["schedule"], float(run["peak_lr"])
    shape = {"schedule": kind, "warmup": int(run["warmup_steps"])}
    if kind in ("wsd", "polygon"):
        shape["cooldown_start"] = int(run["cooldown_start_step"])
    if kind == "polygon":
        shape |= {"decay_end": int(run["decay_end_step"]), "mid_ratio": run["plateau_lr"] / peak}
    elif kind not in ("linear", "cosine", "wsd"):
        raise ValueError(f"{name}: schedule {kind!r} is none of linear, cosine, wsd, polygon")
    config = {"peak_lr": peak, **shape}
    return {"name": name, "size": size, "steps": int(steps), "configs": [config], **COMMON} | {
        "batch": int(batch)
    }


def check_same(job: dict, done: pd.DataFrame) -> None:
    """Refuse a job whose name was trained with other settings, names being the only key."""
    config = job["configs"][0]
    asked = {"size": job["size"], "steps": job["steps"], **config}
    for row in done[done["run_id"] == job["name"]].to_dict("records"):
        row["warmup"] = row["warmup_steps"]
        for key in ("size", "steps", "schedule", "peak_lr", "warmup"):
            if row[key] != asked[key]:
                raise ValueError(
                    f"{job['name']} is trained already, with {key} {row[key]} where the plan has "
                    f"{asked[key]}: give the plan's run another run_id, or write to another file"
                )


def plans() -> dict[str, list[dict]]:
    """Return the plans by file name."""
    return {
        "grid.json": [
            block("d16", 1200, WARMUPS_1200),
            block("d32", 1200, WARMUPS_1200),
            block("d64", 1200, WARMUPS_1200),
            block("d16", 3600, WARMUPS_3600),
            block("d32", 3600, WARMUPS_3600),
            block("d96", 2400, WARMUPS_2400),
            block("d64", 3600, WARMUPS_3600),
        ],
        "replicates.json": [
            block("d32", 1200, WARMUPS_1200, seed=1),
            block("d32", 1200, WARMUPS_1200, seed=2),
        ],
        "stages.json": stages(),
    }


if __name__ == "__main__":
    for name, jobs in plans().items():
        with open(HERE / name, "w") as file:
            json.dump(jobs, file, indent=0)
        runs = sum(len(job["configs"]) * len(job.get("seeds", [0])) for job in jobs)
        print(name, len(jobs), "jobs,", runs, "runs")
