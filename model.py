"""The network and its loss as one ComposerModel: ``from model import build_composer_deeplabv3``.

A door. ``segrecipes/models/`` has networks: ``architectures.py`` and ``backbones/table.py`` are their tables,
``losses/`` what they are trained by; ``segrecipes/training/tasks/`` makes a ComposerModel of them.
"""

from segrecipes.models.heads import published_init
from segrecipes.training.tasks.segmentation import SegmentationModel, build_model
from segrecipes.upstream import build_composer_deeplabv3

__all__ = ['SegmentationModel', 'build_composer_deeplabv3', 'build_model', 'published_init']
