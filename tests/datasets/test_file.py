"""A dataset that its owner describes in a file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.datasets.file import FILE, KEYS, find_file, read_dataset, read_file, to_yaml
from segrecipes.datasets.row import IGNORED, ILLEGAL, DatasetRow, Split, mask_of, uid_of
from segrecipes.datasets.table import DATASETS, get_dataset, locate

LEAST = r"""
classes: [background, tumour]
labels: {0: background, 255: tumour}
splits: {train: images/train/*, val: images/val/*}
mask: ['^images/(.+)\.\w+$', 'masks/\1.png']
"""
MOST = r"""
name: brains
path: pictures
classes: {background: '#000000', tumour: [230, 25, 75], bone: '#FFFFFF'}
labels: 1
ignored: [0, 200]
splits:
  train: {images: 'images/*', listed: train.txt}
  val: {images: 'images/*', share: [0.8, 1]}
  test: test/*
mask: ['^images/(.+)\.\w+$', 'masks/\1.png']
uid: '([^/]+)\.\w+$'
group: '^([^/]+)/'
skipped: '_mask\.tif$'
excluded: {train: [a, 17]}
channels: 4
values: [0, 4095.5]
warning: patients are in both splits
config: {train_dataset: {batch_size: 16}, eval_protocol: slide}
"""


def write(folder: Path, text: str) -> Path:
    (folder / FILE).write_text(text)
    return folder


def test_the_least(tmp_path: Path) -> None:
    file = read_file(write(tmp_path / '', LEAST))
    row = file.row
    assert (file.folder, file.config) == (tmp_path, {})
    assert (row.name, row.classes, row.channels, row.warning) == (tmp_path.name, ('background', 'tumour'), 3, '')
    assert row.splits == {'train': Split('images/train/*'), 'val': Split('images/val/*')}
    assert mask_of(row, 'images/train/a.b.jpg') == 'masks/train/a.b.png'
    assert uid_of(row, 'images/train/a.b.jpg') == 'images/train/a.b'
    table = row.label_map(2)
    assert (table[0], table[255]) == (0, 1)
    assert set(table[1:255]) == {ILLEGAL}


def test_all_there_is(tmp_path: Path) -> None:
    file = read_file(write(tmp_path, MOST))
    assert (file.folder, file.config) == (
        tmp_path / 'pictures', {'train_dataset': {'batch_size': 16}, 'eval_protocol': 'slide'},
    )  # fmt: skip
    assert file.row == DatasetRow(
        name='brains',
        classes=('background', 'tumour', 'bone'),
        colors=((0, 0, 0), (230, 25, 75), (255, 255, 255)),
        labels=1,
        ignored=frozenset({0, 200}),
        splits={
            'train': Split('images/*', listed='train.txt'),
            'val': Split('images/*', share=(0.8, 1.0)),
            'test': Split('test/*'),
        },
        mask=(r'^images/(.+)\.\w+$', r'masks/\1.png'),
        uid=r'([^/]+)\.\w+$',
        group='^([^/]+)/',
        skipped=r'_mask\.tif$',
        excluded={'train': frozenset({'a', '17'})},
        channels=4,
        values=(0.0, 4095.5),
        warning='patients are in both splits',
    )


def test_every_key_is_tried() -> None:
    import yaml

    assert yaml.safe_load(MOST).keys() == KEYS.keys()


def test_255_is_ignored_unless_it_is_a_class(tmp_path: Path) -> None:
    changed = LEAST.replace('255: tumour', '7: tumour')
    table = read_dataset(write(tmp_path, changed)).label_map(2)
    assert (table[0], table[7], table[255], table[254]) == (0, 1, IGNORED, ILLEGAL)
    assert read_dataset(write(tmp_path, changed + 'ignored: []')).label_map(2)[255] == ILLEGAL
    by_index = LEAST.replace('{0: background, 255: tumour}', '{3: 1, 4: 0, 5: 1}')
    assert read_dataset(write(tmp_path, by_index)).label_map(2)[3:6].tolist() == [1, 0, 1]


@pytest.mark.parametrize('name', DATASETS)
def test_a_row_can_be_written(name: str, tmp_path: Path) -> None:
    row = replace(DATASETS[name], root='')
    file = read_file(write(tmp_path, to_yaml(row, {'seed': 3})))
    assert (file.row, file.config) == (row, {'seed': 3})


def test_a_file_can_be_written_again(tmp_path: Path) -> None:
    for text in (LEAST, MOST):
        row = read_dataset(write(tmp_path, text))
        assert read_dataset(write(tmp_path, to_yaml(row))) == row


but = LEAST.replace
BAD = {
    'no mapping': ('- a', ['must hold keys and values']),
    'no yaml': ('a: [', ['is not a yaml file']),
    'nothing': ('', ['must hold keys and values']),
    'missing': ('name: x', [f'{key} is not set' for key in ('classes', 'labels', 'splits', 'mask')]),
    'unknown key': (LEAST + 'clases: [a]', ["unknown key clases. Did you mean 'classes'?"]),
    'one class': (but('[background, tumour]', '[tumour]').replace('0: background, ', ''),
                  ['classes has 1 of them; legal: 2 to 254', 'name the background too']),
    'twice': (but('[background, tumour]', '[tumour, tumour]').replace('background', 'tumour'),
              ['tumour is there twice']),
    'class without label': (but('0: background, ', ''), ['labels: no label of class background']),
    'label without class': (but('255: tumour', '255: tumor'), ["labels: 'tumor' is no class", 'background, tumour']),
    'label of no mask': (but('255: tumour', '256: tumour'), ['labels=', 'must be']),
    'beyond 255': (but('{0: background, 255: tumour}', '255'), ['labels=255: 2 classes from there go beyond']),
    'ignored class': (LEAST + 'ignored: [255]', ['ignored: 255 has a class too']),
    'no val': (but(', val: images/val/*', ''), ['splits has no val']),
    'share': (but('train: images/train/*', 'train: {images: a/*, share: [1, 0]}'), ['splits=', 'share: [0, 0.8]']),
    'mask': (but(r"'masks/\1.png'", r"'masks/\2.png'"), ['mask=', 'must be [']),
    'expression': (LEAST + "uid: '(a'", ["uid='(a' must be a regular expression with a group"]),
    'group': (LEAST + 'group: abc', ["group='abc' must be a regular expression with a group"]),
    'color': (but('[background, tumour]', "{background: '#00', tumour: '#ffffff'}"), ['classes=', '#rrggbb']),
    'two at once': (but('{0: background, 255: tumour}', 'many') + 'chanels: 3',
                    ["labels='many'", 'unknown key chanels']),
}  # fmt: skip


@pytest.mark.parametrize('case', BAD)
def test_what_is_wrong_is_named(case: str, tmp_path: Path) -> None:
    text, expected = BAD[case]
    with pytest.raises(UserError) as error:
        read_file(write(tmp_path, text))
    assert str(error.value).startswith(str(tmp_path / FILE))
    assert [part for part in expected if part not in str(error.value)] == []


def test_where_it_is(tmp_path: Path) -> None:
    with pytest.raises(MissingPathError, match=f'no {FILE} in {tmp_path}; segrecipes data init {tmp_path} writes one'):
        read_file(tmp_path)
    assert find_file(tmp_path) is None
    assert locate(None, str(tmp_path)) == ('ade20k', str(tmp_path))
    write(tmp_path, MOST)
    assert find_file(tmp_path) == find_file(tmp_path / FILE) == tmp_path / FILE
    assert locate(None, str(tmp_path)) == (str(tmp_path / FILE), str(tmp_path / 'pictures'))
    assert locate('lgg', str(tmp_path)) == ('lgg', str(tmp_path))
    assert locate(None, 's3://bucket/x') == ('ade20k', 's3://bucket/x')
    assert get_dataset(str(tmp_path)).name == 'brains'
    np.testing.assert_array_equal(get_dataset(str(tmp_path / FILE)).label_map(3)[:5], [IGNORED, 0, 1, 2, ILLEGAL])
