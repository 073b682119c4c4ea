"""A dataset that its owner describes in a file, ``dataset.yaml``: the fields of a ``DatasetRow``, and where it lies."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from segrecipes.base.errors import MissingPathError, UserError, suggestion
from segrecipes.datasets.row import IGNORED, MOST_CLASSES, SPLITS, DatasetRow, Split

FILE = 'dataset.yaml'
UID = r'/(.+)\.\w+$'  # the path without its suffix


@dataclass(frozen=True)
class DatasetFile:
    """What such a file says.

    Args:
        row: the dataset.
        folder: where its pictures are.
        config: keys of a run that suit it, merged under those of a yaml.
    """

    row: DatasetRow
    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)


def find_file(path: str | Path) -> Path | None:
    """The ``dataset.yaml`` that a path means: the file itself, or the one in that folder; None where there is none."""
    path = Path(path).expanduser()
    path = path / FILE if path.is_dir() else path
    return path if path.suffix in ('.yaml', '.yml') and path.is_file() else None


def read_dataset(path: str | Path) -> DatasetRow:
    """The dataset that a ``dataset.yaml``, or the one in a folder, describes."""
    return read_file(path).row


def read_file(path: str | Path) -> DatasetFile:
    """
    Raises:
        MissingPathError: there is no such file.
        UserError: it is no yaml, or a key in it is missing, unknown or of another form; all such keys at once.
    """
    file = find_file(path)
    if file is None:
        raise MissingPathError(f'no {FILE} in {path}; segrecipes data init {path} writes one')
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f'{file} is not a yaml file: {" ".join(str(error).split())}') from error
    if not isinstance(content, dict):
        raise UserError(f'{file} must hold keys and values at its top level')

    faults = [f'unknown key {key}.{suggestion(str(key), KEYS)}' for key in content if key not in KEYS]
    faults += [f'{key} is not set: {what}' for key, (_, what) in KEYS.items() if key in NEEDED and key not in content]
    values: dict[str, Any] = {}
    for key, value in content.items():
        read, legal = KEYS.get(key, (None, ''))
        try:
            if read is not None and value is not None:
                values[key] = read(value)
        except (TypeError, ValueError, KeyError, AttributeError, re.error):
            faults.append(f'{key}={value!r} must be {legal}')
    if not faults:
        faults = faults_of(values)
    if faults:
        raise UserError(f'{file}: ' + f'\n       {file}: '.join(faults))

    folder, config = file.parent / values.pop('path', '.'), values.pop('config', {})
    names, colors = values.pop('classes')
    labels = values['labels']
    if not isinstance(labels, int):
        values['labels'] = {
            label: names.index(name) if isinstance(name, str) else name for label, name in labels.items()
        }
        values.setdefault('ignored', frozenset() if IGNORED in labels else frozenset({IGNORED}))
    values = {'uid': UID, 'name': file.parent.resolve().name, **values}
    return DatasetFile(DatasetRow(classes=names, colors=colors, **values), folder, config)


def faults_of(values: Mapping[str, Any]) -> list[str]:
    """What a key alone does not show."""
    (names, _), labels = values['classes'], values['labels']
    faults = [f'splits has no {split}' for split in SPLITS if split not in values['splits']]
    if len({*names}) != len(names):
        faults.append(f'classes: {next(name for name in names if names.count(name) > 1)} is there twice')
    if not 2 <= len(names) <= MOST_CLASSES:
        faults.append(
            f'classes has {len(names)} of them; legal: 2 to {MOST_CLASSES}. One alone cannot be told from anything: '
            'name the background too'
        )
    if not isinstance(labels, int):
        legal = {*names, *range(len(names))}
        faults += [f'labels: {value!r} is no class. Legal: {", ".join(names)}' for value in {*labels.values()} - legal]
        without = [
            name for index, name in enumerate(names) if name not in labels.values() and index not in labels.values()
        ]
        faults += [f'labels: no label of class {name}' for name in without]
        if both := sorted({*labels} & values.get('ignored', frozenset())):
            faults.append(f'ignored: {both[0]} has a class too, by labels')
    elif labels + len(names) > 256:
        faults.append(f'labels={labels}: {len(names)} classes from there go beyond 255')
    return faults


def read_classes(value: Any) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Names, and colours where each has one."""
    if isinstance(value, Mapping):
        names, colors = [_word(name) for name in value], [read_color(color) for color in value.values()]
        return tuple(names), tuple(colors)
    return tuple(_word(name) for name in _list(value)), ()


def read_color(value: Any) -> tuple[int, int, int]:
    """``'#e6194b'`` or ``[230, 25, 75]``."""
    if isinstance(value, str):
        found = re.fullmatch(r'#([0-9a-fA-F]{6})', value)
        red, green, blue = bytes.fromhex(found[1] if found else '')
    else:
        red, green, blue = (_number(part) for part in _list(value))
    return red, green, blue


