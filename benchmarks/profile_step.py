"""What is a training step of DeepLabV3+ with a ResNet-101 at 512² spent on?

    python benchmarks/profile_step.py [--sections parts variants …] [--batch-size 64] [--seconds 360]

Each section is a table, the most wanted first; none is begun once ``--seconds`` have passed. On a CPU the network and
its images are small, to show that it runs.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from bench import Benchmark, device, interleave, peak_extra_bytes, pin, sync

import torch  # isort: skip
import torch.nn.functional as F
from composer.algorithms import ChannelsLast
from composer.core import Callback
from steps import Setting, ours, upstream, upstream_loss
from torch import Tensor, nn
from torch._inductor.exc import InductorError
from torch.profiler import ProfilerActivity, profile
from train_step import PEAK, flop_per_image

from segrecipes.config.merge import load_config
from segrecipes.datasets.synthetic.write import write_dataset
from segrecipes.models.losses import segmentation as losses
from segrecipes.training import run as package

GPU = device() == 'cuda'
PRECISION = 'amp_bf16' if GPU else 'fp32'
# Kernels by a part of their names, first come first served
KINDS = {
    'our loss': ('sum_kernel', 'shift_kernel', 'gather_kernel'),
    'depthwise convolutions': ('depthwise', 'dgrad2d_grouped', 'conv2d_c1_k1', 'convolve_kernel', 'weight_kernel'),
    'convolutions': ('conv', 'gemm', 'xmma', 'cutlass', 'wgrad', 'dgrad', 'fprop', 'nvjet', 'mkldnn', 'addmm'),
    'batch norm': ('batch_norm', 'bn_', 'batchnorm'),
    'interpolation': ('upsample', 'bilinear'),
    'softmax': ('softmax', 'SoftMax'),
    'layout and casts': ('nchwToNhwc', 'nhwcToNchw', 'tensorTransform', 'copy', 'Memcpy'),
    'optimizer': ('multi_tensor', '_foreach'),
    'gather and scatter': ('gather', 'scatter', 'index'),
    'sums': ('reduce', 'sum'),
    'elementwise': ('elementwise', 'vectorized', 'triton', 'relu', 'add', 'mul'),
}


@dataclass
class Profile:
    """What the sections share."""

    bench: Benchmark
    batch_size: int
    setting: Setting
    data: Path
    tflops: float = float('nan')  # of a matrix product
    tbps: float = float('nan')  # of a copy, read and written


def ceilings(run: Profile) -> None:
    """The two rates that bound everything."""
    size = 8192 if GPU else 512
    a, b = (torch.randn(size, size, device=device(), dtype=torch.bfloat16 if GPU else None) for _ in range(2))
    source = torch.randn(2**30 if GPU else 2**22, device=device())
    target = torch.empty_like(source)
    seconds = interleave({'matrix product': lambda: a @ b, 'copy': lambda: target.copy_(source)}, 20, sync=sync)
    product, copy = (statistics.median(values) for values in seconds.values())
    run.tflops, run.tbps = 2 * size**3 / product / 1e12, 8 * source.numel() / copy / 1e12
    table = run.bench.table('What bounds everything')
    table.add(
        f'{size}² matrix product', [1000 * s for s in seconds['matrix product']], rate=f'{run.tflops:.3g} TFLOP/s'
    )
    table.add(f'copy of {source.numel():.1e} floats', [1000 * s for s in seconds['copy']], rate=f'{run.tbps:.3g} TB/s')


def parts(run: Profile) -> None:
    """Kernels by kind beside what the two rates allow, and how long the GPU is idle."""
    steps = 10 if GPU else 2
    trainer = ours(run.setting, steps + 1, PRECISION, [ChannelsLast()])
    trainer()
    sync()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if GPU else [])]
    with profile(activities=activities) as profiler:
        trainer()
        sync()
    trainer.close()
    with tempfile.TemporaryDirectory() as folder:
        profiler.export_chrome_trace(f'{folder}/trace.json')
        events = json.loads(Path(folder, 'trace.json').read_text())['traceEvents']
    categories = ('kernel', 'gpu_memcpy', 'gpu_memset') if GPU else ('cpu_op',)
    spans, spent = [], defaultdict(float)
    for event in events:
        if event.get('cat') in categories and event.get('dur'):
            kinds = (kind for kind, names in KINDS.items() if any(name in event['name'] for name in names))
            spans.append((event['ts'], event['ts'] + event['dur']))
            spent[next(kinds, 'other')] += event['dur'] / 1000 / (steps + 1)
    busy = union(spans) / 1000 / (steps + 1)
    whole = (max(stop for _, stop in spans) - min(start for start, _ in spans)) / 1000 / (steps + 1)
    bounds = least_milliseconds(run)
    table = run.bench.table(f'Kernels of a step of {run.batch_size} images', unit='ms a step')
    for kind, milliseconds in sorted(spent.items(), key=lambda item: -item[1]):
        bound = {'bound, ms': bounds[kind]} if kind in bounds else {}
        table.add(kind, [milliseconds], **{'% of the step': 100 * milliseconds / whole}, **bound)
    table.add('idle', [whole - busy], **{'% of the step': 100 * (1 - busy / whole)})
    if not GPU:
        run.bench.note('On a CPU an operation is counted in those that it calls too: shares are not of one whole.')


def union(spans: list[tuple[float, float]]) -> float:
    """Length of what the spans cover."""
    covered, end = 0.0, float('-inf')
    for start, stop in sorted(spans):
        covered += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return covered


def least_milliseconds(run: Profile) -> dict[str, float]:
    """A step's kinds at the measured ceilings: by FLOP, or by the bytes that must be moved once."""
    normalised, elsewhere = 0, 0

    def count(module: nn.Module, args: Any, output: Tensor) -> None:
        nonlocal normalised, elsewhere
        if isinstance(module, nn.BatchNorm2d):
            normalised += output.numel()
        else:
            elsewhere += output.numel()

    network = run.setting.network().module.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.ReLU):
            module.register_forward_hook(count)
    with torch.no_grad():
        network.logits(torch.zeros(1, 3, run.setting.size, run.setting.size))
    width = 2 if GPU else 4  # bytes
    # Batch norm reads its input twice and writes once, backward reads input and gradient twice and writes once; a
    # ReLU in place reads and writes, backward reads output and gradient and writes.
    milliseconds = {
        'convolutions': flop_per_image(run.setting) / run.tflops / 1e9,
        'batch norm': 8 * normalised * width / run.tbps / 1e9,
        'elementwise': 5 * elsewhere * width / run.tbps / 1e9,
        'our loss': 50e6 / run.tbps / 1e9,  # the small logits a few times, labels and two floats a pixel
    }
    return {kind: run.batch_size * value for kind, value in milliseconds.items()}


