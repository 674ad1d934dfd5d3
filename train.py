"""Train a tokenizer: ``python train.py [group=choice] [key=value] ...``; see ``configs/train.yaml``."""

import sys

import hydra
from omegaconf import DictConfig

from vistok.commands.composition import start
from vistok.commands.train import start_training


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(config: DictConfig) -> None:
    start_training(config)


if __name__ == "__main__":
    start(main, sys.argv[1:], "train")
