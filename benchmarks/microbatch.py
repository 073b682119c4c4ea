"""What does splitting a batch into microbatches do to its gradient?

    python benchmarks/microbatch.py

A batch of 16 images, of which the first has no pixel ignored and the last nearly all, goes through the package's own
split, weights and loss, as Composer's trainer takes them, in 1, 2, 4, 8 and 16 microbatches. The network has no batch
norm, which would see the microbatches too. Reported is ‖gradient - gradient of the whole batch‖ / ‖that‖.
"""

import argparse
import math
from typing import Any

from bench import Benchmark, pin

import torch  # isort: skip
from composer.core import DataSpec
from torch import Tensor, nn

from segrecipes.data.batch import mean_weight, with_count
from segrecipes.data.normalize import to_network
from segrecipes.models.losses.segmentation import segmentation_loss

MICROBATCHES = (2, 4, 8, 16)
# What the loss is given; "by images" leaves out the batch's pixel count, and so weighs each microbatch by its images.
LOSSES: dict[str, dict[str, Any]] = {
    'CE, by labelled pixels (ours)': {'dice_weight': 0},
    "CE, by images (Composer's default)": {'dice_weight': 0, 'by_labelled': False},
    'Dice per image (dice_per: image)': {'cross_entropy_weight': 0, 'dice_weight': 1, 'dice_per': 'image'},
    'Dice per batch (dice_per: batch)': {'cross_entropy_weight': 0, 'dice_weight': 1},
    'recipe: 0.375 CE + 1.125 Dice per batch': {'cross_entropy_weight': 0.375, 'dice_weight': 1.125},
    'recipe, Dice per image': {'cross_entropy_weight': 0.375, 'dice_weight': 1.125, 'dice_per': 'image'},
    'Focal': {'cross_entropy_weight': 0, 'focal_weight': 1},
    'Lovász-softmax': {'cross_entropy_weight': 0, 'lovasz_weight': 1},
    'CE with class weights': {'class_weights': (0.1, 0.3, 1.0, 3.0, 0.2, 0.5, 2.0, 10.0)},
    'CE of hard pixels (OHEM)': {'ohem': (0.1, 1000)},
}

# Whatever the microbatch
EXACT = (
    'CE, by labelled pixels (ours)',
    'Dice per image (dice_per: image)',
    'Focal',
    'Lovász-softmax',
    'CE with class weights',
)


def make_batch(classes: int) -> tuple[Tensor, Tensor]:
    """(16, 3, 64, 64) uint8 images, classes of 8×8 blocks; ever more of them are ignored from image to image."""
    blocks = torch.randint(1, classes + 1, (16, 8, 8))
    pixels = torch.randint(256, (classes + 1, 3))[blocks].movedim(-1, 1)  # a colour for each class
    blocks[torch.rand(16, 8, 8) > torch.linspace(1, 0.03, 16).view(-1, 1, 1)] = 0
    images, masks = (blocks.repeat_interleave(8, -1).repeat_interleave(8, -2) for blocks in (pixels, blocks))
    return images.to(torch.uint8), masks.to(torch.uint8) - 1  # of the labels 0 … C the first is no class: 255


def gradient(network: nn.Module, batch: tuple[Tensor, Tensor], count: int, options: dict[str, Any]) -> Tensor:
    """Of all weights, in one vector; microbatches are weighed by their images, as the trainer does."""
    options = dict(options)
    by_labelled = options.pop('by_labelled', True)
    network.zero_grad()
    spec = DataSpec([], microbatch_transforms=to_network)
    images, classes, labelled = with_count(batch)
    if 'class_weights' in options:
        labelled = mean_weight(classes, options['class_weights'])
    for part in spec.split_batch((images, classes, labelled), math.ceil(len(batch[0]) / count)):
        images, labels, pixels = spec.microbatch_transforms(part)
        loss = segmentation_loss(
            network(images), labels, pixels_per_image=pixels[0] if by_labelled else None, **options
        )
        (loss['total'] * len(images) / len(batch[0])).backward()
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])  # type: ignore[union-attr]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=5, help='batches and networks drawn')
    args = parser.parse_args()
    pin(2)
    classes = 8
    bench = Benchmark('microbatch', 'The gradient of a batch in microbatches')
    table = bench.table('Relative difference of the gradient; the median is of 8 microbatches', unit='8 microbatches')
    exact = {}
    for name, options in LOSSES.items():
        differences: dict[int, list[float]] = {count: [] for count in MICROBATCHES}
        for seed in range(args.rounds):
            torch.manual_seed(seed)
            batch = make_batch(classes)
            network = nn.Sequential(
                nn.Conv2d(3, 16, 5, stride=4, padding=2), nn.Tanh(), nn.Conv2d(16, classes, 3, padding=1)
            )
            whole = gradient(network, batch, 1, options)
            for count in MICROBATCHES:
                parts = gradient(network, batch, count, options)
                differences[count].append(((parts - whole).norm() / whole.norm()).item())
        others = {f'{count}': sorted(differences[count])[args.rounds // 2] for count in MICROBATCHES if count != 8}
        table.add(name, differences[8], **others)
        exact[name] = max(max(values) for values in differences.values())
    for name in EXACT:
        bench.target(f'{name}: largest difference', exact[name], at_most=1e-6)
    bench.note('OHEM: a pixel whose probability is the limit to rounding is hard in one sum and not in another.')
    bench.note('Dice per image costs the same time and memory; it is another objective, which weighs images equally.')
    bench.finish()


if __name__ == '__main__':
    main()
