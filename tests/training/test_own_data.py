"""Pictures of one's own, as people have them: what passes is right, what is not is refused before the first batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.runs import ROOT, TINY, arguments, evaluations, run
from PIL import Image

from segrecipes.checkpoints.read import read_checkpoint
from segrecipes.commands.cli import run as run_verb
from segrecipes.storage.convert import convert

pytestmark = pytest.mark.usefixtures('clean_shared_memory')

OWN = [argument for argument in TINY if '.name=' not in argument]
SIDE = 32


def write_pictures(
    folder: Path, labels: Callable[[np.ndarray], np.ndarray], layout: str = 'own', count: int = 8
) -> Path:
    """Pictures that are bright where a thing is; ``labels`` makes a mask of where it is, (H, W) bool."""
    rng = np.random.default_rng(5)
    for split, in_ade20k in (('train', 'training'), ('val', 'validation')):
        for index in range(count):
            thing = np.zeros((SIDE, SIDE), bool)
            top, left = rng.integers(0, SIDE // 2, 2)
            thing[top : top + SIDE // 2, left : left + SIDE // 2] = True
            image = np.where(thing, 200, 50)[..., None] + rng.integers(-40, 40, (SIDE, SIDE, 3))
            images, masks = ('images', 'annotations') if layout == 'ade20k' else ('images', 'masks')
            place = in_ade20k if layout == 'ade20k' else split
            for kind, pixels, suffix in ((images, image, 'jpg'), (masks, labels(thing), 'png')):
                (folder / kind / place).mkdir(parents=True, exist_ok=True)
                name = folder / kind / place / f'{1701 + index:08}.{suffix}'
                Image.fromarray(pixels.astype(np.uint8)).save(name)
    return folder


def describe(folder: Path, labels: str, classes: str = '[background, thing]', more: str = '') -> Path:
    (folder / 'dataset.yaml').write_text(
        f"""
