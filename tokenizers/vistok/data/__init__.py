"""Images for training and evaluation."""

from vistok.data.image_folder import folder
from vistok.data.module import ImageDataModule
from vistok.data.sample import sample

__all__ = ["ImageDataModule", "folder", "sample"]
