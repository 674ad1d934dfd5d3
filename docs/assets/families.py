"""Tables of the published families for docs/import.md: what is read, written and trained, and lines that load them.

``docs/assets/lists.py`` puts them into the page.
"""

from vistok.commands.export import FAMILIES as WRITTEN
from vistok.commands.export import TARGETS
from vistok.formats.families import FAMILIES

# Of each family: its models, ``quantizer=`` of the head with which it trains, a file and further arguments of
# ``vistok.load`` for the published models. What other sizes need is in the text below the table.
NOTES = {
    "taming": ("VQGAN, latent diffusion's VQ", "vq", '"vqgan_imagenet_f16_16384.ckpt"'),
    "taming_ema": ("VQGAN with a codebook of moving averages", "vq_ema", '"vqgan_ema.ckpt"'),
    "gumbel": ("VQGAN with Gumbel codes", "gumbel", '"vqgan_gumbel_f8.ckpt"'),
    "ibq": ("IBQ, Emu3.5's tokenizer", "ibq", '"ibq_16384.ckpt"'),
    "openmagvit2": ("Open-MAGVIT2, images", "lfq", '"imagenet_256_L.ckpt"'),
    "wetok": ("WeTok, either decoder", "lfq", '"wetok.ckpt"'),
    "bitdance": ("BitDance's autoencoder, either decoder", "lfq", '"ae_d16c32.safetensors"'),
    "rqvae": ("RQ-VAE", "residual", '"rqvae_imagenet.pt"'),
    "var": ("VAR", "multiscale", '"vae_ch160v4096z32.pth"'),
    "infinity": ("Infinity's autoencoder", "multiscale_bsq", '"infinity_vae_d32.pth"'),
    "llamagen": ("LlamaGen", "vq_cosine", '"vq_ds16_c2i.pt"'),
    "fvq": ("FVQ, before and after its conversion", "vqbridge", '"fvq.pt"'),
    "fqgan_dual": ("FQGAN, two codebooks", "fq", '"fqgan_dual_ds16.pt"'),
    "fqgan_triple": ("FQGAN, three codebooks", "fq", '"fqgan_triple_ds16.pt"'),
    "simvq": ("SimVQ, images", "simvq", '"simvq_65k.ckpt"'),
    "dqvae_dual": ("DQ-VAE", "dqvae", '"dqvae.ckpt"'),
    "dqvae_triple": ("DQ-VAE, three granularities", "dqvae_triple", '"dqvae_triple.ckpt"'),
    "enhancing": ("enhancing-transformers' ViT-VQGAN", "vq_cosine", '"imagenet_vitvq_base.ckpt"'),
    "bsqvit": ("BSQ-ViT, images", "bsq", '"bsqvit.pt"'),
    "diffusers": ("diffusers' VQModel", "vq", '"FOLDER"'),
    "janus": ("transformers' Janus", "vq_cosine", '"FOLDER"'),
    "titok": ("TiTok, TA-TiTok, One-D-Piece", "vq_cosine", '"titok_l32.bin"'),
    "put": ("PUT's P-VQVAE, of 2022 and of 2024", "masked", '"put_ffhq.pth"'),
    "maskgit": ("MaskGIT's VQGAN, open-muse", "vq", '"maskgit-vqgan-imagenet-f16-256.bin"'),
}


def table() -> str:
    """Tables of the families and of the lines that load them, in the order of ``NOTES``."""
    known = {family.name: family for family in FAMILIES}
    if known.keys() != NOTES.keys():
        raise ValueError(f"NOTES and FAMILIES differ in {', '.join(sorted(known.keys() ^ NOTES.keys()))}")
    lines = ["| family | models | import | write back | train | export |", f"|{' --- |' * 6}"]
    loads = ["| family | published models load by |", f"|{' --- |' * 2}"]
    for name, (models, head, file) in NOTES.items():
        back = f"`--to {name}`" if name in TARGETS | WRITTEN else "no"
        lines.append(f"| `{name}` | {models} | yes | {back} | `quantizer={head}` | yes |")
        loads.append(f"| `{name}` | `vistok.load({file})` |")
    return "\n".join([*lines, "", *loads])
