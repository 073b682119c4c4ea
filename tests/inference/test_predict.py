"""Any image, labelled by any file of a network as a slow reference labels it, and written as it is promised."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.checkpoints.card import ModelCard
from segrecipes.checkpoints.formats.table import FORMATS
from segrecipes.commands import cli, predict
from segrecipes.evaluation.overlay import explained
from segrecipes.evaluation.protocols import ade20k_ms, ade20k_ss, mosaic_512sq, slide
from segrecipes.evaluation.table import PROTOCOLS, get_protocol
from segrecipes.inference.images import read_image
from segrecipes.inference.predictor import Predictor
from segrecipes.models.network import build_network
from segrecipes.models.spec import NetworkSpec

ROOT = Path(__file__).parents[2]
LEGAL = sorted([*PROTOCOLS, 'fit-ss', 'fit-ms'])
NAMES = ('sky', 'Gebäude', 'a "boat"', 'tree', 'water', 'road')
COLORS = tuple((40 * index, 255 - 40 * index, 7 * index) for index in range(len(NAMES)))
CARD = ModelCard(
    NetworkSpec('deeplabv3plus', len(NAMES), 'resnet18', head_channels=16),
    auxiliary=True,
    class_names=NAMES,
    palette=COLORS,
    image_size=40,
    mean=(110.0, 120.0, 130.0),
    std=(50.0, 55.0, 60.0),
)


def network_of(seed: int) -> Any:
    """Random, with batch norms far from the identity, and sure enough of several classes."""
    torch.manual_seed(seed)
    network = build_network(CARD.network, auxiliary=CARD.auxiliary).requires_grad_(False)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.get_buffer('running_mean'), -0.2, 0.2)
            nn.init.uniform_(norm.get_buffer('running_var'), 0.7, 1.3)
            nn.init.uniform_(norm.weight, 0.7, 1.3)
    head: Any = network.classifier
    nn.init.normal_(head.conv_seg.weight)
    network.eval()
    bias = -network(normalized(random_image((64, 64)), (64, 64))).mean(dim=(0, 2, 3))
    head.conv_seg.bias.copy_(bias)
    return network


def random_image(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Coloured patches of different brightness: (H, W, 3) uint8."""
    coarse = np.random.default_rng((seed, *size)).integers(0, 256, (-(-size[0] // 9) + 1, -(-size[1] // 9) + 1, 3))
    return cv2.resize(coarse.astype(np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)


NETWORKS: dict[str, Any] = {}  # made by the fixture below


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Composer writes it: wrapped names, the moving average beside the weights, the card of ``Describe``."""
    path = tmp_path_factory.mktemp('run') / 'best-rank0.pt'
    NETWORKS.update(raw=network_of(0), ema=network_of(1))
    torch.save(contents(), path)
    return path


def contents() -> dict[str, Any]:
    raw, ema = NETWORKS['raw'], NETWORKS['ema']

    def wrapped(values: Any) -> dict[str, Tensor]:
        return {f'module.{name}': value for name, value in values}

    average = {
        'named_parameters_dict': wrapped(ema.named_parameters()),
        'named_buffers_dict': wrapped(ema.named_buffers()),
    }
    state = {
        'model': wrapped(raw.state_dict().items()),
        'callbacks': {'Describe': CARD.to_dict()},
        'algorithms': [('EMA', {'ema_model': average, 'ema_started': True, 'ema_weights_active': False})],
        'timestamp': {'Timestamp': {'epoch': 3, 'batch': 30}},
    }
    return {'state': state, 'rng': []}


@pytest.fixture(scope='module')
def predictor(checkpoint: Path) -> Predictor:
    return Predictor(checkpoint)


# A slow reference: the whole network on each view, scores of full size


def normalized(image: np.ndarray, size: tuple[int, int]) -> Tensor:
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    values = (resized.astype(np.float64) - CARD.mean) / CARD.std
    return torch.from_numpy(values).permute(2, 0, 1)[None].float()


def fitted(image: np.ndarray, short: int, long: int) -> tuple[int, int]:
    height, width = image.shape[:2]
    scale = min(short / min(height, width), long / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resized_to(scores: Tensor, image: np.ndarray) -> Tensor:
    return F.interpolate(scores, size=image.shape[:2], mode='bilinear', align_corners=False)


def whole(network: Callable[[Tensor], Tensor], view: Tensor) -> Tensor:
    return network(view)


def in_windows(network: Callable[[Tensor], Tensor], view: Tensor, size: int, stride: int) -> Tensor:
    def starts(length: int) -> list[int]:
        found = [0]
        while found[-1] + size < length:
            found.append(found[-1] + stride)
        return [max(0, min(start, length - size)) for start in found]

    total, count = 0, torch.zeros(view.shape[2:])
    for top in starts(view.shape[2]):
        for left in starts(view.shape[3]):
            area = np.s_[:, :, top : top + size, left : left + size]
            part = torch.zeros(1, len(NAMES), *view.shape[2:])
            part[area] = network(view[area])
            count[area[2:]] += 1
            total = total + part
    return total / count


def reference(
    image: np.ndarray,
    weights: str = 'ema',
    size: int = CARD.image_size,
    ratios: Sequence[float] = (1.0,),
    flip: bool = False,
    window: tuple[int, int] | None = None,
    square: bool = False,
) -> Tensor:
    """(C, H, W) scores of the image's pixels; of several views the mean of their probabilities."""
    network, found = NETWORKS[weights], []
    for ratio in ratios:
        if square:
            side = round(size * ratio)
            squashed = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
            view = normalized(np.array(squashed), (side, side))
        elif window:
            height, width = image.shape[:2]
            view = normalized(image, (max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5))))
        else:
            view = normalized(image, fitted(image, int(size * ratio), int(4 * size * ratio)))
        for mirrored in (False, True) if flip else (False,):
            shown = view.flip(3) if mirrored else view
            scores = in_windows(network, shown, *window) if window else whole(network, shown)
            found.append(resized_to(scores.flip(3) if mirrored else scores, image))
    return found[0][0] if len(found) == 1 else torch.cat([scores.softmax(dim=1) for scores in found]).mean(dim=0)


def assert_labels(labels: np.ndarray, scores: Tensor) -> None:
    """Equal, but for pixels of which two classes are equally likely up to rounding."""
    assert labels.dtype == np.uint8
    assert labels.shape == scores.shape[1:]
    best = scores.topk(2, dim=0).values
    sure = (best[0] - best[1] > 1e-4 * scores.abs().max()).numpy()
    assert sure.mean() > 0.97
    np.testing.assert_array_equal(labels[sure], scores.argmax(dim=0).numpy()[sure])


RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@pytest.mark.parametrize('size', [(45, 70), (90, 52), (40, 40), (30, 20), (23, 200)])
def test_labels_equal_the_reference(predictor: Predictor, size: tuple[int, int]) -> None:
    image = random_image(size)
    labels = predictor(image)
    assert_labels(labels, reference(image))
    assert labels.max() < len(NAMES)
    assert size == (23, 200) or len(np.unique(labels)) > 3  # the test would not notice a constant answer


@pytest.mark.parametrize('weights', ['best', 'ema', 'raw'])
def test_weights(checkpoint: Path, weights: str) -> None:
    image = random_image((45, 70))
    labels = Predictor(checkpoint, weights=weights)(image)
    expected = {name: reference(image, name) for name in ('ema', 'raw')}
    assert_labels(labels, expected['raw' if weights == 'raw' else 'ema'])
    assert (expected['ema'].argmax(dim=0) != expected['raw'].argmax(dim=0)).float().mean() > 0.2


CASES = {
    'square': (mosaic_512sq(40), {'square': True}),
    'ss': (ade20k_ss(40), {}),
    'another size': (ade20k_ss(33), {'size': 33}),
    'ms': (ade20k_ms(32), {'size': 32, 'ratios': RATIOS, 'flip': True}),
    'slide': (slide(32), {'window': (32, 21)}),
    'slide by another stride': (slide(32, 10), {'window': (32, 10)}),
}


@pytest.mark.parametrize('name', CASES)
def test_protocols(checkpoint: Path, name: str) -> None:
    protocol, options = CASES[name]
    image = random_image((45, 70))
    assert_labels(Predictor(checkpoint, protocol=protocol)(image), reference(image, **options))


# Images


def test_file_picture_and_array_are_the_same(predictor: Predictor, tmp_path: Path) -> None:
    image = random_image((45, 70))
    expected = predictor(image)
    Image.fromarray(image).save(tmp_path / 'a.png')
    for source in (tmp_path / 'a.png', str(tmp_path / 'a.png'), Image.fromarray(image), Image.open(tmp_path / 'a.png')):
        np.testing.assert_array_equal(predictor(source), expected)


def test_arrays_as_numpy_makes_them(predictor: Predictor) -> None:
    """Mirrored, of BGR, read-only, a part of another; also where the image has the network's size already."""
    for size in ((45, 70), (40, 63)):
        image = random_image(size)
        fixed = image.copy()
        fixed.flags.writeable = False
        part = np.zeros((size[0] + 3, size[1] + 5, 3), np.uint8)
        part[2:-1, 4:-1] = image
        expected = predictor(image)
        for array in (fixed, part[2:-1, 4:-1], image[..., ::-1].copy()[..., ::-1], image[:, ::-1].copy()[:, ::-1]):
            np.testing.assert_array_equal(predictor(array), expected)
        assert (predictor(image[..., ::-1]) != expected).any()
        np.testing.assert_array_equal(predictor(image[..., ::-1]), predictor(image[..., ::-1].copy()))
        np.testing.assert_array_equal(image, random_image(size))


@pytest.mark.parametrize(
    ('array', 'described'),
    [
        (np.zeros((4, 5)), r'float64 \(4, 5\)'),
        (np.zeros((4, 5, 3)), r'float64 \(4, 5, 3\)'),
        (np.zeros((4, 5), np.uint8), r'uint8 \(4, 5\)'),
        (np.zeros((4, 5, 4), np.uint8), r'uint8 \(4, 5, 4\)'),
        (np.zeros((1, 4, 5, 3), np.uint8), r'uint8 \(1, 4, 5, 3\)'),
    ],
)
def test_other_arrays_are_refused(predictor: Predictor, array: np.ndarray, described: str) -> None:
    with pytest.raises(UserError, match=rf'^an image must be \(H, W, 3\) uint8 RGB; it is {described}$'):
        predictor(array)


# From the stored picture to the displayed one, by https://www.cipa.jp/std/documents/e/DC-008-2012_E.pdf 4.6.4 A:
# where the stored row 0 and column 0 are on the display. None: the tag is missing.
DISPLAYED: dict[int | None, Callable[[np.ndarray], np.ndarray]] = {
    None: lambda stored: stored,
    0: lambda stored: stored,  # no orientation of the standard
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored[::-1].swapaxes(0, 1),  # row 0 on the right, column 0 at the top
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
}


def save_turned(image: np.ndarray, path: Path, orientation: int | None) -> None:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    exif[0x010E] = 'a description'
    options: dict[str, Any] = {'lossless': True} if path.suffix == '.webp' else {}
    Image.fromarray(image).save(path, exif=exif, **options)


@pytest.mark.parametrize('orientation', DISPLAYED)
@pytest.mark.parametrize('suffix', ['.png', '.webp', '.jpg'])
def test_an_image_is_labelled_as_it_is_displayed(
    predictor: Predictor, orientation: int | None, suffix: str, tmp_path: Path
) -> None:
    stored, path = random_image((45, 70)), tmp_path / f'a{suffix}'
    save_turned(stored, path, orientation)
    if suffix == '.jpg':  # what is left of it
        with Image.open(path) as opened:
            stored = np.array(opened)
    upright = np.ascontiguousarray(DISPLAYED[orientation](stored))
    assert upright.shape == ((45, 70, 3) if (orientation or 0) < 5 else (70, 45, 3))
    np.testing.assert_allclose(read_image(path).astype(int), upright, atol=1 if suffix == '.jpg' else 0)
    if suffix == '.png':
        assert_labels(predictor(path), reference(upright))
        with Image.open(path) as opened:
            np.testing.assert_array_equal(predictor(opened), predictor(upright))


def test_a_turned_image_has_turned_results(checkpoint: Path, tmp_path: Path) -> None:
    stored = random_image((45, 70))
    save_turned(stored, tmp_path / 'a.png', 6)
    run(checkpoint, tmp_path / 'a.png', out=tmp_path / 'out')
    mask, overlay = read(tmp_path / 'out/masks/a.png'), read(tmp_path / 'out/overlays/a.jpg')
    assert mask.shape == (70, 45) and overlay.shape[0] > 350 and overlay.shape[1] == 320
    assert_labels(mask, reference(np.rot90(stored, -1).copy()))


GRAY = random_image((45, 70))[..., 0]
MODES: dict[str, tuple[str, Image.Image | np.ndarray, np.ndarray]] = {
    'grey': ('.png', Image.fromarray(GRAY), np.dstack([GRAY] * 3)),
    'grey JPEG': ('.jpg', Image.new('L', (70, 45), 77), np.full((45, 70, 3), 77)),
    'grey and alpha': ('.png', Image.fromarray(np.dstack([GRAY, GRAY.T.reshape(GRAY.shape)])), np.dstack([GRAY] * 3)),
    'alpha': ('.png', Image.fromarray(np.dstack([random_image((45, 70)), GRAY])), random_image((45, 70))),
    'palette': ('.png', Image.fromarray(GRAY // 9 * 9).quantize(64), np.dstack([GRAY // 9 * 9] * 3)),
    '1 bit': ('.png', Image.fromarray(GRAY > 99), np.dstack([np.where(GRAY > 99, 255, 0)] * 3)),
    '16 bit': ('.png', GRAY.astype(np.uint16) * 256 + 200, np.dstack([GRAY] * 3)),
    '16 bit of colours': ('.png', random_image((45, 70))[..., ::-1].astype(np.uint16) * 257, random_image((45, 70))),
    'CMYK': ('.jpg', Image.new('CMYK', (70, 45), (0, 255, 128, 0)), np.full((45, 70, 3), (255, 0, 127))),
    'webp': ('.webp', Image.new('RGB', (70, 45), (200, 100, 50)), np.full((45, 70, 3), (200, 100, 50))),
    'bmp': ('.bmp', Image.fromarray(random_image((45, 70))), random_image((45, 70))),
    'tiff': ('.tif', Image.fromarray(random_image((45, 70))), random_image((45, 70))),
}


@pytest.mark.parametrize('mode', MODES)
def test_modes(predictor: Predictor, mode: str, tmp_path: Path) -> None:
    suffix, picture, pixels = MODES[mode]
    path = tmp_path / f'a{suffix}'
    if isinstance(picture, Image.Image):
        options: dict[str, Any] = {'quality': 100} if suffix in ('.jpg', '.webp') else {}
        picture.save(path, **options)
    else:
        cv2.imwrite(str(path), picture)
    found = read_image(path)
    assert found.dtype == np.uint8 and found.shape == (45, 70, 3)
    np.testing.assert_allclose(found.astype(int), pixels, atol=3 if suffix in ('.jpg', '.webp') else 0)
    assert_labels(predictor(path), reference(found))


@pytest.mark.parametrize('size', [(1, 1), (1, 90), (90, 1)])
def test_thin_images(predictor: Predictor, size: tuple[int, int]) -> None:
    image = random_image((90, 90))[: size[0], : size[1]].copy()
    for protocol, options in CASES.values():
        shown = copy(predictor)
        shown.protocol = protocol
        assert_thin_labels(shown(image), reference(image, **options))


def assert_thin_labels(labels: np.ndarray, scores: Tensor) -> None:
    """As ``assert_labels``; of so few pixels all may be unsure."""
    best = scores.topk(2, dim=0).values
    sure = (best[0] - best[1] > 1e-4 * scores.abs().max()).numpy()
    assert labels.shape == scores.shape[1:]
    np.testing.assert_array_equal(labels[sure], scores.argmax(dim=0).numpy()[sure])


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')  # the test's own
def test_a_hundred_megapixels_fit_in_memory(checkpoint: Path, tmp_path: Path) -> None:
    """Full-size scores of these six classes alone would be 2.4 GB."""
    Image.new('RGB', (10_000, 10_000), (200, 100, 50)).save(tmp_path / 'large.png', compress_level=1)
    # Not ru_maxrss, in which a new process inherits what its parent had.
    code = (
        'import sys\n'
        'from segrecipes.commands import cli\n'
        'cli.run("predict", sys.argv[1:])\n'
        'print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0])\n'
    )
    command = [sys.executable, '-c', code, checkpoint, tmp_path / 'large.png', '--out', tmp_path / 'out']
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (share,) = json.loads((tmp_path / 'out/shares.json').read_text())['images'].values()
    assert sum(share.values()) == pytest.approx(100, abs=0.01)
    with Image.open(tmp_path / 'out/masks/large.png') as mask, Image.open(tmp_path / 'out/overlays/large.jpg') as over:
        assert mask.size == (10_000, 10_000)
        assert over.width == 10_000 and 10_000 < over.height < 11_000
    assert int(done.stdout.split()[-2]) < 3_000_000  # kB


# The command line


def run(checkpoint: Path | str, *arguments: Any, out: Path) -> dict[str, Any]:
    """``shares.json`` of a run that succeeds."""
    cli.run('predict', [str(checkpoint), *map(str, arguments), '--out', str(out)])
    return json.loads((out / 'shares.json').read_text())


def refused(*arguments: Any, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a run that does not start."""
    with pytest.raises(SystemExit) as stop:
        cli.run('predict', [*map(str, arguments)])
    assert stop.value.code == 1
    output = capsys.readouterr()
    assert output.out == ''
    assert output.err.startswith('error: ') and output.err.count('\n') == 1
    return output.err.removeprefix('error: ').rstrip('\n')


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file())


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images, and what is none; for reading only."""
    folder = tmp_path_factory.mktemp('photos')
    for number, name in enumerate(('a.jpg', 'b c.png', 'day 1/d.JPG', 'day 1/night/e.png', 'f.x.bmp')):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random_image((45, 50 + number), number)).save(folder / name)
    (folder / 'notes.txt').write_text('none')
    return folder


def test_what_is_written(checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shares = run(checkpoint, photos, out=tmp_path)
    assert capsys.readouterr().out == f'3 images segmented: {tmp_path}\n'
    names = ('a', 'b c', 'f.x')
    assert files(tmp_path) == sorted(
        ['shares.json', *(f'masks/{name}.png' for name in names), *(f'overlays/{name}.jpg' for name in names)]
    )
    assert shares.keys() == {'checkpoint', 'protocol', 'images', 'failed'}
    assert (shares['checkpoint'], shares['protocol'], shares['failed']) == (str(checkpoint), 'ade20k-ss@40', {})
    assert [*shares['images']] == [*names]
    for name, file in zip(names, ('a.jpg', 'b c.png', 'f.x.bmp')):
        image = read_image(photos / file)
        with Image.open(tmp_path / f'masks/{name}.png') as mask:
            assert (mask.mode, mask.format) == ('P', 'PNG')
            table, labels = mask.getpalette(), np.array(mask)
        assert table is not None and tuple(zip(*[iter(table)] * 3))[: len(NAMES)] == COLORS
        assert_labels(labels, reference(image))

        expected = np.array(explained(image, labels, NAMES, COLORS))
        overlay = read(tmp_path / f'overlays/{name}.jpg').astype(float)
        assert overlay.shape == expected.shape
        assert np.abs(overlay - expected).mean() < 8  # JPEG's loss

        counted = {label: round(100 * (labels == index).mean(), 3) for index, label in enumerate(NAMES)}
        assert shares['images'][name] == {label: share for label, share in counted.items() if share}
        assert sum(shares['images'][name].values()) == pytest.approx(100, abs=0.01)
        values = [*shares['images'][name].values()]
        assert values == sorted(values, reverse=True) and len(values) > 2


def test_files_folders_and_patterns(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    """Each image once, in the order in which they are named; below the folder that they share they keep their path."""
    found = run(checkpoint, photos / 'day 1' / 'd.JPG', f'{photos}/**/*.png', photos, out=tmp_path)['images']
    assert [*found] == ['day 1/d', 'b c', 'day 1/night/e', 'a', 'f.x']
    assert files(tmp_path / 'masks') == sorted(f'{name}.png' for name in found)
    assert files(tmp_path / 'overlays') == sorted(f'{name}.jpg' for name in found)
    assert read(tmp_path / 'masks/day 1/night/e.png').shape == (45, 53)


def test_one_image_has_its_name_alone(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    assert [*run(checkpoint, photos / 'day 1' / 'd.JPG', out=tmp_path)['images']] == ['d']


def test_a_file_whose_name_looks_like_a_pattern(checkpoint: Path, tmp_path: Path) -> None:
    for name in ('[ab].png', 'a.png'):
        Image.fromarray(random_image((45, 70))).save(tmp_path / name)
    assert [*run(checkpoint, tmp_path / '[ab].png', out=tmp_path / 'out')['images']] == ['[ab]']


def test_results_of_an_earlier_run_are_replaced(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    run(checkpoint, photos / 'a.jpg', '--weights', 'raw', out=tmp_path)
    before = read(tmp_path / 'masks/a.png')
    run(checkpoint, photos / 'a.jpg', out=tmp_path)
    assert (read(tmp_path / 'masks/a.png') != before).mean() > 0.2
    assert files(tmp_path) == ['masks/a.png', 'overlays/a.jpg', 'shares.json']


# Arguments, how the protocol in shares.json starts and ends, what the reference is told
OPTIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    '': ('ade20k-ss', '@40', {}),
    '--size 33': ('ade20k-ss', '@33', {'size': 33}),
    '--flip': ('ade20k-ss', '@40', {'flip': True}),
    '--ms': ('ade20k-ss', '@40', {'ratios': RATIOS}),
    '--ms --flip --size 24': ('ade20k-ss', '@24', {'ratios': RATIOS, 'flip': True, 'size': 24}),
    '--slide': ('slide', '@40', {'window': (40, 27)}),
    '--slide --size 32': ('slide', '@32', {'window': (32, 21)}),
    '--slide --flip --size 32': ('slide', '@32', {'window': (32, 21), 'flip': True}),
    '--protocol ade20k-ss': ('ade20k-ss', '@40', {}),
    '--protocol ade20k-ss --ms --size 24': ('ade20k-ss+ms', '@24', {'ratios': RATIOS, 'size': 24}),
    '--protocol ade20k-ms --size 32': ('ade20k-ms', '@32', {'ratios': RATIOS, 'flip': True, 'size': 32}),
    '--protocol slide --size 32': ('slide', '@32', {'window': (32, 21)}),
    '--protocol slide --flip': ('slide+flip', '@40', {'window': (40, 27), 'flip': True}),
    '--protocol mosaic-512sq': ('mosaic-512sq', '@40', {'square': True}),
    '--protocol mosaic-512sq --flip --size 33': (
        'mosaic-512sq+flip',
        '@33',
        {'square': True, 'flip': True, 'size': 33},
    ),
    '--weights raw': ('ade20k-ss', '@40', {'weights': 'raw'}),
    '--weights ema': ('ade20k-ss', '@40', {'weights': 'ema'}),
    '--device cpu': ('ade20k-ss', '@40', {}),
}


@pytest.mark.parametrize('arguments', OPTIONS)
def test_options(checkpoint: Path, photos: Path, tmp_path: Path, arguments: str) -> None:
    name, size, options = OPTIONS[arguments]
    found = run(checkpoint, photos / 'b c.png', *arguments.split(), out=tmp_path)
    assert found['protocol'].startswith(name) and found['protocol'].endswith(size)
    image = read(photos / 'b c.png')
    mask, expected = read(tmp_path / 'masks/b c.png'), reference(image, **options)
    assert_labels(mask, expected)
    if options not in ({}, {'weights': 'ema'}):  # the option does something
        assert (mask != reference(image).argmax(dim=0).numpy()).any()


@pytest.mark.parametrize('name', PROTOCOLS)
def test_each_protocol_of_the_table_is_chosen_by_its_name(
    checkpoint: Path, photos: Path, tmp_path: Path, name: str
) -> None:
    for arguments, protocol in ([], get_protocol(name, 40)), (['--size', '32'], get_protocol(name, 32)):
        found = run(checkpoint, photos / 'b c.png', '--protocol', name, *arguments, out=tmp_path)
        assert found['protocol'] == str(protocol)
        expected = Predictor(checkpoint, protocol=protocol)(photos / 'b c.png')
        np.testing.assert_array_equal(read(tmp_path / 'masks/b c.png'), expected)


def test_submission(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    """As ADE20K's server takes it: 1 is class 0, in one channel without palette."""
    run(checkpoint, photos / 'a.jpg', photos / 'day 1' / 'd.JPG', '--submission', out=tmp_path)
    assert files(tmp_path / 'submission') == ['a.png', 'day 1/d.png']
    for name in ('a', 'day 1/d'):
        with Image.open(tmp_path / f'submission/{name}.png') as image:
            assert (image.mode, image.format) == ('L', 'PNG')
            labels = np.array(image)
        np.testing.assert_array_equal(labels, read(tmp_path / f'masks/{name}.png') + 1)
        assert labels.min() >= 1 and labels.max() <= len(NAMES)


def test_as_a_command(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    """As the module's docstring has it: a file, a folder and a pattern."""
    pattern = str(photos / 'day 1' / '*' / '*.png')
    command = [
        sys.executable,
        '-m',
        'segrecipes',
        'predict',
        checkpoint,
        'a.jpg',
        'day 1/',
        pattern,
        '--out',
        tmp_path / 'pred',
    ]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=photos, env=environment)
    assert (done.returncode, done.stdout) == (0, f'3 images segmented: {tmp_path / "pred"}\n'), done.stderr
    assert done.stderr == ''
    masks = ['a.png', 'day 1/d.png', 'day 1/night/e.png']
    assert files(tmp_path / 'pred' / 'masks') == masks
    for mask, file in zip(masks, ('a.jpg', 'day 1/d.JPG', 'day 1/night/e.png')):
        assert_labels(read(tmp_path / 'pred' / 'masks' / mask), reference(read_image(photos / file)))


def test_the_docstrings_python(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path('runs/first').mkdir(parents=True)
    Path('runs/first/best-rank0.pt').symlink_to(checkpoint)
    Image.fromarray(random_image((45, 70))).save('street.jpg')
    code = (predict.__doc__ or '').partition('In Python:\n')[2]
    assert 'Predictor' in code
    values: dict[str, Any] = {}
    exec('\n'.join(line.strip() for line in code.splitlines()), values)
    assert_labels(values['labels'], reference(read_image('street.jpg')))


# What fails


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two images among files that are none."""
    folder = tmp_path / 'mixed'
    folder.mkdir()
    for name in ('a.jpg', 'z.png'):
        Image.fromarray(random_image((45, 70))).save(folder / name)
    for name, kept in (('cut.jpg', 0.6), ('cut2.png', 0.6), ('header.jpg', 0.02)):
        data = (folder / ('z.png' if name.endswith('png') else 'a.jpg')).read_bytes()
        (folder / name).write_bytes(data[: int(kept * len(data))])
    (folder / 'empty.png').touch()
    (folder / 'text.jpg').write_text('no image')
    return folder


def test_damaged_images_are_named_and_the_others_done(
    checkpoint: Path, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = ['cut', 'cut2', 'empty', 'header', 'text']
    with pytest.raises(SystemExit) as stop:
        run(checkpoint, mixed, out=tmp_path / 'out')
    assert stop.value.code == 1
    output = capsys.readouterr()
    assert output.out == f'2 images segmented: {tmp_path / "out"}\n'
    *left_out, last = output.err.strip().splitlines()
    assert last == f'error: 5 of 7 images were left out: {", ".join(damaged)}'
    assert [line.partition(': ')[0] for line in left_out] == ['left out'] * 5

    shares = json.loads((tmp_path / 'out/shares.json').read_text())
    assert [*shares['images']] == ['a', 'z']
    assert [*shares['failed']] == damaged
    for line, (name, why) in zip(left_out, shares['failed'].items()):
        (file,) = mixed.glob(f'{name}.*')
        assert why.startswith(f'damaged image {file}: ')
        assert line == f'left out: {why}'
    assert files(tmp_path / 'out') == [
        'masks/a.png', 'masks/z.png', 'overlays/a.jpg', 'overlays/z.jpg', 'shares.json'
    ]  # fmt: skip


@pytest.mark.parametrize('name', ['cut.jpg', 'cut2.png', 'empty.png', 'header.jpg', 'text.jpg'])
def test_a_damaged_image_in_python(predictor: Predictor, mixed: Path, name: str) -> None:
    with pytest.raises(UserError, match=f'^damaged image {mixed / name}: '):
        predictor(mixed / name)


def test_a_missing_image_in_python(predictor: Predictor, tmp_path: Path) -> None:
    for path in (tmp_path / 'a.jpg', str(tmp_path / 'a.jpg'), tmp_path):
        with pytest.raises(MissingPathError, match=f'^no such image: {path}$'):
            predictor(path)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Files of this process end at ``size`` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_picture_that_cannot_be_saved_leaves_nothing_half_written(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'photos').mkdir()
    for name, size in (('a', (45, 70)), ('large', (900, 700)), ('z', (45, 70))):
        Image.fromarray(random_image(size)).save(tmp_path / 'photos' / f'{name}.png')
    with pytest.raises(SystemExit) as stop, file_size_limit(20_000):
        run(checkpoint, tmp_path / 'photos', out=tmp_path / 'out')
    assert stop.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1] == 'error: 1 of 3 images were left out: large'
    shares = json.loads((tmp_path / 'out/shares.json').read_text())
    assert [*shares['images']] == ['a', 'z'] and [*shares['failed']] == ['large']
    assert not list((tmp_path / 'out').rglob('*.partial*'))
    assert files(tmp_path / 'out' / 'overlays') == ['a.jpg', 'z.jpg']
    for path in (tmp_path / 'out').rglob('*.[pj][np]g'):
        read(path)  # whole


# Arguments, and the one line that answers them; {photos} and {tmp} are folders, {checkpoint} a good one
REFUSED = {
    'no such checkpoint': ('{tmp}/no.pt {photos}', '{tmp}/no.pt: no such file'),
    'no such safetensors': ('{tmp}/no.safetensors {photos}', '{tmp}/no.safetensors: no such file'),
    'no such onnx': ('{tmp}/no.onnx {photos}', '{tmp}/no.onnx: no such file'),
    'a folder': ('{photos} {photos}', '{photos}: a folder, not a checkpoint file'),
    'an image': ('{photos}/a.jpg {photos}', '{photos}/a.jpg: not a checkpoint of PyTorch (other content)'),
    'a program': (
        '{tmp}/a.pt2 {photos}',
        '{tmp}/a.pt2 is a program, and loading it may run any code: --trust-checkpoint to insist',
    ),
    'no such image': (
        '{checkpoint} {photos}/no.jpg',
        'no image at {photos}/no.jpg: expected a file, a folder of images or a pattern',
    ),
    'no match': (
        '{checkpoint} {photos} {photos}/*.gif',
        'no image at {photos}/*.gif: expected a file, a folder of images or a pattern',
    ),
    'a folder without images': (
        '{checkpoint} {tmp}/empty',
        'no image at {tmp}/empty: expected a file, a folder of images or a pattern',
    ),
    'the same name twice': (
        '{checkpoint} {photos} {tmp}/twice',
        '{tmp}/twice/a.jpg and {tmp}/twice/a.png would have the same results, {common}; rename one of them',
    ),
    'unknown weights': (
        '{checkpoint} {photos} --weights emma',
        "weights=emma is not known. Did you mean 'ema'? Legal: best, ema, raw.",
    ),
    'size 0': ('{checkpoint} {photos} --size 0', 'size=0 must be 1 or more pixels'),
    'unknown protocol': (
        '{checkpoint} {photos} --protocol ade20k-sss',
        f"protocol=ade20k-sss is not known. Did you mean 'ade20k-ss'? Legal: {', '.join(LEGAL)}.",
    ),
    'a protocol and --slide': (
        '{checkpoint} {photos} --protocol ade20k-ms --slide',
        '--slide is --protocol slide; --protocol=ade20k-ms is given too',
    ),
    'size below 0': ('{checkpoint} {photos} --slide --size -5', 'size=-5 must be 1 or more pixels'),
}


@pytest.mark.parametrize('what', REFUSED)
def test_refused(checkpoint: Path, photos: Path, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'twice').mkdir()
    (tmp_path / 'a.pt2').write_text('never read')
    for name in ('a.jpg', 'a.png'):
        (tmp_path / 'twice' / name).touch()
    common = (tmp_path / 'twice/a').relative_to(os.path.commonpath([tmp_path, photos]))
    names = {'checkpoint': checkpoint, 'photos': photos, 'tmp': tmp_path, 'common': common}
    arguments, message = (text.format(**names) for text in REFUSED[what])
    assert refused(*arguments.split(), '--out', tmp_path / 'out', capsys=capsys) == message
    assert not (tmp_path / 'out').exists()


def test_a_checkpoint_without_a_card(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = contents()
    for name, state in {
        'state.pt': {**content['state'], 'callbacks': {}},
        'none.pt': content['state']['model'],
    }.items():
        torch.save({'state': state} if name == 'state.pt' else state, tmp_path / name)
        told = refused(tmp_path / name, photos, capsys=capsys)
        assert told == (
            f'{tmp_path / name} has no model card, so its architecture and classes are not known: it was written '
            'before checkpoints kept one, or by another tool'
        )


def test_a_checkpoint_of_another_network_than_its_card_says(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = contents()
    content['state']['callbacks']['Describe'] = {**CARD.to_dict(), 'num_classes': 7}
    torch.save(content, tmp_path / 'other.pt')
    told = refused(tmp_path / 'other.pt', photos, capsys=capsys)
    assert told.startswith(f'{tmp_path / "other.pt"} does not fit the network: ')
    assert 'classifier.conv_seg.weight: (6, 16, 1, 1) in the file, (7, 16, 1, 1) in the network' in told


def test_average_that_is_not_there(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = contents()
    del content['state']['algorithms']
    torch.save(content, tmp_path / 'raw.pt')
    told = refused(tmp_path / 'raw.pt', photos, '--weights', 'ema', capsys=capsys)
    assert told.startswith(f'weights=ema is not possible, {tmp_path / "raw.pt"} has no averaged weights')
    image = random_image((45, 70))
    assert_labels(Predictor(tmp_path / 'raw.pt')(image), reference(image, 'raw'))


def test_only_trusted_code_is_run(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({**contents(), 'of its own': Path('a')}, tmp_path / 'code.pt')
    told = refused(tmp_path / 'code.pt', photos, capsys=capsys)
    assert told.startswith(f'{tmp_path / "code.pt"}: reading it needs pathlib.')
    assert '--trust-checkpoint' in told
    run(tmp_path / 'code.pt', photos / 'b c.png', '--trust-checkpoint', out=tmp_path / 'out')
    assert_labels(read(tmp_path / 'out/masks/b c.png'), reference(read(photos / 'b c.png')))


# Exported files


@pytest.mark.parametrize(
    'to', [pytest.param(to, marks=[pytest.mark.slow] * row.runs_code) for to, row in FORMATS.items()]
)
def test_exported_files_label_as_the_checkpoint(checkpoint: Path, photos: Path, tmp_path: Path, to: str) -> None:
    path = tmp_path / f'net{FORMATS[to].suffix}'
    cli.run('export', [str(checkpoint), '--to', to, '--out', str(path)])
    trust = ['--trust-checkpoint'] if FORMATS[to].runs_code else []
    found = run(path, photos, *trust, '--ms', '--flip', '--size', '32', out=tmp_path / 'out')
    assert [*found['images']] == ['a', 'b c', 'f.x']
    for name in ('b c.png', 'f.x.bmp'):
        mask = tmp_path / 'out/masks' / f'{name.rpartition(".")[0]}.png'
        with Image.open(mask) as image:
            table, labels = image.getpalette(), np.array(image)
        assert table is not None and tuple(zip(*[iter(table)] * 3))[: len(NAMES)] == COLORS
        assert_labels(labels, reference(read(photos / name), size=32, ratios=RATIOS, flip=True))
    assert set(found['images']['a']) <= set(NAMES)


# What once went wrong


def test_a_path_through_the_folder_above(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ('work', 'other'):
        (tmp_path / folder).mkdir()
        Image.fromarray(random_image((45, 70))).save(tmp_path / folder / 'a.png')
    monkeypatch.chdir(tmp_path / 'work')
    found = run(checkpoint, '../other/a.png', 'a.png', out=tmp_path / 'out')
    assert [*found['images']] == ['other/a', 'work/a']
    assert files(tmp_path / 'out' / 'masks') == ['other/a.png', 'work/a.png']


def test_one_image_named_twice(checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    assert [*run(checkpoint, 'a.jpg', photos / 'a.jpg', 'day 1/../a.jpg', out=tmp_path)['images']] == ['a']


def test_damaged_exif_beside_the_orientation(predictor: Predictor, tmp_path: Path) -> None:
    exif, data = Image.Exif(), BytesIO()
    exif[0x0112] = 6
    exif[0x010E] = 'a description'
    Image.fromarray(random_image((45, 70))).save(data, 'JPEG', exif=exif)
    description, width = b'\x01\x0e\x00\x02', b'\x01\x00\x00\x02'  # tags, both of text
    assert data.getvalue().count(description) == 1
    (tmp_path / 'a.jpg').write_bytes(data.getvalue().replace(description, width))
    assert predictor(tmp_path / 'a.jpg').shape == (70, 45)


def test_a_damaged_picture_in_python(predictor: Predictor, tmp_path: Path) -> None:
    Image.fromarray(random_image((45, 70))).save(tmp_path / 'a.jpg')
    with (
        Image.open(BytesIO((tmp_path / 'a.jpg').read_bytes()[:-300])) as image,
        pytest.raises(UserError, match=r'^damaged image'),
    ):
        predictor(image)


@pytest.mark.parametrize('shape', [(0, 5, 3), (5, 0, 3)])
def test_an_empty_array_is_refused(predictor: Predictor, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError):
        predictor(np.zeros(shape, np.uint8))


@pytest.mark.parametrize('device', ['nonsense', 'cuda:99'])
def test_a_device_that_is_not_there(
    checkpoint: Path, photos: Path, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f'--device={device}' in refused(checkpoint, photos, '--device', device, capsys=capsys)


def test_an_output_folder_that_is_a_file(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'out').touch()
    assert str(tmp_path / 'out') in refused(checkpoint, photos, '--out', tmp_path / 'out', capsys=capsys)


def test_a_folder_in_the_way_of_a_mask(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / 'masks/a.png').mkdir(parents=True)
    with pytest.raises(SystemExit):
        run(checkpoint, photos, out=tmp_path)
    assert not list(tmp_path.rglob('*.partial*'))


def test_shares_tell_how_the_image_was_shown(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    found = [
        run(checkpoint, photos / 'a.jpg', *arguments, out=tmp_path)['protocol']
        for arguments in ([], ['--ms'], ['--flip'])
    ]
    assert len(set(found)) == len(found)
