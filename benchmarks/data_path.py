"""How long does one training sample take, from the bytes of a JPEG and a PNG to an augmented pair of 512×512?

    python benchmarks/data_path.py

One core, a 683×512 photograph held in memory, a new augmentation each time. Done by this package, by PIL as MosaicML's
DeepLabV3+ recipe describes it, by torchvision.transforms.v2, and by mmsegmentation's own pipeline for ADE20K.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from io import BytesIO
from itertools import count
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import bench
import cv2
import numpy as np
import photographs
import torch
from mmengine import fileio
from mmengine.dataset import Compose
from PIL import Image
from streaming.base.util import clean_stale_shared_memory
from torchvision import io, tv_tensors
from torchvision.transforms import functional as on_pil
from torchvision.transforms import v2

from segrecipes.data import augment as transforms
from segrecipes.data.augment import Geometry, TrainTransform
from segrecipes.data.normalize import IMAGENET_CHANNEL_MEAN
from segrecipes.data.sample import SampleMaker
from segrecipes.datasets.row import IGNORED
from segrecipes.datasets.table import DATASETS
from segrecipes.models.mmseg import ensure_ops
from segrecipes.storage import decode as samples
from segrecipes.storage.convert import convert
from segrecipes.storage.shards import StreamingSegmentation

BASE_SIZE = SIZE = 512
MIN_SCALE, MAX_SCALE = 0.5, 2.0
MAX_CLASS_SHARE, CROP_RETRIES = 0.75, 10
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32 / 255, 0.5, 0.5, 18 / 255
MEAN_COLOUR = tuple(round(value) for value in IMAGENET_CHANNEL_MEAN)
SQUARE, KEEP_RATIO = TrainTransform(), TrainTransform(keep_ratio=True)
NUM_CLASSES = 150

Sample = Callable[[], tuple[Any, Any]]  # one more sample: image and mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=150)
    photographs.add_argument(parser)
    options = parser.parse_args()

    bench.pin(1)
    np.random.seed(0)
    torch.manual_seed(0)
    clean_stale_shared_memory()
    report = bench.Benchmark('data_path', 'How long does one training sample take, from its bytes to a 512×512 pair?')
    report.note(f'Photograph: {photographs.describe(options.images)}, the first.')
    jpeg, png = photographs.read(options.images)[0]
    with TemporaryDirectory() as folder:
        rows = candidates(jpeg, png, Path(folder))
        check_warp(jpeg, png)
        check_rows(rows)
        rows[DECODING] = lambda: (samples.decode_image(jpeg, 'image'), samples.decode_mask(png, 'mask'))
        seconds = compare(report, rows, options.rounds)
    compare_decoders(report, jpeg, png, options.rounds)
    parts = split(report, rows['ours, from files'], options.rounds)
    set_targets(report, seconds, parts)
    report.finish()


DECODING = 'decoding the files alone'


def candidates(jpeg: bytes, png: bytes, folder: Path) -> dict[str, Sample]:
    return {
        'ours, from files': ours_from_files(jpeg, png, SQUARE),
        'ours, from MDS': ours_from_mds(jpeg, png, SQUARE, folder / 'square'),
        'ours, from MDS, fast masks': ours_from_mds(jpeg, png, SQUARE, folder / 'fast', fast_masks=True),
        'PIL': partial(pil_chain, jpeg, png, np.random.default_rng(0)),
        'torchvision v2': partial(torchvision_chain, jpeg, png, torchvision_transforms()),
        'ours, from files, keep_ratio': ours_from_files(jpeg, png, KEEP_RATIO),
        'ours, from MDS, fast masks, keep_ratio': ours_from_mds(
            jpeg, png, KEEP_RATIO, folder / 'keep_ratio', fast_masks=True
        ),
        'mmsegmentation, keep_ratio': mmsegmentation(jpeg, png),
    }


# Ours


def ours_from_files(jpeg: bytes, png: bytes, transform: TrainTransform) -> Sample:
    make_sample, epochs = SampleMaker(transform, 17, DATASETS['ade20k'].label_map(NUM_CLASSES)), count()

    def sample() -> tuple[Any, Any]:
        image, mask = samples.decode_image(jpeg, 'image'), samples.decode_mask(png, 'mask')
        return make_sample(image, mask, '00000001', next(epochs))[:2]

    return sample


def ours_from_mds(jpeg: bytes, png: bytes, transform: TrainTransform, folder: Path, **options: Any) -> Sample:
    """``options`` are convert's."""
    for file, data in zip(photographs.training_files(folder / 'ade20k', 0), (jpeg, png)):
        file.parent.mkdir(parents=True)
        file.write_bytes(data)
    convert(folder / 'ade20k', folder / 'mds', splits=['train'], num_workers=1, progress_bar=False, **options)
    make_sample, epochs = SampleMaker(transform, 17, DATASETS['ade20k'].label_map(NUM_CLASSES)), count()
    dataset = StreamingSegmentation(
        path=str(folder / 'mds'), local=None, split='train', make_sample=make_sample, batch_size=1
    )

    def sample() -> tuple[Any, Any]:
        dataset.current_epoch = next(epochs)
        return dataset[0][:2]

    return sample


