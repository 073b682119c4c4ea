"""A run that stopped goes on as if it had not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import arguments, assert_same_weights, run, weights

from segrecipes.training.tasks.segmentation import SegmentationModel

pytestmark = pytest.mark.usefixtures('clean_shared_memory')


@pytest.mark.parametrize('recipe', ['mild', 'medium'])
@pytest.mark.parametrize('mds', [False, True], ids=['folder', 'mds'])
def test_resume_is_bitwise(mds: bool, recipe: str, synthetic_folder: Path, synthetic_mds: Path, tmp_path: Path) -> None:
    """4 epochs equal 2 epochs and a resume, and a resume from the middle of an epoch, with augmentation and workers."""
    argv = arguments(
        synthetic_mds if mds else synthetic_folder, f'recipe_name={recipe}', 'max_duration=4ep', 'eval_interval=1ep',
        'train_dataset.num_workers=2', 'save_num_checkpoints_to_keep=-1', 'algorithms.ema.update_interval=1ba',
        mds=mds,
    )  # fmt: skip
    run([*argv, f'save_folder={tmp_path}/whole', 'save_interval=1ep'])
    run([*argv, f'save_folder={tmp_path}/middle', 'save_interval=5ba', 'max_duration=5ba'])
    assert_resumed = ('whole/ep2-ba6-rank0.pt', 'middle/ep1-ba5-rank0.pt')
    for number, checkpoint in enumerate(assert_resumed):
        folder = tmp_path / f'resumed{number}'
        run([*argv, f'save_folder={folder}', 'save_interval=4ep', f'load_path={tmp_path}/{checkpoint}'])
        assert_same_weights(tmp_path / 'whole/ep4-ba12-rank0.pt', folder / 'ep4-ba12-rank0.pt')
    assert not torch.equal(*(w['module.classifier.conv_seg.weight'] for w in map(weights, [
        tmp_path / 'whole/ep2-ba6-rank0.pt', tmp_path / 'whole/ep4-ba12-rank0.pt',
    ])))  # fmt: skip


def test_autoresume_continues_the_run_of_that_name(
    synthetic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run trains the second epoch alone, and comes to what an uninterrupted one comes to."""
    steps, loss = [], SegmentationModel.loss

    def counted(model: Any, *args: Any, **kwargs: Any) -> Any:
        steps.append(model.training)
        return loss(model, *args, **kwargs)

    monkeypatch.setattr(SegmentationModel, 'loss', counted)
    shared = ('scheduler=null', 'autoresume=true', 'save_num_checkpoints_to_keep=-1', 'eval_interval=0ep')
    argv = arguments(synthetic_folder, f'save_folder={tmp_path}/{{run_name}}', *shared)
    assert run([*argv, 'run_name=again', 'max_duration=1ep']).state.timestamp.epoch == 1
    assert len(steps) == 3
    assert run([*argv, 'run_name=again', 'max_duration=2ep']).state.timestamp.epoch == 2
    assert len(steps) == 3 + 3
    run([*argv, 'run_name=whole', 'max_duration=2ep'])
    assert_same_weights(tmp_path / 'again' / 'ep2-ba6-rank0.pt', tmp_path / 'whole' / 'ep2-ba6-rank0.pt')
