"""The runs a person starts: training, evaluating, resuming, several ranks, and every way to get the input wrong."""

import re
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import ROOT, arguments, assert_same_weights, evaluations, launch, run, weights
from PIL import Image

from segrecipes.base.errors import UserError
from segrecipes.commands.cli import run as run_verb
from segrecipes.datasets.table import DATASETS
from segrecipes.storage.folders import find_pairs
from segrecipes.training import device
from segrecipes.training.run import main

pytestmark = pytest.mark.usefixtures('clean_shared_memory')


@pytest.mark.parametrize('yaml', ['deeplabv3', 'pspnet', 'upernet'])
@pytest.mark.parametrize('recipe', ['null', 'mild', 'medium', 'hot'])
def test_every_head_trains_with_every_recipe(yaml: str, recipe: str, synthetic_folder: Path, tmp_path: Path) -> None:
    argv = arguments(
        synthetic_folder, f'recipe_name={recipe}', 'max_duration=2ba', f'save_folder={tmp_path}', 'save_interval=2ba',
        yaml=f'yamls/{yaml}.yaml',
    )  # fmt: skip
    trainer = run(argv)
    assert trainer.state.timestamp.batch == 2
    assert trainer.state.eval_timestamp.sample == 5  # every image of the split, the ragged last batch included
    names = {type(algorithm).__name__ for algorithm in trainer.state.algorithms}
    expected = {
        'null': set(),
        'mild': {'ChannelsLast', 'EMA'},
        'medium': {'ChannelsLast', 'EMA', 'ResumableSAM', 'MixUp'},
        'hot': {'ChannelsLast', 'EMA', 'ResumableSAM', 'MixUp'},
    }
    assert names == expected[recipe]
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / 'ep0-ba2-rank0.pt').values())


@pytest.mark.parametrize(
    ('interval', 'batches'), [('8sp', [2, 4, 6]), ('0.5dur', [3, 6]), ('3600sec', [6]), ('0ep', [])]
)
def test_intervals_of_evaluations_and_checkpoints(
    interval: str, batches: list[int], synthetic_folder: Path, tmp_path: Path
) -> None:
    """Of six batches of four images; the last is evaluated and saved in any case but 0."""
    trainer = run(arguments(
        synthetic_folder, 'max_duration=24sp', f'eval_interval={interval}', f'save_interval={interval}',
        f'save_folder={tmp_path}', 'save_num_checkpoints_to_keep=-1', 'save_best=false',
    ))  # fmt: skip
    assert trainer.state.timestamp.batch == 6
    assert [scores.batch for scores in evaluations(trainer)] == batches
    saved = [re.findall(r'-ba(\d+)-', path.name) for path in tmp_path.glob('ep*.pt')]
    assert sorted(int(number) for (number,) in saved) == batches


def test_training_changes_the_network_and_lowers_the_loss(synthetic_folder: Path, tmp_path: Path) -> None:
    log = tmp_path / 'log.txt'
    argv = arguments(synthetic_folder, 'max_duration=20ep', 'eval_interval=20ep', 'optimizer.lr=0.05')
    run([*argv, f'loggers={{file: {{filename: {log}, flush_interval: 1}}}}'])
    losses = [float(value) for value in re.findall(r'loss/train/total: ([0-9.]+)', log.read_text())]
    assert len(losses) == 60
    assert sum(losses[-6:]) < 0.85 * sum(losses[:6])


@pytest.mark.parametrize('recipe', ['mild', 'medium'])
@pytest.mark.parametrize('mds', [False, True], ids=['folder', 'mds'])
def test_resume_is_bitwise(mds: bool, recipe: str, synthetic_folder: Path, synthetic_mds: Path, tmp_path: Path) -> None:
    """4 epochs equal 2 epochs and a resume, and a resume from the middle of an epoch, with augmentation and workers."""
    argv = arguments(
        synthetic_mds if mds else synthetic_folder, f'recipe_name={recipe}', 'max_duration=4ep', 'eval_interval=1ep',
        'train_dataset.num_workers=2', 'save_num_checkpoints_to_keep=-1', 'algorithms.ema.update_interval=1ba',
        mds=mds,
    )  # fmt: skip
    run([*argv, f'save_folder={tmp_path}/whole', 'save_interval=1ep'])
    run([*argv, f'save_folder={tmp_path}/middle', 'save_interval=5ba', 'max_duration=5ba'])
    assert_resumed = ('whole/ep2-ba6-rank0.pt', 'middle/ep1-ba5-rank0.pt')
    for number, checkpoint in enumerate(assert_resumed):
        folder = tmp_path / f'resumed{number}'
        run([*argv, f'save_folder={folder}', 'save_interval=4ep', f'load_path={tmp_path}/{checkpoint}'])
        assert_same_weights(tmp_path / 'whole/ep4-ba12-rank0.pt', folder / 'ep4-ba12-rank0.pt')
    assert not torch.equal(*(w['module.classifier.conv_seg.weight'] for w in map(weights, [
        tmp_path / 'whole/ep2-ba6-rank0.pt', tmp_path / 'whole/ep4-ba12-rank0.pt',
    ])))  # fmt: skip


