"""Brain MRI: its two splits, on a rebuilt folder of kaggle_3m and on the real slices of six patients."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import ROOT, launch
from PIL import Image

from segrecipes.checkpoints.read import read_checkpoint
from segrecipes.commands.cli import run as verb
from segrecipes.datasets.lgg import BY_SLICE, ROW
from segrecipes.evaluation.scores import Scores
from segrecipes.reports.page import write_report
from segrecipes.storage.folders import find_pairs

REAL = ROOT.parent / 'shared/data/lgg_mri'
PATIENTS = {  # six, of which three validate
    'TCGA_CS_4944_20010208': 4, 'TCGA_DU_5855_19951217': 5, 'TCGA_FG_7634_20000128': 3,
    'TCGA_FG_A60K_20040224': 6, 'TCGA_HT_7860_19960513': 2, 'TCGA_HT_8105_19980826': 11,
}  # fmt: skip
# What the dataset's page lists, without the dates of the scans
SITES = {
    'CS': '4941 4942 4943 4944 5393 5395 5396 5397 6186 6188 6290 6665 6666 6667 6668 6669',
    'DU': '5849 5851 5852 5853 5854 5855 5871 5872 5874 6399 6400 6401 6404 6405 6407 6408 7008 7010 7013 7014 7018 '
    '7019 7294 7298 7299 7300 7301 7302 7304 7306 7309 8162 8163 8164 8165 8166 8167 8168 A5TP A5TR A5TS A5TT A5TU '
    'A5TW A5TY',
    'EZ': '7264',
    'FG': '5962 5964 6688 6689 6690 6691 6692 7634 7637 7643 8189 A4MT A4MU A60K',
    'HT': '7473 7475 7602 7605 7608 7616 7680 7684 7686 7690 7692 7693 7694 7855 7856 7860 7874 7877 7879 7881 7882 '
    '7884 8018 8105 8106 8107 8111 8113 8114 8563 A5RC A616 A61A A61B',
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('lgg') / 'kaggle_3m'
    rng = np.random.default_rng(0)
    for patient, count in PATIENTS.items():
        (root / patient).mkdir(parents=True)
        for number in range(1, count + 1):
            mask = 255 * (rng.random((8, 8)) < 0.4).repeat(4, 0).repeat(4, 1).astype(np.uint8)
            image = rng.integers(0, 99, (32, 32, 3), np.uint8) + mask[..., None] // 2
            Image.fromarray(image).save(root / patient / f'{patient}_{number}.tif')
            Image.fromarray(mask).save(root / patient / f'{patient}_{number}_mask.tif')
    (root / 'data.csv').write_text('Patient,RNASeqCluster\n')
    return root.parent


def test_the_full_sets_patients() -> None:
    cases = [f'TCGA_{site}_{number}' for site, numbers in SITES.items() for number in numbers.split()]
    assert len(cases) == 110
    names = [f'{case}_20000101/{case}_20000101_1.tif' for case in cases]
    validated = {name[:12] for name in ROW.part('val', names)}
    assert validated == {case for case in cases if int(hashlib.sha1(case.encode()).hexdigest(), 16) < 0.2 * 2**160}
    assert (len(validated), len(ROW.part('train', names))) == (20, 90)
    assert not validated & {name[:12] for name in ROW.part('train', names)}


def test_a_patient_is_in_one_split(folder: Path) -> None:
    sides = {split: find_pairs(folder, split, ROW) for split in ('train', 'val')}
    assert {pair.image.parent.name for pair in sides['val']} == {*list(PATIENTS)[:3]}
    assert {pair.image.parent.name for pair in sides['train']} == {*list(PATIENTS)[3:]}
    assert {split: len(pairs) for split, pairs in sides.items()} == {'train': 19, 'val': 12}


def test_slices_are_split_by_a_permutation(folder: Path) -> None:
    """What scikit-learn's ``train_test_split(names, test_size=0.2, random_state=233)`` gives."""
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob('*_[0-9]*.tif') if 'mask' not in file.name)
    order = np.random.RandomState(233).permutation(31)
    for split, chosen in {'val': order[:7], 'train': order[7:]}.items():
        found = [str(pair.image.relative_to(folder)) for pair in find_pairs(folder, split, BY_SLICE)]
        assert found == sorted(names[index] for index in chosen)


def test_the_known_split_of_3929_slices() -> None:
    names = [f'{number:04}' for number in range(3929)]
    val, train = BY_SLICE.part('val', names), BY_SLICE.part('train', names)
    assert (len(val), len(train)) == (786, 3143)
    assert sorted(val + train) == names
    assert {int(name) for name in val} == {*np.random.RandomState(233).permutation(3929)[:786].tolist()}


