"""Paired augmentation of an image and its classes on uint8 arrays."""

import zlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from segrecipes.data.channels import by_channels
from segrecipes.data.further import Further
from segrecipes.data.normalize import statistics
from segrecipes.datasets.row import IGNORED

_GRAY = np.array([0.299, 0.587, 0.114])  # ITU-R 601 luma, as PIL and torchvision have it
_RGB_TO_YIQ = np.array([_GRAY, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_YIQ_TO_RGB = np.linalg.inv(_RGB_TO_YIQ)

cv2.setNumThreads(0)  # the dataloader's workers are the parallelism


def sample_rng(seed: int, epoch: int, uid: str) -> np.random.Generator:
    """The generator of one sample in one epoch: the same on any worker, rank, storage or resumed run."""
    return np.random.default_rng((seed, epoch, zlib.crc32(uid.encode())))


@dataclass(frozen=True)
class Geometry:
    """Where a crop lies: the image is resized to ``resized``, padded by ``pad``, cropped at ``offset``, maybe flipped.

    All pairs are (y, x) in pixels of the resized image, which is turned counterclockwise around the crop's centre by
    ``angle`` degrees.
    """

    resized: tuple[int, int]
    offset: tuple[int, int]
    pad: tuple[int, int]
    flip: bool
    angle: float = 0.0


@dataclass(frozen=True)
class TrainTransform:
    """Random scale, crop, flip and photometric change, as MosaicML's recipe has them.

    The side that scales is ``base_size`` times a uniform draw of ``min_resize_scale … max_resize_scale``: both sides
    (upstream's square) or, with ``keep_ratio``, the short one, the long one at most four times ``base_size``
    (mmsegmentation's (2048, 512)). A crop in which one class has more than ``max_class_share`` of the labelled pixels
    is drawn again, up to ``crop_retries`` times; with 1 the first stands.

    What is off by default: a turn by up to ``rotation`` degrees either way, a Gaussian blur of up to ``blur_sigma``
    pixels, turns by right angles and vertical flips, and last ``albumentations``, the specs of :class:`Further`. What
    is off draws nothing, so the others draw what they drew without it.
    """

    base_size: int = 512
    final_size: int = 512
    min_resize_scale: float = 0.5
    max_resize_scale: float = 2.0
    keep_ratio: bool = False
    max_class_share: float = 0.75
    crop_retries: int = 10
    flip_probability: float = 0.5
    brightness: float = 32 / 255
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 18 / 255
    vertical_flip_probability: float = 0.0
    right_angle_turns: bool = False
    rotation: float = 0.0
    blur_probability: float = 0.0
    blur_sigma: float = 2.0
    albumentations: list[Any] = field(default_factory=list)

    def __call__(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, C) uint8 and (H, W) uint8 → the same at ``final_size``; padding is the mean colour and 255."""
        geometry = self.draw_geometry(mask, rng)
        image, mask = warp(image, mask, geometry, self.final_size)
        image = self.recolor(image, rng)
        if self.blur_probability and rng.random() < self.blur_probability:
            sigma = rng.uniform(0.1, max(0.1, self.blur_sigma))
            image = by_channels(lambda part: cv2.GaussianBlur(part, (0, 0), sigma), image)
        fill_padding(image, mask, geometry)
        if self.right_angle_turns:
            turns = int(rng.integers(4))
            image, mask = np.rot90(image, turns), np.rot90(mask, turns)
        if self.vertical_flip_probability and rng.random() < self.vertical_flip_probability:
            image, mask = image[::-1], mask[::-1]
        image, mask = np.ascontiguousarray(image), np.ascontiguousarray(mask)
        return self._further(image, mask, rng) if self.albumentations else (image, mask)

    @cached_property
    def _further(self) -> Further:
        return Further(self.albumentations)

    def draw_geometry(self, mask: np.ndarray, rng: np.random.Generator) -> Geometry:
        height, width = mask.shape
        side = self.base_size * rng.uniform(self.min_resize_scale, self.max_resize_scale)
        if self.keep_ratio:
            ratio = min(side / min(height, width), 4 * side / max(height, width))
            resized = max(1, round(height * ratio)), max(1, round(width * ratio))
        else:
            resized = max(1, round(side)), max(1, round(side))
        room = max(0, resized[0] - self.final_size), max(0, resized[1] - self.final_size)
        pad = max(0, self.final_size - resized[0]) // 2, max(0, self.final_size - resized[1]) // 2
        offset = 0, 0
        for _ in range(self.crop_retries):
            offset = int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))
            if room == (0, 0) or self.max_class_share >= 1 or self._is_varied(mask, resized, offset):
                break
        flip = bool(rng.random() < self.flip_probability)
        return Geometry(
            resized, offset, pad, flip, rng.uniform(-self.rotation, self.rotation) if self.rotation else 0.0
        )

    def _is_varied(self, mask: np.ndarray, resized: tuple[int, int], offset: tuple[int, int]) -> bool:
        """Whether no class fills the crop. Looks at about 64×64 of its pixels, in the mask's own resolution."""
        start = [offset[i] * mask.shape[i] // resized[i] for i in (0, 1)]
        stop = [-(-min(offset[i] + self.final_size, resized[i]) * mask.shape[i] // resized[i]) for i in (0, 1)]
        step = [max(1, (stop[i] - start[i]) // 64) for i in (0, 1)]
        crop = mask[start[0] : stop[0] : step[0], start[1] : stop[1] : step[1]]
        counts = np.bincount(crop.ravel(), minlength=256)
        counts[IGNORED] = 0
        return 0 < counts.max() < self.max_class_share * counts.sum()

    def recolor(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The photometric change of (H, W, C) uint8; of others than RGB brightness and contrast alone."""
        if image.shape[2] == 3:
            return cv2.transform(image, self.draw_photometric(np.array(cv2.mean(image[::8, ::8])[:3]), rng))
        gain, shift = self.draw_gain(float(image[::8, ::8].mean()), rng)
        return np.rint(gain * np.arange(256) + shift).clip(0, 255).astype(np.uint8)[image]

    def draw_gain(self, mean: float, rng: np.random.Generator) -> tuple[float, float]:
        """Brightness and contrast, in either order, each with probability 0.5, as a factor and what is added."""
        gain, shift = 1.0, 0.0
        for step in ('brightness', 'contrast') if rng.random() < 0.5 else ('contrast', 'brightness'):
            if rng.random() < 0.5:
                continue
            amount = rng.uniform(-1, 1) * getattr(self, step)
            offset = -amount * (gain * mean + shift) if step == 'contrast' else 0.0
            gain, shift = (1 + amount) * gain, (1 + amount) * shift + offset
        return gain, shift

    def draw_photometric(self, mean_rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Brightness, contrast, saturation and hue, each with probability 0.5, as one affine map of RGB: (3, 4).

        Each step is linear in the pixel (contrast blends with the image's mean grey, saturation with the pixel's own,
        hue turns around the grey axis), so the chain is one matrix. Contrast comes first or last, as in SSD
        (https://arxiv.org/abs/1512.02325).
        """
        matrix, shift = np.eye(3), np.zeros(3)
        steps = ['brightness', 'saturation', 'hue']
        steps.insert(1 if rng.random() < 0.5 else 3, 'contrast')
        for step in steps:
            if rng.random() < 0.5:
                continue
            amount = rng.uniform(-1, 1) * getattr(self, step)
            if step == 'brightness':
                change, offset = (1 + amount) * np.eye(3), 0.0
            elif step == 'contrast':
                change, offset = (1 + amount) * np.eye(3), -amount * (_GRAY @ (matrix @ mean_rgb + shift))
            elif step == 'saturation':
                change, offset = (1 + amount) * np.eye(3) - amount * np.outer(np.ones(3), _GRAY), 0.0
            else:
                cos, sin = np.cos(2 * np.pi * amount), np.sin(2 * np.pi * amount)
                change = _YIQ_TO_RGB @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ _RGB_TO_YIQ
                offset = 0.0
            matrix, shift = change @ matrix, change @ shift + offset
        return np.column_stack([matrix, shift])


def warp(image: np.ndarray, mask: np.ndarray, geometry: Geometry, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Resize, crop and flip in one step: only the ``size``² output pixels are ever computed.

    The image is sampled bilinearly, the mask by its nearest pixel, both through the same map. Where the image shrinks
    more than twofold it is first averaged over whole blocks, against aliasing.
    """
    height, width = mask.shape
    shrink = min(height // geometry.resized[0], width // geometry.resized[1])
    if shrink >= 2:
        smaller = width // shrink, height // shrink
        image = by_channels(lambda part: cv2.resize(part, smaller, interpolation=cv2.INTER_AREA), image)
    is_rgb, source_map = image.shape[2] == 3, _source_map(image.shape, geometry, size)
    if is_rgb:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)  # OpenCV warps four channels in half the time of three
    image = by_channels(
        lambda part: cv2.warpAffine(part, source_map, (size, size), flags=_LINEAR, borderMode=_EDGE), image
    )
    mask = cv2.warpAffine(mask, _source_map(mask.shape, geometry, size), (size, size), flags=_NEAREST, borderMode=_EDGE)
    return cv2.cvtColor(image, cv2.COLOR_RGBA2RGB) if is_rgb else image, mask


_LINEAR = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
_NEAREST = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
_EDGE = cv2.BORDER_REPLICATE


def _source_map(shape: tuple[int, ...], geometry: Geometry, size: int) -> np.ndarray:
    """(2, 3) affine map from an output pixel (x, y) to the source's; pixel centres are at half integers."""
    scale_y, scale_x = shape[0] / geometry.resized[0], shape[1] / geometry.resized[1]
    first_y = scale_y * (0.5 + geometry.offset[0] - geometry.pad[0]) - 0.5
    first_x = scale_x * (0.5 + geometry.offset[1] - geometry.pad[1]) - 0.5
    if geometry.flip:
        first_x, scale_x = first_x + scale_x * (size - 1), -scale_x
    matrix = np.array([[scale_x, 0, first_x], [0, scale_y, first_y]])
    return matrix @ _turn(geometry.angle, size) if geometry.angle else matrix


def _turn(angle: float, size: int) -> np.ndarray:
    """(3, 3) map from a pixel (x, y) of a crop to where it was before the crop's content turned around its centre."""
    cos, sin, center = np.cos(np.radians(angle)), np.sin(np.radians(angle)), (size - 1) / 2
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    shift = np.array([[1, 0, center], [0, 1, center], [0, 0, 1]])
    return shift @ turn @ np.linalg.inv(shift)


def squared(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) and (H, W) uint8 → both as a square around them; what is added is the mean colour, and ignored."""
    height, width = mask.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    border = top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT
    around = np.full((side, side, image.shape[2]), np.round(statistics(image.shape[2])[0]), np.uint8)
    around[top : top + height, left : left + width] = image
    return around, cv2.copyMakeBorder(mask, *border, value=(IGNORED,))


def fill_padding(image: np.ndarray, mask: np.ndarray, geometry: Geometry) -> None:
    """Overwrite, in place, what lies outside the resized image."""
    for outside in _outside(geometry, mask.shape[0]):
        image[outside] = np.round(statistics(image.shape[2])[0])
        mask[outside] = IGNORED


def _outside(geometry: Geometry, size: int) -> list[Any]:
    """Indices of a crop's pixels outside the resized image: four slices or, of a turned one, a (size, size) mask."""
    top, left = (geometry.pad[i] - geometry.offset[i] for i in (0, 1))
    bottom, right = top + geometry.resized[0], left + geometry.resized[1]
    if geometry.flip:
        left, right = size - right, size - left
    if not geometry.angle:
        top, left, bottom, right = (min(size, max(0, edge)) for edge in (top, left, bottom, right))
        return [np.s_[:top], np.s_[bottom:], np.s_[:, :left], np.s_[:, right:]]
    x, y = np.arange(size), np.arange(size)[:, None]
    (xx, xy, x0), (yx, yy, y0), _ = _turn(geometry.angle, size)
    x, y = xx * x + xy * y + x0, yx * x + yy * y + y0
    return [(y < top - 0.5) | (y >= bottom - 0.5) | (x < left - 0.5) | (x >= right - 0.5)]
