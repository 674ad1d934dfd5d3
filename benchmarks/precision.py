"""Effect of ``speed.fast`` on a trained tokenizer: PSNR in float32 and in bfloat16, and the share of equal codes.

    python benchmarks/precision.py TOKENIZER --shards VAL.tar [--size 256] [--images 64] [--gate]

TOKENIZER is whatever ``vistok.load`` takes. Images are cut as evaluation cuts them, and go through one by one.
"""

import argparse
import itertools
import sys

import torch

import vistok
from vistok.data import shards
from vistok.images.ranges import to_float, to_uint8
from vistok.metrics import psnr
from vistok.speed import fast

TARGET = 0.05  # dB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer")
    parser.add_argument("--shards", required=True)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--gate", action="store_true", help="exit with 1 where PSNR differs by more than the target")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = vistok.load(arguments.tokenizer).eval()
    data = shards(None, arguments.shards, image_size=arguments.size, batch_size=1)
    samples = itertools.islice(iter(data.val.at(0, 1)), arguments.images)
    images = [sample.image[None] for sample in samples if sample.image is not None]
    exact = [tokenizer.tokenize(to_float(image)) for image in images]
    values = [psnr(to_uint8(tokenizer.detokenize(c)), i) for c, i in zip(exact, images, strict=True)]
    with fast(tokenizer):
        codes = [tokenizer.tokenize(to_float(image)) for image in images]
        fast_values = [psnr(to_uint8(tokenizer.detokenize(c)), i) for c, i in zip(codes, images, strict=True)]
    difference = (torch.cat(fast_values).mean() - torch.cat(values).mean()).item()
    agreement = torch.stack([(a == b).float().mean() for a, b in zip(exact, codes, strict=True)]).mean().item()
    print(
        f"{len(images)} images of {arguments.size} pixels: PSNR {torch.cat(values).mean():.3f} dB in float32, "
        f"{difference:+.4f} dB in bfloat16 (target {TARGET}); {agreement:.2%} of codes are equal"
    )
    if abs(difference) > TARGET and arguments.gate:
        sys.exit(1)


if __name__ == "__main__":
    main()
