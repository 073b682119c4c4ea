"""How fast is an evaluation in full resolution?

    python benchmarks/evaluation.py

One image of ade20k-ss from its files to the confusion matrix, against mmsegmentation's own pipeline, ``test_step`` and
``IoUMetric`` with the same weights in its ``EncoderDecoder``. Both in one process, without a dataloader's workers.
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import photographs
from bench import Benchmark, device, interleave, pin, sync

import torch  # isort: skip
from segrecipes.checkpoints.fit import load_weights
from segrecipes.checkpoints.read import read_checkpoint
from segrecipes.data.normalize import IMAGENET_CHANNEL_MEAN, IMAGENET_CHANNEL_STD, to_network
from segrecipes.data.sample import SampleMaker
from segrecipes.datasets.table import DATASETS
from segrecipes.evaluation.metrics import MIoU
from segrecipes.evaluation.protocols import ade20k_ss
from segrecipes.models.heads import published_init
from segrecipes.models.mmseg import ensure_ops
from segrecipes.models.network import for_inference
from segrecipes.storage.decode import decode_image, decode_mask
from segrecipes.training.tasks.segmentation import build_model

warnings.filterwarnings('ignore')
ensure_ops()

CLASSES = DATASETS['ade20k'].classes
Files = tuple[Path, Path]  # of an image and its mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=3, help='over all images')
    parser.add_argument('--backbones', nargs='+', default=['resnetv1c18'])
    photographs.add_argument(parser)
    args = parser.parse_args()
    pin(2)
    bench = Benchmark('evaluation', 'Evaluating by ade20k-ss, one image after the other')
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder), photographs.read(args.images))
        for backbone_arch in args.backbones:
            compare(bench, backbone_arch, files, Path(folder), args.rounds)
    bench.note(f'Images: {len(files)} of {photographs.describe(args.images)}.')
    bench.finish()


@torch.no_grad()
def compare(bench: Benchmark, backbone_arch: str, files: list[Files], folder: Path, rounds: int) -> None:
    """A table of one network, its predictions compared before."""
    theirs = mmsegmentation(backbone_arch, folder)
    ours = package(folder / 'zoo.pth')
    for pair in files:
        same = (ours.labels(pair) == theirs.labels(pair)).float().mean()
        assert same > 0.9999, (
            f'{backbone_arch}: predictions of both sides are the same on {same:.4%} of the pixels only'
        )
    scored = [side.score(files) for side in (ours, theirs)]
    assert abs(scored[0] - scored[1]) < 0.02, f'{backbone_arch}: mIoU of both sides differs: {scored}'

    sides = {'ours': ours, 'mmsegmentation': theirs}
    if device() == 'cpu':
        sides['ours, precision=bf16'] = package(folder / 'zoo.pth', torch.bfloat16)
    calls: dict[str, Callable[[], Any]] = {}
    for name, side in sides.items():
        networks = [side.forward(pair) for pair in files]
        calls[name] = lambda side=side: [side.evaluate(pair) for pair in files]
        calls[f'{name}, the network alone'] = lambda networks=networks: [network() for network in networks]
    seconds = interleave(calls, rounds, warmup=1, sync=sync)
    table = bench.table(f'DeepLabV3+, {backbone_arch}, 150 classes, on {device()}', unit='ms an image')
    median = {name: table.add(name, [1000 * value / len(files) for value in seconds[name]]) for name in calls}
    bench.target(
        f'{backbone_arch}: ours over mmsegmentation',
        median['mmsegmentation'] / median['ours'],
        at_least=1.5,
        why='The network alone, of the same operations on both sides, takes '
        + ' and '.join(
            f'{median[f"{name}, the network alone"] / median[name]:.0%}' for name in ('ours', 'mmsegmentation')
        )
        + ' of the time.',
    )
    rest = {name: median[name] - median[f'{name}, the network alone'] for name in sides}
    parts = ', '.join(f'{name} {1000 / median[name]:.2f} ({rest[name]:.0f} ms beside the network)' for name in sides)
    bench.note(f'{backbone_arch}, images a second: {parts}.')


class Side:
    """How one package evaluates: ``evaluate`` one image, its ``labels``, the mIoU of several, the network alone."""

    def __init__(
        self,
        evaluate: Callable[[Files], Any],
        labels: Callable[[Files], torch.Tensor],
        score: Callable[[list[Files]], float],
        forward: Callable[[Files], Callable[[], Any]],
    ):
        self.evaluate, self.labels, self.score, self.forward = evaluate, labels, score, forward


def package(checkpoint_path: Path, autocast: torch.dtype | None = None) -> Side:
    """What ``segrecipes evaluate`` does with an image."""
    checkpoint = read_checkpoint(checkpoint_path)
    assert checkpoint.card is not None
    protocol = ade20k_ss()
    card = checkpoint.card
    model: Any = build_model(card.network, protocol=protocol, autocast=autocast).eval().to(device())
    load_weights(model.module, checkpoint.weights, str(checkpoint_path))
    model.module = model.module if autocast else for_inference(model.module)
    make_sample = SampleMaker(protocol, 0, DATASETS['ade20k'].label_map(len(CLASSES)))
    metric = MIoU(len(CLASSES)).to(device())

    def batch_of(pair: Files) -> tuple[Any, ...]:
        image, mask = pair
        views, target, uid = make_sample(decode_image(image, ''), decode_mask(mask, ''), '', 0)
        return to_network(([[view.to(device()) for view in views]], [target.to(device())], None, [uid]))

    def evaluate(pair: Files) -> None:
        batch = batch_of(pair)
        model.update_metric(batch, model.eval_forward(batch), metric)

    def score(files: list[Files]) -> float:
        metric.reset()
        for pair in files:
            evaluate(pair)
        return float(metric.compute())

    def forward(pair: Files) -> Callable[[], Any]:
        view = batch_of(pair)[0][0][0].unsqueeze(0)
        return lambda: model.logits(view)

    return Side(evaluate, lambda pair: model.eval_forward(batch_of(pair)).predictions[0].cpu(), score, forward)


def mmsegmentation(backbone_arch: str, folder: Path) -> Side:
    """Its configuration of ADE20K: the network under test, the test pipeline and the metric. Saves the weights."""
    from mmcv.transforms import Compose
    from mmengine import ConfigDict
    from mmengine.logging import MMLogger
    from mmseg.evaluation.metrics import IoUMetric
    from mmseg.models.data_preprocessor import SegDataPreProcessor
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    depth = int(backbone_arch.removeprefix('resnetv1c'))
    channels = 512 if depth < 50 else 2048
    norm = {'type': 'BN', 'requires_grad': True}
    model = MODELS.build(
        ConfigDict({
            'type': 'EncoderDecoder',
            'data_preprocessor': {
                'type': SegDataPreProcessor, 'mean': list(IMAGENET_CHANNEL_MEAN), 'std': list(IMAGENET_CHANNEL_STD),
                'bgr_to_rgb': True, 'pad_val': 0, 'seg_pad_val': 255, 'size': (512, 512),
            },
            'backbone': {
                'type': 'ResNetV1c', 'depth': depth, 'num_stages': 4, 'out_indices': (0, 1, 2, 3),
                'dilations': (1, 1, 2, 4), 'strides': (1, 2, 1, 1), 'norm_cfg': norm, 'norm_eval': False,
                'contract_dilation': True,
            },
            'decode_head': {
                'type': 'DepthwiseSeparableASPPHead', 'in_channels': channels, 'in_index': 3, 'channels': 512,
                'dilations': (1, 12, 24, 36), 'c1_in_channels': channels // 8, 'c1_channels': 48,
                'dropout_ratio': 0.1, 'num_classes': len(CLASSES), 'norm_cfg': norm, 'align_corners': False,
            },
            'test_cfg': {'mode': 'whole'},
        })
    )  # fmt: skip
    torch.manual_seed(0)
    model.apply(published_init)
    calibrate(model)
    model.eval().to(device())
    torch.save({'meta': {'CLASSES': CLASSES}, 'state_dict': model.state_dict()}, folder / 'zoo.pth')
    pipeline = Compose(
        [
            {'type': 'LoadImageFromFile'},
            {'type': 'Resize', 'scale': (2048, 512), 'keep_ratio': True},
            {'type': 'LoadAnnotations', 'reduce_zero_label': True},  # after resizing: the mask stays as it is
            {'type': 'PackSegInputs'},
        ]
    )
    MMLogger.get_current_instance().setLevel('ERROR')  # its table of classes
    metric = IoUMetric(iou_metrics=['mIoU'])
    metric.dataset_meta = {'classes': CLASSES}

    def load(pair: Files) -> dict[str, Any]:
        image, mask = map(str, pair)
        sample = {'img_path': image, 'seg_map_path': mask, 'reduce_zero_label': True, 'seg_fields': []}
        packed: Any = pipeline(sample)
        return {'inputs': [packed['inputs']], 'data_samples': [packed['data_samples']]}

    def evaluate(pair: Files) -> None:
        outputs = model.test_step(load(pair))
        metric.process({}, [output.to_dict() for output in outputs])

    def score(files: list[Files]) -> float:
        metric.results.clear()
        for pair in files:
            evaluate(pair)
        return metric.compute_metrics(metric.results)['mIoU']

    def forward(pair: Files) -> Callable[[], Any]:
        inputs = model.data_preprocessor(load(pair))['inputs']
        return lambda: model.decode_head(model.backbone(inputs))

    return Side(evaluate, lambda pair: model.test_step(load(pair))[0].pred_sem_seg.data[0].cpu(), score, forward)


def calibrate(model: Any) -> None:
    """Batch norm's statistics of random weights, without which deep activations would overflow."""
    model.train()
    for _ in range(3):
        features = model.backbone(torch.randn(2, 3, 128, 128))
        model.decode_head(features)


def write_files(folder: Path, photos: list[photographs.Photograph]) -> list[Files]:
    """As JPEG and PNG files, which mmsegmentation reads by path."""
    files = [(folder / f'{index}.jpg', folder / f'{index}.png') for index in range(len(photos))]
    for (image, mask), (jpeg, png) in zip(files, photos):
        image.write_bytes(jpeg)
        mask.write_bytes(png)
    return files


if __name__ == '__main__':
    main()
