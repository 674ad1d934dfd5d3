"""Every protocol of eval.py against its original evaluator, on image files of mixed kinds.

    PYTHONPATH=tokenizers:REFERENCES python benchmarks/evaluators/compare.py --photos kodak24-lossless.tar

The originals are in ``originals.py``, which imports nothing of vistok. REFERENCES is a folder with what they need:
``pip install --target REFERENCES albumentations clean-fid opencv-python-headless piq pyiqa``. Networks have random
weights from files. The exit status is 1 if a number differs by more than 1e-3 (Fréchet distances) or 1e-5 of it.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import hydra
import originals
import torch
from pictures import photos_in, write_pictures
from weights import write_weights

import vistok
from vistok.evaluation import evaluate

CONFIGS = Path(__file__).parent.parent.parent / "configs"
TOLERANCE = {"rfid": 1e-3, "sfid": 1e-3}  # relative
OTHERS = 1e-5
RESIZED = {"llamagen": originals.llamagen, "fvq": originals.fvq}  # have --image-size-eval
EVALUATORS = {
    name: getattr(originals, name)
    for name in ("canonical", "llamagen", "openmagvit2", "ibq", "titok", "fvq", "vqgan_lc")
}


def scored(options: argparse.Namespace, root: Path, weights: dict[str, Path], size: int, *changes: str) -> dict:
    """The metrics of eval.py by protocol."""
    output = options.folder / f"ours_{size}.json"
    for path in output.parent.glob(f"{output.stem}.*"):
        path.unlink()
    overrides = [
        f"tokenizer={options.tokenizer}",
        f"data.root={root}",
        f"data.image_size={size}",
        "data.batch_size=8",
        "data.num_workers=0",
        f"metrics.lpips.alex={weights['alex']}",
        f"metrics.lpips.vgg={weights['vgg']}",
        f"feature_network.weights={weights['inception']}",
        f"run.out={output}",
        *changes,
    ]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose("eval", overrides=overrides)
    report = evaluate.evaluate(config)
    return {own["protocol"]: own["metrics"] for own in report["scores"]}


def ours(metrics: dict[str, float], name: str) -> float:
    """Number of eval.py for a name of the originals: networks with other weights carry their hash."""
    known = {"rfid": "frechet_inception", "sfid": "frechet_spatial_inception"}
    prefix = known.get(name.partition("_of_")[0], name)
    return metrics[name] if name in metrics else next(own for key, own in metrics.items() if key.startswith(prefix))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="tar file of photos")
    parser.add_argument("--count", type=int, default=64, help="number of image files")
    parser.add_argument("--size", type=int, default=256, help="side of the crops in pixels")
    parser.add_argument("--protocols", nargs="+", default=list(EVALUATORS), help="protocols to compare")
    parser.add_argument("--resized", action="store_true", help="reconstruct at 3/2 of the size, and resize")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/evaluators"), help="place of all files")
    parser.add_argument("--tokenizer", default=str(Path(vistok.__file__).parent / "formats" / "sample"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    root = options.folder / "pictures"
    shutil.rmtree(root, ignore_errors=True)
    write_pictures(photos_in(options.photos), root, options.count)
    weights = write_weights(options.folder / "weights")
    tokenizer = vistok.load(options.tokenizer).eval()
    model = torch.inference_mode()(lambda images: tokenizer.reconstruct(images)[0])
    chosen = [name for name in options.protocols if name in (RESIZED if options.resized else EVALUATORS)]
    size = 3 * options.size // 2 if options.resized else options.size
    changes = [f"protocol=[{','.join(chosen)}]"]
    changes += [f"protocol.{name}.size={options.size}" for name in chosen if options.resized]
    measured = scored(options, root, weights, size, *changes)
    rows, failed = [], False
    for name in chosen:
        arguments = (size, options.size) if options.resized else (size,)
        for metric, theirs in EVALUATORS[name](root, model, weights, *arguments).items():
            own = ours(measured[name], metric)
            difference = abs(own / theirs - 1)
            stated = "_of_" in metric  # a deviation that the protocol's page states
            failed |= not stated and not difference <= TOLERANCE.get(metric, OTHERS)
            rows.append({"protocol": name, "metric": metric, "ours": own, "theirs": theirs, "difference": difference})
            print(f"{name:12} {metric:24} {own:14.8g} {theirs:14.8g} {difference:9.1e}{' stated' * stated}", flush=True)
    (options.folder / f"compared_{size}.json").write_text(json.dumps(rows, indent=1))
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
