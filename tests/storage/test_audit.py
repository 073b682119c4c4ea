import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segrecipes.base.errors import MissingPathError
from segrecipes.commands.cli import run
from segrecipes.datasets.table import DATASETS
from segrecipes.storage.audit import audit
from segrecipes.storage.convert import convert
from segrecipes.storage.folders import find_pairs
from segrecipes.upstream import check_dataloader

ROW = DATASETS['synthetic']
ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(synthetic_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(synthetic_folder, tmp_path / 'data'))


def image_of(data: Path, number: int) -> Path:
    return data / f'ADEChallengeData2016/images/training/ADE_train_{number:08}.jpg'


def mask_of(data: Path, number: int) -> Path:
    return data / f'ADEChallengeData2016/annotations/training/ADE_train_{number:08}.png'


def check_good(path: Path, folder: Path, image_mode: str = 'RGB') -> None:
    """What is found in ``path`` against what is counted, slowly, in the files of ``folder``."""
    found = dict(audit(str(path), row=ROW))
    assert list(found) == ['train', 'val']
    for split, finding in found.items():
        labels, sizes = np.zeros(256, np.int64), Counter()
        for pair in find_pairs(folder, split, ROW):
            with Image.open(pair.mask) as mask:
                sizes[mask.size] += 1
                for label, count in zip(*np.unique(np.array(mask), return_counts=True)):
                    labels[label] += count
        assert finding.faults == []
        assert finding.samples == {'train': 12, 'val': 5}[split]
        assert finding.sizes == sizes
        np.testing.assert_array_equal(finding.labels, labels)
        assert finding.image_modes == {image_mode: finding.samples}
        assert finding.mask_modes == {'L': finding.samples}


def test_folder(synthetic_folder: Path):
    check_good(synthetic_folder, synthetic_folder)


@pytest.mark.filterwarnings('ignore:unclosed file:ResourceWarning')
@pytest.mark.usefixtures('clean_shared_memory')
def test_shards(synthetic_folder: Path, synthetic_mds: Path):
    check_good(synthetic_mds, synthetic_folder)


def test_report(synthetic_folder: Path, capfd: pytest.CaptureFixture[str]):
    run('data', [str(synthetic_folder), '--name', 'synthetic'])
    printed = capfd.readouterr().out
    train = printed.partition('val: 5 images with masks')[0]
    [(_, finding), _] = audit(str(synthetic_folder), row=ROW)
    widths, heights = zip(*finding.sizes)
    assert 'train: 12 images with masks' in train
    assert f'sizes: {min(widths)}…{max(widths)} wide, {min(heights)}…{max(heights)} high' in train
    assert 'image modes: RGB 12; mask modes: L 12' in train
    present = np.flatnonzero(finding.labels)
    assert f'labels: {present[0]}…{present[-1]}' in train
    rows = [[cell.strip() for cell in line.split('│')[1:-1]] for line in train.splitlines() if line.startswith('│')]
    assert [int(row[0]) for row in rows] == list(present)
    for label, name, pixels, share in rows:
        count = finding.labels[int(label)]
        assert name == ('ignored' if label in ('0', '255') else ROW.classes[int(label) - 1])
        assert int(pixels.replace(',', '')) == count
        assert share == f'{100 * count / finding.labels.sum():.2f}%'
    assert 'fault' not in printed


def damage(data: Path) -> dict[str, str]:
    """Spoil five training samples; what is to be said of each."""
    image_of(data, 1).write_bytes(image_of(data, 1).read_bytes()[:900])
    mask_of(data, 2).unlink()
    Image.new('L', (20, 10), 1).save(mask_of(data, 3))
    labels = np.array(Image.open(mask_of(data, 4)))
    labels[0, :2] = 9, 255
    Image.fromarray(labels).save(mask_of(data, 4))
    Image.open(mask_of(data, 5)).convert('RGB').save(mask_of(data, 5))
    return {
        f'{image_of(data, 1)}': 'damaged image',
        f'{image_of(data, 2)}': 'image without mask',
        f'{image_of(data, 3)}': 'sizes differ',
        f'{mask_of(data, 4)}': r'label 9 in mask .* is none of the dataset\. Legal: 0…8, 255$',
        f'{mask_of(data, 5)}': 'must have one channel',
    }


def test_each_fault_is_found(data: Path):
    wanted = damage(data)
    found = dict(audit(str(data), row=ROW))
    assert found['val'].faults == []
    assert found['train'].samples == 11  # all that have a mask
    faults = found['train'].faults
    assert len(faults) == 5
    for path, text in wanted.items():
        assert [fault for fault in faults if path in fault and re.search(text, fault)], path
    assert sum(found['train'].sizes.values()) == 9  # all that could be read


