"""The runs of the study: what every run shares, and what each one sets."""

from typing import NamedTuple

# L2 and no adversary, whose games would hide what a head does; as many images for every run.
BUDGET = [
    "loss=l2_gan",
    "loss.adversary=null",
    "~loss.loss_weights.adversarial",
    "~loss.loss_weights.discriminator",
    "data.image_size=64",
    "data.batch_size=8",
    "optim.updates=2000",
    "log.val_every=2000",
    "++data.flip=true",
    "data.num_workers=0",
    "trainer.limit_val_batches=16",  # run.py scores
]
CNN = ["backbone=cnn_f8_small"]
VIT = [
    "backbone=vit_s8",
    "backbone.encoder.dim=128",
    "backbone.encoder.depth=4",
    "backbone.encoder.num_heads=4",
    "backbone.encoder.head_dim=32",
]  # as many FLOPs an update as the CNN: `python benchmarks/study/cost.py --count`
ANNEALED = "schedule=annealed"
HEADS = {
    "vq": ["quantizer=vq"],
    "vq_cosine": ["quantizer=vq_cosine", "model.latent_dim=8"],
    "vq_ema": ["quantizer=vq_ema"],
    "simvq": ["quantizer=simvq"],
    "vqbridge": ["quantizer=vqbridge", "quantizer.size=S", ANNEALED],
    "bsq": ["quantizer=bsq"],  # as many bits as the codebooks of the others have
    "fq": ["quantizer=fq"],  # two codebooks of that size, so twice the bits
    "dqvae": ["quantizer=dqvae"],
}
SIZES = {"1k": 1024, "16k": 16384, "65k": 65536}


class Run(NamedTuple):
    """A run of the study."""

    section: str  # which question it answers
    head: str
    size: str  # of a codebook
    words: list[str]  # overrides of configs/train.yaml
    backbone: str = "cnn"
    seed: int = 0
    note: str = ""  # what sets it apart from the head as it is

    @property
    def name(self) -> str:
        parts = [self.head, *([self.note] if self.note else []), self.size]
        parts += [self.backbone] if self.backbone != "cnn" else []
        parts += [f"seed {self.seed}"] if self.seed else []
        return ", ".join(parts)


def run(section: str, head: str, size: str, *words: str, backbone: str = "cnn", seed: int = 0, note: str = "") -> Run:
    """A head with a size of codebook on a backbone, and further overrides."""
    codebook = (
        [f"model.latent_dim={SIZES[size].bit_length() - 1}"]
        if head == "bsq"
        else [f"model.codebook_size={SIZES[size]}"]
    )
    patch = ["quantizer.patch=8"] if head == "vqbridge" and size == "65k" else []  # as published
    own = [*(CNN if backbone == "cnn" else VIT), *HEADS[head], *codebook, *patch, *words, f"run.seed={seed}"]
    last = {word.partition("=")[0]: word for word in (*BUDGET, *own)}  # Hydra takes no group twice
    return Run(section, head, size, list(last.values()), backbone, seed, note)


RUNS = [
    *(run("heads", head, "16k") for head in HEADS),
    *(run("collapse", head, "65k") for head in ("vq", "vq_ema", "simvq", "vqbridge")),
    *(run("heads", head, "1k") for head in HEADS),
    *(run("backbone", head, "16k", backbone="vit") for head in ("vq_ema", "simvq", "vqbridge", "fq")),
    run("annealing", "vqbridge", "16k", "schedule=cosine", note="cosine"),
    run("annealing", "vqbridge", "65k", "schedule=cosine", note="cosine"),
    run("annealing", "vq", "16k", ANNEALED, note="annealed"),
    run("annealing", "simvq", "16k", ANNEALED, note="annealed"),
    run("estimators", "vq", "16k", "quantizer.kmeans_updates=20", "quantizer.restart=0.1", note="k-means, restarts"),
    run("estimators", "vq", "16k", "estimator=rotation", "quantizer.loss_weights.commitment=1", note="rotation"),
    run("estimators", "vq", "16k", "estimator=diveq", note="diveq"),
    run("estimators", "simvq", "16k", "estimator=rotation", note="rotation"),
    run("estimators", "simvq", "16k", "estimator=diveq", note="diveq"),
    *(run("seeds", head, "16k", seed=seed) for seed in (1, 2) for head in ("vq_ema", "simvq", "vqbridge")),
]
"""In the order in which they are made."""


def chosen(names: list[str]) -> list[Run]:
    """The runs of these names, or sections; all where there is none.

    Raises:
        ValueError: There is no such run or section.
    """
    sections = {run.section for run in RUNS}
    known = {run.name for run in RUNS} | sections
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no such run: {', '.join(unknown)}; there are the sections {', '.join(sorted(sections))}")
    return [run for run in RUNS if not names or run.name in names or run.section in names]
