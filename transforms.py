"""What happens to an image and its mask: ``from transforms import TrainTransform``.

A door. ``segrecipes/data/augment.py`` augments uint8 arrays in the workers, ``segrecipes/data/normalize.py``
normalises batches on the device, ``segrecipes/evaluation/protocols.py`` has what an evaluation shows of an image.
"""

from segrecipes.data.augment import TrainTransform
from segrecipes.data.normalize import IMAGENET_CHANNEL_MEAN, IMAGENET_CHANNEL_STD, normalize

__all__ = ['IMAGENET_CHANNEL_MEAN', 'IMAGENET_CHANNEL_STD', 'TrainTransform', 'normalize']
