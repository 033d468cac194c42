"""Origin, licence and caveats of every table that `bayes_optlaws.datasets` knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Any


@dataclass(frozen=True)
class Dataset:
    """What is known about one table.

    Attributes
    ----------
    name, title : str
        The name `datasets.load` takes, and one line on what it holds.
    origin, licence : str
        Where it was published (repository and commit, or paper) and under which licence.
    rows : int
        Rows that `datasets.load` returns.
    run_table : bool
        Whether `bayes_optlaws.read_runs` accepts it (one ``group`` at a time).
    shipped : bool
        Whether it comes with the package; the others are found or downloaded.
    folder : str
        Folder of the table below the data folder.
    caveats : tuple of str
        What to know before using it.
    files : dict of str to str
        SHA-256 of each published file by its path in the repository; empty where the source is
        no set of files that can be downloaded.
    base_url : str
        What the paths of `files` are appended to.

    Examples
    --------
    >>> from bayes_optlaws import datasets
    >>> datasets.describe("pocket").rows
    260
    """

    name: str
    title: str
    origin: str
    licence: str
    rows: int
    run_table: bool
    shipped: bool
    folder: str
    caveats: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict, repr=False)
    base_url: str = ""

    def __str__(self) -> str:
        """Return the record as plain text."""
        return "\n".join(
            [
                f"{self.name}: {self.title}",
                *(f"{label:10s}{value}" for label, value in self._lines()),
                *(f"- {caveat}" for caveat in self.caveats),
            ]
        )

    def _lines(self) -> list[tuple[str, str]]:
        return [
            ("rows", str(self.rows)),
            ("origin", self.origin),
            ("licence", self.licence),
            ("run table", "yes" if self.run_table else "no"),
            ("shipped", "yes" if self.shipped else "no"),
        ]

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{a}</th><td>{escape(b)}</td></tr>" for a, b in self._lines())
        notes = "".join(f"<li>{escape(caveat)}</li>" for caveat in self.caveats)
        head = f"<b>{escape(self.name)}</b>: {escape(self.title)}"
        return f"{head}<table>{rows}</table><ul>{notes}</ul>"


_PAPER = "arXiv 2409.04777, transcribed from its text"
_PAPER_TITLES = {
    1: ("held-out metrics of six methods", 6),
    2: ("large-scale pre-training, actual and predicted loss", 10),
    3: ("errors of four methods on Table 2", 4),
    4: ("continual training, observed loss and predicted score", 8),
    5: ("fine-tuning, observed loss and predicted score", 9),
    6: ("model sizes", 5),
    7: ("runs and divergent runs by block of the training grid", 7),
    9: ("feature ablation", 4),
    10: ("decay phase in or out of the convergence integral", 12),
    11: ("exponent sensitivity", 11),
    12: ("divergence prediction", 4),
    13: ("schedule families, actual and predicted loss", 15),
}


def _paper(number: int, title: str, rows: int) -> Dataset:
    return Dataset(
        name=f"paper-table-{number}",
        title=title,
        origin=f"{_PAPER}, Table {number}",
        licence="facts quoted from the paper",
        rows=rows,
        run_table=False,
        shipped=True,
        folder=f"paper/table-{number:02d}.csv",
        caveats=("the text lost every learning rate: such columns are empty, see data/paper",),
    )


_MPL_COMMIT = "8da9f1902602f3391b971a811e3cc51604541769"
_MPL_SHA256 = """\
034a75e2415373a9be1097e9d406f98524344f4718d200d3a188dcbd5115103b  100_constant_24000.csv
52b5752009e1e4c396f15016e98897238fccb3816f58576ea944f03fe529dbc3  100_constant_72000.csv
dd544dc61a11fa138c98ac0b673d5512287062d2d2d2e9c2867976abc8c46e69  100_cosine_24000.csv
2e637203b48b3e3a84063f49035cde2f6a40c69ecd15d95b6551774b9a279f44  100_cosine_72000.csv
e66df98c85dba705ebc85512c6a09a8ebec5675878a20d4d783c0bf80d031002  100_wsd_20000_24000.csv
33cfea673dc0efde9e4fd74cc47d8daabdebfdc6d5a2659835bd780347f6e651  100_wsdcon_18.csv
a1cbb8c730ae0628d69bb1d7aefadbad5cda5f6a92272f85203cd33d7b8f4912  100_wsdcon_3.csv
510256497a0ea9d4270919fb37c56140e1b4d07e50b96b46334891ba316f144e  100_wsdcon_9.csv
0ef6b02e260ff5efa51a5885655ead8cf126a7e9c4ea3034d403e11852c06fe2  100_wsdld_20000_24000.csv
5a7c0b440751e258e7199eeefe9f0ae58520a2f2d64c5f81524d8d375f75f0ce  25_constant_24000.csv
99ee51a9be7b7fb71511d0af28edd6bc6221350d2ad26a66c615467cb5c83247  25_constant_72000.csv
554e35f9efbe28a614c9ae1121b3bf55490df6b72a5898957f68a52770038e3a  25_cosine_24000.csv
af3b25a485966a0f7fc34824774cf8ec85af14848a6dc7b64d6a8d3d044befa5  25_cosine_72000.csv
8649b7de4b4b31db5c35f4ff0458af9472a50168177de6372c3ceb37ace9fc62  25_wsd_20000_24000.csv
9b9bd40f519d20ecbf540d4c9451f6a01b7b379b1d335407ba4651025cc5926f  25_wsdcon_18.csv
3d37fcf82c237e5c1ba2ee34c4b9e606ecba781536d4fea9a7dde5463207fc3d  25_wsdcon_3.csv
b7579f38b5e175d9e9dc9b9598b409efdf2cba0a68819857ba28649c242c2bd8  25_wsdcon_9.csv
8e3a9ae33ed586e5040a114fad215f4f245c6a2ff7d96f61cba02ccd8b74b3e7  25_wsdld_20000_24000.csv
5d91536675592acdc40ea56f71ca24ee9026243e51a0a791ac25b631381c45ee  400_constant_24000.csv
a453ef82f549470cc8250723917668801436dd835fd17bbf71e1fd77d00a3b6c  400_constant_72000.csv
aa18c9dbad66610d2037249bbcbf08fdce0983aa486b876ba95c2e3fb6fc0dce  400_cosine_24000.csv
347acbdc80042cb7cfe0dcb28580a2780718ccbad23443d4de76821f0a1ab41e  400_cosine_72000.csv
8a56dbd8f6b553b42ca8b3f4be9822cf5b7458a6c1b7ae0ddc6ac57b2893dea7  400_wsd_20000_24000.csv
998aaf3fd14de43fe754c7250885d7f72e20e7a210b1ea205a8af37ea8b22951  400_wsdcon_18.csv
e1a896755ea1e1a6a4648a503be6a19eb62fc7ef12fbab3440a66f7a94197ac6  400_wsdcon_3.csv
497aa4a60df8f520e11e212a990dcf70e8bfd89e814f295dc5476af630aac768  400_wsdcon_9.csv
7c5d5141d917955491732606e8817e7fdbd4bc2036e508e1610ab8bd252267dc  400_wsdld_20000_24000.csv
"""


def _mpl_files() -> dict[str, str]:
    """Path in the repository by curve file: ``25_x.csv`` is ``csv_25/x.csv`` there."""
    files = {}
    for line in _MPL_SHA256.splitlines():
        digest, name = line.split()
        size, rest = name.split("_", 1)
        files[f"loss_curve_repo/csv_{size}/{rest}"] = digest
    return files


_POCKET: dict[str, Any] = {
    "origin": "made for this package by data/pocket/train.py",
    "licence": "BSD-3-Clause, as the package",
    "run_table": True,
    "shipped": True,
}
_POCKET_SEED = "the seed changes initialisation and data order, not the validation set"
_POCKET_GPU = "trained on a GPU: losses differ from the CPU grid by rounding, below the seed noise"

_STEPLAW_COMMIT = "32a8f4cc50247695fb56cc6c9117abdf67c97763"

RECORDS: dict[str, Dataset] = {
    d.name: d
    for d in (
        Dataset(
            name="pocket",
            title="peak LR x warmup grids of byte-level transformers, 10k to 246k parameters",
            rows=260,
            folder="pocket/runs.csv",
            caveats=(
                "tiny models on source code: absolute losses mean nothing for a language model",
                "runs of a block share initialisation and data order (seed 0)",
                "diverged means a validation loss above 2.448, that of a byte-bigram model",
            ),
            **_POCKET,
        ),
        Dataset(
            name="pocket-replicates",
            title="block d32_1200 of the pocket grid again with seed 1",
            rows=35,
            folder="pocket/replicates.csv",
            caveats=(_POCKET_SEED,),
            **_POCKET,
        ),
        Dataset(
            name="pocket-seeds",
            title="blocks d16_1200, d32_1200, d64_1200 of the pocket grid with seeds 0, 1 and 2",
            rows=315,
            folder="pocket/seeds.csv",
            caveats=(_POCKET_SEED, _POCKET_GPU),
            **_POCKET,
        ),
        Dataset(
            name="pocket-families",
            title="linear, cosine, constant + linear in five groups, as Table 13 of the paper",
            rows=135,
            folder="pocket/families.csv",
            caveats=(_POCKET_SEED, _POCKET_GPU),
            **_POCKET,
        ),
        Dataset(
            name="pocket-longer",
            title="larger and longer than the pocket grid, seven shapes, as Table 2 of the paper",
            rows=49,
            folder="pocket/longer.csv",
            caveats=(_POCKET_SEED, _POCKET_GPU),
            **_POCKET,
        ),
        Dataset(
            name="pocket-loop",
            title="three runs that a plan asked for, trained; notebook 09 tells the story",
            rows=3,
            folder="pocket/loop.csv",
            caveats=("same data, seed and initialisation as the pocket grid",),
            **_POCKET,
        ),
        Dataset(
            name="pocket-stages",
            title="continual training and fine-tuning, as Tables 4 and 5 of the paper",
            rows=353,
            folder="pocket/stages.csv",
            caveats=(
                "three corpora, three groups: losses of different groups are not comparable",
                "parent is the run_id of the run it starts from; one checkpoint for all seeds",
                "in stages 2 and 3 the seed changes the data order only",
                _POCKET_GPU,
            ),
            **_POCKET,
        ),
        *(_paper(number, *title_rows) for number, title_rows in _PAPER_TITLES.items()),
        Dataset(
            name="steplaw",
            title="Step Law, dense: 17 (N, D) cells of LR x batch, 0.21B to 1.07B parameters",
            origin=f"github.com/step-law/steplaw at {_STEPLAW_COMMIT}; arXiv 2503.04715",
            licence="none stated: download it yourself, do not redistribute it",
            rows=1911,
            run_table=True,
            shipped=False,
            folder="steplaw",
            caveats=(
                "the warm-up is not in the table: min(2000, steps / 2) is assumed",
                "final_loss is the authors' smoothed training loss",
                "diverged: more than 1.0 nat above the best run of its cell (181 runs)",
                "no seeds; about 49 combinations are missing, 18 of them at high LR",
            ),
            files={
                "data/dense_lr_bs_loss.csv": (
                    "9e46181076c04d450294d75dfe6f72adc416e231e154a07b337e378f9410002c"
                )
            },
            base_url=f"https://raw.githubusercontent.com/step-law/steplaw/{_STEPLAW_COMMIT}/",
        ),
        Dataset(
            name="marin",
            title="Marin optimizer sweep, AdamW: single changes around the best run of each cell",
            origin=(
                "github.com/marin-community/marin at 229375800f1fc74c2c059f7dbbac1b4b151a3155, "
                "experiments/optimizer_sweep/Analysis/Results; Wen et al. 2025"
            ),
            licence="not verified",
            rows=170,
            run_table=True,
            shipped=False,
            folder="marin_optimizer_sweep",
            caveats=(
                "model sizes, tokens and the cosine to 0 are inferred, not published",
                "rows whose changed_from_baseline is weight_decay, beta1, beta2, epsilon or "
                "max_grad_norm differ in ways that the law does not see",
                "baselines were selected as the best of their cell",
                "no seeds; copy_of_baseline_value = 1 marks numerically identical runs",
            ),
        ),
        Dataset(
            name="schaipp",
            title="schedule families x LR x length, 33M to 360M parameters",
            origin=(
                "github.com/fabian-sp/lr-scheduling at 8ace3a327a396fbd4998ff7615d54012eba71573, "
                "235 JSON logs in data/; arXiv 2501.18965 and 2405.18392"
            ),
            licence="MIT",
            rows=235,
            run_table=True,
            shipped=False,
            folder="schaipp_lr_scheduling",
            caveats=(
                "three data sets, three groups: pass group= to read_runs",
                "cool-down runs branch from a shared constant-LR trunk and are correlated",
                "20 pairs repeat a configuration and seed: hardware noise only",
                "one divergent run; warm-up is 300 steps everywhere",
            ),
        ),
        Dataset(
            name="multi-power-law",
            title="27 loss curves: 25M, 100M, 400M by nine schedules",
            origin=f"github.com/thu-yao-01-luo/MultiPowerLaw at {_MPL_COMMIT}; arXiv 2503.12811",
            licence="MIT",
            rows=27,
            run_table=False,
            shipped=False,
            folder="multi_power_law",
            caveats=(
                "the batch size is not published: add a batch_tokens column before read_runs",
                "peak LR 3e-4 only; sizes are nominal labels; the kind of loss is not stated",
                "curves and file hashes are those of the prepared copy, whose download "
                "from the repository was not tried",
            ),
            files=_mpl_files(),
            base_url=(
                f"https://raw.githubusercontent.com/thu-yao-01-luo/MultiPowerLaw/{_MPL_COMMIT}/"
            ),
        ),
        Dataset(
            name="porian",
            title="isoFLOP points by warm-up and decay kind, without learning rates",
            origin=(
                "github.com/formll/resolving-scaling-law-discrepancies at "
                "0dc60d91b8a525858a3067fc9e4a46ff5374cc6f, pickles in data/; arXiv 2406.19146"
            ),
            licence="MIT",
            rows=1745,
            run_table=False,
            shipped=False,
            folder="porian2024",
            caveats=(
                "no learning rate, batch size or warm-up steps",
                "rows with independent_run = 0 are read along one run, mid-schedule",
            ),
        ),
        Dataset(
            name="modded-nanogpt",
            title="final losses of repeated runs (124M class), for the size of seed noise",
            origin=(
                "github.com/KellerJordan/modded-nanogpt at "
                "f411b3d346aa52d3504324ca93c230fd84c6c07f, logs in records/"
            ),
            licence="MIT",
            rows=1381,
            run_table=False,
            shipped=False,
            folder="modded_nanogpt_replicates",
            caveats=(
                "sd of the final loss within a group: median 0.0012, pooled 0.0016 nats",
                "losses are pinned near 3.28 by the contest; the optimizer is mostly Muon",
            ),
        ),
        Dataset(
            name="chinchilla-epoch",
            title="Chinchilla's figure 4 read back: N 57M to 16B, 1e18 to 1e22 FLOP",
            origin=(
                "github.com/epoch-research/analyzing-chinchilla at "
                "92258837425e1b5f2851d624287f0120583a3d0e, data/svg_extracted_data.csv"
            ),
            licence="none seen",
            rows=245,
            run_table=True,
            shipped=False,
            folder="chinchilla_epoch",
            caveats=(
                "losses are read from the colours of a figure, so they are quantised",
                "batch, peak LR, cosine and warm-up are placeholders, the same in every row",
                "few_tokens marks the five points that Besiroglu et al. leave out",
            ),
        ),
        Dataset(
            name="marin-optimizers",
            title="Marin optimizer sweep: AdamW, NAdamW, Adam-mini and cautious AdamW",
            origin=(
                "github.com/marin-community/marin at 229375800f1fc74c2c059f7dbbac1b4b151a3155, "
                "experiments/optimizer_sweep/Analysis/Results; Wen et al. 2025"
            ),
            licence="not verified",
            rows=386,
            run_table=True,
            shipped=False,
            folder="marin_optimizer_sweep",
            caveats=(
                "as marin, with `optimizer` for the variant: a covariate, or a group to pool",
                "weight_decay, beta1, beta2, epsilon and max_grad_norm are covariates",
            ),
        ),
        Dataset(
            name="openlm",
            title="open_lm over-training testbed: 11M to 6.9B, 5 to 640 tokens a parameter",
            origin=(
                "github.com/mlfoundations/scaling at a003c4913793ac2ae7ef87b28ecb562955d026d5, "
                "exp_data/models; Gadre et al. 2024"
            ),
            licence="MIT",
            rows=65,
            run_table=True,
            shipped=False,
            folder="openlm_overtraining",
            caveats=(
                "training sets are groups: pass group= to read_runs",
                "four runs that stop before their warm-up ends are left out",
                "one seed; peak LR is 3e-3 but for the 7B runs (3e-4)",
                "final_loss is the loss on C4, whatever was trained on",
            ),
        ),
        Dataset(
            name="loss-to-loss",
            title="IsoFLOP sweeps on several data sets, and one run of 1e21 FLOP on each",
            origin=(
                "github.com/KempnerInstitute/loss-to-loss-notebooks at "
                "457ce81a019019bc3981937c20a70c52f5fad436, data/{sweep,extrapolation}.csv"
            ),
            licence="none seen",
            rows=269,
            run_table=True,
            shipped=False,
            folder="loss_to_loss",
            caveats=(
                "data sets are groups: pass group= to read_runs",
                "peak LR, cosine and warm-up are placeholders, the same in every row",
                "batch_tokens is tokens over steps",
            ),
        ),
        Dataset(
            name="olmo-ladder",
            title="OLMo-2 model ladder: 190M to 3B, cosine, WSD and constant",
            origin=(
                "github.com/allenai/OLMo at 9bc064c72b1439640993e7ff28238e7b8f855aee, "
                "scripts/scaling/data"
            ),
            licence="Apache-2.0",
            rows=60,
            run_table=True,
            shipped=False,
            folder="olmo_ladder",
            caveats=(
                "LR, batch and warm-up are functions of the size, never crossed",
                "WSD and constant runs of one size share a trunk; five cosine runs are repeats",
            ),
        ),
        Dataset(
            name="gemstones",
            title="Gemstones: 22 shapes, 48M to 2B, constant, half LR and cooled down",
            origin=(
                "github.com/mcleish7/gemstone-scaling-laws at "
                "5f420478f6057b0cbb4d13405fb10ca64675bccb, wandb_dfs"
            ),
            licence="MIT",
            rows=619,
            run_table=True,
            shipped=False,
            folder="gemstones",
            caveats=(
                "points are read along constant-LR runs or cooled down from them: trunk names "
                "those that are not independent",
                "learning rates and warm-up are assumed labels",
            ),
        ),
        Dataset(
            name="gemstones-lr",
            title="Gemstones' sweep of learning rates over four shapes",
            origin=(
                "github.com/mcleish7/gemstone-scaling-laws at "
                "5f420478f6057b0cbb4d13405fb10ca64675bccb, data/preflight_mup_olmo_variant.csv"
            ),
            licence="MIT",
            rows=24,
            run_table=True,
            shipped=False,
            folder="gemstones_lr_preflight",
            caveats=(
                "steps, warm-up and the constant schedule are assumed, the same in every row",
                "diverged: the loss is above 6 nats",
            ),
        ),
        Dataset(
            name="cifar5m",
            title="CIFAR-5M transformers: 12M to 79M by nine schedule families",
            origin=(
                "github.com/shikaiqiu/supercollapse at 003336f61d167a47cbe8a356faac85759daacdff, "
                "logs/c5m_schedules.pkl"
            ),
            licence="none seen",
            rows=45,
            run_table=True,
            shipped=False,
            folder="supercollapse_cifar5m",
            caveats=(
                "pixels, not text; losses differ by less than 0.03 nats",
                "LR, batch and warm-up never vary; one seed",
            ),
        ),
    )
}
