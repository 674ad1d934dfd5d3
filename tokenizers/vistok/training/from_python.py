"""Training from Python code or a notebook, with the arguments of ``train.py``."""

from datetime import datetime
from pathlib import Path

from vistok.configuration import composed
from vistok.training import run, run_folder


def train(*overrides: str) -> Path:
    """Trains as ``python train.py OVERRIDES`` does.

    Args:
        overrides: Arguments of the command line, such as ``"data=folder"`` and ``"data.root=photos"``.

    Returns:
        Folder of the run, which ``vistok.load`` reads: ``run.dir``, that of a resumed run, or a new
        ``runs/python/TIME``.

    Raises:
        ValueError: As for ``train.py``; the message names the argument.
    """
    config = composed("train", *overrides)
    if config.run.dir is None and not config.run.resume:
        time = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        config.run.dir = str(Path("runs") / "python" / time)
    folder = run_folder.existing_folder(config) or Path(str(config.run.dir))
    run.train(config, list(overrides))
    return folder
