"""To graphs that run without vistok: ONNX and ``torch.export``, images to codes and codes to images."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._dynamo.exc import UserError
from torch.export import Dim, ExportedProgram

from vistok.backbones import PositionalDecoder
from vistok.backbones.vit import LearnedPositions
from vistok.files import atomic_folder
from vistok.formats import model_card
from vistok.formats.exporters.parity import Encoded, Parity, check, sizes_of
from vistok.formats.exporters.plain import inference_copy
from vistok.tokenizer import Tokenizer

ENCODER, DECODER = "encoder", "decoder"
GIVEN = frozenset({"maps"})  # fields of a context that a graph from images has
ONNX_USAGE = """
import onnxruntime

encoder, decoder = (onnxruntime.InferenceSession(f"FOLDER/{name}.onnx") for name in ("encoder", "decoder"))
codes = encoder.run(["codes"], {"images": images})[0]  # float32 (b, c, H, W) to int64 (b, k, h, w)
images = decoder.run(["images"], {"codes": codes})[0]  # clamped to [-1, 1]
"""
TORCH_USAGE = """
import torch

encoder, decoder = (torch.export.load(f"FOLDER/{name}.pt2").module() for name in ("encoder", "decoder"))
codes, *keep = encoder(images)  # a dynamic tokenizer also says which positions are tokens
images = decoder(codes)  # clamped to [-1, 1]
"""


class ToCodes(nn.Module):
    """Images (b, c, H, W) in [-1, 1] to codes (b, k, h, w), and of a dynamic head to ``keep`` (b, h, w) as well."""

    def __init__(self, tokenizer: Tokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        codes, keep = self.tokenizer.to_codes(images)
        return (codes,) if keep is None else (codes, keep)


class ToImages(nn.Module):
    """Codes (b, k, h, w) to images (b, c, H, W), clamped to [-1, 1]. Codes out of range are not refused."""

    def __init__(self, tokenizer: Tokenizer, size: tuple[int, int] | None):
        super().__init__()
        self.tokenizer, self.size = tokenizer, size

    def forward(self, codes: Tensor) -> Tensor:
        return self.tokenizer.detokenize(codes, self.size)


def save_onnx(
    tokenizer: Tokenizer, folder: str | Path, about: Mapping[str, Any] | None = None, image_size: int | None = None
) -> Parity:
    """Write ``encoder.onnx`` and ``decoder.onnx``, check them in onnxruntime, and give their folder its name.

    Args:
        tokenizer: Any tokenizer but one whose head reads more than the latent and the encoder's maps.
        folder: Where to; must not be there.
        about: What the model card tells.
        image_size: Side of the only images that the graphs take; None for any height and width. The batch is free.

    Raises:
        ValueError: The tokenizer has no such graph; the message says what it has.
        ParityError: It was written, but differs.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 the exporter needs it
    except ImportError as error:
        raise ImportError(f"ONNX needs {error.name}: pip install 'vistok[export]'") from error

    def write(name: str, program: ExportedProgram, partial: Path) -> None:
        inputs, outputs = (["images"], ["codes", "keep"]) if name == ENCODER else (["codes"], ["images"])
        outputs = outputs[: len(program.graph_signature.user_outputs)]  # only a dynamic head says what to keep
        graph = torch.onnx.export(program, input_names=inputs, output_names=outputs, dynamo=True, verbose=False)
        cast(Any, graph).save(partial / f"{name}.onnx")

    def load(name: str, partial: Path) -> Callable[[Tensor], tuple[Tensor, ...]]:
        session = onnxruntime.InferenceSession(partial / f"{name}.onnx", providers=["CPUExecutionProvider"])
        source = session.get_inputs()[0].name
        return lambda tensor: tuple(map(torch.from_numpy, session.run(None, {source: tensor.numpy()})))

    return _save(tokenizer, folder, about, image_size, write, load, ONNX_USAGE, "onnx")


