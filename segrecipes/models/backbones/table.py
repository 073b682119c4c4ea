"""Backbones by name: one row each, of the function that builds it.

A backbone turns (B, 3, H, W) float images into a tuple of maps. ``channels`` and ``strides`` say of what width and at
which stride each of them is; nothing else is asked of it.
"""

from segrecipes.base.lazy import Lazy

TORCHVISION = (
    'resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152',
    'resnext50_32x4d', 'resnext101_32x8d', 'resnext101_64x4d',
    'wide_resnet50_2', 'wide_resnet101_2',
)  # fmt: skip

# Each takes the output stride
BACKBONES: dict[str, Lazy] = {
    **{name: Lazy('segrecipes.models.backbones.resnet:torchvision_resnet', (name,)) for name in TORCHVISION},
    **{f'resnetv1c{d}': Lazy('segrecipes.models.backbones.resnet:deep_stem_resnet', (d,)) for d in (18, 50, 101)},
}