# PIL


def pil_chain(jpeg: bytes, png: bytes, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    image, mask = Image.open(BytesIO(jpeg)).convert('RGB'), Image.open(BytesIO(png))
    side = round(BASE_SIZE * rng.uniform(MIN_SCALE, MAX_SCALE))
    image = image.resize((side, side), Image.Resampling.BILINEAR)
    mask = mask.resize((side, side), Image.Resampling.NEAREST)
    box = pil_crop_box(mask, rng)
    image, mask = image.crop(box), mask.crop(box)
    if rng.random() < 0.5:
        image, mask = (picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in (image, mask))
    image, mask = pil_pad(pil_photometric(image, rng), MEAN_COLOUR), pil_pad(mask, IGNORED)
    return np.array(image), np.array(mask)


def pil_crop_box(mask: Image.Image, rng: np.random.Generator) -> tuple[int, int, int, int]:
    size = min(SIZE, mask.width)
    box = (0, 0, size, size)
    for _ in range(CROP_RETRIES):
        left, top = (int(start) for start in rng.integers(mask.width - size + 1, size=2))
        box = (left, top, left + size, top + size)
        counts = mask.crop(box).histogram()[1:]  # 0 is no class
        if max(counts) < MAX_CLASS_SHARE * sum(counts):
            break
    return box


def pil_photometric(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    steps: list[tuple[Callable, float, float]] = [
        (on_pil.adjust_brightness, 1, BRIGHTNESS),
        (on_pil.adjust_saturation, 1, SATURATION),
        (on_pil.adjust_hue, 0, HUE),
    ]
    steps.insert(1 if rng.random() < 0.5 else 3, (on_pil.adjust_contrast, 1, CONTRAST))
    for adjust, neutral, amount in steps:
        if rng.random() < 0.5:
            image = adjust(image, neutral + rng.uniform(-amount, amount))
    return image


def pil_pad(picture: Image.Image, fill: int | tuple[int, ...]) -> Image.Image:
    if picture.size == (SIZE, SIZE):
        return picture
    padded = Image.new(picture.mode, (SIZE, SIZE), fill)
    padded.paste(picture, ((SIZE - picture.width) // 2, (SIZE - picture.height) // 2))
    return padded


# torchvision


def torchvision_chain(jpeg: bytes, png: bytes, transform: Callable) -> tuple[torch.Tensor, torch.Tensor]:
    image, mask = torchvision_jpeg(jpeg), torchvision_png(png)
    side = [round(BASE_SIZE * torch.empty(()).uniform_(MIN_SCALE, MAX_SCALE).item())] * 2
    image, mask = v2.functional.resize(tv_tensors.Image(image), side), v2.functional.resize(tv_tensors.Mask(mask), side)
    image, mask = transform(image, mask)
    return image, mask[0]


def torchvision_transforms() -> Callable:
    """Its crop does not look at the classes, and its photometric change also swaps channels."""
    fill: Any = {tv_tensors.Image: list(MEAN_COLOUR), tv_tensors.Mask: IGNORED}
    around_one = [(1 - amount, 1 + amount) for amount in (BRIGHTNESS, CONTRAST, SATURATION)]
    return v2.Compose(
        [
            v2.RandomCrop(SIZE, pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(),
            v2.RandomPhotometricDistort(*around_one, hue=(-HUE, HUE)),
        ]
    )


def torchvision_jpeg(data: bytes) -> Any:
    return io.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), io.ImageReadMode.RGB)


def torchvision_png(data: bytes) -> torch.Tensor:
    return io.decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8))


# mmsegmentation


def mmsegmentation(jpeg: bytes, png: bytes) -> Sample:
    """The pipeline of its ADE20K configs. Its preprocessor pads and converts colours later, on the device."""
    ensure_ops()
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    fileio.register_backend('memory', Memory, force=True)
    Memory.files = {'image.jpg': jpeg, 'mask.png': png}
    pipeline = Compose(
        [
            {'type': 'LoadImageFromFile', 'backend_args': {'backend': 'memory'}},
            {'type': 'LoadAnnotations', 'backend_args': {'backend': 'memory'}},
            {
                'type': 'RandomResize',
                'scale': (2048, BASE_SIZE),
                'ratio_range': (MIN_SCALE, MAX_SCALE),
                'keep_ratio': True,
            },
            {'type': 'RandomCrop', 'crop_size': (SIZE, SIZE), 'cat_max_ratio': MAX_CLASS_SHARE},
            {'type': 'RandomFlip', 'prob': 0.5},
            {'type': 'PhotoMetricDistortion'},
            {'type': 'PackSegInputs'},
        ]
    )
    entry = {'img_path': 'image.jpg', 'seg_map_path': 'mask.png', 'reduce_zero_label': True}

    def sample() -> tuple[Any, Any]:
        packed: Any = pipeline({**entry, 'seg_fields': []})
        return packed['inputs'], packed['data_samples'].gt_sem_seg.data[0]

    return sample


class Memory(fileio.BaseStorageBackend):
    """Files held in memory, for mmengine to read."""

    files: dict[str, bytes]

    def get(self, filepath: str) -> bytes:
        return self.files[filepath]

    def get_text(self, filepath: str) -> str:
        return self.files[filepath].decode()


# Whether they do what they should


def check_rows(rows: dict[str, Sample]) -> None:
    for name, sample in rows.items():
        for _ in range(4):
            image, mask = (torch.as_tensor(array) for array in sample())
            if name.startswith('mmsegmentation'):  # what its preprocessor does on the device
                padding = (0, SIZE - mask.shape[1], 0, SIZE - mask.shape[0])
                image = torch.nn.functional.pad(image, padding)
                mask = torch.nn.functional.pad(mask, padding, value=IGNORED).byte()
            image_shapes = ((SIZE, SIZE, 3), (3, SIZE, SIZE))
            assert image.shape in image_shapes and image.dtype == torch.uint8, f'{name}: {image.dtype} {image.shape}'
            assert mask.shape == (SIZE, SIZE) and mask.dtype == torch.uint8, f'{name}: {mask.dtype} {mask.shape}'
            labelled = mask[mask != IGNORED]
            assert labelled.numel() and labelled.max() <= NUM_CLASSES, f'{name}: no labels of this dataset'


def check_warp(jpeg: bytes, png: bytes) -> None:
    """Our single step gives what resizing everything, then cropping, padding and flipping gives."""
    image, mask = samples.decode_image(jpeg, 'image'), samples.decode_mask(png, 'mask')
    for seed, transform in enumerate([SQUARE, KEEP_RATIO] * 8):
        transform = replace(transform, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
        ours = transform(image, mask, np.random.default_rng(seed))
        geometry = transform.draw_geometry(mask, np.random.default_rng(seed))
        expected = resize_then_crop(image, mask, geometry)
        difference = np.abs(ours[0].astype(int) - expected[0]).mean()
        assert difference < 1.5, f'images differ by {difference:.2f} grey levels for {geometry}'
        equal = (ours[1] == expected[1]).mean()
        assert equal >= 0.995, f'only {equal:.2%} of the labels are equal for {geometry}'


def resize_then_crop(image: np.ndarray, mask: np.ndarray, geometry: Geometry) -> list[np.ndarray]:
    placed = []
    for array, how, fill in ((image, cv2.INTER_LINEAR, MEAN_COLOUR), (mask, cv2.INTER_NEAREST_EXACT, IGNORED)):
        whole = cv2.resize(array, geometry.resized[::-1], interpolation=how)
        crop = whole[geometry.offset[0] :, geometry.offset[1] :][:SIZE, :SIZE]
        output = np.full((SIZE, SIZE, *array.shape[2:]), fill, np.uint8)
        output[geometry.pad[0] :, geometry.pad[1] :][: crop.shape[0], : crop.shape[1]] = crop
        placed.append(output[:, ::-1] if geometry.flip else output)
    return placed


# What is measured


def compare(report: bench.Benchmark, rows: dict[str, Sample], rounds: int) -> dict[str, float]:
    """Median seconds of each row."""
    seconds = bench.interleave(rows, rounds)
    table = report.table('One sample', 'ms')
    for name, times in seconds.items():
        table.add(name, [1e3 * time for time in times], mean=1e3 * fmean(times))
    return {name: median(times) for name, times in seconds.items()}


def compare_decoders(report: bench.Benchmark, jpeg: bytes, png: bytes, rounds: int) -> None:
    decoders: dict[str, dict[str, Callable[[], Any]]] = {
        'JPEG': {
            'OpenCV': lambda: cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB),
            'PIL': lambda: np.array(Image.open(BytesIO(jpeg)).convert('RGB')),
            'torchvision': lambda: torchvision_jpeg(jpeg),
            'ours': lambda: samples.decode_image(jpeg, 'image'),
        },
        'PNG': {
            'OpenCV': lambda: cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED),
            'PIL': lambda: np.array(Image.open(BytesIO(png))),
            'torchvision': lambda: torchvision_png(png),
            'ours': lambda: samples.decode_mask(png, 'mask'),
        },
    }
    table = report.table('Decoders', 'ms')
    for kind, named in decoders.items():
        decoded = {name: np.asarray(decode()) for name, decode in named.items()}
        for name, array in decoded.items():
            array = array.transpose(1, 2, 0) if name == 'torchvision' else array
            difference = np.abs(array.astype(int).squeeze() - decoded['PIL']).mean()
            assert difference <= (1 if kind == 'JPEG' else 0), f'{kind} by {name} differs from PIL by {difference:.2f}'
        seconds = bench.interleave(named, rounds)
        for name, times in seconds.items():
            table.add(f'{kind}, {name}', [1e3 * time for time in times])


