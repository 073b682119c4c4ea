"""Write a checkpoint's network for use without this package, and prove that the file computes the same.

python export.py runs/demo/latest-rank0.pt --to onnx
"""

import argparse
import copy
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from card import ModelCard
from checkpoints import CARD, load_weights, read_checkpoint
from errors import UserError, choice, clean_exit
from exported import FORMATS, Run, load_package
from model import SegmentationNetwork, build_network

OPSET = 17  # the exporter's own default; TensorRT, OpenVINO and ONNX Runtime have long read it
DYNAMIC_AXES = {0: 'batch', 2: 'height', 3: 'width'}
TRACED = (2, 3, 64, 96)  # not a batch of 1, which torch.export would take for a constant
CHECKED = ((1, 3, 257, 190), (3, 3, 65, 97), (2, 3, 32, 150))
TOLERANCE = 1e-3  # of the logits' largest magnitude


@clean_exit
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.to not in FORMATS:
        raise choice('--to', args.to, FORMATS)

    checkpoint = read_checkpoint(args.checkpoint, trust=args.trust_checkpoint)
    weights = checkpoint.choose(args.weights)
    path = Path(args.out) if args.out else Path(args.checkpoint).with_suffix(FORMATS[args.to].suffix)
    if path.exists() and path.samefile(args.checkpoint):
        raise UserError(f'--out={path} is the checkpoint itself; choose another file')
    if checkpoint.card is None:
        raise UserError(
            f'{args.checkpoint} has no model card, so its architecture and classes are not known: it was written '
            'before checkpoints kept one, or by another tool'
        )
    network = build_network(**checkpoint.card.network_arguments())
    load_weights(network, weights, args.checkpoint)

    for difference in export(network, checkpoint.card, path, args.to):
        print(difference)
    print(f'{path}: {args.to}, {path.stat().st_size / 1e6:.1f} MB')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', help='a checkpoint of a run, or what this has exported as safetensors')
    parser.add_argument('--to', required=True, metavar='FORMAT', help=', '.join(FORMATS))
    parser.add_argument('--out', help="default: beside the checkpoint, under the format's suffix")
    parser.add_argument('--weights', default='best', help='ema, raw, or best: EMA where there is one; default: best')
    parser.add_argument('--trust-checkpoint', action='store_true', help='may run code that is in the checkpoint')
    return parser.parse_args(argv)


# Writing


@dataclass(frozen=True)
class Difference:
    """How far the logits of an exported network are from the eager network's, for one batch of images."""

    shape: tuple[int, ...]  # of the images
    largest: float
    magnitude: float  # of the eager logits
    share_of_pixels: float  # whose class differs

    def __str__(self) -> str:
        return (
            f'{"×".join(map(str, self.shape))}: logits up to {self.magnitude:.4g} differ by at most '
            f'{self.largest:.2g}, the class by {self.share_of_pixels:.4%} of pixels'
        )


def export(network: SegmentationNetwork, card: ModelCard, path: str | Path, to: str) -> list[Difference]:
    """Write ``network`` without its auxiliary head, and ``card`` with it, as a row of ``FORMATS``.

    Batch, height and width stay dynamic. The file is read back and run beside ``network`` on batches of other shapes
    than it was traced with, and is published only if the logits agree; returns by how much.

    Raises:
        UserError: a name that is not legal, a file that cannot be written, or logits that differ.
    """
    if to not in FORMATS:
        raise choice('--to', to, FORMATS)
    path, form = Path(path), FORMATS[to]
    if path.suffix != form.suffix:
        raise UserError(f'--out={path}: a file of {to} is named …{form.suffix}')
    network, card = without_auxiliary(network), replace(card, auxiliary=False)
    with published(path) as partial:
        WRITERS[to](network, card, partial)
        return compare(network, form.load(partial), str(path))


def without_auxiliary(network: SegmentationNetwork) -> SegmentationNetwork:
    """A copy for inference on the CPU."""
    network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    network.auxiliary = None
    return network