def test_autoresume_continues_the_run_of_that_name(synthetic_folder: Path, tmp_path: Path) -> None:
    argv = arguments(synthetic_folder, 'run_name=again', f'save_folder={tmp_path}/{{run_name}}', 'autoresume=true')
    assert run([*argv, 'max_duration=1ep']).state.timestamp.epoch == 1
    trainer = run([*argv, 'max_duration=2ep'])
    assert trainer.state.timestamp.epoch == 2
    assert weights(tmp_path / 'again' / 'ep2-ba6-rank0.pt')


def test_evaluation_alone_repeats_the_number(synthetic_folder: Path, tmp_path: Path) -> None:
    argv = arguments(synthetic_folder, 'recipe_name=mild', 'algorithms.ema.half_life=2ba')
    trained = run([*argv, 'max_duration=2ep', f'save_folder={tmp_path}'])
    evaluated = run([*argv, 'is_train=false', f'load_path={tmp_path}/latest-rank0.pt', 'seed=27'])
    first, (averaged, raw) = evaluations(trained)[-1], evaluations(evaluated)
    assert (averaged.weights, raw.weights) == (first.weights, 'raw') == ('ema', 'raw')
    assert (averaged.confusion == first.confusion).all() and (raw.confusion != first.confusion).any()
    assert evaluated.state.timestamp.batch == trained.state.timestamp.batch


def test_effective_config_is_kept_beside_the_checkpoints(synthetic_folder: Path, tmp_path: Path) -> None:
    run(arguments(synthetic_folder, 'recipe_name=mild', 'max_duration=1ba', f'save_folder={tmp_path}'))
    text = (tmp_path / 'config.yaml').read_text()
    assert re.search(r'^max_duration: 1ba +# command line$', text, re.MULTILINE)
    assert re.search(r'half_life: 1000ba +# .*mild.yaml$', text, re.MULTILINE)


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
    converted = launch(sys.executable, 'convert_mds.py', str(synthetic_folder), '--out', url, '--name', 'synthetic')
    assert converted.returncode == 0, converted.stderr
    local = [f'train_dataset.local={tmp_path}/train', f'eval_dataset.local={tmp_path}/val']
    argv = [argument.replace(f'path={tmp_path}', f'path={url}') for argument in arguments(tmp_path, *local, mds=True)]
    process = launch(sys.executable, 'main.py', *argv, 'max_duration=2ep', 'train_dataset.num_workers=2')
    assert process.returncode == 0, process.stderr
    assert ' 5 images: ' in process.stdout


# Several ranks

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


# Bad input: one message, exit status 1, no traceback, nothing written

