"""Train a tokenizer: ``python train.py [group=choice] [key=value] ...``; see ``configs/train.yaml``."""

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from vistok import cli


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(config: DictConfig) -> None:
    if config.estimate is not None:
        cli.run(cli.estimate, config)
    else:
        cli.run(cli.train, config, list(HydraConfig.get().overrides.task))


if __name__ == "__main__":
    main()
