"""Writes files as the flat layout did, at commit 9d2a232, and what that code read from them: flat_layout.tar.xz.

    git worktree add /tmp/flat 9d2a232 && cd /tmp/flat
    OMP_NUM_THREADS=1 python CHECKOUT/tests/pins/write.py CHECKOUT/tests/pins/flat_layout.tar.xz

A checkpoint with averaged weights, its config.yaml, an export of each format, and MDS shards; beside them the logits,
scores, batches and the loss of a step that goes on from the checkpoint. Weights repeat a short pattern, so that the
archive is small, and the learning rate is 0, so that they stay so.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

import torch
from torch import Tensor

COMMON = [
    'model.backbone_arch=resnet18', 'model.backbone_weights=null', 'model.head_channels=8', 'model.num_classes=8',
    'model.output_stride=32', 'train_dataset.name=synthetic', 'eval_dataset.name=synthetic',
    'train_dataset.is_streaming=true', 'eval_dataset.is_streaming=true',
    'train_dataset.base_size=48', 'train_dataset.final_size=32', 'eval_dataset.final_size=48',
    'train_dataset.batch_size=4', 'eval_dataset.batch_size=4', 'train_dataset.num_workers=1',
    'eval_dataset.num_workers=1', 'optimizer.momentum=0', 'optimizer.weight_decay=0', 'precision=fp32',
    'loggers.progress_bar=null', 'algorithms.ema.half_life=1ba', 'algorithms.ema.update_interval=1ba',
    'scheduler=null', 'callbacks.show_results.num_images=0',
]  # fmt: skip


def repeated(name: str, value: Tensor) -> Tensor:
    if not value.is_floating_point() or 'running_' in name or value.ndim < 2:
        return value
    pattern = (torch.arange(value.numel()) % 61 - 30) / 30
    return (pattern * (3 / value[0].numel()) ** 0.5).view_as(value)


def digest(value: Tensor) -> str:
    return hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()


def main(out: Path) -> None:
    from card import ModelCard
    from checkpoints import read_checkpoint
    from convert_mds import convert
    from export import export
    from exported import FORMATS
    from synthetic import write_dataset

    from data import build_dataspec
    from model import build_network
    from transforms import TrainTransform

    work = Path(tempfile.mkdtemp())
    files = work / 'files'
    write_dataset(work / 'data', num_train=8, num_val=4, size=48, progress_bar=False)
    convert(work / 'data', files / 'mds', name='synthetic', num_workers=1, size_limit='12kb', progress_bar=False)
    card = ModelCard('deeplabv3plus', 8, 'resnet18', output_stride=32, head_channels=8, dataset='synthetic')
    torch.manual_seed(0)
    network = build_network(**card.network_arguments()).eval()
    weights = {name: repeated(name, value) for name, value in network.state_dict().items()}
    network.load_state_dict(weights)
    torch.save(weights, work / 'start.pth')

    def run(*settings: str) -> None:
        command = [sys.executable, 'main.py', 'yamls/deeplabv3.yaml', *COMMON, *settings]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    paths = [f'train_dataset.path={files}/mds', f'eval_dataset.path={files}/mds']
    run(*paths, f'load_path={work}/start.pth', 'max_duration=2ba', 'optimizer.lr=0', f'save_folder={work}/run')
    saved = (work / 'run' / 'latest-rank0.pt').resolve()
    saved.replace(files / 'checkpoint.pt')
    (work / 'run' / 'config.yaml').replace(files / 'config.yaml')
    for name, form in FORMATS.items():
        export(network, card, files / f'network{form.suffix}', name)

    images = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(1))
    checkpoint = read_checkpoint(files / 'checkpoint.pt')
    logits = {}
    for which in ('raw', 'ema'):
        network.load_state_dict(checkpoint.choose(which), strict=False)
        logits[which] = network(images).detach()
    for form in FORMATS.values():
        logits[form.suffix] = form.load(files / f'network{form.suffix}')(images).clone()
    spec = build_dataspec(
        path=str(files / 'mds'), split='train', batch_size=4, name='synthetic', is_streaming=True, num_classes=8,
        transform=TrainTransform(48, 32), third='labelled', shuffle=True, seed=17, num_workers=0,
    )  # fmt: skip
    batches = []
    for batch in spec.dataloader:
        images_, labels, labelled = spec.microbatch_transforms(batch)
        batches.append({'images': digest(images_), 'labels': digest(labels), 'labelled': labelled.tolist()})
    run(
        *paths, f'load_path={files}/checkpoint.pt', 'max_duration=3ba', 'optimizer.lr=0', f'save_folder={work}/on',
        'save_overwrite=true',
    )  # fmt: skip
    history = [json.loads(line) for line in (work / 'on' / 'history.jsonl').read_text().splitlines()]
    expected = {
        'torch': torch.__version__,
        'batches': batches,
        'losses': {
            row['batch']: row['metrics']['loss/train/total'] for row in history if 'loss/train/total' in row['metrics']
        },
        'scores': json.loads((work / 'run' / 'evaluation' / 'scores.json').read_text()),
        'card': checkpoint.card.to_dict() if checkpoint.card else None,
    }
    (files / 'expected.json').write_text(json.dumps(expected, indent=1))
    torch.save(logits, files / 'logits.pt')
    with tarfile.open(out, 'w:xz', preset=6) as archive:
        for file in sorted(path for path in files.rglob('*') if path.is_file()):
            archive.add(file, file.relative_to(files))
    print({str(path.relative_to(files)): path.stat().st_size for path in sorted(files.rglob('*')) if path.is_file()})
    print(out, out.stat().st_size)


if __name__ == '__main__':
    main(Path(sys.argv[1]).resolve())
