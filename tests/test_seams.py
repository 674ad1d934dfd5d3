"""Small stand-ins for heads to come: several scales, 1-D tokens, masks, depths, shortened sequences."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vistok
from vistok import Tokenizer
from vistok.backbones import Decoder, Encoder
from vistok.codec import Codec
from vistok.data.batches import Batch
from vistok.formats import native
from vistok.formats.exporters import graphs, to_folder
from vistok.quantizers import Context, Layout, Quantized, Quantizer, StraightThrough, VectorQuantizer
from vistok.training import cost
from vistok.training.module import LitTokenizer
from vistok.training.schedules import Schedule


class Scales(Quantizer):
    """A coarse map, then a fine one of what is left over."""

    dim, codebook_sizes, loss_names = 4, (16,), ("commitment", "codebook")

    def __init__(self):
        super().__init__()
        self.head = VectorQuantizer(16, 4)
        nn.init.normal_(self.head.codewords)

    def layout(self, h, w):
        return Layout(((h // 2, w // 2), (h, w)))

    def forward(self, z, context=Context()):
        coarse = self.head(F.avg_pool2d(z, 2), context)
        total = F.interpolate(coarse.codewords, scale_factor=2)
        fine = self.head(z - total.detach(), context)
        total = total + fine.codewords
        losses = {name: coarse.losses[name] + fine.losses[name] for name in self.loss_names}
        codes = self.layout(*z.shape[2:]).join([coarse.codes, fine.codes])
        return Quantized(StraightThrough()(z, total), codes, losses, codewords=total)

    def lookup(self, codes, layout=None, keep=None):
        if layout is None:
            raise ValueError("layout is needed: the positions of several scales do not tell the grid")
        coarse, *fine = (self.head.lookup(own) for own in layout.split(codes))
        return F.interpolate(coarse, scale_factor=2) + sum(fine)


class PatchEncoder(Encoder):
    """A latent vector for each patch."""

    factor, dim, in_channels = 4, 4, 3

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 4, stride=4)

    def forward(self, images):
        return self.conv(images)


class Sequence(PatchEncoder):
    """So many vectors for an image of any size: 1-D tokens."""

    def __init__(self, number=6):
        super().__init__()
        self.number = number

    def grid(self, height, width):
        super().grid(height, width)
        return 1, self.number

    def forward(self, images):
        return F.adaptive_avg_pool1d(self.conv(images).flatten(2), self.number)[:, :, None]


class Painter(Decoder):
    """Images from the latent and all else that a decoder may be told."""

    factor, dim = 4, 4

    def __init__(self):
        super().__init__()
        self.conv, self.told = nn.Conv2d(4, 3, 1), []

    @property
    def last_layer(self):
        return self.conv.weight

    def forward(self, latent, size=None, keep=None, context=Context()):
        self.told.append((size, keep, context))
        h, w = latent.shape[2:]
        images = F.interpolate(self.conv(latent), size or (4 * h, 4 * w))
        return images if context.mask is None else images * ~context.mask


IMAGES = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_several_scales():
    torch.manual_seed(0)
    tokenizer = Tokenizer(PatchEncoder(), Scales(), Painter()).eval()
    codes = tokenizer.tokenize(IMAGES)
    assert codes.shape == (2, 1, 1, 2 * 3 + 4 * 6)
    reconstruction, emitted = tokenizer.reconstruct(IMAGES)
    assert torch.equal(emitted.codes, codes) and torch.equal(reconstruction, tokenizer(IMAGES).reconstruction)
    assert torch.equal(tokenizer.detokenize(codes, (16, 24)), reconstruction.clamp(-1, 1))
    first = tokenizer.detokenize(codes[..., :6], (16, 24))  # the coarse scale alone
    assert first.shape == IMAGES.shape and not torch.equal(first, reconstruction)
    with pytest.raises(ValueError, match="layout is needed"):
        tokenizer.detokenize(codes)


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(native, "CLASSES", dict(native.CLASSES))
    for part in (Scales, PatchEncoder, Sequence, Painter):
        vistok.register(part)


def test_scales_and_sequences_are_exported(registered, tmp_path):
    """Other targets refuse it with a message."""
    torch.manual_seed(0)
    scales = Tokenizer(PatchEncoder(), Scales(), Painter()).eval()
    sequence = Tokenizer(Sequence(), VectorQuantizer(16, 4), Painter()).eval()
    for name, tokenizer in {"scales": scales, "sequence": sequence}.items():
        assert to_folder.save_folder(tokenizer, tmp_path / name).codes > 0
        read = vistok.load(tmp_path / name)
        codes = read.tokenize(IMAGES)
        assert torch.equal(codes, tokenizer.tokenize(IMAGES))
        assert torch.equal(read.detokenize(codes, (16, 24)), tokenizer.detokenize(codes, (16, 24)))
    with pytest.raises(ValueError, match="scales have no graph for images of any size; give one image_size"):
        graphs.save_torch(scales, tmp_path / "graph")
    assert graphs.save_torch(scales, tmp_path / "graph", image_size=16).codes == 2 * 20
    with pytest.raises(ValueError, match="a Scales cannot be reduced or stored in files"):
        Codec(scales, [])
    with pytest.raises(ValueError, match="one position for each 4x4 pixels, unlike a Sequence"):
        Codec(sequence, [])


def test_tokens_in_one_dimension():
    """The decoder is told the size, which the latent does not tell."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(Sequence(), VectorQuantizer(16, 4), Painter()).eval()
    codes = tokenizer.tokenize(IMAGES)
    assert codes.shape == (2, 1, 1, 6) and tokenizer.grid(16, 24) == (1, 6)
    reconstruction, _ = tokenizer.reconstruct(IMAGES)
    assert reconstruction.shape == IMAGES.shape
    assert torch.equal(reconstruction, tokenizer(IMAGES).reconstruction)
    assert torch.equal(tokenizer.detokenize(codes, (16, 24)), reconstruction.clamp(-1, 1))
    assert all(size == (16, 24) for size, _, _ in tokenizer.decoder.told)


