"""Score a tokenizer: ``python eval.py tokenizer=FOLDER data=folder data.root=DIR``; see ``configs/eval.yaml``."""

import sys

import hydra
from omegaconf import DictConfig

from vistok.commands.composition import start
from vistok.commands.eval import start_evaluation


@hydra.main(version_base="1.3", config_path="configs", config_name="eval")
def main(config: DictConfig) -> None:
    start_evaluation(config)


if __name__ == "__main__":
    start(main, sys.argv[1:], "eval")
