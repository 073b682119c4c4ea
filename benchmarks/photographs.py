"""Photographs with masks for the benchmarks: ADE20K's own samples where they are at hand, else drawn scenes.

They may not be copied into the repository; what is written goes into folders that the caller removes.
"""

import argparse
import re
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from bench import ROOT
from PIL import Image

from segrecipes.datasets.synthetic.scenes import draw_scene
from segrecipes.datasets.table import DATASETS

FOLDER = ROOT.parent / 'shared' / 'data' / 'ade20k_samples' / 'sampleData'
WIDTH, HEIGHT = 683, 512  # of most photographs in ADE20K
JPEG_QUALITY = 75  # gives ADE20K's photographs back at the size of their files

Photograph = tuple[bytes, bytes]  # JPEG, PNG


def add_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--images', type=Path, default=FOLDER, help='folder with images/*.jpg and annotations/*.png')


def read(folder: Path) -> list[Photograph]:
    """The files of ``folder``, or three drawn scenes where it has none; the first is 683×512."""
    images = sorted(folder.glob('images/*.jpg'))
    masks = [folder / 'annotations' / f'{image.stem}.png' for image in images]
    return [(image.read_bytes(), mask.read_bytes()) for image, mask in zip(images, masks)] or [*map(draw, range(3))]


def describe(folder: Path) -> str:
    return "ADE20K's own samples" if any(folder.glob('images/*.jpg')) else 'drawn scenes, because --images has none'


def draw(seed: int) -> Photograph:
    """A scene with as much noise as gives it a photograph's bytes."""
    rng = np.random.default_rng(seed)
    image, mask = draw_scene(rng, HEIGHT)
    image = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    mask = cv2.resize(mask, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
    return encode((image + rng.normal(0, 7, image.shape)).clip(0, 255).astype(np.uint8), mask)


def encode(image: np.ndarray, mask: np.ndarray) -> Photograph:
    jpeg, png = BytesIO(), BytesIO()
    Image.fromarray(image).save(jpeg, 'JPEG', quality=JPEG_QUALITY)
    Image.fromarray(mask).save(png, 'PNG')
    return jpeg.getvalue(), png.getvalue()


def write_dataset(path: Path, photographs: list[Photograph], count: int) -> Path:
    """``count`` different training samples of 683×512 in ADE20K's layout: the photographs, shifted and mirrored."""
    decoded = [tuple(np.array(Image.open(BytesIO(file))) for file in photograph) for photograph in photographs]
    rng = np.random.default_rng(0)
    for index in range(count):
        image, mask = decoded[index % len(decoded)]
        height, width = (round(side * rng.uniform(0.9, 1)) for side in mask.shape)
        top, left = (int(rng.integers(room + 1)) for room in (mask.shape[0] - height, mask.shape[1] - width))
        window = np.s_[top : top + height, left : left + width]
        step = rng.choice((-1, 1))
        image = cv2.resize(image[window][:, ::step], (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
        mask = cv2.resize(mask[window][:, ::step], (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
        for file, data in zip(training_files(path, index), encode(image, mask)):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    return path


def link_dataset(path: Path, source: Path, count: int, times: int) -> Path:
    """``times`` as many samples as the ``count`` of ``source``, as hard links to its files."""
    for index in range(count * times):
        for file, original in zip(training_files(path, index), training_files(source, index % count)):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.hardlink_to(original)
    return path


def training_files(path: Path, index: int) -> tuple[Path, Path]:
    row = DATASETS['ade20k']
    image = row.splits['train'].images.replace('*', f'ADE_train_{index + 1:08}.jpg')
    return path / image, path / re.sub(*row.mask, image)