name: things
classes: {classes}
labels: {labels}
splits: {{train: images/train/*, val: images/val/*}}
mask: ['^images/(.+)\\.\\w+$', 'masks/\\1.png']
{more}
"""
    )
    return folder


def refused(argv: list[str], capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as exit_:
        run_verb('train', argv)
    assert exit_.value.code == 1
    error = capsys.readouterr().err
    assert 'Traceback' not in error
    return error[error.index('error: ') :]


CASES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    '0 and 255': lambda thing: np.where(thing, 255, 0),
    '0 and 1': lambda thing: np.where(thing, 1, 0),
    '0-based': lambda thing: np.where(thing, 1, 2 * np.eye(SIDE, dtype=int)),
}


@pytest.mark.parametrize('case', CASES)
def test_pictures_of_ones_own_are_not_taken_for_ade20k(case: str, tmp_path: Path, capsys: Any) -> None:
    """Nor is one of its classes said to be a wall, nor 00001701.jpg left out."""
    folder = write_pictures(tmp_path / 'data', CASES[case], layout='ade20k')
    argv = [str(ROOT / 'yamls/deeplabv3.yaml'), *OWN, f'train_dataset.path={folder}', f'save_folder={tmp_path}/run']
    message = refused(argv, capsys)
    assert 'images/training/00001701.jpg is no picture of ade20k' in message
    assert 'segrecipes data init PATH writes it' in message
    assert not list(tmp_path.rglob('*.pt'))


@pytest.mark.parametrize(
    ('case', 'expected'),
    [
        ('0 and 255', 'no pixel has a class, all are ignored: the labels of its 8 masks are 0, 255'),
        ('0 and 1', 'sky is the only class, and there is nothing to learn: the labels of its 8 masks are 0…1'),
    ],
)
def test_of_a_dataset_that_it_is_not(case: str, expected: str, tmp_path: Path, capsys: Any) -> None:
    folder = write_pictures(tmp_path / 'data', CASES[case], layout='ade20k')
    message = refused(arguments(folder, 'max_duration=1ep', f'save_folder={tmp_path}/run'), capsys)
    assert expected in message
    assert 'The classes of dataset synthetic are labels 1…8. ' in message
    assert not list(tmp_path.rglob('*.pt'))


def own(folder: Path, *more: str) -> list[str]:
    return [str(ROOT / 'yamls/deeplabv3.yaml'), *OWN, f'dataset={folder}', *more]


@pytest.mark.parametrize(
    ('case', 'labels'), [('0 and 255', '{0: background, 255: thing}'), ('0 and 1', '0'), ('0 and 1', '{0: 0, 1: 1}')]
)
@pytest.mark.parametrize('streamed', [False, True])
def test_a_thing_on_a_background(case: str, labels: str, streamed: bool, tmp_path: Path) -> None:
    """Two classes by name, both counted exactly, all pictures used: in a folder and as shards."""
    folder = describe(write_pictures(tmp_path / 'data', CASES[case]), labels)
    if streamed:
        convert(folder, tmp_path / 'mds', progress_bar=False, num_workers=1)
        folder = tmp_path / 'mds'
    trainer = run(own(folder, 'max_duration=2ep', f'save_folder={tmp_path}/run', 'eval_protocol=ade20k-ss'))
    assert trainer.state.timestamp.batch.value == 4  # of 4 pictures, 8 an epoch
    scores = evaluations(trainer)[-1]
    assert scores.class_names == ('background', 'thing')
    things = sum(
        int(CASES[case](mask_is_thing(file)).astype(bool).sum())
        for file in sorted((tmp_path / 'data/masks/val').iterdir())
    )
    assert scores.labelled.tolist() == [8 * SIDE**2 - things, things]
    card = read_checkpoint(tmp_path / 'run/latest-rank0.pt').card
    assert card is not None
    assert (card.dataset, card.class_names, card.num_classes) == ('things', ('background', 'thing'), 2)


def mask_is_thing(file: Path) -> np.ndarray:
    return np.array(Image.open(file)) > 0


def test_a_label_outside_the_map(tmp_path: Path, capsys: Any) -> None:
    folder = describe(write_pictures(tmp_path / 'data', CASES['0-based']), '{0: background, 1: thing}')
    message = refused(own(folder), capsys)
    assert 'label 2 in mask ' in message
    assert 'none of dataset things. Legal: 0…1, 255. ' in message


def test_one_class_alone(tmp_path: Path, capsys: Any) -> None:
    folder = describe(write_pictures(tmp_path / 'data', CASES['0 and 1']), '{1: thing}', '[thing]', 'ignored: [0]')
    message = refused(own(folder), capsys)
    assert f'{folder}/dataset.yaml: classes has 1 of them; legal: 2 to 254' in message


def test_another_number_of_classes(tmp_path: Path, capsys: Any) -> None:
    folder = describe(write_pictures(tmp_path / 'data', CASES['0 and 1']), '0')
    message = refused(own(folder, 'model.num_classes=150'), capsys)
    assert f'model.num_classes=150, but train_dataset.name={folder}/dataset.yaml has 2 classes' in message


def test_an_epoch_without_a_labelled_pixel(tmp_path: Path, capsys: Any) -> None:
    """Labels at the rim of large masks, which no crop of the one epoch shows."""

    def rim(thing: np.ndarray) -> np.ndarray:
        labels = np.full((40 * SIDE, 40 * SIDE), 255)
        labels[0, :2] = 0, 1
        return labels

    folder = tmp_path / 'data'
    write_pictures(folder, rim, count=4)
    for file in folder.glob('images/*/*'):
        Image.new('RGB', (40 * SIDE, 40 * SIDE)).save(file)
    describe(folder, '0')
    size = [f'train_dataset.{key}={40 * SIDE}' for key in ('base_size',)]
    message = refused(own(folder, *size, 'max_duration=1ep', 'seed=1', f'save_folder={tmp_path}/run'), capsys)
    assert 'no pixel that the network saw in epoch 1 has a class' in message
    assert not list(tmp_path.rglob('ep*.pt'))


def test_what_a_yaml_says_of_another_place(tmp_path: Path) -> None:
    """The yaml's dataset is streamed from elsewhere; the one on the command line is not."""
    folder = describe(write_pictures(tmp_path / 'data', CASES['0 and 1']), '0')
    argv = [str(ROOT / 'yamls/demo.yaml'), *OWN, f'dataset={folder}', 'max_duration=1ba', 'save_folder=null']
    trainer = run(argv)
    assert trainer.state.model.module.classifier.conv_seg.out_channels == 2
    assert trainer.state.timestamp.batch.value == 1