@pytest.mark.parametrize('count', [1, 2, 5, 10, 35, 55, 99, 1005])
def test_a_fifth_is_never_rounded_past_a_whole_number(count: int) -> None:
    """0.2 * 35 is a little more than 7 in floating point."""
    names = [f'{number:04}' for number in range(count)]
    assert len(BY_SLICE.part('val', names)) == -(-count // 5)
    assert len(BY_SLICE.part('train', names)) == count - -(-count // 5)


def test_the_real_slices() -> None:
    if not REAL.is_dir():
        pytest.skip(f'no brain MRI in {REAL}')
    counts, tumours = {}, 0
    for split in ('train', 'val'):
        pairs = find_pairs(REAL, split, ROW)
        counts[split] = len(pairs), len({pair.image.parent for pair in pairs})
        tumours += sum(bool(np.asarray(Image.open(pair.mask)).any()) for pair in pairs)
    assert counts == {'train': (127, 3), 'val': (73, 3)}
    assert tumours == 79
    val = find_pairs(REAL, 'val', BY_SLICE)
    assert (len(val), len(find_pairs(REAL, 'train', BY_SLICE))) == (40, 160)
    trained = {pair.image.parent for pair in find_pairs(REAL, 'train', BY_SLICE)}
    assert all(pair.image.parent in trained for pair in val)


SETTINGS = (
    'model.backbone_arch=resnet18', 'model.backbone_weights=null', 'model.head_channels=16', 'max_duration=1ba',
    'train_dataset.base_size=32', 'train_dataset.final_size=32', 'train_dataset.batch_size=4',
    'eval_dataset.batch_size=2', 'train_dataset.num_workers=0', 'callbacks.show_results.num_images=99',
    'callbacks.speed_monitor=null', 'callbacks.lr_monitor=null', 'callbacks.memory_monitor=null',
    'loggers={progress_bar: null}',
)  # fmt: skip


def volume_dice(results: Path) -> dict[str, list[float]]:
    """Of the pictures of truth and prediction that an evaluation wrote: all of a patient's, one on top of the other."""
    volumes: dict[str, list[tuple[np.ndarray, ...]]] = {}
    for entry in json.loads((results / 'images.json').read_text())['images']:
        pair = tuple(np.asarray(Image.open(results / entry[part])) for part in ('truth', 'prediction'))
        volumes.setdefault(entry['uid'][:12], []).append(pair)
    found = {}
    for case, pairs in sorted(volumes.items()):
        truth, prediction = map(np.stack, zip(*pairs))
        masks = [(truth == label, prediction == label) for label in (0, 1)]
        found[case] = [200 * (t & p).sum() / (t.sum() + p.sum()) for t, p in masks]
    return found


@pytest.mark.parametrize('dataset', ['lgg', 'lgg-slices'])
def test_training_and_what_it_reports(
    dataset: str, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = [str(ROOT / 'yamls/deeplabv3.yaml'), f'dataset={dataset}', *SETTINGS, f'train_dataset.path={folder}']
    verb('train', [*argv, f'save_folder={tmp_path}'])
    printed = capfd.readouterr().out
    results = tmp_path / 'evaluation'
    scores = Scores.from_dict(json.loads((results / 'scores.json').read_text()))
    assert scores.images == (12 if dataset == 'lgg' else 7)
    assert scores.protocol == 'fit-ss@32'
    expected = volume_dice(results)
    assert {case: pytest.approx(dice.tolist()) for case, dice in scores.group_dice.items()} == expected
    assert scores.dice['mean_dice'].tolist() == pytest.approx(np.mean([*expected.values()], axis=0))
    assert scores.dice['median_dice'].tolist() == pytest.approx(np.median([*expected.values()], axis=0))

    page = write_report([tmp_path])[0].read_text()
    assert f'Mean Dice of {len(expected)} groups' in page
    verb('data', [str(folder), '--name', dataset])
    checked = capfd.readouterr().out
    card = read_checkpoint(tmp_path / 'latest-rank0.pt').card
    assert card is not None
    if dataset == 'lgg':
        assert [*scores.group_dice] == [case[:12] for case in list(PATIENTS)[:3]]
        assert 'leaks' not in printed + page + checked + scores.warning + card.warning
    else:
        assert f'warning: {BY_SLICE.warning}' in printed
        assert f'warning: {BY_SLICE.warning}' in checked
        assert scores.warning == card.warning == BY_SLICE.warning
        assert BY_SLICE.warning in page


@pytest.mark.slow
def test_two_ranks_report_the_volumes_of_one(folder: Path, tmp_path: Path) -> None:
    argv = [str(ROOT / 'yamls/deeplabv3.yaml'), 'dataset=lgg', *SETTINGS, f'train_dataset.path={folder}']
    verb('train', [*argv, f'save_folder={tmp_path}'])
    found = []
    for ranks in ('1', '2'):
        process = launch(
            'composer', '-n', ranks, '-m', 'segrecipes', 'evaluate', *argv, f'load_path={tmp_path}/latest-rank0.pt',
            '--protocol', 'fit-ss', '--out', f'{tmp_path}/{ranks}',
        )  # fmt: skip
        assert process.returncode == 0, process.stdout + process.stderr
        assert re.search(r'mean dice\s+of 3', process.stdout) or 'of 3 groups' in process.stdout
        [results] = (tmp_path / ranks).glob('fit-ss*/raw')
        found.append(json.loads((results / 'scores.json').read_text()))
        assert found[-1]['group_dice'] == {case: pytest.approx(dice) for case, dice in volume_dice(results).items()}
    assert found[0] == found[1]
