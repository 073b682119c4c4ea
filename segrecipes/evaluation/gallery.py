"""The images to look at of an evaluation: the best, the worst, and always the same few others."""

import csv
import io
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from composer.utils import dist
from PIL import Image

from segrecipes.base.files import replaced, write_text
from segrecipes.base.palette import Color, indexed_png
from segrecipes.base.run_files import IMAGE_SCORES, IMAGES, PICTURES
from segrecipes.datasets.row import IGNORED
from segrecipes.evaluation.scores import defined, figure

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
LONG_SIDE = 1024  # pixels of a picture; larger ones are only shrunk again where they are shown


class Picture(NamedTuple):
    """An image, (H, W, 3) uint8, with its truth and prediction, (H, W) uint8; 255 is ignored."""

    uid: str
    mean_iou: float  # percent, NaN without a labelled pixel
    pixel_accuracy: float
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


# A group is those that come first by its key, of an image's mean IoU and uid. "sample" is a choice by name: the same
# in every evaluation and run.
GROUPS: dict[str, Callable[[float, str], tuple[float, str]]] = {
    'best': lambda mean_iou, uid: (-mean_iou, uid),
    'worst': lambda mean_iou, uid: (mean_iou, uid),
    'sample': lambda mean_iou, uid: (zlib.crc32(uid.encode()), uid),
}


class Gallery:
    """Is told of every image of an evaluation, and keeps the scores of all and the pictures of a few.

    Args:
        per_group: pictures kept of each of ``GROUPS``.
    """

    def __init__(self, per_group: int = 6):
        self.per_group = per_group
        self.scores: dict[str, tuple[float, float]] = {}  # mean IoU and pixel accuracy by uid
        self.groups: dict[str, list[Picture]] = {name: [] for name in GROUPS}

    def add(self, uid: str, mean_iou: float, pixel_accuracy: float, load: Callable[[], Arrays]) -> None:
        """An image's scores in percent; ``load`` is called for the few whose pictures are kept.

        It returns the image, (h, w, 3) uint8, its truth and its prediction, (H, W) integers of -1 … C-1; -1 is ignored.
        """
        if uid in self.scores:  # a rank's last batch may be filled up with what another has
            return
        self.scores[uid] = mean_iou, pixel_accuracy
        if any(self._is_kept(name, mean_iou, uid) for name in GROUPS):
            self._keep(_shrunk(Picture(uid, mean_iou, pixel_accuracy, *load())))

    def gather(self) -> None:
        """Bring together what all ranks have; the same on each of them afterwards."""
        for scores, groups in dist.all_gather_object((self.scores, self.groups)):
            self.scores |= scores
            for picture in {picture.uid: picture for group in groups.values() for picture in group}.values():
                self._keep(picture)
        self.scores = dict(sorted(self.scores.items()))

    def _is_kept(self, name: str, mean_iou: float, uid: str) -> bool:
        group, key = self.groups[name], GROUPS[name]
        if np.isnan(key(mean_iou, uid)[0]) or uid in {kept.uid for kept in group}:
            return False
        return len(group) < self.per_group or (
            bool(group) and key(mean_iou, uid) < key(group[-1].mean_iou, group[-1].uid)
        )

    def _keep(self, picture: Picture) -> None:
        for name, key in GROUPS.items():
            if self._is_kept(name, picture.mean_iou, picture.uid):
                group = sorted([*self.groups[name], picture], key=lambda kept, key=key: key(kept.mean_iou, kept.uid))
                self.groups[name] = group[: self.per_group]

    def write(self, folder: Path, colors: Sequence[Color]) -> None:
        """``image_scores.csv`` of all images, ``images.json`` and ``images/`` of the pictures kept."""
        pictures = {picture.uid: picture for group in self.groups.values() for picture in group}
        entries, kept = [], set()
        for uid, picture in pictures.items():
            name = uid.replace('/', '_')
            files = {'image': f'{PICTURES}/{name}.jpg'}
            files |= {part: f'{PICTURES}/{name}-{part}.png' for part in ('truth', 'prediction')}
            with replaced(folder / files['image']) as partial:
                Image.fromarray(picture.image).save(partial, quality=90)
            for part in ('truth', 'prediction'):
                with replaced(folder / files[part]) as partial:
                    indexed_png(getattr(picture, part), colors).save(partial)
            groups = [group for group, members in self.groups.items() if uid in {member.uid for member in members}]
            scores = {'mean_iou': defined(picture.mean_iou), 'pixel_accuracy': defined(picture.pixel_accuracy)}
            entries.append({'uid': uid, 'groups': groups, **scores, **files})
            kept |= set(files.values())
        write_text(folder / IMAGES, json.dumps({'images': entries}, indent=1) + '\n')
        for stale in (folder / PICTURES).glob('*'):
            if f'{PICTURES}/{stale.name}' not in kept:
                stale.unlink()
        text = io.StringIO()
        rows = [(uid, *map(figure, pair)) for uid, pair in self.scores.items()]
        csv.writer(text).writerows([('uid', 'mean_iou', 'pixel_accuracy'), *rows])
        write_text(folder / IMAGE_SCORES, text.getvalue())


def _shrunk(picture: Picture) -> Picture:
    height, width = picture.truth.shape
    scale = min(1, LONG_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    truth, prediction = (
        cv2.resize(np.where(labels < 0, IGNORED, labels).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        for labels in (picture.truth, picture.prediction.astype(np.int16))
    )
    return picture._replace(
        image=cv2.resize(picture.image, size, interpolation=cv2.INTER_AREA), truth=truth, prediction=prediction
    )