def read_labels(value: Any) -> int | dict[int, str | int]:
    if isinstance(value, Mapping):
        return {_number(label): index if type(index) is int else _word(index) for label, index in value.items()}  # type: ignore[return-value]
    return _number(value)


def read_splits(value: Any) -> dict[str, Split]:
    return {_word(name): read_split(split) for name, split in value.items()}


def read_split(value: Any) -> Split:
    if isinstance(value, str):
        return Split(value)
    read = {key: SPLIT_KEYS[key](entry) for key, entry in value.items()}
    return Split(**read)


def read_share(value: Any) -> tuple[float, float]:
    first, last = value
    if not 0 <= first < last <= 1:
        raise ValueError
    return float(first), float(last)


def read_seed(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**32:
        raise ValueError
    return value


def read_pattern(value: Any) -> str:
    return re.compile(_word(value)).pattern


def read_with_group(value: Any) -> str:
    if re.compile(_word(value)).groups < 1:
        raise ValueError
    return value


def read_mask(value: Any) -> tuple[str, str]:
    pattern, replacement = value
    re.compile(pattern).sub(_word(replacement), '')  # a reference to a group that is not there
    return read_pattern(pattern), replacement


def read_excluded(value: Any) -> dict[str, frozenset[str]]:
    return {_word(split): frozenset(str(uid) for uid in _list(uids)) for split, uids in value.items()}


def read_mapping(value: Any) -> dict[str, Any]:
    return {_word(key): entry for key, entry in value.items()}


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def read_channels(value: Any) -> int:
    if _number(value) < 1:
        raise ValueError
    return value


def read_values(value: Any) -> tuple[float, float]:
    low, high = map(float, _list(value))
    if not low < high:
        raise ValueError
    return low, high


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= 255:
        raise ValueError
    return value


SPLIT_KEYS: dict[str, Callable[[Any], Any]] = {
    'images': _word, 'listed': _word, 'share': read_share, 'permuted': read_seed,
}  # fmt: skip
# Of each key how its value is read, and what is legal
KEYS: dict[str, tuple[Callable[[Any], Any], str]] = {
    'name': (_word, 'a text'),
    'path': (_word, 'a folder, from this file'),
    'classes': (read_classes, "a list of names, or name: '#rrggbb', all of them with a colour"),
    'labels': (read_labels, 'the label (0…255) of the first class, or label: class for each'),
    'ignored': (lambda value: frozenset(map(_number, _list(value))), 'a list of labels, 0…255'),
    'splits': (read_splits, 'split: glob, or split: {images: glob, listed: file, share: [0, 0.8], permuted: seed}'),
    'mask': (read_mask, r"['^images/(.+)\.\w+$', 'masks/\1.png'], from an image's path to its mask's"),
    'uid': (read_with_group, 'a regular expression with a group'),
    'group': (read_with_group, 'a regular expression with a group'),
    'skipped': (read_pattern, 'a regular expression'),
    'excluded': (read_excluded, 'split: list of uids'),
    'channels': (read_channels, '1 or more'),
    'values': (read_values, '[lowest, highest], the values of a pixel that become 0 and 255'),
    'warning': (_word, 'a text'),
    'config': (read_mapping, 'keys of a run, such as train_dataset: {batch_size: 16}'),
}
NEEDED = ('classes', 'labels', 'splits', 'mask')


def to_yaml(row: DatasetRow, config: Mapping[str, Any] | None = None, path: str = '.') -> str:
    """A row as the content of a ``dataset.yaml``, which reads as the same row; ``path`` is where its pictures are."""
    names = row.classes
    classes: Any = list(names)
    if row.colors:
        classes = {name: '#{:02x}{:02x}{:02x}'.format(*color) for name, color in zip(names, row.colors)}
    labels = row.labels if isinstance(row.labels, int) else {key: names[index] for key, index in row.labels.items()}
    values = {
        'name': row.name,
        'path': None if path == '.' else path,
        'classes': classes,
        'labels': labels,
        'ignored': sorted(row.ignored),
        'splits': {name: _split_to_yaml(split) for name, split in row.splits.items()},
        'mask': list(row.mask),
        'uid': None if row.uid == UID else row.uid,
        'group': row.group,
        'skipped': row.skipped,
        'excluded': {split: sorted(uids) for split, uids in row.excluded.items()},
        'channels': row.channels,
        'values': list(row.values) if row.values else None,
        'warning': row.warning,
        'config': dict(config or {}),
    }
    kept = {key: value for key, value in values.items() if key == 'ignored' or value not in (None, '', {}, [])}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)


def _split_to_yaml(split: Split) -> Any:
    whole = {'images': split.images, 'listed': split.listed, 'share': list(split.share), 'permuted': split.permuted}
    given = {key: value for key, value in whole.items() if value not in (None, [0.0, 1.0])}
    return split.images if given.keys() == {'images'} else given
