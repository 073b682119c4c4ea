import colorsys
from dataclasses import asdict, fields, replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from segrecipes.config.augmentation import AUGMENTATION
from segrecipes.config.schema import DatasetConfig
from segrecipes.data.augment import Geometry, TrainTransform, fill_padding, sample_rng, warp
from segrecipes.data.normalize import IMAGENET_CHANNEL_MEAN, to_network
from segrecipes.datasets.row import IGNORED
from segrecipes.evaluation.table import get_protocol

MEAN_COLOUR = (124, 116, 104)  # 255 · (0.485, 0.456, 0.406), rounded
PLAIN = partial(TrainTransform, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)


def smooth_image(height: int, width: int, seed: int = 0, detail: int = 8) -> np.ndarray:
    """Something that differs from its mirror images and has no detail finer than that many pixels."""
    shape = max(2, height // detail), max(2, width // detail), 3
    grid = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)


def patchy_mask(height: int, width: int, seed: int = 0, labels: int = 200) -> np.ndarray:
    grid = np.random.default_rng(seed + 1).integers(0, labels, (max(1, height // 16), max(1, width // 16)))
    rows, columns = (np.arange(n) * k // n for n, k in zip((height, width), grid.shape))
    return grid[rows][:, columns].astype(np.uint8)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class Script:
    """A generator whose draws are given: ``random`` in this order, ``uniform`` at this share of its range."""

    def __init__(self, *randoms: float, share: float = 0.5):
        self.randoms = [*randoms]
        self.share = share

    def random(self) -> float:
        return self.randoms.pop(0)

    def uniform(self, low: float, high: float) -> float:
        return low + self.share * (high - low)


class TestSampleRng:
    def draw(self, *key) -> list[float]:
        return sample_rng(*key).random(8).tolist()

    def test_depends_on_seed_epoch_and_uid(self) -> None:
        keys = [(seed, epoch, uid) for seed in range(3) for epoch in range(3) for uid in ('a', 'b', '00000001')]
        assert len({tuple(self.draw(*key)) for key in keys}) == len(keys)

    def test_depends_on_nothing_else(self) -> None:
        first = self.draw(1, 2, 'a')
        np.random.seed(5)
        torch.manual_seed(5)
        np.random.random(3)
        self.draw(1, 2, 'b')
        assert self.draw(1, 2, 'a') == first

    def test_is_the_same_in_every_process_and_release(self) -> None:
        assert self.draw(17, 0, 'ADE') == np.random.default_rng((17, 0, 0x1CBA01FB)).random(8).tolist()


def resize_linear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, pixel centres at half integers, without antialiasing, in float."""

    def along(length: int, source: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        position = np.clip((np.arange(length) + 0.5) * source / length - 0.5, 0, source - 1)
        low = position.astype(int)
        return low, np.minimum(low + 1, source - 1), position - low

    top, bottom, y = along(height, image.shape[0])
    left, right, x = along(width, image.shape[1])
    x, y = x[None, :, None], y[:, None, None]
    rows = image[top] * (1 - y) + image[bottom] * y
    return rows[:, left] * (1 - x) + rows[:, right] * x


def resize_nearest(mask: np.ndarray, height: int, width: int, nudge: tuple[float, float]) -> np.ndarray:
    rows, columns = (
        np.clip((np.arange(n) + 0.5) * k / n + nudge[i], 0, k - 1).astype(int)
        for i, (n, k) in enumerate(zip((height, width), mask.shape))
    )
    return mask[rows][:, columns]


def place(array: np.ndarray, geometry: Geometry, size: int, fill: float | tuple[int, ...]) -> np.ndarray:
    """Crop, pad and flip what was resized as a whole."""
    output = np.empty((size, size, *array.shape[2:]), float)
    output[:] = fill
    crop = array[geometry.offset[0] :, geometry.offset[1] :][: size - geometry.pad[0], : size - geometry.pad[1]]
    output[geometry.pad[0] :, geometry.pad[1] :][: len(crop), : crop.shape[1]] = crop
    return output[:, ::-1] if geometry.flip else output


def assert_equals_slow_reference(image: np.ndarray, mask: np.ndarray, geometry: Geometry, size: int) -> None:
    expected_image = place(resize_linear(image, *geometry.resized), geometry, size, MEAN_COLOUR)
    # Where an output pixel lies exactly between two of the mask either is right.
    nudges = [(y, x) for y in (-1e-3, 1e-3) for x in (-1e-3, 1e-3)]
    expected_masks = [place(resize_nearest(mask, *geometry.resized, nudge), geometry, size, 255) for nudge in nudges]
    before = image.copy(), mask.copy()
    warped_image, warped_mask = warp(image, mask, geometry, size)
    fill_padding(warped_image, warped_mask, geometry)
    np.testing.assert_array_equal(image, before[0])  # the dataset's own array is left alone
    np.testing.assert_array_equal(mask, before[1])
    assert (warped_image.shape, warped_image.dtype) == ((size, size, 3), np.uint8)
    assert (warped_mask.shape, warped_mask.dtype) == ((size, size), np.uint8)
    assert np.abs(warped_image - expected_image).mean() < 1.5
    assert np.any([warped_mask == expected for expected in expected_masks], axis=0).mean() >= 0.995
    padding = place(np.zeros(geometry.resized), geometry, size, 1) == 1
    assert (warped_mask[padding] == 255).all()
    assert (warped_image[padding] == MEAN_COLOUR).all()


def random_geometry(rng: np.random.Generator, size: int, resized: tuple[int, int]) -> Geometry:
    offset = [int(rng.integers(max(0, side - size) + 1)) for side in resized]
    pad = [max(0, size - side) // 2 for side in resized]
    return Geometry(resized, (offset[0], offset[1]), (pad[0], pad[1]), bool(rng.random() < 0.5))


@pytest.mark.parametrize('seed', range(40))
def test_warp_equals_resize_then_crop_pad_and_flip(seed) -> None:
    """Image and crop of any shape, resized to between half and three times its own size."""
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(60, 200, 2))
    size = int(rng.integers(40, 160))
    resized = round(height * rng.uniform(0.52, 3)), round(width * rng.uniform(0.52, 3))
    geometry = random_geometry(rng, size, resized)
    assert_equals_slow_reference(smooth_image(height, width, seed), patchy_mask(height, width, seed), geometry, size)


SIZES = {
    'identity': ((64, 64), (64, 64)),
    'twice as large': ((64, 64), (128, 128)),
    'crop inside': ((90, 70), (180, 140)),
    'padded all around': ((90, 70), (50, 39)),
    'smaller in one side, larger in the other': ((60, 120), (50, 110)),
    'larger in one side, smaller in the other': ((120, 60), (111, 51)),
    'one row': ((1, 80), (1, 100)),
    'one column': ((80, 1), (100, 1)),
    'one pixel': ((1, 1), (32, 32)),
    'to one row': ((1, 80), (70, 90)),
}


@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize(('shape', 'resized'), SIZES.values(), ids=SIZES)
def test_warp_at_the_edges(shape, resized, flip) -> None:
    size = 64
    offset = max(0, resized[0] - size), max(0, resized[1] - size)
    pad = max(0, size - resized[0]) // 2, max(0, size - resized[1]) // 2
    geometry = Geometry(resized, offset, pad, flip)
    assert_equals_slow_reference(smooth_image(*shape), patchy_mask(*shape), geometry, size)


@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('offset', [(0, 0), (3, 11)])
def test_warp_without_scaling_copies_pixels(flip, offset) -> None:
    image, mask = noise(50, 60), np.random.default_rng(1).integers(0, 256, (50, 60), dtype=np.uint8)
    warped_image, warped_mask = warp(image, mask, Geometry((50, 60), offset, (0, 0), flip), 40)
    crop = np.s_[offset[0] : offset[0] + 40, offset[1] : offset[1] + 40]
    step = -1 if flip else 1
    np.testing.assert_array_equal(warped_image, image[crop][:, ::step])
    np.testing.assert_array_equal(warped_mask, mask[crop][:, ::step])


@pytest.mark.parametrize('factor', [2, 3, 8])
def test_shrinking_averages_against_aliasing(factor) -> None:
    """A pixel of the output is the mean of its block; bilinear alone would look at four pixels of it."""
    image, mask = noise(32 * factor, 32 * factor), patchy_mask(32 * factor, 32 * factor)
    warped, _ = warp(image, mask, Geometry((32, 32), (0, 0), (0, 0), False), 32)
    means = image.reshape(32, factor, 32, factor, 3).mean(axis=(1, 3))
    assert np.abs(warped - means).max() <= 1


@pytest.mark.parametrize('resized', [90, 80, 68, 57])
def test_a_fine_pattern_turns_grey_at_broken_ratios(resized) -> None:
    """From 2.2 to 3.5 times: squares of a pixel each would else come out as larger squares."""
    squares = (np.indices((200, 200)).sum(axis=0) % 2 * 255).astype(np.uint8)
    image, mask = np.repeat(squares[..., None], 3, axis=2), patchy_mask(200, 200)
    warped, _ = warp(image, mask, Geometry((resized, resized), (0, 0), (0, 0), False), resized)
    assert warped[4:-4, 4:-4].std() < 5  # 41 without averaging


@pytest.mark.parametrize('resized', [(70, 60), (30, 31), (47, 20), (23, 100)])
def test_shrinking_stays_in_place(resized) -> None:
    """Sides that are no multiple of the blocks that are averaged."""
    image, mask = smooth_image(203, 189, detail=40), patchy_mask(203, 189)
    for seed in range(4):
        geometry = random_geometry(np.random.default_rng(seed), 48, resized)
        warped, _ = warp(image, mask, geometry, 48)
        fill_padding(warped, np.zeros((48, 48), np.uint8), geometry)
        expected = place(resize_linear(image, *resized), geometry, 48, MEAN_COLOUR)
        assert np.abs(warped - expected).mean() < 1.5


def test_the_published_settings_are_the_defaults() -> None:
    """MosaicML's example: 512, 0.5 to 2, crops of at most three quarters one class, SSD's photometric change."""
    assert asdict(TrainTransform()) == {
        'base_size': 512, 'final_size': 512, 'min_resize_scale': 0.5, 'max_resize_scale': 2.0, 'keep_ratio': False,
        'max_class_share': 0.75, 'crop_retries': 10, 'flip_probability': 0.5,
        'brightness': 32 / 255, 'contrast': 0.5, 'saturation': 0.5, 'hue': 18 / 255,
        'vertical_flip_probability': 0.0, 'right_angle_turns': False, 'rotation': 0.0,
        'blur_probability': 0.0, 'blur_sigma': 2.0, 'albumentations': [],
    }  # fmt: skip


def test_the_keys_of_a_config_are_its_fields() -> None:
    own = {field.name: field for field in fields(TrainTransform)}
    assert {*AUGMENTATION} == own.keys() - {'crop_retries'}
    assert {key: getattr(DatasetConfig(), key) for key in AUGMENTATION} == {
        key: getattr(TrainTransform(), key) for key in AUGMENTATION
    }


def colour_of(mask: np.ndarray) -> np.ndarray:
    return np.stack([mask, 255 - mask, mask // 2 + 40], axis=2).astype(np.uint8)


@pytest.mark.parametrize('keep_ratio', [False, True])
@pytest.mark.parametrize('seed', range(12))
def test_image_and_mask_stay_aligned(seed, keep_ratio) -> None:
    """The image is a function of the mask and must be the same function afterwards, but where patches meet."""
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(80, 260, 2))
    mask = patchy_mask(height, width, seed)
    image, mask = PLAIN(96, 80, keep_ratio=keep_ratio)(colour_of(mask), mask, rng)
    inside = mask != IGNORED
    assert inside.mean() > 0.2
    assert (image[~inside] == MEAN_COLOUR).all()
    kernel = np.ones((5, 5), np.uint8)
    interior = cv2.dilate(mask, kernel) == cv2.erode(mask, kernel, borderValue=0, borderType=cv2.BORDER_CONSTANT)
    interior &= inside
    assert interior.sum() > 50
    assert np.abs(image[interior].astype(int) - colour_of(mask)[interior]).max() <= 2


@pytest.mark.parametrize('shape', [(1, 1), (1, 300), (300, 1), (2, 700)])
@pytest.mark.parametrize('keep_ratio', [False, True])
def test_any_shape_gives_a_crop(shape, keep_ratio) -> None:
    image, mask = np.full((*shape, 3), 200, np.uint8), np.full(shape, 7, np.uint8)
    for seed in range(10):
        crop, labels = PLAIN(32, 48, keep_ratio=keep_ratio)(image, mask, np.random.default_rng(seed))
        assert crop.shape == (48, 48, 3) and labels.shape == (48, 48)
        assert (crop[labels == 7] == 200).all()
        assert set(np.unique(labels)) <= {7, 255} and (labels == 7).any()


class TestDrawGeometry:
    DRAWS = 2000

    def draws(self, transform: TrainTransform, mask: np.ndarray, count: int = DRAWS) -> list[Geometry]:
        rng = np.random.default_rng(0)
        return [transform.draw_geometry(mask, rng) for _ in range(count)]

    @staticmethod
    def assert_uniform(values: list[float], low: float, high: float, slack: float = 0.0) -> None:
        """Kolmogorov-Smirnov: 1.95/√n is passed by chance once in a thousand."""
        values = sorted(values)
        assert low - slack <= values[0] and values[-1] <= high + slack
        expected = (np.array(values) - low) / (high - low)
        distance = np.abs(expected - (np.arange(len(values)) + 0.5) / len(values)).max()
        assert distance < 1.95 / np.sqrt(len(values)) + slack / (high - low)

    @pytest.mark.parametrize(('low', 'high'), [(0.5, 2.0), (0.25, 0.75)])
    def test_square_scale_is_uniform(self, low, high) -> None:
        draws = self.draws(TrainTransform(1000, 512, low, high), patchy_mask(60, 90))
        assert all(draw.resized[0] == draw.resized[1] for draw in draws)
        self.assert_uniform([draw.resized[0] / 1000 for draw in draws], low, high, slack=0.001)

    @pytest.mark.parametrize('shape', [(600, 900), (900, 600), (500, 500)])
    def test_keep_ratio_scales_the_short_side(self, shape) -> None:
        draws = self.draws(TrainTransform(1000, 512, keep_ratio=True), patchy_mask(*shape), 1000)
        self.assert_uniform([min(draw.resized) / 1000 for draw in draws], 0.5, 2.0, slack=0.001)
        for draw in draws:
            assert draw.resized[0] / draw.resized[1] == pytest.approx(shape[0] / shape[1], rel=0.002)

    @pytest.mark.parametrize('shape', [(100, 1000), (1000, 100)])
    def test_keep_ratio_holds_the_long_side_at_four_times_the_base(self, shape) -> None:
        draws = self.draws(TrainTransform(64, 64, 1.0, 2.0, keep_ratio=True), patchy_mask(*shape), 200)
        longest = [max(draw.resized) / (4 * 64) for draw in draws]
        self.assert_uniform(longest, 1.0, 2.0, slack=0.003)
        assert all(max(draw.resized) == pytest.approx(10 * min(draw.resized), abs=6) for draw in draws)

    @pytest.mark.parametrize('probability', [0.0, 0.3, 0.5, 1.0])
    def test_flips_as_often_as_told(self, probability) -> None:
        draws = self.draws(TrainTransform(64, 64, flip_probability=probability), patchy_mask(60, 90))
        assert np.mean([draw.flip for draw in draws]) == pytest.approx(probability, abs=0.04 * (0 < probability < 1))

    def test_flips_about_half_by_default(self) -> None:
        draws = self.draws(TrainTransform(64, 64), patchy_mask(60, 90))
        assert 0.46 < np.mean([draw.flip for draw in draws]) < 0.54

    def test_offsets_cover_their_range_evenly(self) -> None:
        mask = np.random.default_rng(0).integers(1, 200, (80, 80), dtype=np.uint8)
        draws = self.draws(TrainTransform(80, 64, 1.0, 1.0), mask)
        for axis in (0, 1):
            counts = np.bincount([draw.offset[axis] for draw in draws])
            assert len(counts) == 17  # 0…16, both ends included
            assert counts.min() > 70 and counts.max() < 170  # 118 ± 10 each
        assert np.corrcoef([draw.offset for draw in draws], rowvar=False)[0, 1] == pytest.approx(0, abs=0.1)

    def test_a_small_image_is_padded_evenly(self) -> None:
        (draw,) = self.draws(TrainTransform(50, 71, 1.0, 1.0), patchy_mask(60, 90), 1)
        assert (draw.resized, draw.offset, draw.pad) == ((50, 50), (0, 0), (10, 10))

    def test_one_side_is_padded_and_the_other_cropped(self) -> None:
        draws = self.draws(TrainTransform(40, 64, 1.0, 1.0, keep_ratio=True), patchy_mask(60, 180), 200)
        assert {draw.pad for draw in draws} == {(12, 0)}
        assert {draw.offset[0] for draw in draws} == {0}
        assert {draw.offset[1] for draw in draws} <= set(range(57))
        assert len({draw.offset[1] for draw in draws}) > 35


class TestClassLimit:
    """Left three quarters one class, the right quarter of another one: few crops are mixed. Class 0 is a class."""

    @pytest.fixture(params=[5, 0])
    def mask(self, request: pytest.FixtureRequest) -> np.ndarray:
        mask = np.full((128, 128), request.param, np.uint8)
        mask[:, 96:] = 9
        return mask

    def shares(self, mask: np.ndarray, seed_count: int = 150, **options) -> np.ndarray:
        transform = PLAIN(128, 64, 1.0, 1.0, **options)
        shares = []
        for seed in range(seed_count):
            _, labels = transform(colour_of(mask), mask, np.random.default_rng(seed))
            counts = np.bincount(labels[labels != IGNORED], minlength=256)
            shares.append(counts.max() / max(1, counts.sum()))
        return np.array(shares)

    def test_crops_of_one_class_are_drawn_again(self, mask) -> None:
        """A quarter of the offsets is varied: of ten tries one finds it but in 0.75^10 = 6 % of the cases."""
        assert (self.shares(mask) >= 0.78).mean() < 0.12
        assert (self.shares(mask, crop_retries=1) >= 0.78).mean() > 0.6

    def test_the_limit_is_respected_where_enough_tries_are_given(self, mask) -> None:
        assert self.shares(mask, crop_retries=300).max() < 0.78  # counted on a sample of the pixels
        assert self.shares(mask, crop_retries=300, max_class_share=0.6).max() < 0.63

    def test_with_a_limit_of_one_the_first_crop_stands(self, mask) -> None:
        transforms = [PLAIN(128, 64, 1.0, 1.0, max_class_share=1.0), PLAIN(128, 64, 1.0, 1.0, crop_retries=1)]
        for seed in range(20):
            one, first = (each.draw_geometry(mask, np.random.default_rng(seed)).offset for each in transforms)
            assert one == first

    @pytest.mark.parametrize('scale', [0.75, 1.5, 2.0])
    def test_the_limit_is_of_the_crop_at_every_scale(self, mask, scale) -> None:
        """At twice the size a crop sees a quarter of the image, and its place is in pixels of the large one."""
        transform = PLAIN(128, 64, scale, scale, crop_retries=600)
        shares = []
        for seed in range(60):
            _, labels = transform(colour_of(mask), mask, np.random.default_rng(seed))
            shares.append(np.bincount(labels[labels != IGNORED], minlength=256).max() / (labels != IGNORED).sum())
        assert max(shares) < 0.79

    def test_unlabelled_pixels_make_no_crop_varied(self, mask) -> None:
        mask[:, :64] = IGNORED  # then 32 columns of each class
        shares = self.shares(mask, crop_retries=300)
        assert shares.min() >= 0.5 and shares.max() < 0.78

    @pytest.mark.parametrize('label', [0, 7, 255])
    def test_one_class_everywhere_still_gives_a_crop(self, label) -> None:
        mask = np.full((128, 128), label, np.uint8)
        draws = [PLAIN(128, 64, 1.0, 1.0).draw_geometry(mask, np.random.default_rng(seed)) for seed in range(200)]
        assert len({draw.offset for draw in draws}) > 150  # the last try stands, wherever it is


STEPS = {
    # the draws of TrainTransform.draw_photometric: contrast last (0.9), then one draw for each step, ≥ 0.5 is yes
    'brightness': ((0.9, 0.7, 0.2, 0.2, 0.2), tv.adjust_brightness, 'brightness'),
    'saturation': ((0.9, 0.2, 0.7, 0.2, 0.2), tv.adjust_saturation, 'saturation'),
    'contrast': ((0.9, 0.2, 0.2, 0.2, 0.7), tv.adjust_contrast, 'contrast'),
    'contrast after brightness': ((0.1, 0.2, 0.7, 0.2, 0.2), tv.adjust_contrast, 'contrast'),
}


def apply(matrix: np.ndarray, image: np.ndarray) -> np.ndarray:
    return image.astype(float) @ matrix[:, :3].T + matrix[:, 3]


class TestPhotometric:
    image = noise(24, 24) // 3 + 85  # 85…170: no step clips it
    strong = TrainTransform(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2)

    def matrix(self, *randoms: float, share: float = 0.5, transform: TrainTransform = strong) -> np.ndarray:
        script = Script(*randoms, share=share)
        matrix = transform.draw_photometric(self.image.mean(axis=(0, 1)), script)  # type: ignore[arg-type]
        assert matrix.shape == (3, 4) and not script.randoms
        return matrix

    @pytest.mark.parametrize('share', [0.0, 0.2, 0.5, 0.9, 1.0])
    @pytest.mark.parametrize(('randoms', 'adjust', 'name'), STEPS.values(), ids=STEPS)
    def test_a_step_alone_equals_torchvisions(self, randoms, adjust, name, share) -> None:
        factor = 1 + (2 * share - 1) * getattr(self.strong, name)
        expected = adjust(torch.from_numpy(self.image).permute(2, 0, 1), factor).permute(1, 2, 0).numpy()
        changed = apply(self.matrix(*randoms, share=share), self.image)
        assert np.abs(changed - expected).max() < 1.5  # torchvision rounds its grey and truncates its result
        if share == 0.5:
            np.testing.assert_allclose(changed, self.image, atol=1e-9)
        else:
            assert np.abs(changed - self.image).mean() > 2

    @pytest.mark.parametrize('share', [0.0, 0.3, 0.8])
    def test_hue_turns_around_the_grey_axis(self, share) -> None:
        """Against colorsys' YIQ, of slightly other coefficients: luma and chroma stay, the angle moves as told."""
        angle = 2 * np.pi * 0.2 * (2 * share - 1)
        changed = apply(self.matrix(0.9, 0.2, 0.2, 0.7, 0.2, share=share), self.image) / 255
        before = np.array([colorsys.rgb_to_yiq(*pixel) for pixel in self.image.reshape(-1, 3) / 255])
        after = np.array([colorsys.rgb_to_yiq(*pixel) for pixel in changed.reshape(-1, 3)])
        np.testing.assert_allclose(after[:, 0], before[:, 0], atol=0.006)
        chroma, turned = before[:, 1] + 1j * before[:, 2], after[:, 1] + 1j * after[:, 2]
        colourful = np.abs(chroma) > 0.05
        assert colourful.sum() > 200
        ratio = (turned / chroma)[colourful]
        np.testing.assert_allclose(np.abs(ratio), 1, atol=0.06)
        np.testing.assert_allclose(np.angle(ratio), angle, atol=0.06)

    @pytest.mark.parametrize('share', [0.0, 0.8])
    def test_hue_keeps_luma_and_greys(self, share) -> None:
        matrix = self.matrix(0.9, 0.2, 0.2, 0.7, 0.2, share=share)
        greys = np.arange(256)[:, None].repeat(3, axis=1)
        np.testing.assert_allclose(apply(matrix, greys), greys, atol=1e-6)
        luma = np.array([0.299, 0.587, 0.114])
        np.testing.assert_allclose(apply(matrix, self.image) @ luma, self.image @ luma, atol=1e-6)

    def test_no_step_is_the_identity(self) -> None:
        np.testing.assert_array_equal(self.matrix(0.9, 0.1, 0.2, 0.3, 0.4), np.eye(3, 4))

    @pytest.mark.parametrize('share', [0.1, 0.9])
    @pytest.mark.parametrize('first', [0.1, 0.9], ids=['contrast second', 'contrast last'])
    def test_all_steps_are_applied_one_after_the_other(self, first, share) -> None:
        """Contrast blends with the mean of the image as the steps before it left it."""
        alone = {
            'brightness': (0.9, 0.7, 0.2, 0.2, 0.2),
            'saturation': (0.9, 0.2, 0.7, 0.2, 0.2),
            'hue': (0.9, 0.2, 0.2, 0.7, 0.2),
        }
        order = ['brightness', 'saturation', 'hue']
        order.insert(1 if first < 0.5 else 3, 'contrast')
        expected = self.image.astype(float)
        amount = 2 * share - 1
        for step in order:
            if step == 'contrast':
                grey = (expected @ (0.299, 0.587, 0.114)).mean()
                expected = grey + (1 + 0.4 * amount) * (expected - grey)
            else:
                expected = apply(self.matrix(*alone[step], share=share), expected)
        changed = apply(self.matrix(first, 0.7, 0.7, 0.7, 0.7, share=share), self.image)
        np.testing.assert_allclose(changed, expected, atol=1e-6)

    def test_each_step_comes_in_half_of_the_draws(self) -> None:
        for name in ('brightness', 'contrast', 'saturation', 'hue'):
            transform = replace(PLAIN(), **{name: 0.3})
            rng = np.random.default_rng(0)
            drawn = [transform.draw_photometric(np.array([99.0, 120, 90]), rng) for _ in range(1000)]
            changed = [not np.allclose(matrix, np.eye(3, 4), atol=1e-12) for matrix in drawn]
            assert 0.45 < np.mean(changed) < 0.55, name

    def test_amounts_are_uniform_within_their_limit(self) -> None:
        rng = np.random.default_rng(0)
        transform = PLAIN(brightness=0.3)
        drawn = [transform.draw_photometric(np.zeros(3), rng)[0, 0] - 1 for _ in range(4000)]
        TestDrawGeometry.assert_uniform([amount for amount in drawn if abs(amount) > 1e-9], -0.3, 0.3)

    def test_the_whole_transform_applies_it_to_the_image_and_not_to_the_padding(self) -> None:
        mask = np.full((64, 64), 9, np.uint8)
        image = np.full((64, 64, 3), 100, np.uint8)
        transform = TrainTransform(64, 96, 1.0, 1.0, brightness=0.5, contrast=0, saturation=0, hue=0)
        seen = set()
        for seed in range(60):
            crop, labels = transform(image, mask, np.random.default_rng(seed))
            assert labels[16:80, 16:80].min() == labels[16:80, 16:80].max() == 9
            assert (labels == 255).sum() == 96**2 - 64**2
            assert (crop[labels == 255] == MEAN_COLOUR).all()
            values = np.unique(crop[labels == 9])
            assert len(values) == 1
            seen.add(int(values[0]))
        assert 15 < len(seen) < 50  # half stay at 100
        assert 100 in seen and min(seen) >= 50 and max(seen) <= 150 and max(seen) - min(seen) > 70

    def test_bright_colours_are_clipped_and_do_not_wrap(self) -> None:
        image, mask = np.full((64, 64, 3), 250, np.uint8), np.ones((64, 64), np.uint8)
        transform = TrainTransform(64, 64, 1.0, 1.0, brightness=0.5, contrast=0, saturation=0, hue=0)
        lowest = [transform(image, mask, np.random.default_rng(seed))[0].min() for seed in range(60)]
        assert min(lowest) >= 124 and max(lowest) == 255


def test_padding_is_the_mean_colour() -> None:
    np.testing.assert_array_equal(np.round(IMAGENET_CHANNEL_MEAN), MEAN_COLOUR)
    normalised, labels = to_network(
        (torch.tensor(MEAN_COLOUR, dtype=torch.uint8).view(1, 3, 1, 1), torch.full((1, 1, 1), 255, dtype=torch.uint8))
    )
    assert normalised.abs().max() < 0.01 and labels.item() == -1


@pytest.mark.parametrize('keep_ratio', [False, True])
def test_training_depends_on_its_generator_alone(keep_ratio) -> None:
    image, mask = noise(70, 90), patchy_mask(70, 90)
    transform = TrainTransform(64, 48, keep_ratio=keep_ratio)
    first = transform(image, mask, sample_rng(1, 2, 'a'))
    np.random.seed(9)
    torch.manual_seed(9)
    again = transform(image, mask, sample_rng(1, 2, 'a'))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    for other in (sample_rng(1, 3, 'a'), sample_rng(2, 2, 'a'), sample_rng(1, 2, 'b')):
        assert not np.array_equal(transform(image, mask, other)[0], first[0])


def test_global_generators_are_left_alone() -> None:
    np.random.seed(4)
    torch.manual_seed(4)
    expected = np.random.random(), torch.rand(1).item()
    np.random.seed(4)
    torch.manual_seed(4)
    TrainTransform(64, 48)(noise(70, 90), patchy_mask(70, 90), sample_rng(1, 2, 'a'))
    get_protocol('mosaic-512sq', 48)(noise(70, 90), patchy_mask(70, 90), sample_rng(1, 2, 'a'))
    assert (np.random.random(), torch.rand(1).item()) == expected


@pytest.mark.parametrize('shape', [(64, 64), (30, 50), (133, 71), (1, 5)])
def test_evaluation_equals_pils_resize(shape) -> None:
    image, mask = noise(*shape), patchy_mask(*shape)
    resized, labels = get_protocol('mosaic-512sq', 48)(image, mask, sample_rng(0, 0, ''))
    expected = Image.fromarray(image).resize((48, 48), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resized, np.asarray(expected))
    np.testing.assert_array_equal(labels, np.asarray(Image.fromarray(mask).resize((48, 48), Image.Resampling.NEAREST)))
    assert resized.shape == (48, 48, 3) and labels.shape == (48, 48) and resized.dtype == labels.dtype == np.uint8


def test_evaluation_has_nothing_random_and_keeps_labels() -> None:
    image, mask = noise(90, 60), patchy_mask(90, 60)
    first, second = (get_protocol('mosaic-512sq', 32)(image, mask, np.random.default_rng(seed)) for seed in (0, 1))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert set(np.unique(first[1])) <= set(np.unique(mask))


# What is off by default


def turned(array: np.ndarray, angle: float, geometry: Geometry, size: int, fill: float) -> np.ndarray:
    """By hand: each pixel of the crop shows the nearest pixel of the resized image that a turn by ``angle`` puts there.

    The turn is counterclockwise around the crop's centre; of the image without a flip.
    """
    output = np.full((size, size), fill)
    center, radians = (size - 1) / 2, np.radians(angle)
    for row in range(size):
        for column in range(size):
            right, up = column - center, center - row
            x = center + right * np.cos(radians) + up * np.sin(radians)  # turned back, clockwise
            y = center - (up * np.cos(radians) - right * np.sin(radians))
            y, x = y + geometry.offset[0] - geometry.pad[0] + 0.5, x + geometry.offset[1] - geometry.pad[1] + 0.5
            if 0 <= y < array.shape[0] and 0 <= x < array.shape[1]:
                output[row, column] = array[int(y), int(x)]
    return output[:, ::-1] if geometry.flip else output


@pytest.mark.parametrize('angle', [30.0, -75.0, 180.0, 5.5])
@pytest.mark.parametrize('place', ['inside', 'padded', 'at an edge'])
def test_a_turn_equals_one_by_hand(place, angle) -> None:
    size = 41
    shape, offset, pad = {
        'inside': ((140, 150), (50, 55), (0, 0)), 'padded': ((31, 21), (0, 0), (5, 10)),
        'at an edge': ((60, 70), (0, 29), (0, 0)),
    }[place]  # fmt: skip
    geometry = Geometry(shape, offset, pad, False, angle)
    mask = patchy_mask(*shape)
    image, labels = warp(colour_of(mask), mask, geometry, size)
    fill_padding(image, labels, geometry)
    expected = turned(mask, angle, geometry, size, 255)
    assert (labels == expected).mean() > 0.99  # where two are equally near either is right
    assert (labels == 255).mean() == pytest.approx((expected == 255).mean(), abs=0.01)
    assert (labels == 255).any() or place != 'padded'
    assert (labels != 255).all() or place != 'inside'
    assert (image[labels == 255] == MEAN_COLOUR).all()
    kernel = np.ones((3, 3), np.uint8)
    interior = (cv2.dilate(labels, kernel) == cv2.erode(labels, kernel)) & (labels != 255)
    interior[[0, -1]] = interior[:, [0, -1]] = False  # their neighbours are not in the crop
    assert interior.sum() > 100
    assert np.abs(image[interior].astype(int) - colour_of(labels)[interior]).max() <= 3


@pytest.mark.parametrize('angle', [20.0, -140.0])
def test_a_turn_equals_torchvisions(angle) -> None:
    """A square of odd side, around its centre; what comes from beyond the image is ignored."""
    image, mask = smooth_image(65, 65, detail=16), patchy_mask(65, 65)
    geometry = Geometry((65, 65), (0, 0), (0, 0), False, angle)
    found, labels = warp(image, mask, geometry, 65)
    fill_padding(found, labels, geometry)
    expected = tv.rotate(torch.from_numpy(mask)[None], angle, fill=[255])[0].numpy()
    assert (labels == expected).mean() > 0.99
    expected = tv.rotate(
        torch.from_numpy(image).permute(2, 0, 1), angle, interpolation=tv.InterpolationMode.BILINEAR
    ).permute(1, 2, 0)  # fmt: skip
    inside = cv2.erode((labels != 255).astype(np.uint8), np.ones((3, 3), np.uint8)) == 1
    assert np.abs(found[inside].astype(int) - expected.numpy()[inside]).mean() < 1


def test_a_flip_is_before_the_turn() -> None:
    mask = patchy_mask(80, 90)
    for angle in (15.0, -50.0):
        flipped = Geometry((80, 90), (10, 20), (0, 0), True, angle)
        plain = Geometry((80, 90), (10, 20), (0, 0), False, -angle)
        pairs = []
        for geometry in (flipped, plain):
            image, labels = warp(colour_of(mask), mask, geometry, 41)
            fill_padding(image, labels, geometry)
            pairs.append(labels)
        assert (pairs[0] == pairs[1][:, ::-1]).mean() > 0.99


def test_angles_are_uniform_both_ways() -> None:
    mask, rng = patchy_mask(60, 90), np.random.default_rng(0)
    angles = [TrainTransform(64, 64, rotation=30).draw_geometry(mask, rng).angle for _ in range(1000)]
    TestDrawGeometry.assert_uniform(angles, -30, 30)


def test_right_angles_and_vertical_flips_are_of_the_finished_crop() -> None:
    """All eight ways to lay a square occur about as often, and the image goes with its mask."""
    image, mask = noise(48, 48), patchy_mask(48, 48)
    plain = partial(PLAIN, 48, 48, 1.0, 1.0, flip_probability=0.0)
    ways = [np.rot90(array, turns) for array in (mask, mask[::-1]) for turns in range(4)]
    assert len({way.tobytes() for way in ways}) == 8
    counts = np.zeros(8, int)
    for seed in range(400):
        transform = plain(right_angle_turns=True, vertical_flip_probability=0.5)
        found, labels = transform(image, mask, np.random.default_rng(seed))
        assert found.flags.c_contiguous and labels.flags.c_contiguous
        (way,) = (index for index, way in enumerate(ways) if np.array_equal(way, labels))
        counts[way] += 1
        assert np.array_equal(found, np.rot90(image if way < 4 else image[::-1], way % 4))
    assert counts.min() > 25 and counts.max() < 80  # 50 ± 7 each
    flipped, labels = plain(vertical_flip_probability=1.0)(image, mask, np.random.default_rng(0))
    assert np.array_equal(flipped, image[::-1]) and np.array_equal(labels, mask[::-1])


def test_blur_is_a_gaussians() -> None:
    """Of one bright pixel: the mean stays, the standard deviation along an axis is the one that was drawn."""
    image, mask = np.zeros((65, 65, 3), np.uint8), np.full((65, 65), 3, np.uint8)
    image[30:35, 30:35] = 255
    transform = PLAIN(65, 65, 1.0, 1.0, flip_probability=0.0, blur_probability=1.0, blur_sigma=4.0)
    sigmas, widths = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        transform.draw_geometry(mask, rng)
        transform.draw_photometric(np.zeros(3), rng)
        rng.random()
        sigmas.append(rng.uniform(0.1, 4.0))
        found, labels = transform(image, mask, np.random.default_rng(seed))
        profile, place = found[..., 0].sum(axis=0).astype(float), np.arange(65) - 32
        widths.append(np.sqrt((profile * place**2).sum() / profile.sum()))
        assert np.array_equal(labels, mask)
    assert max(sigmas) > 3 and min(sigmas) < 1
    np.testing.assert_allclose(widths, np.sqrt(2 + np.array(sigmas) ** 2), rtol=0.06)  # 2: of five equal pixels


def test_blur_happens_as_often_as_told_and_not_to_the_padding() -> None:
    image, mask = noise(64, 64), patchy_mask(64, 64)
    common: dict[str, Any] = {'flip_probability': 0.0, 'blur_sigma': 9.0}
    plain = PLAIN(64, 80, 1.0, 1.0, **common)(image, mask, np.random.default_rng(0))[0]
    transform, changed = PLAIN(64, 80, 1.0, 1.0, blur_probability=0.3, **common), 0
    for seed in range(300):
        found, labels = transform(image, mask, np.random.default_rng(seed))
        changed += not np.array_equal(found, plain)
        assert (found[labels == IGNORED] == MEAN_COLOUR).all()
    assert 60 < changed < 125


@pytest.mark.parametrize(
    'changed',
    [{'rotation': 30.0}, {'right_angle_turns': True}, {'vertical_flip_probability': 1.0}, {'blur_probability': 1.0}],
    ids=str,
)
def test_what_is_off_draws_nothing(changed) -> None:
    """The published augmentation is the same bits as before there was anything to turn on."""
    image, mask = noise(60, 80), patchy_mask(60, 80)
    off = replace(TrainTransform(64, 48, **changed), **{key: getattr(TrainTransform(), key) for key in changed})
    differ = 0
    for seed in range(8):
        usual, same, on = (
            transform(image, mask, np.random.default_rng(seed))
            for transform in (TrainTransform(64, 48), off, TrainTransform(64, 48, **changed))
        )
        assert np.array_equal(usual[0], same[0]) and np.array_equal(usual[1], same[1])
        differ += not np.array_equal(usual[0], on[0])
    assert differ > 3
