"""torch.export's programs, which need this package no longer; loading one may run any code in it."""

import json
import zipfile
from pathlib import Path

import torch

from segrecipes.checkpoints.card import CARD, ModelCard
from segrecipes.checkpoints.formats.function import DYNAMIC_AXES, Run, on_cpu, readable, traced_with
from segrecipes.models.network import SegmentationNetwork


def save(network: SegmentationNetwork, card: ModelCard, path: Path) -> None:
    dynamic = dict.fromkeys(DYNAMIC_AXES, torch.export.Dim.AUTO)
    program = torch.export.export(network, (traced_with(card),), dynamic_shapes=(dynamic,), strict=False)
    # Shape analysis tells a side of 1 from others, as that would broadcast, and so refuses images on which a feature
    # map is 1 pixel high or wide. The operators take those too: 2 is what torch has for a size without lower bound.
    for symbol, sizes in program.range_constraints.items():
        program.range_constraints[symbol] = type(sizes)(2, sizes.upper)
    # torch 2.9 and later also hold images to what was true of the traced sizes, such as the parity of a feature map,
    # by a check that is made from the example.
    program.example_inputs = None
    torch.export.save(program, path, extra_files={f'{CARD}.json': json.dumps(card.to_dict())})


def load(path: Path) -> Run:
    with readable(path):
        return on_cpu(torch.export.load(path).module())


def read_card(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:  # torch.export.load would run what is in the file
        if min((entry.header_offset for entry in archive.infolist()), default=0) > 0:
            raise zipfile.BadZipFile('its end is missing')  # found is the end of an archive inside it
        names = [name for name in archive.namelist() if name.endswith(f'/{CARD}.json')]
        return archive.read(names[0]).decode() if names else None
