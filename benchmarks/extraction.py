"""Images per second of extraction, beside the bare tokenizer, and of reading the tokens back.

    python benchmarks/extraction.py TOKENIZER DATA [DATA ...] --image-size 32

All in CPU seconds of one process and thread, the median of rounds in which they take turns: other work on the machine
changes wall-clock, hardly these.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from torch.utils.data import DataLoader

import vistok
from vistok.images.ranges import to_float
from vistok.tokens import TokenDataset, TokenProtocol, tokenize
from vistok.tokens.loading import PartBatches, loaded
from vistok.tokens.sources import open_source


def seconds(action) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


@torch.inference_mode()
def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("tokenizer")
    words.add_argument("data", nargs="+")
    words.add_argument("--image-size", type=int, default=256)
    words.add_argument("--batch-size", type=int, default=32)
    words.add_argument("--rounds", type=int, default=3)
    asked = words.parse_args()
    torch.set_num_threads(1)
    tokenizer, source = vistok.load(asked.tokenizer), open_source(asked.data, 5000)
    folded = tokenizer.eval().fold()
    one = TokenProtocol(asked.image_size, batch_size=asked.batch_size)
    two = TokenProtocol(asked.image_size, batch_size=asked.batch_size, views="flip")
    batches = PartBatches(source, range(source.parts), one.batch_size, one.transforms, one.views, one.image_size)
    images = [batch.images[:, 0] for batch in loaded(batches, 0, False)]
    count = sum(map(len, images))
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(asked.rounds):
            outs = [Path(folder) / f"{name}{number}" for name in ("one", "two")]
            steps = {
                "tokenizer.tokenize alone": lambda: [folded.tokenize(to_float(batch)) for batch in images],
                "extraction": lambda out=outs[0]: tokenize(tokenizer, source, out, one),
                "extraction, images and mirror images": lambda out=outs[1]: tokenize(tokenizer, source, out, two),
                "reading back, in batches of 64": lambda out=outs[1]: list(DataLoader(TokenDataset(out), 64)),
            }
            for name, step in steps.items():
                found.setdefault(name, []).append(seconds(step))
    for name, own in found.items():
        print(f"{name}: {count / median(own):,.0f} images per CPU second")


if __name__ == "__main__":
    main()
