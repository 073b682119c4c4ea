"""Where a run comes from: its data and network, the machine, the versions, the commits."""

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from composer.core import DataSpec
from composer.utils import dist
from torch import nn

from segrecipes.base.version import VERSION
from segrecipes.config.schema import Config
from segrecipes.datasets.table import get_dataset

PACKAGES = ('torch', 'mosaicml', 'mosaicml-streaming', 'mmsegmentation', 'torchvision')
GIT_SECONDS = 5


def facts(cfg: Config, network: nn.Module, train: DataSpec, evaluated: DataSpec) -> dict[str, Any]:
    """What is to be known of a run beside its config and its figures."""
    assert cfg.eval_dataset.name is not None
    dataset = get_dataset(cfg.eval_dataset.name)
    loaders: dict[str, Any] = {'train': train.dataloader, 'val': evaluated.dataloader}
    return {
        'dataset': dataset.name,
        'warning': dataset.warning,
        'images': {split: len(loader.dataset) for split, loader in loaders.items()},
        'parameters': sum(parameter.numel() for parameter in network.parameters()),
        'duration': str(cfg.max_duration),
    }


def hardware() -> dict[str, Any]:
    """What the ranks of this run compute on."""
    ranks = dist.get_world_size()
    cpu = processor()
    return {
        'device': torch.cuda.get_device_name() if torch.cuda.is_available() else cpu,
        'ranks': ranks,
        'nodes': max(1, ranks // max(1, dist.get_local_world_size())),
        'cpu': cpu,
        'cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
    }


def processor() -> str:
    try:
        found = re.search(r'^model name\s*:\s*(.+)$', Path('/proc/cpuinfo').read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    found = {'segrecipes': VERSION, 'python': platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commits() -> dict[str, str]:
    """The commit of the package, and of the folder a run is started in where that is another repository.

    Only of files that git knows: a package that is installed below somebody's repository is no part of it.
    """
    package = Path(__file__).parents[1]
    found = {}
    if git(package, 'ls-files', '--error-unmatch', '__init__.py'):
        found['segrecipes'] = commit(package)
    if git(Path(), 'rev-parse', '--show-toplevel') != git(package, 'rev-parse', '--show-toplevel'):
        found['folder'] = commit(Path())
    return {name: value for name, value in found.items() if value}


def commit(folder: Path) -> str:
    """``1a2b3c4d5e6f``, with `` and changes`` where files that it has were changed since; '' where there is none."""
    number = git(folder, 'rev-parse', '--short=12', 'HEAD')
    changed = number and git(folder, 'status', '--porcelain', '--untracked-files=no')
    return f'{number} and changes' if changed else number


def git(folder: Path, *arguments: str) -> str:
    """What git prints; '' where it fails, or there is none."""
    try:
        done = subprocess.run(
            ['git', '-C', str(folder), *arguments], capture_output=True, text=True, timeout=GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ''
    return done.stdout.strip()
