"""Training from Python code or a notebook, with the arguments of ``train.py``."""

import copy
from pathlib import Path

from vistok.configuration import composed
from vistok.training import run, run_folder
from vistok.training.run_name import run_name


def train(*overrides: str) -> Path:
    """Trains as ``python train.py OVERRIDES`` does.

    Args:
        overrides: Arguments of the command line, such as ``"data=folder"`` and ``"data.root=photos"``.

    Returns:
        Folder of the run, which ``vistok.load`` reads: ``run.dir``, that of a resumed run, or a new
        ``runs/NAME/TIME``, named as by ``train.py``.

    Raises:
        ValueError: As for ``train.py``; the message names the argument.
    """
    config = composed("train", *overrides)
    named = copy.deepcopy(config)
    named.run.name = run_name(config, overrides)
    folder = run_folder.existing_folder(named)
    if folder is None:
        folder = Path(config.run.dir or run_folder.new_folder(named))
        config.run.dir = str(folder)
    run.train(config, list(overrides))
    return folder
