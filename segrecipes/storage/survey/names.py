"""Names of classes, and their colours, from a file that lies with the pictures."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FILES = (
    'classes.txt', 'class_names.txt', 'labels.txt', 'names.txt', 'codes.txt', 'label_colors.txt', 'label_colours.txt',
    'labelmap.txt', 'class_dict.csv', 'data.yaml', 'data.yml',
)  # fmt: skip

# Of a line, the first that fits all of a file: CamVid's with colours, CVAT's and Kaggle's, numbered, bare
LINES = (
    re.compile(r'(?P<r>\d+)[\s,]+(?P<g>\d+)[\s,]+(?P<b>\d+)[\s,]+(?P<name>.*\S)'),
    re.compile(r'(?P<name>[^:,]+?)\s*[:,]\s*(?P<r>\d+)\s*,\s*(?P<g>\d+)\s*,\s*(?P<b>\d+)(?::.*)?'),
    re.compile(r'(?P<index>\d+)\s*[:,.\s]\s*(?P<name>.*\S)'),
    re.compile(r'(?P<name>.*\S)'),
)
HEADER = re.compile(r'#.*|name\s*,\s*r\s*,\s*g\s*,\s*b', re.IGNORECASE)


@dataclass(frozen=True)
class Names:
    """Names in the order of a file; ``labels`` is given where the file numbers them, ``colors`` where it has them."""

    file: str
    names: tuple[str, ...]
    labels: tuple[int, ...] = ()
    colors: tuple[tuple[int, int, int], ...] = ()


def find_names(root: Path) -> Names | None:
    """From the first of ``FILES`` in a folder, or one below it, that reads as such."""
    for file in FILES:
        for path in (root / file, *sorted(root.glob(f'*/{file}'))):
            names = read_names(path, path.relative_to(root).as_posix()) if path.is_file() else None
            if names and len({*names.names}) == len(names.names):
                return names
    return None


def read_names(path: Path, file: str) -> Names | None:
    try:
        text = path.read_text(encoding='utf-8-sig')
        return from_yaml(file, yaml.safe_load(text)) if path.suffix in ('.yaml', '.yml') else from_lines(file, text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None


def from_yaml(file: str, content: Any) -> Names | None:
    """Ultralytics' ``names``: a list, or a mapping from labels."""
    given = content.get('names') if isinstance(content, dict) else None
    if isinstance(given, dict) and all(isinstance(label, int) for label in given):
        labels = sorted(given)
        return Names(file, tuple(str(given[label]) for label in labels), tuple(labels))
    return Names(file, tuple(map(str, given))) if isinstance(given, list) and given else None


def from_lines(file: str, text: str) -> Names | None:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not HEADER.fullmatch(line.strip())]
    for form in LINES:
        found = [match.groupdict() for line in lines if (match := form.fullmatch(line))]
        if found and len(found) == len(lines):
            return Names(
                file,
                tuple(entry['name'] for entry in found),
                tuple(int(entry['index']) for entry in found if 'index' in entry),
                tuple((int(entry['r']), int(entry['g']), int(entry['b'])) for entry in found if 'r' in entry),
            )
    return None
