"""A card says the same wherever it lies, and in files of before and after this version."""

import json
from typing import Any

import pytest
from helpers.exported_files import card_of

from segrecipes.base.errors import UserError
from segrecipes.checkpoints.card import ModelCard
from segrecipes.data.normalize import statistics
from segrecipes.models.spec import NetworkSpec

# As files hold it: in one level, whatever the classes here are
WRITTEN: dict[str, Any] = {
    'architecture': 'upernet',
    'num_classes': 2,
    'backbone_arch': 'resnet18',
    'output_stride': 16,
    'head_channels': 24,
    'in_channels': 3,
    'auxiliary': True,
    'class_names': ['sky', 'tree'],
    'palette': [[0, 0, 0], [9, 8, 7]],
    'dataset': 'mine',
    'label_offset': 0,
    'image_size': 48,
    'mean': [1.0, 2.0, 3.0],
    'std': [4.0, 5.0, 6.0],
    'warning': 'it leaks',
    'values': [0.0, 4095.0],
}
CARD = ModelCard(
    NetworkSpec('upernet', 2, 'resnet18', output_stride=16, head_channels=24),
    auxiliary=True,
    class_names=('sky', 'tree'),
    palette=((0, 0, 0), (9, 8, 7)),
    dataset='mine',
    label_offset=0,
    image_size=48,
    mean=(1.0, 2.0, 3.0),
    std=(4.0, 5.0, 6.0),
    warning='it leaks',
    values=(0.0, 4095.0),
)


def test_a_card_is_written_in_one_level() -> None:
    written = CARD.to_dict()
    assert [*written] == [*WRITTEN]
    assert json.loads(json.dumps(written)) == WRITTEN
    assert ModelCard.from_dict(WRITTEN, 'here') == ModelCard.from_dict(written, 'here') == CARD
    assert ModelCard.from_dict(json.loads(json.dumps(card_of().to_dict())), 'here') == card_of()


def test_a_card_of_another_version() -> None:
    """What a later one has added is left out; what an earlier one had not is the usual."""
    assert ModelCard.from_dict({**WRITTEN, 'network': 'x', 'dropout': {'rate': 0.1}}, 'here') == CARD
    few = {name: WRITTEN[name] for name in ('architecture', 'num_classes', 'backbone_arch')}
    card = ModelCard.from_dict(few, 'here')
    assert card == ModelCard(NetworkSpec('upernet', 2, 'resnet18'))
    assert (card.network.output_stride, card.network.head_channels) == (None, 512)
    assert (card.network.in_channels, card.values, card.mean) == (3, None, statistics(3)[0])
    assert (card.auxiliary, card.label_offset, card.image_size, card.num_classes) == (False, 1, 512, 2)


@pytest.mark.parametrize('name', ['architecture', 'num_classes', 'backbone_arch'])
def test_what_no_card_can_be_without(name: str) -> None:
    values = {key: value for key, value in WRITTEN.items() if key != name}
    with pytest.raises(UserError, match=f"^a.pt: its model card is damaged: '{name}' is missing$"):
        ModelCard.from_dict(values, 'a.pt')


@pytest.mark.parametrize('change', [{'num_classes': 'two'}, {'num_classes': None}, {'class_names': 3}])
def test_a_value_of_another_type(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r'^a\.pt: its model card is damaged: '):
        ModelCard.from_dict({**WRITTEN, **change}, 'a.pt')


def test_names_and_colours_are_as_many_as_classes() -> None:
    card = ModelCard(NetworkSpec(num_classes=3), class_names=('sky',), palette=((1, 2, 3),))
    assert card.class_names == ('class 0', 'class 1', 'class 2')
    assert len(card.palette) == 3 and card.palette[1] != (1, 2, 3)
