"""How often classes occur, counted by hand, and the published formulas of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segrecipes.data import frequency
from segrecipes.data.frequency import WEIGHTINGS, Frequencies, count_classes, sample
from segrecipes.datasets.row import IGNORED
from segrecipes.datasets.table import get_dataset
from segrecipes.storage.decode import DataError
from segrecipes.storage.folders import FolderDataset

# Labels 1, 2, 3 are classes 0, 1, 2; 0 and 255 are ignored; class 3 never occurs
MASKS = [[[1, 1, 1, 2], [0, 255, 2, 1]], [[3, 1], [1, 0]], [[0, 0]]]
LABEL_MAP = np.full(256, IGNORED, np.uint8)
LABEL_MAP[1:5] = range(4)
PIXELS, AROUND = [6, 2, 1, 0], [6 + 3, 6, 3, 0]


class Drawn:
    size = len(MASKS)

    def read_mask(self, index: int) -> tuple[str, np.ndarray]:
        return f'{index}', np.array(MASKS[index], np.uint8)


def test_counts() -> None:
    found = count_classes(Drawn(), np.arange(3), LABEL_MAP, 4)
    assert found.pixels.tolist() == PIXELS and found.around.tolist() == AROUND
    assert found.pixels.dtype == np.int64


def test_counts_of_parts_add_up() -> None:
    parts = [count_classes(Drawn(), np.array(indices, int), LABEL_MAP, 4) for indices in ([0, 2], [1], [])]
    assert np.sum(parts, axis=0).tolist() == [PIXELS, AROUND]


@pytest.mark.parametrize(
    ('name', 'weights'),
    [
        # 1/6, 1/2 and 1, by their mean 5/9
        ('inverse', [0.3, 0.9, 1.8, 1.0]),
        # 6 of 9, 2 of 6, 1 of 3: the median is 1/3
        ('median_frequency', [0.5, 1.0, 1.0, 1.0]),
    ],
)
def test_weights(name: str, weights: list[float]) -> None:
    assert WEIGHTINGS[name](Frequencies(np.array(PIXELS), np.array(AROUND))) == pytest.approx(weights)


def test_classes_of_one_frequency_weigh_one() -> None:
    for weighting in WEIGHTINGS.values():
        assert weighting(Frequencies(np.full(5, 7), np.full(5, 70))) == pytest.approx(np.ones(5))


def test_of_many_masks_a_sample_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frequency, 'MOST_MASKS', 5)
    assert sample(5).tolist() == [0, 1, 2, 3, 4]
    assert sample(1).tolist() == [0]
    assert sample(1001).tolist() == [0, 250, 500, 750, 1000]


def test_masks_of_folder_and_shards(synthetic_folder: Path, synthetic_mds: Path, clean_shared_memory: Any) -> None:
    from segrecipes.storage.shards import StreamingSegmentation

    row, make_sample = get_dataset('synthetic'), lambda *sample: sample
    folder = FolderDataset(synthetic_folder, 'train', row, make_sample)
    shards = StreamingSegmentation(
        path=str(synthetic_mds), local=None, split='train', make_sample=make_sample, batch_size=1
    )
    pixels = sum((folder.read_mask(index)[1] > 0).sum() for index in range(12))
    counts = [count_classes(dataset, np.arange(12), row.label_map(8), 8) for dataset in (folder, shards)]
    assert np.array_equal(counts[0], counts[1]) and counts[0].pixels.sum() == pixels


def test_a_damaged_mask_is_named(tmp_path: Path, synthetic_folder: Path) -> None:
    dataset = FolderDataset(synthetic_folder, 'train', get_dataset('synthetic'), lambda *sample: sample)
    damaged = tmp_path / 'mask.png'
    damaged.write_bytes(b'no picture')
    dataset.pairs[3] = dataset.pairs[3]._replace(mask=damaged)
    with pytest.raises(DataError, match=str(damaged)):
        count_classes(dataset, np.arange(12), np.arange(256, dtype=np.uint8), 8)