@contextmanager
def published(path: Path) -> Iterator[Path]:
    """A file to write to, which takes the place of ``path`` if all goes well and is removed if not."""
    partial = path.with_name(f'{path.stem}.partial{path.suffix}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f'--out={path}: cannot be written ({error})') from error


@torch.no_grad()
def compare(network: SegmentationNetwork, run: Run, name: str) -> list[Difference]:
    """By how much the logits of ``run`` differ from those of ``network``, for each shape of ``CHECKED``.

    Raises:
        UserError: by more than ``TOLERANCE``, or it does not run at all.
    """
    differences = []
    generator = torch.Generator().manual_seed(0)
    for shape in CHECKED:
        images = torch.randn(shape, generator=generator)
        expected = network(images)
        try:
            logits = run(images)
        except Exception as error:  # whatever the runtime raises
            raise UserError(f'{name} was not written: it does not run on images of {shape}: {error}') from error
        if logits.shape != expected.shape:
            raise UserError(f'{name} was not written: logits of {(*logits.shape,)} for images of {shape}')
        difference = Difference(
            shape,
            largest=float((logits - expected).abs().max()),
            magnitude=float(expected.abs().max()),
            share_of_pixels=float((logits.argmax(dim=1) != expected.argmax(dim=1)).float().mean()),
        )
        if not difference.largest <= TOLERANCE * difference.magnitude:  # NaN is no agreement
            raise UserError(f'{name} was not written: it differs from the network. {difference}')
        differences.append(difference)
    return differences


def write_onnx(network: SegmentationNetwork, card: ModelCard, path: Path) -> None:
    onnx = load_package('onnx')
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'You are using the legacy', DeprecationWarning)  # torch 2.9 and later
        torch.onnx.export(
            with_exportable_pools(network),
            (torch.randn(TRACED),),
            str(path),
            input_names=['images'],
            output_names=['logits'],
            dynamic_axes={'images': DYNAMIC_AXES, 'logits': DYNAMIC_AXES},
            opset_version=OPSET,
            dynamo=False,  # the other exporter needs onnxscript
        )
    model = onnx.load(path)
    # The exporter does not know how many classes a resized tensor has.
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = card.num_classes
    onnx.helper.set_model_props(model, {CARD: json.dumps(card.to_dict())})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def write_program(network: SegmentationNetwork, card: ModelCard, path: Path) -> None:
    dynamic = dict.fromkeys(DYNAMIC_AXES, torch.export.Dim.AUTO)
    program = torch.export.export(network, (torch.randn(TRACED),), dynamic_shapes=(dynamic,), strict=False)
    # Shape analysis tells a side of 1 from others, as that would broadcast, and so refuses images on which a feature
    # map is 1 pixel high or wide. The operators take those too: 2 is what torch has for a size without lower bound.
    for symbol, sizes in program.range_constraints.items():
        program.range_constraints[symbol] = type(sizes)(2, sizes.upper)
    # torch 2.9 and later also hold images to what was true of the traced sizes, such as the parity of a feature map,
    # by a check that is made from the example.
    program.example_inputs = None
    torch.export.save(program, path, extra_files={f'{CARD}.json': json.dumps(card.to_dict())})


def write_safetensors(network: SegmentationNetwork, card: ModelCard, path: Path) -> None:
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    path.write_bytes(safetensors.torch.save(weights, {'format': 'pt', CARD: json.dumps(card.to_dict())}))


class AdaptivePool(nn.Module):
    """``nn.AdaptiveAvgPool2d(bins)`` as two matrix products, which ONNX has for any size.

    (B, C, H, W) → (B, C, bins, bins): the mean over rows is a matrix (bins, H), that over columns one (bins, W).
    """

    def __init__(self, bins: int):
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (self.weights(side, x) for side in x.shape[2:])
        return rows @ x @ columns.T

    def weights(self, side: int, x: Tensor) -> Tensor:
        """(bins, side): each row averages the pixels ⌊i·side/bins⌋ … ⌈(i+1)·side/bins⌉ − 1 of its bin i."""
        index = torch.arange(self.bins, device=x.device).unsqueeze(1)
        first, end = index * side // self.bins, ((index + 1) * side + self.bins - 1) // self.bins
        pixel = torch.arange(side, device=x.device)
        return ((pixel >= first) & (pixel < end)).to(x.dtype) / (end - first).to(x.dtype)


def with_exportable_pools(network: SegmentationNetwork) -> SegmentationNetwork:
    """A copy that pools with :class:`AdaptivePool`, except to one pixel: for that ONNX has an operator."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, pool in module.named_children():
            if isinstance(pool, nn.AdaptiveAvgPool2d) and pool.output_size != 1:
                assert isinstance(pool.output_size, int)
                setattr(module, name, AdaptivePool(pool.output_size))
    return network


WRITERS: dict[str, Callable[[SegmentationNetwork, ModelCard, Path], None]] = {  # by the names of FORMATS
    'onnx': write_onnx,
    'torch.export': write_program,
    'safetensors': write_safetensors,
}


if __name__ == '__main__':
    main()