def test_a_decoder_is_told_what_it_needs_and_no_more():
    tokenizer = Tokenizer(PatchEncoder(), VectorQuantizer(16, 4), Painter()).eval()
    tokenizer(IMAGES)
    keep, mask = torch.ones(2, 4, 6, dtype=torch.bool), torch.zeros(2, 1, 16, 24, dtype=torch.bool)
    mask[..., :12] = True
    context = Context(mask=mask)
    decoded = tokenizer.detokenize(tokenizer.tokenize(IMAGES, context), (16, 24), keep, context)
    assert not decoded[..., :12].any() and decoded[..., 12:].any()
    (first, second) = tokenizer.decoder.told
    assert first == (None, None, Context()) and second[0] is None and second[1] is keep and second[2] is context


class Stepwise(VectorQuantizer):
    """Learns nothing, but knows how far the training is and which pixels are known."""

    def forward(self, z, context=Context()):
        self.seen = context
        return super().forward(z, context)


def test_a_head_sees_mask_and_progress():
    tokenizer = Tokenizer(PatchEncoder(), Stepwise(16, 4), Painter())
    mask = torch.ones(2, 1, 16, 24, dtype=torch.bool)
    tokenizer(IMAGES, context=Context(mask=mask, progress=7))
    seen = tokenizer.quantizer.seen
    assert seen.mask is mask and seen.progress == 7 and seen.images is IMAGES


class Even(Scales):
    """Says that its grids are even."""

    grid_multiple = 2


@pytest.mark.parametrize("head, size, name, message", [
    (VectorQuantizer(16, 4), (15, 16), None, "image size 15x16 is not a multiple of the tokenizer's factor 4"),
    (VectorQuantizer(16, 4), (15, 15), "--size=15", "^--size=15 is not a multiple of the tokenizer's factor 4"),
    (Even(), (20, 16), None, "image size 20x16 gives a latent of 5x4, but this Even needs multiples of 2"),
    (Even(), (20, 16), "size=20", "^size=20 gives a latent of 5x4"),
])  # fmt: skip
def test_one_place_refuses_sizes(head, size, name, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer(PatchEncoder(), head, Painter()).grid(*size, name)


class OwnEncoder(nn.Module):
    """No subclass of ours, and without a grid."""

    factor, dim, in_channels = 2, 3, 3

    def forward(self, images):
        return F.avg_pool2d(images, 2)


class OwnDecoder(nn.Module):
    """Takes the latent alone."""

    factor, dim = 2, 3

    def forward(self, latent):
        return F.interpolate(latent, scale_factor=2)


def test_plain_modules_do():
    tokenizer = Tokenizer(OwnEncoder(), VectorQuantizer(16, 3), OwnDecoder()).eval()
    assert tokenizer.grid(16, 24) == (8, 12) and tokenizer(IMAGES).reconstruction.shape == IMAGES.shape
    with pytest.raises(ValueError, match="image size 15x16 is not a multiple of the tokenizer's factor 2"):
        tokenizer.tokenize(IMAGES[..., :15, :16])


class Masked(nn.Module):
    """A loss that only counts known pixels."""

    def forward(self, reconstruction, images, mask=None):
        error = (reconstruction - images).square()
        return error.mean() if mask is None else error[mask.expand_as(error)].mean()


def test_a_batch_brings_its_mask_to_head_decoder_and_losses():
    """Losses that know no mask compare all pixels."""
    weights = {"masked": 1.0, "l1": 1.0, "commitment": 1.0, "codebook": 1.0}
    tokenizer = Tokenizer(PatchEncoder(), Stepwise(16, 4), Painter())
    module = LitTokenizer(tokenizer, {"masked": Masked(), "l1": nn.L1Loss()}, weights, torch.optim.SGD, Schedule(10))
    mask = torch.zeros(2, 1, 16, 24, dtype=torch.bool)
    mask[..., :12] = True
    reconstruction = torch.where(mask, IMAGES, IMAGES + 1)
    assert module.compare(reconstruction, reconstruction, IMAGES, mask)["masked"] == 0
    terms = module.compare(reconstruction, reconstruction, IMAGES)
    assert terms["masked"].item() == pytest.approx(0.5) and terms["l1"].item() == pytest.approx(0.5)
    module.on_validation_start()
    module.validation_step(Batch(IMAGES, mask=mask), 0)
    assert tokenizer.decoder.told[-1][2].mask is mask
    assert module.validation_step(IMAGES, 0)["codes"].shape == (2, 1, 4, 6)
    step = cost.Step(module, gpu=False, mixed=False)
    step(Batch(IMAGES, mask=mask))
    assert tokenizer.quantizer.seen.mask is mask and tokenizer.quantizer.seen.progress == 0
