"""The runs a person starts: training, evaluating."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.runs import ROOT, arguments, evaluations, run, weights
from PIL import Image

from segrecipes.base.errors import UserError
from segrecipes.checkpoints.read import read_checkpoint
from segrecipes.datasets.table import DATASETS
from segrecipes.training import device
from segrecipes.training.run import main

pytestmark = pytest.mark.usefixtures('clean_shared_memory')


@pytest.mark.parametrize('yaml', ['deeplabv3', 'pspnet', 'upernet'])
@pytest.mark.parametrize('recipe', ['null', 'mild', 'medium', 'hot'])
def test_every_head_trains_with_every_recipe(yaml: str, recipe: str, synthetic_folder: Path, tmp_path: Path) -> None:
    argv = arguments(
        synthetic_folder, f'recipe_name={recipe}', 'max_duration=2ba', f'save_folder={tmp_path}', 'save_interval=2ba',
        yaml=f'yamls/{yaml}.yaml',
    )  # fmt: skip
    trainer = run(argv)
    assert trainer.state.timestamp.batch == 2
    assert trainer.state.eval_timestamp.sample == 5  # every image of the split, the ragged last batch included
    names = {type(algorithm).__name__ for algorithm in trainer.state.algorithms}
    expected = {
        'null': set(),
        'mild': {'ChannelsLast', 'EMA'},
        'medium': {'ChannelsLast', 'EMA', 'ResumableSAM', 'MixUp'},
        'hot': {'ChannelsLast', 'EMA', 'ResumableSAM', 'MixUp'},
    }
    assert names == expected[recipe]
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / 'ep0-ba2-rank0.pt').values())


@pytest.mark.parametrize(
    ('interval', 'batches'), [('8sp', [2, 4, 6]), ('0.5dur', [3, 6]), ('3600sec', [6]), ('0ep', [])]
)
def test_intervals_of_evaluations_and_checkpoints(
    interval: str, batches: list[int], synthetic_folder: Path, tmp_path: Path
) -> None:
    """Of six batches of four images; the last is evaluated and saved in any case but 0."""
    trainer = run(arguments(
        synthetic_folder, 'max_duration=24sp', f'eval_interval={interval}', f'save_interval={interval}',
        f'save_folder={tmp_path}', 'save_num_checkpoints_to_keep=-1', 'save_best=false',
    ))  # fmt: skip
    assert trainer.state.timestamp.batch == 6
    assert [scores.batch for scores in evaluations(trainer)] == batches
    saved = [re.findall(r'-ba(\d+)-', path.name) for path in tmp_path.glob('ep*.pt')]
    assert sorted(int(number) for (number,) in saved) == batches


def test_training_changes_the_network_and_lowers_the_loss(synthetic_folder: Path, tmp_path: Path) -> None:
    log = tmp_path / 'log.txt'
    argv = arguments(synthetic_folder, 'max_duration=20ep', 'eval_interval=20ep', 'optimizer.lr=0.05')
    run([*argv, f'loggers={{file: {{filename: {log}, flush_interval: 1}}}}'])
    losses = [float(value) for value in re.findall(r'loss/train/total: ([0-9.]+)', log.read_text())]
    assert len(losses) == 60
    assert sum(losses[-6:]) < 0.85 * sum(losses[:6])


def test_evaluation_alone_repeats_the_number(synthetic_folder: Path, tmp_path: Path) -> None:
    argv = arguments(synthetic_folder, 'recipe_name=mild', 'algorithms.ema.half_life=2ba')
    trained = run([*argv, 'max_duration=2ep', f'save_folder={tmp_path}'])
    evaluated = run([*argv, 'is_train=false', f'load_path={tmp_path}/latest-rank0.pt', 'seed=27'])
    first, (averaged, raw) = evaluations(trained)[-1], evaluations(evaluated)
    assert (averaged.weights, raw.weights) == (first.weights, 'raw') == ('ema', 'raw')
    assert (averaged.confusion == first.confusion).all() and (raw.confusion != first.confusion).any()
    assert evaluated.state.timestamp.batch == trained.state.timestamp.batch


def test_effective_config_is_kept_beside_the_checkpoints(synthetic_folder: Path, tmp_path: Path) -> None:
    run(arguments(synthetic_folder, 'recipe_name=mild', 'max_duration=1ba', f'save_folder={tmp_path}'))
    text = (tmp_path / 'config.yaml').read_text()
    assert re.search(r'^max_duration: 1ba +# command line$', text, re.MULTILINE)
    assert re.search(r'half_life: 1000ba +# .*mild.yaml$', text, re.MULTILINE)


def test_a_datasets_own_colours_go_wherever_its_classes_are_shown(
    synthetic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = DATASETS['synthetic']
    colors = tuple((index, 255 - index, 7) for index in range(len(row.classes)))
    monkeypatch.setitem(DATASETS, 'synthetic', replace(row, colors=colors))
    run(arguments(synthetic_folder, 'max_duration=1ba', f'save_folder={tmp_path}'))
    card = read_checkpoint(tmp_path / 'latest-rank0.pt').card
    assert card is not None and card.palette == colors
    scores = json.loads((tmp_path / 'evaluation' / 'scores.json').read_text())
    assert [tuple(entry['color']) for entry in scores['classes']] == [*colors]
    masks = [*(tmp_path / 'evaluation' / 'images').glob('*.png')]
    assert len(masks) == 10
    for mask in masks:
        with Image.open(mask) as image:
            assert (image.getpalette() or [])[: 3 * len(colors)] == [value for color in colors for value in color]


def test_main_takes_a_merged_config(synthetic_folder: Path) -> None:
    from omegaconf import OmegaConf

    yaml = OmegaConf.load(ROOT / 'yamls/deeplabv3.yaml')
    merged = OmegaConf.merge(yaml, OmegaConf.from_dotlist(arguments(synthetic_folder, 'max_duration=1ba')[1:]))
    trainer = main(merged)  # type: ignore[arg-type]
    assert isinstance(trainer.state.model.module, torch.nn.Module)
    assert trainer.state.timestamp.batch == 1
    with pytest.raises(UserError, match='modle'):
        main(OmegaConf.merge(merged, {'modle': 1}))  # type: ignore[arg-type]


ADE20K_SAMPLES = ROOT.parent / 'shared' / 'data' / 'ade20k_samples' / 'sampleData'


@pytest.mark.skipif(not ADE20K_SAMPLES.is_dir(), reason='the three public ADE20K images are not beside the checkout')
def test_real_ade20k_images_with_all_classes(tmp_path: Path) -> None:
    """Trained on and scored through the same path as the whole dataset."""
    for kind in ('images', 'annotations'):
        for split in ('training', 'validation'):
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / kind / split).symlink_to(ADE20K_SAMPLES / kind)
    argv = [
        str(ROOT / 'yamls/deeplabv3.yaml'), f'train_dataset.path={tmp_path}', f'eval_dataset.path={tmp_path}',
        'model.backbone_arch=resnet18', 'model.backbone_weights=null', 'model.head_channels=16',
        'train_dataset.final_size=128', 'train_dataset.batch_size=3', 'eval_dataset.final_size=128',
        'eval_dataset.batch_size=2', 'max_duration=1ep', 'save_folder=null',
        'callbacks.show_results.folder=' + str(tmp_path / 'results'),
    ]  # fmt: skip
    trainer = run(argv)
    assert trainer.state.timestamp.sample == 3
    assert trainer.state.eval_timestamp.sample == 3
    rows = (tmp_path / 'results' / 'scores.csv').read_text().splitlines()
    assert len(rows) == 1 + 150 + 2
    assert rows[1].startswith('wall,') and rows[150].startswith('flag,')
    scored = [row for row in rows[1:151] if row.split(',')[1]]
    assert len(scored) > 3  # the classes of three photographs, and those wrongly predicted


@pytest.mark.parametrize(
    ('flags', 'dtype'), [('avx2 avx512_bf16', 'bfloat16'), ('amx_bf16', 'bfloat16'), ('avx2', None)]
)
def test_auto_precision_is_bfloat16_where_the_cpu_has_it(flags, dtype, tmp_path, monkeypatch) -> None:
    (tmp_path / 'cpuinfo').write_text(f'flags : fpu {flags}\n')
    monkeypatch.setattr(device, 'CPU_INFO', tmp_path / 'cpuinfo')
    assert device.choose_precision('auto', 'cpu') == ('fp32', dtype and getattr(torch, dtype))
    assert device.choose_precision('fp32', 'cpu') == ('fp32', None)