@pytest.mark.filterwarnings('ignore:unclosed file:ResourceWarning')
@pytest.mark.usefixtures('clean_shared_memory')
def test_faults_of_shards(data: Path, tmp_path: Path):
    labels = np.array(Image.open(mask_of(data, 4)))
    labels[0, 0] = 9
    Image.fromarray(labels).save(mask_of(data, 4))
    Image.open(mask_of(data, 5)).convert('RGB').save(mask_of(data, 5))
    image_of(data, 6).write_bytes(image_of(data, 6).read_bytes()[:900])
    convert(data, tmp_path / 'mds', name='synthetic', splits=['train'], num_workers=1, progress_bar=False)
    [(split, finding)] = audit(str(tmp_path / 'mds'), row=ROW)
    assert (split, finding.samples) == ('train', 12)
    found = {fault.partition(' in ')[0] + str(re.findall(r'0000000\d', fault)) for fault in finding.faults}
    assert found == {
        "label 9['00000004']", "mask 00000005['00000005']", "damaged image 00000006['00000006']",
    }  # fmt: skip


def script(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(ROOT / 'data.py'), *arguments], capture_output=True, text=True, cwd=cwd)


def test_command_on_faults(data: Path, tmp_path: Path):
    damage(data)
    done = script(str(data), '--name', 'synthetic', cwd=tmp_path)
    assert done.returncode == 1
    assert 'Traceback' not in done.stderr + done.stdout
    assert done.stderr.splitlines()[-1] == (
        f'error: 5 of the samples in {data} have a fault. Labels that synthetic does not know: 9 (masks with it: 1, '
        f'such as {mask_of(data, 4)}). A dataset.yaml gives each a class by labels, or leaves it out by ignored: '
        'segrecipes data init PATH writes one'
    )
    assert done.stdout.count('fault: ') == 5
    assert 'val: 5 images with masks' in done.stdout


def test_command_on_a_good_dataset(
    synthetic_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, 'argv', ['data.py', str(synthetic_folder), '--name=synthetic'])
    check_dataloader()  # and no SystemExit
    assert 'train: 12 images with masks' in capfd.readouterr().out


def refused(capfd: pytest.CaptureFixture[str], *arguments: str, status: int = 1) -> str:
    """The last line of what the command says, by its exit status."""
    with pytest.raises(SystemExit) as stop:
        run('data', arguments, 'data.py')
    assert stop.value.code == status
    printed = capfd.readouterr()
    assert printed.out == ''
    return printed.err.splitlines()[-1]


