"""Segment images with a trained network.

    python predict.py runs/first/best-rank0.pt street.jpg photos/ 'more/*.png' --out pred

The checkpoint, or an exported .onnx or .pt2 file, knows its architecture, classes and normalisation. Written below
``--out``: ``masks/`` (palette PNGs of class indices), ``overlays/`` (the classes' colours over the image) and
``shares.json`` (of each image, the share of its pixels by class). In Python:

    from predict import Predictor
    labels = Predictor('runs/first/best-rank0.pt')('street.jpg')  # (H, W) uint8
"""

import argparse
import glob
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from card import ModelCard
from checkpoints import load_weights, read_checkpoint
from errors import MissingPathError, UserError, clean_exit
from exported import load_exported, read_card
from gallery import indexed_png
from layouts import IMAGE_SUFFIXES
from model import build_network, for_inference
from protocols import Network, Protocol, ade20k_ms, ade20k_ss, slide
from samples import UNREADABLE, decode_image, to_tensor
from scores import write_text

PROGRAMS = ('.onnx', '.pt2')  # exported files that bring their own code
ORIENTATION = 0x0112  # EXIF's tag; 1 is upright
# By orientation: from the stored picture to the displayed one
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored.swapaxes(0, 1), 2),
    8: np.rot90,
}


class Predictor:
    """A trained network as a function of an image: ``Predictor('best-rank0.pt')(image)``.

    Args:
        path: a checkpoint with a model card, mmsegmentation's of the usual networks, or an exported .onnx or .pt2 file.
        weights: ``best`` (averaged ones where the file has them), ``ema`` or ``raw``.
        protocol: how an image is shown to the network; by default ade20k-ss at the size it was evaluated at.
        device: such as ``cuda:1``; by default a GPU where there is one. Exported files run on the CPU.
        trust: run the code in a checkpoint that cannot be read without.

    Raises:
        UserError: the file cannot be read, or does not say what network it is of.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        weights: str = 'best',
        protocol: Protocol | None = None,
        device: str | None = None,
        trust: bool = False,
    ):
        self.network: Network
        if Path(path).suffix in PROGRAMS:
            if Path(path).suffix == '.pt2' and not trust:
                raise UserError(f'{path} is a program, and loading it may run any code: --trust-checkpoint to insist')
            self.device = torch.device('cpu')
            self.card, self.network = read_card(path), load_exported(path)
        else:
            self.device = find_device(device)
            self.card, self.network = load_network(path, weights, self.device, trust)
        self.protocol = protocol or ade20k_ss(self.card.image_size)

    @torch.inference_mode()
    def __call__(self, image: 'str | Path | Image.Image | np.ndarray') -> np.ndarray:
        """A file, a PIL image or (H, W, 3) uint8 RGB → (H, W) uint8 class indices, of the image as it is displayed.

        Raises:
            UserError: the file is damaged, or no image.
        """
        pixels = read_image(image)
        mean, std = (
            torch.tensor(values, device=self.device).view(3, 1, 1) for values in (self.card.mean, self.card.std)
        )
        views = [(to_tensor(view).to(self.device).float() - mean) / std for view in self.protocol.views(pixels)]
        height, width = pixels.shape[:2]
        return self.protocol.labels(self.network, views, (height, width)).cpu().numpy()


def find_device(name: str | None) -> torch.device:
    name = name or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        return torch.empty(0, device=name).device
    except (AssertionError, RuntimeError) as error:  # of a torch without CUDA, and of one
        raise UserError(f'--device={name} is not there: {str(error).partition(chr(10))[0]}') from error


def load_network(path: str | Path, weights: str, device: torch.device, trust: bool) -> tuple[ModelCard, Network]:
    """The card and the network of a checkpoint, in evaluation mode; its logits stay at the head's own stride."""
    checkpoint = read_checkpoint(path, trust)
    if checkpoint.card is None:
        raise UserError(
            f'{path} does not say which architecture and classes it is of: it was written before checkpoints kept a '
            'model card, or by another tool'
        )
    network = build_network(**checkpoint.card.network_arguments())
    load_weights(network, checkpoint.choose(weights), str(path))
    return checkpoint.card, for_inference(network).to(device).logits


def read_image(image: 'str | Path | Image.Image | np.ndarray') -> np.ndarray:
    """→ (H, W, 3) uint8 RGB, turned upright if its EXIF orientation says so."""
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise UserError(f'an image must be (H, W, 3) uint8 RGB; it is {image.dtype} {image.shape}')
        return np.require(image, requirements=('C', 'W'))  # torch takes no mirrored or read-only ones
    if isinstance(image, Image.Image):
        return upright(decode_image(image, 'image'), image)
    path = Path(image)
    if not path.is_file():
        raise MissingPathError(f'no such image: {path}')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # large ones are welcome
        pixels = decode_image(path, str(path))
        with Image.open(path) as opened:
            return upright(pixels, opened)


