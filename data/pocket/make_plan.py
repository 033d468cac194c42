"""Write grid.json (the 260 configurations) and replicates.json (35 of them with two more seeds).

Seven (size, steps) blocks as in Appendix A.2 of arXiv 2409.04777: five peak learning rates by
seven or eight warmups in each.
"""

import itertools
import json
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
PEAK_LRS = [3e-3, 8e-3, 2e-2, 5.5e-2, 1.5e-1]
WARMUPS_1200 = [64, 128, 256, 384, 512, 768, 1000]
WARMUPS_2400 = [64, 128, 256, 512, 1000, 1500, 2000]
WARMUPS_3600 = [64, 128, 256, 512, 1000, 1500, 2000, 3000]
COMMON = {"corpus": "A", "batch": 16, "ctx": 64, "seed": 0}


def block(size: str, steps: int, warmups: list[int], **changes: int) -> dict:
    """Return one job of train.py: every peak LR with every warmup at one size and length."""
    configs = [{"peak_lr": lr, "warmup": w} for lr, w in itertools.product(PEAK_LRS, warmups)]
    suffix = f"_seed{changes['seed']}" if "seed" in changes else ""
    job = {"name": f"{size}_{steps}{suffix}", "size": size, "steps": steps, "configs": configs}
    return {**job, **COMMON, **changes}


def plans() -> dict[str, list[dict]]:
    """Return the two plans by file name."""
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
    }


if __name__ == "__main__":
    for name, jobs in plans().items():
        with open(HERE / name, "w") as file:
            json.dump(jobs, file, indent=0)
        print(name, sum(len(job["configs"]) for job in jobs), "configurations")
