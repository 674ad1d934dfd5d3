"""Image data for training and evaluation."""

from vistok.data.data_module import ImageDataModule
from vistok.data.image_folder import folder
from vistok.data.sample import sample
from vistok.data.shards import ShardDataModule, shards

__all__ = ["ImageDataModule", "ShardDataModule", "folder", "sample", "shards"]
