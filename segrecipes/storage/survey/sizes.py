"""How large pictures are, and the settings of a first run that suit them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from segrecipes.storage.decode import UNREADABLE
from segrecipes.storage.survey.pictures import spread

MOST_READ = 50
LARGEST = 512  # pixels of a side that a first run trains on
BATCH = 16
BATCHES = 10  # an epoch, for whose sake a small dataset has smaller ones
STRIDE = 32  # of the coarsest features: a crop is a multiple of it


@dataclass
class Sizes:
    """Of some images, by their headers: (width, height), PIL's modes, and what is wrong."""

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def short_side(self) -> int:
        """The median of the shorter sides."""
        sides = sorted(min(size) for size in self.sizes.elements())
        return sides[len(sides) // 2]


def read_sizes(root: Path, pairs: Mapping[str, str]) -> Sizes:
    """Those of at most ``MOST_READ`` images, each compared with its mask's."""
    found = Sizes()
    for name in spread([*pairs], MOST_READ):
        try:
            with Image.open(root / name) as image, Image.open(root / pairs[name]) as mask:
                found.sizes[image.size] += 1
                found.modes[image.mode] += 1
                if image.size != mask.size:
                    found.faults.append(f'{name} is {image.size}, its mask {mask.size} (width, height)')
        except UNREADABLE as error:
            found.faults.append(f'{name} or its mask is damaged: {error}')
    return found


def suggest(short_side: int, training: int, protocol: str) -> dict[str, Any]:
    """Keys of a run for images of that shorter side, ``training`` of them."""
    base = min(short_side, LARGEST)
    batch_size = 1 << (min(BATCH, max(training // BATCHES, 2)).bit_length() - 1)
    return {
        'eval_protocol': protocol,
        'train_dataset': {
            'base_size': base,
            'final_size': max(STRIDE, base // STRIDE * STRIDE),
            'keep_ratio': True,
            'batch_size': batch_size,
        },
        'eval_dataset': {'final_size': base},
    }