def save_torch(
    tokenizer: Tokenizer, folder: str | Path, about: Mapping[str, Any] | None = None, image_size: int | None = None
) -> Parity:
    """Write ``encoder.pt2`` and ``decoder.pt2`` for ``torch.export.load``; all else is as for ``save_onnx``."""

    def write(name: str, program: ExportedProgram, partial: Path) -> None:
        program = program.run_decompositions({})  # puts what is computed with autocast off in line: save refuses it
        torch.export.save(program, partial / f"{name}.pt2")

    def load(name: str, partial: Path) -> Callable[[Tensor], tuple[Tensor, ...]]:
        module = torch.export.load(partial / f"{name}.pt2").module()
        return module if name == ENCODER else lambda codes: (module(codes),)

    return _save(tokenizer, folder, about, image_size, write, load, TORCH_USAGE, "pytorch")


def _save(
    tokenizer: Tokenizer,
    folder: str | Path,
    about: Mapping[str, Any] | None,
    image_size: int | None,
    write: Callable[[str, ExportedProgram, Path], None],
    load: Callable[[str, Path], Callable[[Tensor], tuple[Tensor, ...]]],
    usage: str,
    library: str,
) -> Parity:
    folded = inference_copy(tokenizer)
    with atomic_folder(folder) as partial:
        with _quiet():
            for name, program in programs(folded, image_size).items():
                write(name, program, partial)
            encoder, decoder = load(ENCODER, partial), load(DECODER, partial)

        def encode(images: Tensor) -> Encoded:
            codes, *keep = encoder(images)
            return Encoded(codes, keep=keep[0] if keep else None)

        sizes = sizes_of(folded) if image_size is None else [(image_size, image_size)]
        parity = check(folded, encode, lambda codes, _: decoder(codes)[0], sizes, clamped=True)
        model_card.write(partial, folded, about, usage, library, str(parity))
    return parity


@torch.no_grad()
def programs(tokenizer: Tokenizer, image_size: int | None = None) -> dict[str, ExportedProgram]:
    """The graphs of both directions, by name.

    Args:
        tokenizer: Folded, in evaluation mode.
        image_size: Side of the only images that they take; None for any height and width.

    Raises:
        ValueError: There are no such graphs.
    """
    head = tokenizer.quantizer
    if lacking := head.context_fields - GIVEN:
        raise ValueError(
            f"a {type(head).__name__} that reads {' and '.join(sorted(lacking))} beside the latent, as an entropy "
            "router reads images in parts, has no graph; the target folder takes it"
        )
    learned = [m for m in tokenizer.modules() if isinstance(m, LearnedPositions | PositionalDecoder)]
    if learned and image_size is None:  # on their own grid they are read, on others interpolated: two graphs
        raise ValueError("learned positions have no graph for images of any size; give the one image_size it is for")
    f = tokenizer.factor
    cells = head.grid_multiple
    if image_size is None and len(head.layout(2 * cells, 2 * cells).grids) > 1:
        raise ValueError("codes of several scales have no graph for images of any size; give the one image_size")
    height, width = (6 * cells * f, 10 * cells * f) if image_size is None else (image_size, image_size)
    grid = tokenizer.grid(height, width, None if image_size is None else f"image_size={image_size}")
    images = torch.zeros(2, tokenizer.encoder.in_channels, height, width)
    codes = torch.zeros(2, len(head.codebook_sizes), *head.layout(*grid).positions, dtype=torch.int64)
    batch, height, width = Dim("batch"), Dim("height"), Dim("width")
    free = {ENCODER: {0: batch}, DECODER: {0: batch}}
    if image_size is None:
        free[ENCODER] |= {2: f * cells * height, 3: f * cells * width}
        free[DECODER] |= {2: height, 3: width}
    try:
        return {
            name: torch.export.export(module, (example,), dynamic_shapes=(free[name],), strict=False)
            for name, module, example in (
                (ENCODER, ToCodes(tokenizer), images),
                (DECODER, ToImages(tokenizer, None if image_size is None else (image_size, image_size)), codes),
            )
        }
    except (UserError, RuntimeError) as error:  # what depends on the size other than by growing
        if image_size is not None:
            raise ValueError(
                f"torch makes no graph of it ({_first_line(error)}); the target folder takes it"
            ) from error
        raise ValueError(
            f"it has no graph for images of any size ({_first_line(error)}); give the one image_size that it is for"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' advice on their own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
