"""Runs that read from S3 and write to it."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import arguments, launch

pytestmark = pytest.mark.usefixtures('clean_shared_memory')


def test_checkpoints_to_s3(s3: Any, synthetic_folder: Path, tmp_path: Path) -> None:
    folder = f's3://{s3.bucket}/run'
    argv = arguments(synthetic_folder, 'max_duration=1ep', f'save_folder={folder}')
    process = launch(sys.executable, 'main.py', *argv)
    assert process.returncode == 0, process.stderr
    saved = {'ep1-ba3-rank0.pt', 'latest-rank0.pt.symlink', 'best-ep1-ba3-rank0.pt', 'best-rank0.pt.symlink'}
    assert {f'run/{name}' for name in saved} <= set(s3.list_keys())
    results = f'callbacks.show_results.folder={tmp_path}'
    again = launch(sys.executable, 'main.py', *argv, 'is_train=false', f'load_path={folder}/ep1-ba3-rank0.pt', results)
    assert again.returncode == 0, again.stderr
    number = re.search(r'mosaic-512sq@32, raw weights, 5 images: .*', process.stdout)
    assert number and number[0] in again.stdout


def test_streams_from_s3(s3: Any, synthetic_folder: Path, tmp_path: Path) -> None:
    url = f's3://{s3.bucket}/data'
    converted = launch(
        sys.executable, '-m', 'segrecipes', 'convert', str(synthetic_folder), '--out', url, '--name', 'synthetic'
    )
    assert converted.returncode == 0, converted.stderr
    local = [f'train_dataset.local={tmp_path}/train', f'eval_dataset.local={tmp_path}/val']
    argv = [argument.replace(f'path={tmp_path}', f'path={url}') for argument in arguments(tmp_path, *local, mds=True)]
    process = launch(sys.executable, 'main.py', *argv, 'max_duration=2ep', 'train_dataset.num_workers=2')
    assert process.returncode == 0, process.stderr
    assert ' 5 images: ' in process.stdout
