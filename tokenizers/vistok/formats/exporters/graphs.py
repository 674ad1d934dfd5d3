"""Export to graphs that run without vistok, ONNX and ``torch.export``: images to codes, and codes to images."""

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
from vistok.formats.plain import inference_copy
from vistok.tokenizer import Tokenizer

ENCODER, DECODER = "encoder", "decoder"
PROVIDED = frozenset({"maps"})  # fields of the context that a graph of images provides
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
    """Maps images (b, c, H, W) in [-1, 1] to codes (b, k, h, w), and for a dynamic head also to ``keep`` (b, h, w)."""

    def __init__(self, tokenizer: Tokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        codes, keep = self.tokenizer.to_codes(images)
        return (codes,) if keep is None else (codes, keep)


class ToImages(nn.Module):
    """Maps codes (b, k, h, w) to images (b, c, H, W), clamped to [-1, 1]; codes out of range are not detected."""

    def __init__(self, tokenizer: Tokenizer, size: tuple[int, int] | None):
        super().__init__()
        self.tokenizer, self.size = tokenizer, size

    def forward(self, codes: Tensor) -> Tensor:
        return self.tokenizer.detokenize(codes, self.size)


def save_onnx(
    tokenizer: Tokenizer, folder: str | Path, about: Mapping[str, Any] | None = None, image_size: int | None = None
) -> Parity:
    """Writes ``encoder.onnx`` and ``decoder.onnx``, checks them in onnxruntime, then renames their folder.

    Args:
        tokenizer: Any tokenizer whose head reads only the latent and the encoder's maps.
        folder: Path of the folder, which must not exist.
        about: Facts for the model card.
        image_size: Side in pixels of the only images that the graphs accept; None for any height and width. The batch
            size is free.

    Raises:
        ValueError: The tokenizer has no such graph; the message names an alternative.
        ParityError: The written graphs differ from the tokenizer.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 the exporter needs it
    except ImportError as error:
        raise ImportError(f"ONNX needs {error.name}: pip install 'vistok[export]'") from error

    def write(name: str, program: ExportedProgram, partial: Path) -> None:
        inputs, outputs = (["images"], ["codes", "keep"]) if name == ENCODER else (["codes"], ["images"])
        outputs = outputs[: len(program.graph_signature.user_outputs)]  # only a dynamic head returns keep
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
    """Writes ``encoder.pt2`` and ``decoder.pt2`` for ``torch.export.load``. Arguments as for ``save_onnx``."""

    def write(name: str, program: ExportedProgram, partial: Path) -> None:
        program = program.run_decompositions({})  # inlines regions with autocast off, which save refuses
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
    """Graphs of both directions, by name.

    Args:
        tokenizer: A folded tokenizer in evaluation mode.
        image_size: Side in pixels of the only images that the graphs accept; None for any height and width.

    Raises:
        ValueError: There are no such graphs.
    """
    head = tokenizer.quantizer
    if lacking := head.context_fields - PROVIDED:
        raise ValueError(
            f"a {type(head).__name__} that reads {' and '.join(sorted(lacking))} beside the latent, as an entropy "
            "router reads images in parts, has no graph; the target folder takes it"
        )
    if getattr(tokenizer.decoder, "context_fields", None):
        raise ValueError(
            f"a {type(tokenizer.decoder).__name__} that reads {' and '.join(sorted(tokenizer.decoder.context_fields))} "
            "beside the latent, as a generative decoder does, has no graph; the target folder takes it"
        )
    if image_size is None and tokenizer.num_tokens is not None:
        image_size = tokenizer.encoder.image_size  # of the only images that it accepts
    learned = [m for m in tokenizer.modules() if isinstance(m, LearnedPositions | PositionalDecoder)]
    if learned and image_size is None:  # read directly on their own grid, interpolated on others: two graphs
        raise ValueError("learned positions have no graph for images of any size; give one image_size")
    f = tokenizer.factor
    cells = head.grid_multiple
    if image_size is None and len(head.layout(*head.example_grid).grids) > 1:
        raise ValueError("codes of several scales have no graph for images of any size; give one image_size")
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
    except (UserError, RuntimeError) as error:  # the graph depends on the size
        if image_size is not None:
            raise ValueError(
                f"torch makes no graph of it ({_first_line(error)}); the target folder takes it"
            ) from error
        raise ValueError(
            f"it has no graph for images of any size ({_first_line(error)}); give one image_size"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the exporters' messages about their internals."""
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
