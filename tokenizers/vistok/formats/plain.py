"""Tokenizers in the forms of other libraries' layouts, most of them VQGAN's networks with one codebook."""

import copy
from typing import cast

import torch
from torch import Tensor, nn

from vistok.backbones import CNNDecoder, CNNEncoder, ProxyPixels
from vistok.backbones.cnn import CNNSizes
from vistok.backbones.magvit import MagvitSizes
from vistok.images.ranges import LogitLaplaceMap, PixelMap
from vistok.quantizers import Quantizer, Table
from vistok.quantizers.vq import plain
from vistok.tokenizer import Tokenizer

INSTEAD = "the targets onnx, torch and folder take it"


def refuse(target: str, what: str) -> ValueError:
    """Error about a part that a layout cannot represent, with alternative targets."""
    return ValueError(f"{target} cannot represent {what}; {INSTEAD}")


def inference_copy(tokenizer: Tokenizer, folded: bool = True) -> Tokenizer:
    """Copy on the CPU in float32 and evaluation mode, folded or not, which shares nothing with the original."""
    own = copy.deepcopy(tokenizer.fold() if folded else tokenizer)
    return own.cpu().float().eval().requires_grad_(False)


def vqgan(tokenizer: Tokenizer, target: str) -> Tokenizer:
    """Folded copy of a tokenizer that consists of VQGAN's networks and one codebook, with convolutions around it.

    Raises:
        ValueError: The tokenizer is of another kind; the message names a target that supports it.
    """
    check_vqgan(tokenizer, target)
    check_table(tokenizer.quantizer, target)
    return with_maps(inference_copy(tokenizer))


def check_vqgan(tokenizer: Tokenizer, target: str) -> None:
    """Refuses other networks than VQGAN's, and other maps around the head than 1x1 convolutions."""
    check_networks(tokenizer, target)
    check_maps(tokenizer, target)


def check_networks(tokenizer: Tokenizer, target: str) -> None:
    """Refuses other networks than VQGAN's."""
    check_kinds(tokenizer, target, CNNEncoder, CNNDecoder)
    encoder, decoder = networks(tokenizer)
    for part in (encoder, decoder):
        if part.patch != 1:
            raise refuse(target, f"patch={part.patch}, only for 1")
        if part.sizes.num_halvings != len(part.sizes.multipliers) - 1:
            raise refuse(target, f"halvings={part.sizes.halvings}, only for all levels but the last")
    if encoder.dim != decoder.dim:
        raise refuse(target, f"an encoder of dim={encoder.dim} before a decoder of dim={decoder.dim}")
    same_blocks(tokenizer, target)
    if encoder.sizes.mid_attention != decoder.sizes.mid_attention:
        raise refuse(target, "attention between the middle blocks of one network only")


def check_kinds(
    tokenizer: Tokenizer,
    target: str,
    encoder: type,
    decoder: type,
    pixels: PixelMap | LogitLaplaceMap | ProxyPixels = PixelMap(),
) -> None:
    """Refuses networks of other classes, or on pixels of another range."""
    for part, wanted in ((tokenizer.encoder, encoder), (tokenizer.decoder, decoder)):
        if type(part) is not wanted:
            whose = "VQGAN's" if wanted in (CNNEncoder, CNNDecoder) else "a"
            raise refuse(target, f"a {type(part).__name__}, only for {whose} {wanted.__name__}")
    if tokenizer.pixels != pixels:
        scope = "[-1, 1]" if pixels == PixelMap() else "[0, 1]"
        raise refuse(target, f"{tokenizer.pixels}, only for networks on pixels in {scope}")


def check_maps(tokenizer: Tokenizer, target: str, groups: int = 1) -> None:
    """Refuses other maps around the head than 1x1 convolutions; the one before it may have ``groups``."""
    for name, allowed in (("to_latent", groups), ("from_latent", 1)):
        conv = getattr(tokenizer, name)
        if isinstance(conv, nn.Conv2d) and (conv.kernel_size != (1, 1) or conv.groups != allowed):
            wanted = "1x1" if allowed == 1 else f"1x1 of {allowed} groups"
            raise refuse(target, f"a {name} of kernel_size={conv.kernel_size}, groups={conv.groups}, only for {wanted}")


def check_table(head: Quantizer, target: str) -> None:
    """Refuses heads without a single table that is searched by distances."""
    name, layout = type(head).__name__, head.layout(*head.example_grid)
    if layout.granularities > 1:
        why = "a dynamic head is no plain table: its router decides how many codes a region gets"
        raise refuse(target, f"a {name}: {why}")
    if len(layout.grids) > 1:
        raise refuse(target, f"a {name}: its codes are maps of several scales")
    if len(head.codebook_sizes) > 1:
        joined = "a sum" if head.summed else "a product"
        raise refuse(target, f"a {name}: {joined} of {len(head.codebook_sizes)} codebooks is not a single table")
    if head.context_fields:
        raise refuse(target, f"a {name}: its codes depend on the {' and '.join(sorted(head.context_fields))}")
    table = head.table(0)
    if table is None:
        raise refuse(target, f"a {name}: its codewords are computed, not read from a table")
    if table.metric == "dot" or table.bias is not None:
        raise refuse(target, f"a {name}, which chooses codes by dot product, only for distances")


