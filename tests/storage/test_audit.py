import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segrecipes.storage.audit import audit, main
from segrecipes.storage.convert import convert
from segrecipes.upstream import check_dataloader
from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.datasets.table import DATASETS
from segrecipes.storage.folders import find_pairs

LAYOUT = DATASETS['synthetic']
ROOT = Path(__file__).parents[1]


@pytest.fixture
def data(synthetic_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(synthetic_folder, tmp_path / 'data'))


def image_of(data: Path, number: int) -> Path:
    return data / f'ADEChallengeData2016/images/training/ADE_train_{number:08}.jpg'


def mask_of(data: Path, number: int) -> Path:
    return data / f'ADEChallengeData2016/annotations/training/ADE_train_{number:08}.png'


def check_good(path: Path, folder: Path, image_mode: str = 'RGB') -> None:
    """What is found in ``path`` against what is counted, slowly, in the files of ``folder``."""
    found = dict(audit(str(path), layout=LAYOUT))
    assert list(found) == ['train', 'val']
    for split, finding in found.items():
        labels, sizes = np.zeros(256, np.int64), Counter()
        for pair in find_pairs(folder, split, LAYOUT):
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
    main([str(synthetic_folder), 'name=synthetic'])
    printed = capfd.readouterr().out
    train = printed.partition('val: 5 images with masks')[0]
    [(_, finding), _] = audit(str(synthetic_folder), layout=LAYOUT)
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
        assert name == ('ignored' if label in ('0', '255') else LAYOUT.classes[int(label) - 1])
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
        f'{mask_of(data, 4)}': 'label 9 .* is above 8',
        f'{mask_of(data, 5)}': 'must have one channel',
    }


def test_each_fault_is_found(data: Path):
    wanted = damage(data)
    found = dict(audit(str(data), layout=LAYOUT))
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
    [(split, finding)] = audit(str(tmp_path / 'mds'), layout=LAYOUT)
    assert (split, finding.samples) == ('train', 12)
    found = {fault.partition(' in ')[0] + str(re.findall(r'0000000\d', fault)) for fault in finding.faults}
    assert found == {
        "label 9['00000004']", "mask 00000005['00000005']", "damaged image 00000006['00000006']",
    }  # fmt: skip


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(ROOT / 'data.py'), *arguments], capture_output=True, text=True, cwd=cwd)


def test_command_on_faults(data: Path, tmp_path: Path):
    damage(data)
    done = run(str(data), 'name=synthetic', cwd=tmp_path)
    assert done.returncode == 1
    assert 'Traceback' not in done.stderr + done.stdout
    assert done.stderr.splitlines()[-1] == f'error: 5 of the samples in {data} have a fault'
    assert done.stdout.count('fault: ') == 5
    assert 'val: 5 images with masks' in done.stdout


def test_command_on_a_good_dataset(
    synthetic_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, 'argv', ['data.py', str(synthetic_folder), 'name=synthetic'])
    check_dataloader()  # and no SystemExit
    assert 'train: 12 images with masks' in capfd.readouterr().out


def test_wrong_arguments(synthetic_folder: Path, tmp_path: Path):
    with pytest.raises(MissingPathError, match=r'^dataset folder does not exist: /no/such/folder$'):
        main(['/no/such/folder'])
    with pytest.raises(MissingPathError, match=f'^dataset folder does not exist: {tmp_path}/images/training '):
        main([str(tmp_path)])
    for arguments in ([], ['a', 'b', 'c'], [str(synthetic_folder), 'layout=synthetic']):
        with pytest.raises(UserError, match=r'^usage: python data\.py PATH \[LOCAL_CACHE\]'):
            main(arguments)
    with pytest.raises(UserError, match=r"name=synthetik is not known\. Did you mean 'synthetic'\?"):
        main([str(synthetic_folder), 'name=synthetik'])
    with pytest.raises(UserError, match=r'python data\.py s3://bucket/data \./cache$'):
        main(['s3://bucket/data'])


def test_one_split_alone(data: Path):
    shutil.rmtree(data / 'ADEChallengeData2016/images/validation')
    assert [split for split, _ in audit(str(data), layout=LAYOUT)] == ['train']
