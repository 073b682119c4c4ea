"""Pairs of image and mask files in folders, and the dataset of them."""

import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from segrecipes.base.errors import MissingPathError, UserError, unknown_name
from segrecipes.base.files import IMAGE_SUFFIXES
from segrecipes.datasets.row import DatasetRow, Split, mask_of, uid_of
from segrecipes.storage.decode import decode_image, decode_mask

# (image, mask, uid, epoch) → what a dataloader's worker hands on
MakeSample = Callable[[np.ndarray, np.ndarray, str, int], Any]


class Pair(NamedTuple):
    uid: str
    image: Path
    mask: Path


def find_pairs(
    path: str | Path,
    split: str,
    row: DatasetRow,
    missing: list[str] | None = None,
    excluded: list[str] | None = None,
) -> list[Pair]:
    """Every image of a split with its mask, sorted by path.

    ``path`` is the dataset's folder, with or without ``row.root`` inside it. With ``missing``, images without a mask
    are described in that list and left out. With ``excluded``, those that the row excludes are named in that list.

    Raises:
        MissingPathError: the folder, or the mask of an image, does not exist.
        UserError: the folder holds no image, or two images have the same uid.
    """
    root, images = split_folder(path, split, row)
    mask_in = cache(_masks)
    pairs: dict[str, Pair] = {}
    names = image_names(root, row, row.splits[split])
    for name in row.part(split, names):
        image, uid = root / name, uid_of(row, name)
        if uid in row.excluded.get(split, ()):
            if excluded is not None:
                excluded.append(name)
            continue
        mask = root / mask_of(row, name)
        if not mask.parent.is_dir():
            raise _no_folder(mask.parent, path, split)
        found = mask_in(mask.parent).get(_key(mask))
        if found is None:
            fault = f'image without mask: {image} needs {mask}'
            if missing is None:
                raise MissingPathError(fault)
            missing.append(fault)
            continue
        if uid in pairs:
            raise UserError(f'two images with one name: {pairs[uid].image} and {image}; rename one of them')
        pairs[uid] = Pair(uid, image, found)
    if names and not pairs and not missing:
        raise UserError(f'none of the {len(names)} images in {images} is in the {split} split')
    if not names:
        raise UserError(f'no image in {images}; expected files ending in {", ".join(sorted(IMAGE_SUFFIXES))}')
    return list(pairs.values())


def split_folder(path: str | Path, split: str, row: DatasetRow) -> tuple[Path, Path]:
    """The dataset's folder, and the one in it that a split's images are below.

    Raises:
        MissingPathError: one of them does not exist.
    """
    if split not in row.splits:
        raise unknown_name('split', split, row.splits)
    path = Path(path).expanduser()
    if not path.is_dir():
        raise MissingPathError(f'dataset folder does not exist: {path}')
    root = path / row.root if (path / row.root).is_dir() else path
    images = root.joinpath(*_fixed(row.splits[split].images))
    if not images.is_dir():
        raise _no_folder(images, path, split)
    return root, images


def has_split(path: str | Path, split: str, row: DatasetRow) -> bool:
    try:
        split_folder(path, split, row)
    except MissingPathError:
        return False
    return True


def _fixed(pattern: str) -> Iterator[str]:
    """The folders that a glob begins with, as they are."""
    for part in Path(pattern).parts[:-1]:
        if re.search(r'[*?[]', part):
            return
        yield part


def image_names(root: Path, row: DatasetRow, split: Split) -> list[str]:
    """Paths below ``root`` of the images of a split."""
    names = sorted(path.relative_to(root).as_posix() for path in root.glob(split.images))
    if split.listed is not None:
        names = _listed(root / split.listed, names)
    return [
        name
        for name in names
        if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122
        and not name.rpartition('/')[2].startswith('.')
        and not (row.skipped and re.search(row.skipped, name))
    ]


def _listed(file: Path, names: list[str]) -> list[str]:
    """Those that a line of the file names, with or without folder and suffix.

    Raises:
        MissingPathError: no such file, or an image that it names is missing.
    """
    if not file.is_file():
        raise MissingPathError(f'list of images does not exist: {file}')
    listed = {line.strip() for line in file.read_text().splitlines() if line.strip()}
    called = {name: {name, Path(name).name, Path(name).stem, str(Path(name).with_suffix(''))} for name in names}
    if absent := listed.difference(*called.values()):
        raise MissingPathError(f'{file} names an image that does not exist: {min(absent)}')
    return [name for name in names if listed & called[name]]


def _masks(folder: Path) -> dict[str, Path]:
    return {_key(file): file for file in sorted(folder.iterdir())}


def _key(file: Path) -> str:
    """A file's name, for which a suffix in capitals is the same."""
    return file.stem + file.suffix.lower()


def _no_folder(folder: Path, path: str | Path, split: str) -> MissingPathError:
    return MissingPathError(f'dataset folder does not exist: {folder} (looked in {path} for the {split} split)')


class FolderDataset(Dataset):
    """Images and masks in folders. Indexed by (epoch, index), because augmentation depends on both."""

    def __init__(self, path: str | Path, split: str, row: DatasetRow, make_sample: MakeSample):
        self.pairs = find_pairs(path, split, row)
        self.make_sample = make_sample
        self.path = path
        self.pixels = row.pixels
        self.resume_sample = 0  # samples of the coming epoch, over all ranks, that a resumed run has already seen

    def __len__(self) -> int:
        return len(self.pairs)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def size(self) -> int:
        """Of all ranks, as streaming's datasets have it."""
        return len(self.pairs)

    def read_mask(self, index: int) -> tuple[str, np.ndarray]:
        """(name, (H, W) uint8 labels as they are in the file) of a sample."""
        mask = self.pairs[index].mask
        return str(mask), decode_mask(mask, str(mask))

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        uid, image, mask = self.pairs[index]
        return self.make_sample(decode_image(image, str(image), self.pixels), decode_mask(mask, str(mask)), uid, epoch)

    # Composer saves and restores a dataset that has these two, in place of loading batches only to skip them.
    def state_dict(self, num_samples: int, from_beginning: bool) -> dict[str, Any]:
        return {'sample_in_epoch': num_samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.resume_sample = int(state['sample_in_epoch'])
