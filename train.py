"""Train a tokenizer: ``python train.py [group=choice] [key=value] ...``; see ``configs/train.yaml``."""

import hydra
from omegaconf import DictConfig

from vistok.entry import start_training


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(config: DictConfig) -> None:
    start_training(config)


if __name__ == "__main__":
    main()
