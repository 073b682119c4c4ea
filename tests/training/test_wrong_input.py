"""Every way to get the input wrong: one message, exit status 1, no traceback, nothing written."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import arguments, launch, run, weights
from PIL import Image

from segrecipes.commands.cli import run as run_verb
from segrecipes.datasets.table import DATASETS
from segrecipes.storage.folders import find_pairs

pytestmark = pytest.mark.usefixtures('clean_shared_memory')


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
    'another class count': (['model.num_classes=4'], ['model.num_classes=4', 'synthetic has 8 classes', 'data init']),
    'one class': (['model.num_classes=1'], ['model.num_classes=1', 'synthetic has 8 classes']),
    'amp without a GPU': (['precision=amp_fp16'], ['precision=amp_fp16', 'GPU', 'bf16']),
    'unknown precision': (['precision=fp8'], ['precision=fp8', 'fp32']),
    'microbatch size': (['device_train_microbatch_size=some'], ['device_train_microbatch_size', 'auto']),
    'unknown weights': (['model.backbone_weights=IMAGENET'], ['model.backbone_weights=IMAGENET', 'IMAGENET1K_V1']),
    'weights file missing': (['model.backbone_weights=/no/file.pth'], ['/no/file.pth', 'no such file']),
    'checkpoint missing': (['load_path=/no/latest-rank{rank}.pt'], ['load_path=/no/latest-rank0.pt', 'no such file']),
    'too few samples': (['train_dataset.batch_size=64'], ['too few samples', '12', 'batch_size may be 12']),
    'one sample a batch': (['train_dataset.batch_size=1'], ['deeplabv3plus', 'two samples', 'batch_size']),
    'no duration': (['max_duration=0ep'], ['max_duration', '0ep', '1 or more', '25ep']),
    'unknown metric': (['callbacks.early_stopper={monitor: iou, dataloader_label: eval}'],
                       ['callbacks.early_stopper.monitor=iou', 'Legal: CrossEntropy, MIoU']),
    'no metric': (['callbacks.early_stopper={monitor: mIoU, dataloader_label: train}'], ['train_metrics=true']),
    'metric of no loader': (['callbacks.early_stopper={monitor: mIoU, dataloader_label: val}'],
                            ['dataloader_label=val', 'eval', 'train']),
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
    more = ['train_dataset.ignore_background=false', f'load_path={tmp_path}/latest-rank0.pt', 'save_folder=null']
    refused(
        [*argv, *more], [f'{tmp_path}/latest-rank0.pt', 'has 8 classes', 'this run 9', 'load_weights_only=true'], capsys
    )


def test_a_run_that_is_over_does_not_go_on(synthetic_folder: Path, tmp_path: Path, capsys: Any) -> None:
    argv = arguments(synthetic_folder, 'max_duration=2ba', f'save_folder={tmp_path}')
    run(argv)
    for more in (['load_path=' + f'{tmp_path}/latest-rank0.pt', 'save_folder=null'], ['autoresume=true', 'run_name=a']):
        refused([*argv, *more], ['max_duration=2ba is not beyond', 'batch 2', 'load_weights_only=true'], capsys)
    trainer = run([*argv, f'load_path={tmp_path}/latest-rank0.pt', 'save_folder=null', 'max_duration=3ba'])
    assert trainer.state.timestamp.batch == 3


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