BAD = {
    'unknown key': (['modle.num_classes=3'], ['modle', "Did you mean 'model'"]),
    'mistyped nested key': (['model.num_clases=3'], ['model.num_clases', "'num_classes'"]),
    'wrong type': (['model.num_classes=many'], ['model.num_classes', 'many', 'Integer']),
    'unknown recipe': (['recipe_name=milt'], ['recipe_name=milt', 'mild', 'medium', 'hot']),
    'unknown architecture': (['model.architecture=pspnett'], ['model.architecture=pspnett', "'pspnet'", 'upernet']),
    'unknown backbone': (['model.backbone_arch=resnet19'], ['model.backbone_arch=resnet19', 'resnet18']),
    'unknown algorithm': (['algorithms.mixxup={}'], ['algorithms.mixxup', "'mixup'"]),
    'unknown algorithm argument': (['algorithms.sam.rhho=0.1'], ['algorithms.sam.rhho', "'rho'"]),
    'wrong algorithm argument type': (['algorithms.sam.rho=high'], ['algorithms.sam.rho', 'high', 'float']),
    'unknown optimizer': (['optimizer.name=sgdd'], ['optimizer.name=sgdd', "'sgd'"]),
    'unknown dataset': (['train_dataset.name=ade'], ['name=ade', "'ade20k'"]),
    'dataset missing': (['train_dataset.path=/nowhere/at/all'], ['/nowhere/at/all', 'does not exist']),
    'label above num_classes': (['model.num_classes=4'], ['label', 'above 4', 'model.num_classes']),
    'amp without a GPU': (['precision=amp_fp16'], ['precision=amp_fp16', 'GPU', 'bf16']),
    'unknown precision': (['precision=fp8'], ['precision=fp8', 'fp32']),
    'microbatch size': (['device_train_microbatch_size=some'], ['device_train_microbatch_size', 'auto']),
    'unknown weights': (['model.backbone_weights=IMAGENET'], ['model.backbone_weights=IMAGENET', 'IMAGENET1K_V1']),
    'weights file missing': (['model.backbone_weights=/no/file.pth'], ['/no/file.pth', 'no such file']),
    'checkpoint missing': (['load_path=/no/latest-rank{rank}.pt'], ['load_path=/no/latest-rank0.pt', 'no such file']),
    'too few samples': (['train_dataset.batch_size=64'], ['too few samples', 'batch_size']),
    'one sample a batch': (['train_dataset.batch_size=1'], ['deeplabv3plus', 'two samples', 'batch_size']),
    'not streaming a bucket': (['train_dataset.path=s3://bucket/x'], ['train_dataset.path', 'is_streaming=true']),
}  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason='without a GPU only')
@pytest.mark.parametrize('case', BAD)
def test_bad_config(case: str, synthetic_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    extra, expected = BAD[case]
    argv = arguments(synthetic_folder, 'max_duration=1ep', f'save_folder={tmp_path}/run', *extra)
    refused(argv, expected, capsys)
    assert not list(tmp_path.rglob('*.pt'))


def refused(argv: list[str], expected: list[str], capsys: pytest.CaptureFixture) -> None:
    """The verb ends with status 1 and says what is expected, in one message without a traceback."""
    with pytest.raises(SystemExit) as exit_:
        run_verb('train', argv)
    assert exit_.value.code == 1
    error = capsys.readouterr().err
    message = error[error.index('error: ') :]
    assert [part for part in expected if part not in message] == []
    assert 'Traceback' not in error


@pytest.fixture
def own_folder(synthetic_folder: Path, tmp_path: Path) -> Path:
    """A copy of the dataset that a test may damage."""
    return Path(shutil.copytree(synthetic_folder, tmp_path / 'data'))


@pytest.mark.parametrize('fault', ['empty', 'no mask', 'sizes', 'damaged image', 'damaged mask'])
@pytest.mark.parametrize('num_workers', [0, 2])
def test_bad_files(fault: str, num_workers: int, own_folder: Path, tmp_path: Path, capsys: Any) -> None:
    pairs = find_pairs(own_folder, 'train', DATASETS['synthetic'])
    uid, image, mask = pairs[3]
    expected = {
        'empty': ['no image in', str(image.parent)],
        'no mask': ['image without mask', str(image), str(mask)],
        'sizes': ['sizes differ', uid],
        'damaged image': ['damaged image', str(image)],
        'damaged mask': ['damaged mask', str(mask)],
    }[fault]
    if fault == 'empty':
        for pair in pairs:
            pair.image.unlink()
    elif fault == 'no mask':
        mask.unlink()
    elif fault == 'sizes':
        Image.new('L', (7, 5)).save(mask)
    else:
        file = image if 'image' in fault else mask
        file.write_bytes(file.read_bytes()[:200])
    argv = arguments(
        own_folder, 'max_duration=1ep', f'save_folder={tmp_path}/run', f'train_dataset.num_workers={num_workers}'
    )
    refused(argv, expected, capsys)
    assert not list(tmp_path.rglob('*.pt'))


def test_checkpoint_of_another_class_count(synthetic_folder: Path, tmp_path: Path, capsys: Any) -> None:
    argv = arguments(synthetic_folder, 'max_duration=1ba', f'save_folder={tmp_path}', 'save_interval=1ba')
    run(argv)
    more = ['model.num_classes=9', f'load_path={tmp_path}/latest-rank0.pt', 'save_folder=null']
    refused([*argv, *more], ['load_path=', 'model.num_classes=9', 'size mismatch'], capsys)


def test_an_old_checkpoint_is_not_overwritten(synthetic_folder: Path, tmp_path: Path, capsys: Any) -> None:
    argv = arguments(synthetic_folder, 'max_duration=1ep', f'save_folder={tmp_path}')
    run(argv)
    files = [tmp_path / name for name in ('ep1-ba3-rank0.pt', 'config.yaml')]
    before = [file.read_bytes() for file in files]
    refused([*argv, 'optimizer.lr=0.5'], [str(tmp_path), 'save_overwrite=true'], capsys)
    assert [file.read_bytes() for file in files] == before


def test_lost_loss_stops_before_the_checkpoint(synthetic_folder: Path, tmp_path: Path, capsys: Any) -> None:
    argv = arguments(
        synthetic_folder, 'max_duration=3ep', f'save_folder={tmp_path}', 'save_interval=1ba', 'optimizer.lr=1e30'
    )
    refused(argv, ['not finite', 'optimizer.lr'], capsys)
    kept = sorted(tmp_path.glob('ep*.pt'))
    assert all(torch.isfinite(value).all() for file in kept[:1] for value in weights(file).values())


def test_batch_that_does_not_divide(synthetic_folder: Path) -> None:
    process = launch('composer', '-n', '2', 'main.py', *arguments(synthetic_folder, 'train_dataset.batch_size=5'))
    assert process.returncode == 1
    assert 'train_dataset.batch_size=5' in process.stderr
    assert '4 or 6' in process.stderr
    assert 'Traceback' not in process.stdout + process.stderr


@pytest.mark.parametrize('fault', ['bucket', 'key', 'no credentials', 'refused credentials'])
def test_bad_s3(fault: str, s3: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f's3://{"no-such-bucket" if fault == "bucket" else s3.bucket}/data'
    if fault == 'no credentials':
        monkeypatch.delenv('AWS_ACCESS_KEY_ID')
        monkeypatch.delenv('AWS_SECRET_ACCESS_KEY')
        monkeypatch.setenv('AWS_EC2_METADATA_DISABLED', 'true')
    if fault == 'refused credentials':
        s3.check_credentials(after_requests=0)
    expected = {
        'bucket': ['no-such-bucket'],
        'key': ['index.json'],
        'no credentials': ['AWS_ACCESS_KEY_ID'],
        'refused credentials': ['refused'],
    }[fault]
    argv = arguments(tmp_path, f'train_dataset.local={tmp_path}/train', f'eval_dataset.local={tmp_path}/val', mds=True)
    argv = [argument.replace(f'path={tmp_path}', f'path={url}') for argument in argv]
    try:
        refused(argv, expected, capsys)
    finally:
        s3.check_credentials(after_requests=float('inf'))


def test_main_takes_a_merged_config(synthetic_folder: Path) -> None:
    from omegaconf import OmegaConf

    yaml = OmegaConf.load(ROOT / 'yamls/deeplabv3.yaml')
    merged = OmegaConf.merge(yaml, OmegaConf.from_dotlist(arguments(synthetic_folder, 'max_duration=1ba')[1:]))
    trainer = main(merged)  # type: ignore[arg-type]
    assert isinstance(trainer.state.model.module, torch.nn.Module)
    assert trainer.state.timestamp.batch == 1
    with pytest.raises(UserError, match='modle'):
        main(OmegaConf.merge(merged, {'modle': 1}))  # type: ignore[arg-type]


ADE20K_SAMPLES = ROOT.parent / 'shared' / 'data' / 'ade20k_samples' / 'sampleData'


@pytest.mark.skipif(not ADE20K_SAMPLES.is_dir(), reason='the three public ADE20K images are not beside the checkout')
def test_real_ade20k_images_with_all_classes(tmp_path: Path) -> None:
    """Trained on and scored through the same path as the whole dataset."""
    for kind in ('images', 'annotations'):
        for split in ('training', 'validation'):
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / kind / split).symlink_to(ADE20K_SAMPLES / kind)
    argv = [
        str(ROOT / 'yamls/deeplabv3.yaml'), f'train_dataset.path={tmp_path}', f'eval_dataset.path={tmp_path}',
        'model.backbone_arch=resnet18', 'model.backbone_weights=null', 'model.head_channels=16',
        'train_dataset.final_size=128', 'train_dataset.batch_size=3', 'eval_dataset.final_size=128',
        'eval_dataset.batch_size=2', 'max_duration=1ep', 'callbacks.show_results.folder=' + str(tmp_path / 'results'),
    ]  # fmt: skip
    trainer = run(argv)
    assert trainer.state.timestamp.sample == 3
    assert trainer.state.eval_timestamp.sample == 3
    rows = (tmp_path / 'results' / 'scores.csv').read_text().splitlines()
    assert len(rows) == 1 + 150 + 2
    assert rows[1].startswith('wall,') and rows[150].startswith('flag,')
    scored = [row for row in rows[1:151] if row.split(',')[1]]
    assert len(scored) > 3  # the classes of three photographs, and those wrongly predicted


@pytest.mark.parametrize(
    ('flags', 'dtype'), [('avx2 avx512_bf16', 'bfloat16'), ('amx_bf16', 'bfloat16'), ('avx2', None)]
)
def test_auto_precision_is_bfloat16_where_the_cpu_has_it(flags, dtype, tmp_path, monkeypatch) -> None:
    (tmp_path / 'cpuinfo').write_text(f'flags : fpu {flags}\n')
    monkeypatch.setattr(device, 'CPU_INFO', tmp_path / 'cpuinfo')
    assert device.choose_precision('auto', 'cpu') == ('fp32', dtype and getattr(torch, dtype))
    assert device.choose_precision('fp32', 'cpu') == ('fp32', None)