def variants(run: Profile) -> None:
    """A step as main.py trains, and with one thing changed at a time."""
    recipes: dict[str, Callable[[], Any]] = {
        'as main.py trains': lambda: ours(run.setting, 6, PRECISION, [ChannelsLast()]),
        'compiled': lambda: ours(run.setting, 6, PRECISION, [ChannelsLast()], compile_config={}),
        'sliced loss': lambda: ours(run.setting, 6, PRECISION, [ChannelsLast()]),
        "torch's depthwise convolutions": lambda: ours(run.setting, 6, PRECISION, [ChannelsLast()]),
        'without channels last': lambda: ours(run.setting, 6, PRECISION),
        "upstream's settings": lambda: upstream(run.setting, 6, 'amp_fp16' if GPU else 'fp32'),
    }
    changed = {'sliced loss': sliced_loss, "torch's depthwise convolutions": torch_depthwise}
    flop, peak = flop_per_image(run.setting), peak_flops()
    table = run.bench.table(f'A step of {run.batch_size} images, one change at a time', unit='ms a step')
    median = {}
    for name, build in recipes.items():
        with changed.get(name, nothing)():
            try:
                trainer = build()
                memory = peak_extra_bytes(trainer) / 2**30  # the first call, which compiles and tries kernels
                values = [1000 * second for _ in range(2) for second in trainer()]
                trainer.close()
            except torch.cuda.OutOfMemoryError:
                run.bench.note(f'{name}: {run.batch_size} images do not fit.')
                continue
            except InductorError as error:  # of one torch and one CPU; what else there is to measure is measured
                run.bench.note(f'{name}: torch cannot compile it here ({str(error).strip().splitlines()[0]}).')
                continue
            finally:
                trainer = None
                free()
        images = 1000 * run.batch_size / statistics.median(values)
        share = {'% of peak': 100 * images * flop / peak} if peak else {}
        median[name] = table.add(name, values, **{'images/s': images}, **share, **{'peak memory, GiB': memory})
    if GPU and len(median) == len(recipes):
        best = min(median['as main.py trains'], median['compiled'])
        run.bench.target('R101 at 512², images/s', 1000 * run.batch_size / best, at_least=200)
        run.bench.target("times upstream's settings", median["upstream's settings"] / best, at_least=2.5)