def split(report: bench.Benchmark, sample: Sample, rounds: int) -> str:
    """Where the time of one sample goes; returns the parts from the largest on, in words."""
    parts: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        spent: dict[str, float] = defaultdict(float)
        with clocks(spent):
            started = time.perf_counter()
            sample()
            whole = time.perf_counter() - started
        for part in {*PARTS, *spent}:
            parts[part].append(1e3 * spent[part])
        parts['the rest'].append(1e3 * (whole - sum(spent.values())))
    table = report.table('Parts of one sample of ours, from files', 'ms')
    medians = {part: table.add(part, parts[part]) for part in [*PARTS, 'the rest']}
    return ', '.join(f'{part} {medians[part]:.2f}' for part in sorted(medians, key=lambda part: -medians[part]))


def warp_part(array: np.ndarray, *_: Any) -> str:
    return 'warp image' if array.ndim == 3 else 'warp mask'


CLOCKED: tuple[tuple[Any, str, Any], ...] = (
    (samples, 'decode_image', 'decode JPEG'),
    (samples, 'decode_mask', 'decode PNG'),
    (TrainTransform, 'draw_geometry', 'draw'),
    (TrainTransform, 'draw_photometric', 'draw'),
    (cv2, 'resize', warp_part),
    (cv2, 'cvtColor', 'warp image'),
    (cv2, 'warpAffine', warp_part),
    (cv2, 'transform', 'photometric'),
    (transforms, 'fill_padding', 'fill padding'),
)
PARTS = ('decode JPEG', 'decode PNG', 'draw', 'warp image', 'warp mask', 'photometric', 'fill padding')


