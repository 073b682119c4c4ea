"""The keys of the augmentation: the fields of ``data.augment.TrainTransform`` that a config sets, and what is legal."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Key:
    """
    Args:
        says: what it does.
        legal: what its value must be, in words; empty where its type says all.
        is_legal: whether a value is.
    """

    says: str
    legal: str = ''
    is_legal: Callable[[Any], bool] = lambda value: True


POSITIVE = ('positive', lambda value: 0 < value < math.inf)
SHARE = ('0 … 1', lambda value: 0 <= value <= 1)

AUGMENTATION = {
    'base_size': Key('what the side is scaled by', *POSITIVE),
    'min_resize_scale': Key('of base_size', *POSITIVE),
    'max_resize_scale': Key('of base_size', *POSITIVE),
    'keep_ratio': Key('do not squash to a square first'),
    'final_size': Key('side of the crop', *POSITIVE),
    'max_class_share': Key(
        'a crop with more of one class is drawn again; 1 takes the first', 'above 0, at most 1', lambda v: 0 < v <= 1
    ),
    'flip_probability': Key('left to right', *SHARE),
    'vertical_flip_probability': Key('top to bottom, for pictures without an up', *SHARE),
    'right_angle_turns': Key('by 0, 90, 180 or 270 degrees, for pictures without an up'),
    'rotation': Key('by up to so many degrees either way', '0 … 180', lambda value: 0 <= value <= 180),
    'brightness': Key('by up to this share', *SHARE),
    'contrast': Key('by up to this share', *SHARE),
    'saturation': Key('by up to this share', *SHARE),
    'hue': Key('by up to this share of the circle', '0 … 0.5', lambda value: 0 <= value <= 0.5),
    'blur_probability': Key('of a Gaussian blur', *SHARE),
    'blur_sigma': Key('its largest standard deviation, in pixels', *POSITIVE),
    'albumentations': Key('further transforms, such as [{name: CLAHE, p: 0.2}]'),
}


def faults_of(values: Any, name_of: Callable[[str], str]) -> Iterator[str]:
    """What is wrong with the fields of ``values``; ``name_of`` says what the user calls a key."""
    for key, row in AUGMENTATION.items():
        if not row.is_legal(getattr(values, key)):
            yield f'{name_of(key)}={getattr(values, key)} must be {row.legal}'
    if values.min_resize_scale > values.max_resize_scale:
        yield f'{name_of("min_resize_scale")}={values.min_resize_scale} is above {name_of("max_resize_scale")}'
