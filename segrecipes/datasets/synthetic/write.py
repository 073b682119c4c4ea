"""A procedural dataset of small landscapes in ADE20K's layout, for the demo and the tests."""

import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from segrecipes.base.errors import UserError
from segrecipes.datasets.row import SPLITS, mask_of
from segrecipes.datasets.synthetic.row import ROW
from segrecipes.datasets.synthetic.scenes import draw_scene

MARKER = 'synthetic.json'
SMALLEST_SIZE = 48


def write_dataset(
    path: str | Path,
    *,
    num_train: int = 400,
    num_val: int = 80,
    size: int = 128,
    seed: int = 0,
    progress_bar: bool = True,
) -> Path:
    """Write the dataset into ``path`` in ADE20K's layout, or keep the one that is there from the same arguments.

    Scene ``i`` of a split depends on the seed, the split and ``i`` alone: more scenes extend the set.

    Returns:
        ``path``.

    Raises:
        UserError: an argument is out of range, or ``path`` cannot be written or holds other images.
    """
    numbers = {'num_train': num_train, 'num_val': num_val, 'size': size, 'seed': seed}
    for name, least in (('num_train', 1), ('num_val', 1), ('size', SMALLEST_SIZE), ('seed', 0)):
        if numbers[name] < least:
            raise UserError(f'{name}={numbers[name]} is too small; legal: {least} or more')
    path, spec = Path(path).expanduser(), json.dumps(numbers)
    root = path / ROW.root
    if (root / MARKER).is_file() and (root / MARKER).read_text() == spec:
        print(f'{root}: this dataset is already there, nothing to do')
        return path
    for folder in (root, path / 'images'):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f'{folder} already holds other data; remove it or choose another path')
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'cannot create the folder {path}: {error.strerror}') from error
    with tempfile.TemporaryDirectory(prefix='.synthetic-', dir=path) as scratch:
        made = Path(scratch) / ROW.root
        scenes = [(split, i) for split, count in zip(SPLITS, (num_train, num_val)) for i in range(count)]
        for split, i in tqdm(scenes, desc='draw scenes', disable=not progress_bar):
            scene = draw_scene(np.random.default_rng((seed, SPLITS.index(split), i)), size)
            image = ROW.splits[split].images.replace('*', f'ADE_{split}_{i + 1:08d}.jpg')
            for array, name in zip(scene, (image, mask_of(ROW, image))):
                file = made / name
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(file, quality=95)
        (made / MARKER).write_text(spec)
        made.replace(root)  # in one step: an interrupted run leaves no half of a dataset
    return path
