import pytest
from helpers.checkpoint_files import network_of
from torch import nn

from segrecipes.base.errors import UserError
from segrecipes.models.parts import check_parts, freeze, is_in


@pytest.mark.parametrize(
    ('name', 'part', 'wanted'),
    [
        ('backbone.layer1.0.conv1.weight', 'backbone', True),
        ('backbone.layer1.0.conv1.weight', 'backbone.layer1', True),
        ('backbone.layer1.0.conv1.weight', 'backbone.layer1.0.conv1.weight', True),
        ('backbone.layer10.0.weight', 'backbone.layer1', False),
        ('backbone.conv1.weight', 'conv1', False),
        ('classifier.conv_seg.bias', 'decode_head', True),
        ('classifier.conv_seg.bias', 'decode_head.conv_seg', True),
        ('auxiliary.conv_seg.bias', 'auxiliary_head', True),
        ('auxiliary.conv_seg.bias', 'decode_head', False),
    ],
)
def test_a_name_lies_in_a_part(name: str, part: str, wanted: bool) -> None:
    assert is_in(name, part) is wanted


def test_a_part_that_is_none() -> None:
    with pytest.raises(UserError) as error:
        check_parts(network_of(), ['backbone', 'backbone.layer5'], 'model.freeze')
    assert str(error.value) == (
        "model.freeze=backbone.layer5 is not known. Did you mean 'backbone.layer4'? Legal: backbone, backbone.bn1, "
        'backbone.conv1, backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4, classifier, '
        'classifier.bottleneck, classifier.conv_seg, classifier.psp_modules.'
    )


def test_a_frozen_part_has_no_gradients_and_its_norms_are_told() -> None:
    network = network_of()
    norms = freeze(network, ['backbone.layer1', 'backbone.bn1', 'decode_head'])
    for name, parameter in network.named_parameters():
        frozen = name.startswith(('backbone.layer1.', 'backbone.bn1.', 'classifier.'))
        assert parameter.requires_grad != frozen, name
    names = {module: name for name, module in network.named_modules()}
    wanted = {name for module, name in names.items() if isinstance(module, nn.BatchNorm2d)}
    assert {names[norm] for norm in norms} == {
        name for name in wanted if name.startswith(('backbone.layer1.', 'backbone.bn1', 'classifier.'))
    }
    assert len(norms) == 1 + 4 + 5  # the stem's, two a block of two, four pools and the bottleneck
