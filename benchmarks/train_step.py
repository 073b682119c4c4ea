"""How fast is a whole training step, and how much of the hardware does it use?

    python benchmarks/train_step.py

DeepLabV3+ on a batch that is in memory, through Composer's trainer as main.py sets it up, against the same network with
what MosaicML's example uses (Composer's losses on dense targets, its optimizer, train metrics every batch, float16 on a
GPU). On a CPU a small network, also against a loop of plain PyTorch; on a GPU ResNet-50 and ResNet-101 at 512², and a
table by batch size.
"""

import argparse
import cProfile
from typing import Any

from bench import Benchmark, device, pin

import torch  # isort: skip
from composer.algorithms import ChannelsLast
from steps import Setting, bare_loop, first_loss, ours, rounds_of, upstream
from torch.utils.flop_counter import FlopCounterMode

# Dense peak of the tensor cores in bfloat16, FLOP/s, from NVIDIA's data sheets.
PEAK = {'H100': 989e12, 'H200': 989e12, 'A100': 312e12}


def flop_per_image(setting: Setting) -> float:
    """Forward and backward, 2 a multiply-add; the backward pass of a network costs twice its forward pass."""
    model = setting.network().to(device()).eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model((torch.zeros(1, 3, setting.size, setting.size, device=device()), None))
    return 3 * counter.get_total_flops()


def on_cpu(bench: Benchmark, rounds: int) -> None:
    setting = Setting('resnet18', batch_size=8, size=128, head_channels=64, output_stride=16)
    steps = 6
    runs: dict[str, Any] = {
        'ours': ours(setting, steps, 'fp32'),
        'plain PyTorch loop, our loss': bare_loop(setting, steps),
        "upstream's settings": upstream(setting, steps, 'fp32'),
    }
    check_equal(runs['ours'], runs["upstream's settings"])
    table = bench.table(f'CPU, float32: ResNet-18, {setting.batch_size} images of {setting.size}², 150 classes')
    milliseconds = rounds_of(runs, rounds)
    median = {
        name: table.add(name, values, **{'images/s': 1000 * setting.batch_size / sorted(values)[len(values) // 2]})
        for name, values in milliseconds.items()
    }
    mine, bare, theirs = median.values()
    spent = ', '.join(f'{part} {milliseconds:.1f}' for part, milliseconds in overhead(runs['ours'], steps).items())
    why = f'Beyond the plain loop, in ms a step of the profiler: {spent}. The rest is below the spread of the steps.'
    bench.target('ours over the plain loop', mine / bare, at_most=1.05, why=why)
    bench.note(f"{theirs / mine:.1f} times as fast as upstream's settings on a CPU.")
    bench.note('GPU: not measured in this run.')


OVERHEAD = {
    "Composer's copy of the microbatch": 'deepcopy',
    'events': 'run_event',
    'logging': 'log_metrics',
    'reductions over one rank': 'all_reduce',
}


def overhead(run: Any, steps: int) -> dict[str, float]:
    """Milliseconds a step that the trainer spends on what the plain loop has not got, with all that these call."""
    profiler = cProfile.Profile()
    profiler.runcall(run)
    spent = dict.fromkeys(OVERHEAD, 0.0)
    for entry in profiler.getstats():
        name = getattr(entry.code, 'co_qualname', None) or getattr(entry.code, 'co_name', '')
        for part, function in OVERHEAD.items():
            if name == function or name.endswith(f'.{function}'):
                spent[part] = max(spent[part], 1000 * entry.totaltime / steps)
    return spent


def on_gpu(bench: Benchmark, rounds: int) -> None:
    peak = next((value for name, value in PEAK.items() if name in torch.cuda.get_device_name()), None)
    for backbone in ('resnet50', 'resnet101'):
        setting = Setting(backbone, batch_size=16, size=512)
        flop = flop_per_image(setting)
        runs: dict[str, Any] = {
            'ours': ours(setting, 8, 'amp_bf16', [ChannelsLast()]),
            'ours, compiled': ours(setting, 8, 'amp_bf16', [ChannelsLast()], compile_config={}),
            "upstream's settings": upstream(setting, 8, 'amp_fp16'),
        }
        check_equal(runs['ours'], runs["upstream's settings"])
        table = bench.table(f'{backbone}, batch 16 of 512²', unit='ms a step')
        median = {
            name: table.add(name, values, **throughput(setting, values, flop, peak))
            for name, values in rounds_of(runs, rounds).items()
        }
        best = min(median['ours'], median['ours, compiled'])
        if backbone == 'resnet101':
            bench.target("times upstream's settings, R101", median["upstream's settings"] / best, at_least=2.5)
        for run in runs.values():
            run.close()
        del runs
        torch.cuda.empty_cache()

    table = bench.table('resnet101, bfloat16, by batch size', unit='ms a step')
    fastest = 0.0
    for batch_size in (8, 16, 32, 64, 128):
        setting = Setting('resnet101', batch_size=batch_size, size=512)
        torch.cuda.reset_peak_memory_stats()
        try:
            run = ours(setting, 5, 'amp_bf16', [ChannelsLast()])
            values = rounds_of({'ours': run}, 2)['ours']
        except torch.cuda.OutOfMemoryError:
            bench.note(f'batch {batch_size} does not fit.')
            break
        memory = torch.cuda.max_memory_allocated() / 2**30
        extra = throughput(setting, values, flop_per_image(setting), peak)
        table.add(f'batch {batch_size}', values, **extra, **{'peak memory, GiB': memory})
        fastest = max(fastest, extra['images/s'])
        run.close()
        del run
        torch.cuda.empty_cache()
    bench.target('R101 at 512², images/s', fastest, at_least=200)


def throughput(setting: Setting, milliseconds: list[float], flop: float, peak: float | None) -> dict[str, float]:
    images = 1000 * setting.batch_size / sorted(milliseconds)[len(milliseconds) // 2]
    return {'images/s': images, **({'% of peak': 100 * images * flop / peak} if peak else {})}


def check_equal(mine: Any, theirs: Any) -> None:
    """The first training losses agree: the settings change the speed, not the objective."""
    difference = abs(first_loss(mine) / first_loss(theirs) - 1)
    assert difference < 0.02, f'losses differ by {difference:.1%}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=4)
    args = parser.parse_args()
    bench = Benchmark('train_step', 'A whole training step')
    if device() == 'cuda':
        on_gpu(bench, args.rounds)
    else:
        pin(2)
        on_cpu(bench, args.rounds)
    bench.finish()


if __name__ == '__main__':
    main()