@contextmanager
def nothing() -> Iterator[None]:
    yield


@contextmanager
def sliced_loss() -> Iterator[None]:
    with mock.patch.object(losses, 'has_triton', lambda: False):
        yield


@contextmanager
def torch_depthwise() -> Iterator[None]:
    with mock.patch('model.use_fast_depthwise', lambda network: network):
        yield


def peak_flops() -> float | None:
    return next((value for name, value in PEAK.items() if name in torch.cuda.get_device_name()), None) if GPU else None


def loss(run: Profile) -> None:
    """The loss alone, forward and backward, with the head's logits and in full size."""
    batch, side = (16, 128) if GPU else (1, 16)
    logits = torch.randn(batch, 150, side, side, device=device()).to(memory_format=torch.channels_last)
    logits = logits.bfloat16() if GPU else logits
    labels = torch.randint(-1, 150, (batch, 4 * side, 4 * side), device=device())

    def step(function: Callable[..., dict[str, Tensor]]) -> None:
        function(logits.detach().requires_grad_(), labels)['total'].backward()

    def package_loss(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return losses.segmentation_loss(logits, labels, cross_entropy_weight=0.375, dice_weight=1.125)

    def composers(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return upstream_loss(F.interpolate(logits.float(), size=labels.shape[-2:], mode='bilinear'), labels)

    def sliced() -> None:
        with sliced_loss():
            step(package_loss)

    calls = {'ours': lambda: step(package_loss), 'ours, sliced': sliced, "Composer's": lambda: step(composers)}
    calls = calls if GPU else {name: call for name, call in calls.items() if name != 'ours, sliced'}
    seconds = interleave(calls, 10, warmup=3, sync=sync)
    table = run.bench.table(f'The loss, {batch}×150×{4 * side}², of logits at stride 4', unit='ms an image')
    for name, call in calls.items():
        memory = peak_extra_bytes(call) / batch / 1e6
        table.add(name, [1000 * s / batch for s in seconds[name]], **{'peak extra memory, MB an image': memory})


def depthwise(run: Profile) -> None:
    """The head's dilated depthwise convolutions, forward and backward, by layout and kernel."""
    from segrecipes.models.layers.depthwise import depthwise_conv2d

    batch, channels, side = (16, 2048, 64) if GPU else (1, 8, 16)
    for dilation in (12, 24, 36):
        weight = torch.randn(channels, 1, 3, 3, device=device(), requires_grad=True)
        images = torch.randn(batch, channels, side, side, device=device())
        dtype = torch.bfloat16 if GPU else torch.float32
        images, weight = images.to(dtype), weight.detach().to(dtype).requires_grad_()
        formats = {'channels last': torch.channels_last, 'contiguous': torch.contiguous_format}
        given = {name: images.to(memory_format=layout).requires_grad_() for name, layout in formats.items()}

        def conv(x: Tensor, dilation: int = dilation, weight: Tensor = weight) -> Tensor:
            return F.conv2d(x, weight, padding=dilation, dilation=dilation, groups=len(weight))

        def through_contiguous(x: Tensor, conv: Any = conv) -> Tensor:
            return conv(x.contiguous()).contiguous(memory_format=torch.channels_last)

        def native(x: Tensor, conv: Any = conv) -> Tensor:
            with torch.backends.cudnn.flags(enabled=False):
                return conv(x)

        kernels: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
            'cuDNN, channels last': ('channels last', conv),
            'cuDNN, contiguous': ('contiguous', conv),
            'cuDNN, contiguous around it': ('channels last', through_contiguous),
            "torch's own, channels last": ('channels last', native),
        }
        if GPU:
            ours = lambda x, weight=weight, dilation=dilation: depthwise_conv2d(x, weight, dilation)  # noqa: E731
            kernels['Triton, channels last'] = ('channels last', ours)
        calls = {name: lambda x=given[layout], f=f: f(x).sum().backward() for name, (layout, f) in kernels.items()}
        table = run.bench.table(f'Depthwise 3×3, {channels} channels, dilation {dilation}', unit='ms an image')
        bound = 5 * images.element_size() * images.numel() / run.tbps / 1e9 / batch
        for name, values in interleave(calls, 10, warmup=3, sync=sync).items():
            table.add(name, [1000 * s / batch for s in values], **{'bytes alone, ms': bound})


class Wait(Callback):
    """Seconds between asking the dataloader for a batch and having it, and the ends of the steps."""

    def __init__(self) -> None:
        self.asked, self.waits, self.ends = time.perf_counter(), [], []

    def before_dataloader(self, state: Any, logger: Any) -> None:
        self.asked = time.perf_counter()

    def after_dataloader(self, state: Any, logger: Any) -> None:
        self.waits.append(time.perf_counter() - self.asked)

    def batch_end(self, state: Any, logger: Any) -> None:
        self.ends.append(time.perf_counter())


def dataloader(run: Profile) -> None:
    """Photographs through main.py: what a step waits for its batch."""
    wait, build_trainer = Wait(), package.build_trainer
    argv = ['yamls/deeplabv3.yaml', 'model.backbone_weights=null', f'model.backbone_arch={run.setting.backbone_arch}',
            f'model.head_channels={run.setting.head_channels}', f'model.output_stride={run.setting.output_stride}',
            f'train_dataset.path={run.data}', f'eval_dataset.path={run.data}', f'precision={PRECISION}',
            f'train_dataset.final_size={run.setting.size}', f'train_dataset.base_size={run.setting.size}',
            f'train_dataset.batch_size={run.batch_size}', f'device_train_microbatch_size={run.batch_size}',
            'eval_interval=0ba', 'loggers.progress_bar=null', 'algorithms.channels_last={}',
            f'max_duration={30 if GPU else 2}ba']  # fmt: skip

    def with_wait(cfg: Any, *, callbacks: Any, **options: Any) -> Any:
        return build_trainer(cfg, callbacks=[*callbacks, wait], **options)

    with mock.patch.multiple(package, build_trainer=with_wait, say=lambda line: None):
        package.main(*load_config(argv)).close()
    steps = [after - before for before, after in zip(wait.ends, wait.ends[1:])]
    table = run.bench.table(f'main.py on {run.data.name}, {run.batch_size} images a step')
    median = table.add('step', [1000 * step for step in steps])
    table.add('of it waiting for the batch', [1000 * seconds for seconds in wait.waits[1:]])
    run.bench.note(
        f'main.py on {run.data.name}: {1000 * run.batch_size / median:.1f} images/s, starts of epochs counted.'
    )


def free() -> None:
    gc.collect()
    if GPU:
        torch.cuda.empty_cache()


SECTIONS = {f.__name__: f for f in (ceilings, variants, parts, loss, depthwise, dataloader)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sections', nargs='+', choices=SECTIONS, default=[*SECTIONS])
    parser.add_argument('--batch-size', type=int, default=64 if GPU else 2)
    parser.add_argument('--seconds', type=float, default=float('inf'), help='after which no section begins')
    parser.add_argument('--data', type=Path, help="photographs in ADE20K's layout; drawn scenes without")
    args = parser.parse_args()
    if not GPU:
        pin(2)
    began = time.monotonic()
    setting = Setting('resnet101', args.batch_size, 512)
    if not GPU:
        setting = Setting('resnet18', args.batch_size, 64, head_channels=16, output_stride=32)
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or write_dataset(Path(folder) / 'drawn', num_train=2 * args.batch_size, num_val=1, size=512)
        bench = Benchmark('profile_step', 'What a training step is spent on')
        run = Profile(bench, args.batch_size, setting, data)
        for name in dict.fromkeys(['ceilings', *args.sections]):
            if time.monotonic() - began > args.seconds:
                bench.note(f'{name}: no time was left.')
                continue
            SECTIONS[name](run)
            free()
    bench.finish()


if __name__ == '__main__':
    main()
