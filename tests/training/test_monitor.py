"""A metric is watched by the name that a person gives it."""

import pytest

from segrecipes.training.callbacks.monitor import with_metrics

METRICS = {'train': [], 'eval': ['CrossEntropy', 'mIoU[ade20k-ss@44]']}


@pytest.mark.parametrize(
    ('given', 'name'),
    [
        ('mIoU', 'mIoU[ade20k-ss@44]'),
        ('miou', 'mIoU[ade20k-ss@44]'),
        ('mIoU[ade20k-ss@44]', 'mIoU[ade20k-ss@44]'),
        ('cross_entropy', None),
        ('CrossEntropy', 'CrossEntropy'),
    ],
)
def test_name_of_a_metric(given: str, name: str | None) -> None:
    callbacks = {'lr_monitor': {}, 'off': None, 'early_stopper': {'monitor': given, 'dataloader_label': 'eval'}}
    if name is None:
        with pytest.raises(ValueError, match=r'monitor=cross_entropy .* Legal: CrossEntropy, mIoU\[ade20k-ss@44\]'):
            with_metrics(callbacks, METRICS)
        return
    wanted = {'monitor': name, 'dataloader_label': 'eval'}
    assert with_metrics(callbacks, METRICS) == {'lr_monitor': {}, 'off': None, 'early_stopper': wanted}
    assert callbacks['early_stopper'] == {'monitor': given, 'dataloader_label': 'eval'}  # the config is left as it was