def upright(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    """(H, W, 3) as the image's EXIF orientation says it is displayed; damaged EXIF says nothing."""
    turn = None
    with suppress(*UNREADABLE):
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


@clean_exit
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    images = name_images(find_images(args.images))

    predictor = Predictor(args.checkpoint, weights=args.weights, device=args.device, trust=args.trust_checkpoint)
    predictor.protocol = choose_protocol(args, predictor.card.image_size)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'--out={args.out}: cannot be written ({error.strerror})') from error

    shares, failed = {}, {}
    for name, path in tqdm(images.items(), unit='image', disable=not sys.stderr.isatty()):
        try:
            image = read_image(path)
            labels = predictor(image)
            write(args.out, name, image, labels, predictor.card, args.submission)
            shares[name] = class_shares(labels, predictor.card.class_names)
        except (UserError, OSError) as error:
            failed[name] = str(error)
            tqdm.write(f'left out: {error}', file=sys.stderr)

    settings = {'checkpoint': str(args.checkpoint), 'protocol': str(predictor.protocol)}
    write_text(args.out / 'shares.json', json.dumps({**settings, 'images': shares, 'failed': failed}, indent=1) + '\n')
    print(f'{len(shares)} images segmented: {args.out}')
    if failed:
        raise UserError(f'{len(failed)} of {len(images)} images were left out: {", ".join(failed)}')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', help='a checkpoint, or an exported .onnx or .pt2 file')
    parser.add_argument('images', nargs='+', help='images, folders of images, or patterns such as "photos/*.jpg"')
    parser.add_argument('--out', type=Path, default=Path('predictions'), help='default: predictions')
    parser.add_argument('--ms', action='store_true', help='average over six scales, 0.5 to 1.75')
    parser.add_argument('--flip', action='store_true', help='average with the mirrored image')
    parser.add_argument('--slide', action='store_true', help='windows over the image in its own resolution')
    parser.add_argument('--size', type=int, help='short side, or window, in pixels; default: that of its evaluation')
    parser.add_argument('--submission', action='store_true', help="also write ADE20K's form: labels from 1, no palette")
    parser.add_argument('--weights', default='best', help='ema, raw, or best: EMA where there is one; default: best')
    parser.add_argument('--device', help='such as cuda:1 or cpu; default: a GPU where there is one')
    parser.add_argument('--trust-checkpoint', action='store_true', help='may run code that is in the checkpoint')
    return parser.parse_args(argv)


def choose_protocol(args: argparse.Namespace, size: int) -> Protocol:
    if args.size is not None and args.size < 1:
        raise UserError(f'--size={args.size} must be 1 or more pixels')
    protocol = (slide if args.slide else ade20k_ss)(args.size or size)
    name = protocol.name + '+ms' * args.ms + '+flip' * args.flip
    return replace(protocol, name=name, ratios=ade20k_ms().ratios if args.ms else (1.0,), flip=args.flip)


def find_images(arguments: Sequence[str]) -> list[Path]:
    """Files as they are, the images of folders, and what patterns match, in order and each once."""
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            matches = [file for file in sorted(path.iterdir()) if file.suffix.lower() in IMAGE_SUFFIXES]
        else:
            files = [argument] if path.is_file() else sorted(glob.glob(argument, recursive=True))  # noqa: PTH207
            matches = [Path(file) for file in files]
        if not matches:
            raise MissingPathError(f'no image at {argument}: expected a file, a folder of images or a pattern')
        found += matches
    kept: dict[str, Path] = {}
    for path in found:
        kept.setdefault(os.path.abspath(path), path)  # noqa: PTH100
    return list(kept.values())


def name_images(paths: Sequence[Path]) -> dict[str, Path]:
    """What each image's results are called: its path without suffix, below the folder that all have in common."""
    absolute = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100
    common = Path(os.path.commonpath([path.parent for path in absolute]))
    named: dict[str, Path] = {}
    for path, full in zip(paths, absolute):
        name = full.relative_to(common).with_suffix('').as_posix()
        if name in named:
            raise UserError(f'{named[name]} and {path} would have the same results, {name}; rename one of them')
        named[name] = path
    return named


def write(
    out: Path, name: str, image: np.ndarray, labels: np.ndarray, card: ModelCard, submission: bool = False
) -> None:
    """A mask and an overlay, and the mask as ADE20K's server takes it."""
    colors = np.array(card.palette, np.uint8)
    overlay = cv2.addWeighted(image, 0.5, colors[labels], 0.5, 0)
    pictures = {
        f'masks/{name}.png': indexed_png(labels, card.num_classes, card.palette),
        f'overlays/{name}.jpg': Image.fromarray(overlay),
    }
    if submission:
        pictures[f'submission/{name}.png'] = Image.fromarray(labels + np.uint8(1))
    for file, picture in pictures.items():
        path = out / file
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f'{path.name}.partial')
        try:
            picture.save(partial, format='JPEG' if path.suffix == '.jpg' else 'PNG')
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def class_shares(labels: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    """Percent of the pixels by class name, the largest first; classes that do not occur are left out."""
    counts = np.bincount(labels.ravel(), minlength=len(class_names))
    order: list[int] = np.argsort(-counts, kind='stable').tolist()
    return {class_names[index]: round(100 * int(counts[index]) / labels.size, 3) for index in order if counts[index]}


if __name__ == '__main__':
    main()
