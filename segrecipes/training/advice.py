"""What is said before a training whose batches do not fit the dataset or the machine."""

from collections.abc import Mapping
from typing import Any

from composer.utils import dist

from segrecipes.config.schema import Config

FEW_BATCHES = 10  # an epoch
ENOUGH_BATCHES = 16  # that the suggested size gives
CPU_PIXELS = 2**20  # of a batch; 16 crops of 256², with a ResNet-18 some seconds on a few cores
CPU_SETTINGS = {'batch_size': 8, 'final_size': 192}
SMALL_BACKBONE = 'resnet18'


def advice(cfg: Config, images: int, device: str) -> list[str]:
    """A sentence on each.

    Args:
        images: of the training split.
        device: Composer's name of it.
    """
    dataset, ranks = cfg.train_dataset, dist.get_world_size()
    said, size = [], fitting_batch(images, ranks)
    batches = images // dataset.batch_size if dataset.drop_last else -(-images // dataset.batch_size)
    if batches < FEW_BATCHES and size < dataset.batch_size:
        said.append(
            f'{images} training images give {batches} {"batch" if batches == 1 else "batches"} an epoch; '
            f'train_dataset.batch_size={size} gives {images // size}'
            f'{lr_in_proportion(cfg.optimizer, size / dataset.batch_size)}.'
        )
    if device == 'cpu' and dataset.batch_size // ranks * dataset.final_size**2 > CPU_PIXELS:
        smaller = [
            f'train_dataset.{key}={value}' for key, value in CPU_SETTINGS.items() if getattr(dataset, key) > value
        ]
        smaller += [] if cfg.model.backbone_arch == SMALL_BACKBONE else [f'model.backbone_arch={SMALL_BACKBONE}']
        said.append(
            f'A batch of {dataset.batch_size // ranks} crops of {dataset.final_size}×{dataset.final_size} takes a CPU '
            f'long; of its size would be {" ".join(smaller)}.'
        )
    return said


def fitting_batch(images: int, ranks: int) -> int:
    """A power of two for each rank, four or more for batch norm, of which an epoch has enough."""
    each = max(4, images // (ENOUGH_BATCHES * ranks))
    return ranks * 2 ** (each.bit_length() - 1)


def lr_in_proportion(optimizer: Mapping[str, Any], factor: float) -> str:
    lr = optimizer.get('lr')
    return '' if lr is None else f', with optimizer.lr={lr * factor:.2g} in proportion'
