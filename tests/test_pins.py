"""Files that the flat layout wrote mean now what they meant then; pins/write.py made them."""

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segrecipes.checkpoints.formats.table import FORMATS
from segrecipes.checkpoints.load_export import load_exported, read_card
from segrecipes.checkpoints.network import load_network
from segrecipes.checkpoints.read import read_checkpoint
from segrecipes.config.merge import load_config
from segrecipes.data.augment import TrainTransform
from segrecipes.data.loader import build_dataspec
from segrecipes.training.run import main

ARCHIVE = Path(__file__).parent / 'pins' / 'flat_layout.tar.xz'


@pytest.fixture(scope='module')
def old(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('flat')
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter='data')
    return folder


@pytest.fixture(scope='module')
def expected(old) -> dict[str, Any]:
    return json.loads((old / 'expected.json').read_text())


@pytest.fixture(scope='module')
def logits(old) -> dict[str, Tensor]:
    return torch.load(old / 'logits.pt', weights_only=True)


def images() -> Tensor:
    return torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(1))


def same(found: Tensor, wanted: Tensor) -> None:
    """To the rounding of another CPU's kernels; on one machine they are the same bits."""
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def settings(old: Path, out: Path) -> list[str]:
    shards = f'{old}/mds'
    return [
        f'{old}/config.yaml', f'train_dataset.path={shards}', f'eval_dataset.path={shards}',
        f'load_path={old}/checkpoint.pt', f'save_folder={out}', 'loggers.progress_bar=null',
    ]  # fmt: skip


@pytest.mark.parametrize('weights', ['raw', 'ema'])
def test_checkpoint(old, logits, weights) -> None:
    _, network = load_network(old / 'checkpoint.pt', weights)
    with torch.no_grad():
        same(network(images()), logits[weights])


def test_the_card(old, expected) -> None:
    card = read_checkpoint(old / 'checkpoint.pt').card
    assert card is not None
    found = json.loads(json.dumps(card.to_dict()))
    assert {key: found[key] for key in expected['card']} == expected['card']  # later cards say more


@pytest.mark.parametrize('form', FORMATS.values(), ids=[*FORMATS])
def test_export(old, logits, form) -> None:
    path = old / f'network{form.suffix}'
    assert read_card(path).network.architecture == 'deeplabv3plus'
    same(load_exported(path)(images()), logits[form.suffix])


def test_config(old) -> None:
    cfg, sources = load_config([f'{old}/config.yaml'])
    assert cfg.model.head_channels == 8
    assert cfg.model.output_stride == 32
    assert cfg.algorithms == {'ema': {'half_life': '1ba', 'update_interval': '1ba'}}
    assert cfg.eval_dataset.final_size == 48  # as it says, not as train_dataset has it
    assert sources['eval_dataset.final_size'].endswith('config.yaml')


def test_batches_of_shards(old, expected, clean_shared_memory) -> None:
    """The order, the augmentation and the labels, bit by bit."""
    spec: Any = build_dataspec(
        path=f'{old}/mds', split='train', batch_size=4, name='synthetic', is_streaming=True, num_classes=8,
        transform=TrainTransform(48, 32), shuffle=True, seed=17, num_workers=0,
    )  # fmt: skip
    found = []
    for batch in spec.dataloader:
        pixels, labels, labelled, _ = spec.microbatch_transforms(batch)
        found.append({'images': digest(pixels), 'labels': digest(labels), 'labelled': labelled.tolist()})
    assert found == expected['batches']


def digest(value: Tensor) -> str:
    return hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()


@pytest.mark.slow
def test_a_run_goes_on_from_it(old, expected, tmp_path, clean_shared_memory) -> None:
    trainer = main(load_config([*settings(old, tmp_path / 'on'), 'max_duration=3ba'])[0])
    trainer.close()
    assert trainer.state.timestamp.batch == 3
    rows = [json.loads(line) for line in (tmp_path / 'on' / 'history.jsonl').read_text().splitlines()]
    name = 'loss/train/total'
    losses = {str(row['batch']): row['metrics'][name] for row in rows if name in row['metrics']}
    for batch, loss in expected['losses'].items():
        assert losses[batch] == pytest.approx(loss, rel=1e-5)


@pytest.mark.slow
def test_scores(old, expected, tmp_path, clean_shared_memory) -> None:
    cfg, _ = load_config([*settings(old, tmp_path), 'is_train=false', f'callbacks.show_results.folder={tmp_path}/out'])
    main(cfg).close()
    scores = json.loads((tmp_path / 'out' / 'ema' / 'scores.json').read_text())
    assert scores['confusion'] == expected['scores']['confusion']
    assert scores['mean_iou'] == expected['scores']['mean_iou']