@contextmanager
def clocks(spent: dict[str, float]) -> Iterator[None]:
    """Adds the seconds in each function of ``CLOCKED`` to its part; one that another calls is in the other's."""
    is_inside = False

    def clocked(function: Callable, part: Any) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal is_inside
            if is_inside:
                return function(*args, **kwargs)
            is_inside, started = True, time.perf_counter()
            result = function(*args, **kwargs)
            spent[part if isinstance(part, str) else part(*args)] += time.perf_counter() - started
            is_inside = False
            return result

        return call

    with ExitStack() as stack:
        for owner, name, part in CLOCKED:
            stack.enter_context(patch.object(owner, name, clocked(getattr(owner, name), part)))
        yield


def set_targets(report: bench.Benchmark, seconds: dict[str, float], parts: str) -> None:
    """Of shards with fast masks; what files give instead is said beside it."""
    shards, files = seconds['ours, from MDS, fast masks'], seconds['ours, from files']
    shards_ratio = seconds['ours, from MDS, fast masks, keep_ratio']
    files_ratio = seconds['ours, from files, keep_ratio']
    mmseg, decoding = seconds['mmsegmentation, keep_ratio'], seconds[DECODING]
    why = f'Ours from files in ms: {parts}.'
    report.target('PIL chain over ours', seconds['PIL'] / shards, at_least=5, why=why)
    report.target('mmsegmentation over ours, keep_ratio', mmseg / shards_ratio, at_least=2.5, why=why)
    report.target('ours over decoding the files alone', shards / decoding, at_most=1.4, why=why)
    report.note(
        f'From files: {seconds["PIL"] / files:.1f} times faster than the PIL chain, {mmseg / files_ratio:.1f} than '
        f'mmsegmentation, {files / decoding:.2f} times decoding alone, which takes the fastest decoders there are.'
    )


if __name__ == '__main__':
    main()
