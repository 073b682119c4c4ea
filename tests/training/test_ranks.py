"""Several ranks and several nodes deliver and score what one does."""

import re
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from helpers.runs import ROOT, arguments, launch, run

pytestmark = pytest.mark.usefixtures('clean_shared_memory')


PRINT_SAMPLES = """
import sys, torch, zlib
from composer.utils import dist
from data import build_dataspec
from segrecipes.evaluation.table import get_protocol
from transforms import TrainTransform
path, mds, batch_size = sys.argv[1], sys.argv[2] == 'mds', int(sys.argv[3])
dist.initialize_dist('cpu')
for split, transform in (('train', TrainTransform(32, 32)), ('val', get_protocol('mosaic-512sq', 32))):
    spec = build_dataspec(path=path, split=split, is_streaming=mds, name='synthetic', transform=transform,
                          batch_size=batch_size // dist.get_world_size(), shuffle=split == 'train',
                          drop_last=split == 'train')
    for images, *_ in spec.dataloader:
        for image in images:
            with open(f'{sys.argv[4]}-{split}-{dist.get_global_rank()}', 'a') as file:
                file.write(f'{zlib.crc32(image.contiguous().numpy().tobytes())}\\n')
"""


@pytest.mark.parametrize('mds', [False, True], ids=['folder', 'mds'])
def test_two_ranks_deliver_the_samples_of_one(
    mds: bool, synthetic_folder: Path, synthetic_mds: Path, tmp_path: Path
) -> None:
    """By the checksum of each augmented sample: neither which nor how depends on the number of ranks."""
    script = tmp_path / 'print_samples.py'
    script.write_text(PRINT_SAMPLES)
    data = [str(synthetic_mds), 'mds'] if mds else [str(synthetic_folder), 'folder']
    seen = {}
    for ranks in (1, 2):
        process = launch(
            'composer', '-n', str(ranks), str(script), *data, '4', f'{tmp_path}/{ranks}', PYTHONPATH=str(ROOT)
        )
        assert process.returncode == 0, process.stderr
        for split in ('train', 'val'):
            files = sorted(tmp_path.glob(f'{ranks}-{split}-*'))
            assert len(files) == ranks
            seen[ranks, split] = [line for file in files for line in file.read_text().split()]
    assert len(set(seen[1, 'train'])) == 12
    assert sorted(seen[2, 'train']) == sorted(seen[1, 'train'])
    assert len(set(seen[1, 'val'])) == 5
    assert set(seen[2, 'val']) == set(seen[1, 'val'])  # torch's sampler pads; Composer scores the padding not at all


def evaluated(process: subprocess.CompletedProcess) -> str:
    assert process.returncode == 0, process.stdout + process.stderr
    found = re.search(r'(\d+ images): pixel accuracy .*', process.stdout)
    assert found, process.stdout
    return found[0]


def test_two_ranks_score_as_one(synthetic_folder: Path, tmp_path: Path) -> None:
    run(arguments(synthetic_folder, 'max_duration=3ba', f'save_folder={tmp_path}', 'save_interval=3ba'))
    argv = arguments(synthetic_folder, 'is_train=false', f'load_path={tmp_path}/latest-rank0.pt')
    one = evaluated(launch('composer', '-n', '1', 'main.py', *argv))
    two = evaluated(launch('composer', '-n', '2', 'main.py', *argv))
    assert one == two
    assert one.startswith('5 images')


@pytest.mark.parametrize('mds', [False, True], ids=['folder', 'mds'])
def test_two_launchers_are_two_nodes(mds: bool, synthetic_folder: Path, synthetic_mds: Path, tmp_path: Path) -> None:
    """One by flags, one by the environment."""
    own_host: list[str] = []  # streaming takes it that two nodes do not share their memory
    if mds:
        own_host = ['unshare', '-m', 'sh', '-c', 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', '-']
        if subprocess.run([*own_host, 'true'], capture_output=True).returncode:
            pytest.skip('a /dev/shm for each node needs the right to mount one')
    argv = arguments(
        synthetic_mds if mds else synthetic_folder, 'max_duration=1ep', f'save_folder={tmp_path}/run', mds=mds
    )
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    flags = [
        '--world_size',
        '2',
        '--node_rank',
        '1',
        '--nproc',
        '1',
        '--master_addr',
        '127.0.0.1',
        '--master_port',
        port,
    ]
    with ThreadPoolExecutor() as pool:
        second = pool.submit(launch, *own_host, 'composer', *flags, 'main.py', *argv)
        first = launch(
            'composer', '--nproc', '1', 'main.py', *argv,
            WORLD_SIZE='2', NODE_RANK='0', MASTER_ADDR='127.0.0.1', MASTER_PORT=port,
        )  # fmt: skip
    for node in (first, second.result()):
        assert node.returncode == 0, node.stdout + node.stderr
    assert ' 5 images: ' in first.stdout
    state = torch.load(tmp_path / 'run' / 'latest-rank0.pt', weights_only=False)['state']
    assert state['timestamp']['Timestamp']['sample'] == 12