def with_maps(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer itself, with 1x1 convolutions that change nothing where it has no maps around the head."""
    for name in ("to_latent", "from_latent"):
        if isinstance(getattr(tokenizer, name), nn.Identity):
            setattr(tokenizer, name, identity(tokenizer.quantizer.dim))
    return tokenizer


def identity(dim: int, groups: int = 1) -> nn.Conv2d:
    """1x1 convolution that changes nothing."""
    conv = nn.Conv2d(dim, dim, 1, groups=groups).requires_grad_(False)
    weight = torch.eye(dim // groups).repeat(groups, 1)[:, :, None, None]
    conv.load_state_dict({"weight": weight, "bias": torch.zeros(dim)})
    return conv


def networks(tokenizer: Tokenizer) -> tuple[CNNEncoder, CNNDecoder]:
    """Encoder and decoder of a tokenizer from ``vqgan``, with the types that it has checked."""
    return cast(CNNEncoder, tokenizer.encoder), cast(CNNDecoder, tokenizer.decoder)


def norm_groups(tokenizer: nn.Module, target: str) -> int:
    """Number of groups of all norms."""
    groups = {module.num_groups for module in tokenizer.modules() if isinstance(module, nn.GroupNorm)}
    if len(groups) > 1:
        raise refuse(target, f"norms of {', '.join(map(str, sorted(groups)))} groups, only for one number")
    return groups.pop()


def check_llamagen(tokenizer: Tokenizer, target: str) -> None:
    """Refuses networks that LlamaGen's VQ model and its port to transformers cannot represent."""
    encoder, decoder = networks(tokenizer)
    last = len(encoder.sizes.multipliers) - 1
    norms_of_32(tokenizer, target)
    if not encoder.sizes.mid_attention:
        raise refuse(target, "mid_attention=False")
    for part in (encoder, decoder):
        if part.sizes.attention != (last,):
            raise refuse(target, f"attention={part.sizes.attention}, only for the last level, {last}")


def table_of(tokenizer: Tokenizer) -> Table:
    """The codebook of a tokenizer from ``vqgan``."""
    return cast(Table, tokenizer.quantizer.table(0))


def refuse_two_tables(tokenizer: Tokenizer, target: str) -> None:
    """Refuses a head that decodes other codewords than those it searches."""
    refuse_two(tokenizer.quantizer, table_of(tokenizer), target)


def refuse_two(head: Quantizer, table: Table, target: str) -> None:
    if not torch.equal(table.search, table.values):
        raise refuse(target, f"a {type(head).__name__}, which chooses codes in one table and decodes another")


def codewords_are_unit(tokenizer: Tokenizer) -> bool:
    """True if all codewords have unit length."""
    return bool(((table_of(tokenizer).values.norm(dim=1) - 1).abs() < 1e-5).all())


def by_l2(tokenizer: Tokenizer) -> Tokenizer:
    """Tokenizer with the same networks and codewords but L2 distances, as a consumer without other metrics has it."""
    if table_of(tokenizer).metric == "l2":
        return tokenizer
    other = tokenizer.fold()
    other.quantizer = plain(table_of(tokenizer).values)
    return other.eval()


def state_of(tokenizer: Tokenizer) -> dict[str, Tensor]:
    """State dict of a tokenizer from ``vqgan``."""
    state = {name: tensor for name, tensor in tokenizer.state_dict().items() if not name.startswith("quantizer.")}
    state["quantizer.table"] = table_of(tokenizer).search
    return {name: tensor.contiguous() for name, tensor in state.items()}


def same_blocks(tokenizer: Tokenizer, target: str) -> None:
    """Refuses networks with different numbers of blocks in each level."""
    down, up = (cast(CNNSizes | MagvitSizes, part.sizes) for part in (tokenizer.encoder, tokenizer.decoder))
    if down.num_blocks != up.num_blocks:
        raise refuse(target, f"num_blocks={down.num_blocks} in the encoder, {up.num_blocks} in the decoder")


def same_levels(tokenizer: Tokenizer, target: str) -> None:
    """Refuses networks whose decoder has other levels than the encoder: widths, or places of attention."""
    down, up = (part.sizes for part in networks(tokenizer))
    if up.widths != down.widths:
        raise refuse(target, f"levels of {down.widths} channels in the encoder, {up.widths} in the decoder")
    if sorted(up.attention) != sorted(down.attention):
        raise refuse(target, f"attention={down.attention} in the encoder, {up.attention} in the decoder")


def norms_of_32(tokenizer: nn.Module, target: str) -> None:
    """Refuses norms of another number of groups than 32."""
    groups = norm_groups(tokenizer, target)
    if groups != 32:
        raise refuse(target, f"norms of {groups} groups, only for 32")
