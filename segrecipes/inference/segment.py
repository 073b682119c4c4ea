"""Many images through one network, and what is written of them."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from segrecipes.base.errors import UserError, unknown_name
from segrecipes.base.files import write_text
from segrecipes.data.channels import as_rgb
from segrecipes.evaluation.protocols import EvalProtocol
from segrecipes.evaluation.table import NAMES, USUAL, get_protocol
from segrecipes.inference.images import find_images, name_images, read_image
from segrecipes.inference.outputs import class_shares, shares_of, write
from segrecipes.inference.predictor import Predictor
from segrecipes.inference.raster import is_georeferenced, label_raster


def segment(
    predictor: Predictor,
    images: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    submission: bool = False,
    keep: bool = True,
    on_error: Callable[[str, Exception], None] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """The name of each image and its (H, W) uint8 class indices, one by one; see :func:`segrecipes.predict`.

    A GeoTIFF is labelled by windows in its own resolution, and its mask is one; without ``keep`` its labels are not in
    memory, and come as (0, 0).

    Raises:
        UserError: there are no such images, or ``out`` cannot be written; without ``on_error`` also an image that
            cannot be read.
    """
    named = name_images(find_images([str(image) for image in images]))
    if out is not None:
        try:
            Path(out).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f'out={out}: cannot be written ({error.strerror})') from error
    shares, failed = {}, {}
    for name, path in tqdm(named.items(), unit='image', disable=not sys.stderr.isatty()):
        try:
            label = label_map if is_georeferenced(path) else label_picture
            labels, shares[name] = label(predictor, path, name, out, submission, keep)
        except (UserError, OSError) as error:
            if on_error is None:
                raise error if isinstance(error, UserError) else UserError(f'{path}: {error}') from error
            failed[name] = str(error)
            on_error(name, error)
            continue
        yield name, labels
    if out is not None:
        settings = {'checkpoint': predictor.path, 'protocol': str(predictor.protocol)}
        found = json.dumps({**settings, 'images': shares, 'failed': failed}, indent=1)
        write_text(Path(out) / 'shares.json', found + '\n')


def label_picture(
    predictor: Predictor, path: Path, name: str, out: str | Path | None, submission: bool, keep: bool
) -> tuple[np.ndarray, dict[str, float]]:
    image = read_image(path, predictor.card.pixels)
    labels = predictor(image)
    if out is not None:
        write(Path(out), name, as_rgb(image), labels, predictor.card, submission)
    return labels, class_shares(labels, predictor.card.class_names)


def label_map(
    predictor: Predictor, path: Path, name: str, out: str | Path | None, submission: bool, keep: bool
) -> tuple[np.ndarray, dict[str, float]]:
    mask = None if out is None else Path(out) / f'masks/{name}.tif'
    labels, counts = label_raster(predictor, path, mask, keep)
    return labels, shares_of(counts, predictor.card.class_names)


def choose_protocol(
    name: str | None, size: int | None, usual_size: int, *, ms: bool = False, flip: bool = False
) -> EvalProtocol:
    """A row of the table, and what is added to it: six scales, the mirrored image."""
    if size is not None and size < 1:
        raise UserError(f'size={size} must be 1 or more pixels')
    name = name or USUAL
    if name not in NAMES:
        raise unknown_name('protocol', name, NAMES)
    protocol = get_protocol(name, size or usual_size)
    ratios = get_protocol('ade20k-ms').ratios
    if ms and protocol.ratios != ratios:
        protocol = replace(protocol, name=f'{protocol.name}+ms', ratios=ratios)
    if flip and not protocol.flip:
        protocol = replace(protocol, name=f'{protocol.name}+flip', flip=True)
    return protocol