def test_wrong_arguments(synthetic_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert refused(capfd, '/no/such/folder') == 'error: dataset folder does not exist: /no/such/folder'
    missing = f'error: dataset folder does not exist: {tmp_path}/images/training '
    assert refused(capfd, str(tmp_path)).startswith(missing)
    assert refused(capfd, status=2) == 'data.py: error: the following arguments are required: path'
    assert refused(capfd, 'a', 'b', 'c', status=2) == 'data.py: error: unrecognized arguments: c'
    unknown = refused(capfd, str(synthetic_folder), '--layout=synthetic', status=2)
    assert unknown == 'data.py: error: unrecognized arguments: --layout=synthetic'
    taken = refused(capfd, str(synthetic_folder), 'name=synthetic')
    assert taken == 'error: name=synthetic: settings are flags here, such as --name camvid'
    hint = "name=synthetik is not known. Did you mean 'synthetic'?"
    assert hint in refused(capfd, str(synthetic_folder), '--name=synthetik')
    assert refused(capfd, 's3://bucket/data').endswith('segrecipes data s3://bucket/data ./cache')


def test_one_split_alone(data: Path):
    shutil.rmtree(data / 'ADEChallengeData2016/images/validation')
    assert [split for split, _ in audit(str(data), row=ROW)] == ['train']


@pytest.mark.parametrize('absent', ['annotations', 'annotations/validation'])
def test_a_split_without_its_masks_is_named(data: Path, absent: str):
    shutil.rmtree(data / 'ADEChallengeData2016' / absent)
    with pytest.raises(MissingPathError, match=r'does not exist: .*/annotations/(training|validation) \(looked in '):
        list(audit(str(data), row=ROW))


def test_lgg():
    """Real pictures: 0 and 255 are classes, and nothing is ignored."""
    path = ROOT.parent / 'shared/data/lgg_mri'
    if not path.is_dir():
        pytest.skip(f'no brain MRI in {path}')
    found = dict(audit(str(path), row=DATASETS['lgg']))
    assert list(found) == ['train', 'val']
    masks = list(path.rglob('*_mask.tif'))
    assert sum(finding.samples for finding in found.values()) == len(masks)
    tumour = sum(np.count_nonzero(np.array(Image.open(file))) for file in masks)
    assert sum(int(finding.labels[255]) for finding in found.values()) == tumour
    assert all(finding.faults == [] and finding.sizes.keys() == {(256, 256)} for finding in found.values())
    assert all(set(np.flatnonzero(finding.labels)) == {0, 255} for finding in found.values())
    # A network of numbered classes would not know them
    [(_, finding), _] = audit(str(path), row=replace(DATASETS['lgg'], labels=0, ignored=frozenset({1})))
    assert finding.faults[0].startswith('label 255 in mask ')
    assert finding.faults[0].endswith('_mask.tif is none of the dataset. Legal: 0…1')


def test_the_table_names_classes_by_the_map(data: Path, capfd: pytest.CaptureFixture[str], monkeypatch):
    """255 a class, 0 another one, and a label that is none of either."""
    masks = sorted((data / 'ADEChallengeData2016/annotations').rglob('*.png'))
    for file in masks:
        Image.fromarray(np.where(np.array(Image.open(file)) > 4, 255, 0).astype(np.uint8)).save(file)
    labels = np.array(Image.open(masks[0]))
    labels[0, 0], labels[0, 1] = 3, 77
    Image.fromarray(labels).save(masks[0])
    row = replace(ROW, classes=('background', 'thing'), labels={0: 0, 255: 1}, ignored=frozenset({77}))
    monkeypatch.setitem(DATASETS, 'mapped', row)
    with pytest.raises(SystemExit):
        run('data', [str(data), '--name', 'mapped'])
    printed = capfd.readouterr().out.partition('val: 5 images')[0]
    rows = [[cell.strip() for cell in line.split('│')[1:3]] for line in printed.splitlines() if line.startswith('│')]
    assert rows == [['0', 'background'], ['3', 'unknown'], ['77', 'ignored'], ['255', 'thing']]
    assert f'fault: label 3 in mask {masks[0]} is none of the dataset. Legal: 0, 77, 255' in printed


OWN = """
classes: [background, thing, other]
labels: {0: background, 1: thing, 2: other}
splits: {train: images/training/*, val: images/validation/*}
mask: ['^images/(.+)\\.\\w+$', 'annotations/\\1.png']
excluded: {train: [images/training/ADE_train_00000003, images/training/ADE_train_00000007, away]}
"""


def own(data: Path, labels: list[int], text: str = OWN) -> Path:
    """A dataset.yaml beside masks whose labels are all among these."""
    root = data / 'ADEChallengeData2016'
    for file in root.rglob('*.png'):
        Image.fromarray(np.array(labels, np.uint8)[np.array(Image.open(file)) % len(labels)]).save(file)
    (root / 'dataset.yaml').write_text(text)
    return root


def test_of_a_dataset_of_ones_own(data: Path, capfd: pytest.CaptureFixture[str]):
    """What is left out is counted, and a class that never occurs is named."""
    root = own(data, [0, 1])
    run('data', [str(root)])
    train, _, val = capfd.readouterr().out.partition('val: 5 images with masks')
    assert 'train: 10 images with masks' in train
    left_out = '2 images are left out by excluded: images/training/ADE_train_00000003.jpg, images/training/ADE_train_0'
    assert left_out in train and 'left out' not in val
    for split, printed in (('training', train), ('validation', val)):
        assert 'classes without a pixel: other\n' in printed
        masks = [file for file in (root / f'annotations/{split}').iterdir() if not re.search('train_.*[37]', file.stem)]
        pixels = [np.bincount(np.array(Image.open(file)).ravel(), minlength=2) for file in masks]
        rows = [
            [cell.strip() for cell in line.split('│')[1:4]] for line in printed.splitlines() if line.startswith('│')
        ]
        background, thing = np.sum(pixels, axis=0)
        assert rows == [['0', 'background', f'{background:,}'], ['1', 'thing', f'{thing:,}']]


@pytest.mark.parametrize(
    ('labels', 'text', 'expected'),
    [
        ([0], OWN, 'train: background is the only class, .* nothing to learn: the labels of its 10 masks are 0. '),
        ([9], OWN + 'ignored: [9]', 'train: no pixel has a class, all are ignored: the labels of its 10 masks are 9. '),
        ([0, 1, 77, 78], OWN, r'ADEChallengeData2016 does not know: 7[78] \(masks with it: 15, such as /.*\.png\), 7'),
    ],
)  # fmt: skip
def test_nothing_to_learn(labels: list[int], text: str, expected: str, data: Path, capfd: pytest.CaptureFixture[str]):
    root = own(data, labels, text)
    with pytest.raises(SystemExit) as stop:
        run('data', [str(root)])
    assert stop.value.code == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith('error: ') and re.search(expected, error), error
    assert 'segrecipes data init PATH writes' in error
