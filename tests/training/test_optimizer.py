"""Which parameters an optimizer moves, how fast, and by what decay; parts that stay as they are."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoint_files import network_of
from helpers.runs import arguments, assert_same_weights, run, weights
from torch import Tensor, nn

from segrecipes.base.errors import UserError
from segrecipes.checkpoints.read import read_checkpoint
from segrecipes.config.merge import load_config
from segrecipes.training.optimizer import build_optimizer, check_optimizer
from segrecipes.training.registry import REGISTRY

SGD = {'name': 'sgd', 'lr': 0.5, 'momentum': 0.9, 'weight_decay': 0.1}
DECOUPLED = {**SGD, 'name': 'decoupled_sgdw'}


def small() -> nn.Module:
    torch.manual_seed(0)
    layers = {'conv': nn.Conv2d(3, 4, 3), 'bn': nn.BatchNorm2d(4)}
    return nn.ModuleDict({'backbone': nn.ModuleDict(layers), 'classifier': nn.Conv2d(4, 2, 1)})


def stepped(network: nn.Module, spec: dict[str, Any], steps: int = 2) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parameters before and after steps whose gradients are all 0.25."""
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    optimizer = build_optimizer(spec, network)
    for _ in range(steps):
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, 0.25) if parameter.requires_grad else None
        optimizer.step()
    return before, dict(network.named_parameters())


def by_hand(value: Tensor, lr: float, decay: float, decoupled: bool) -> Tensor:
    """Two steps of SGD with momentum 0.9; decoupled, the decay is no part of the gradient and no factor scales it."""
    momentum = torch.zeros_like(value)
    for _ in range(2):
        gradient = 0.25 + (0 if decoupled else decay) * value
        momentum = 0.9 * momentum + gradient
        value = value * (1 - decay if decoupled else 1) - lr * momentum
    return value


@pytest.mark.parametrize('spec', [SGD, DECOUPLED], ids=lambda spec: spec['name'])
@pytest.mark.parametrize('decay_all', [True, False])
@pytest.mark.parametrize(
    'factors',
    [{}, {'backbone': 0.1}, {'backbone': 0.1, 'backbone.bn': 2.0}, {'backbone': {'bn': 0.5}}, {'decode_head': 0.25}],
    ids=str,
)
def test_steps_equal_those_by_hand(factors: dict[str, Any], decay_all: bool, spec: dict[str, Any]) -> None:
    before, after = stepped(small(), {**spec, 'lr_factors': factors, 'decay_norms_and_biases': decay_all})
    for name, value in before.items():
        factor = 1.0
        if name.startswith('backbone.'):
            factor = factors['backbone'] if isinstance(factors.get('backbone'), float) else 1.0
        if name.startswith('backbone.bn.'):
            factor = {'{}': 1, "{'backbone': 0.1}": 0.1}.get(str(factors), 2.0 if 'backbone.bn' in factors else factor)
            factor = 0.5 if isinstance(factors.get('backbone'), dict) else factor
        if name.startswith('classifier.'):
            factor = factors.get('decode_head', 1.0)
        decay = 0.1 if decay_all or name in ('backbone.conv.weight', 'classifier.weight') else 0.0
        expected = by_hand(value, 0.5 * factor, decay, decoupled=spec is DECOUPLED)
        torch.testing.assert_close(after[name].detach(), expected, rtol=1e-6, atol=1e-7)


def test_without_them_there_is_one_group_of_everything() -> None:
    network = network_of()
    for spec in (SGD, {**SGD, 'lr_factors': None, 'decay_norms_and_biases': True}, {**SGD, 'lr_factors': {}}):
        [group] = build_optimizer(spec, network).param_groups
        assert [id(p) for p in group['params']] == [id(p) for p in network.parameters()]


def test_frozen_parameters_are_not_the_optimizers() -> None:
    network = small()
    network['backbone'].requires_grad_(False)  # type: ignore[index]
    before, after = stepped(network, DECOUPLED)
    assert torch.equal(before['backbone.conv.weight'], after['backbone.conv.weight'])  # nor decayed
    assert not torch.equal(before['classifier.weight'], after['classifier.weight'])
    network.requires_grad_(False)
    with pytest.raises(UserError, match=r'^model.freeze leaves no parameter to train$'):
        build_optimizer(SGD, network)


ONE_GROUP = {'lbfgs'}  # torch's own takes no groups


@pytest.mark.parametrize('name', sorted(REGISTRY['optimizer']))
def test_every_optimizer_of_the_table(name: str) -> None:
    spec = {'name': name, 'lr': 0.5, 'lr_factors': {'backbone': 0.1}, 'decay_norms_and_biases': False}
    assert check_optimizer(spec) == []
    if name in ONE_GROUP:
        with pytest.raises(UserError, match="LBFGS doesn't support per-parameter options"):
            build_optimizer(spec, small())
        return
    groups = build_optimizer(spec, small()).param_groups
    assert [group['lr'] for group in groups] == [0.05, 0.05, 0.5, 0.5]
    decays = [group.get('weight_decay', 0) for group in groups]
    assert decays[1] == decays[3] == 0 and decays[0] == decays[2]


def test_the_optimizers_own_learning_rate_is_scaled_where_none_is_set() -> None:
    groups = build_optimizer({'name': 'adam', 'lr_factors': {'backbone': 0.1}}, small()).param_groups
    assert [group['lr'] for group in groups] == pytest.approx([1e-4, 1e-3])
    with pytest.raises(UserError, match=r'^optimizer.lr_factors needs optimizer.lr$'):
        build_optimizer({'name': 'decoupled_sgdw', 'lr_factors': {'backbone': 0.1}}, small())


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        ({'lr_factors': 0.1}, 'optimizer.lr_factors=0.1 must be a mapping of parts, such as {backbone: 0.1}'),
        ({'lr_factors': {'backbone': 0}}, 'optimizer.lr_factors.backbone=0 must be a positive number; '),
        ({'lr_factors': {'backbone': True}}, 'optimizer.lr_factors.backbone=True must be a positive number; '),
        ({'lr_factors': {'backbone': float('nan')}}, 'optimizer.lr_factors.backbone=nan must be a positive number; '),
        ({'lr_factors': {'a': {'b': 'x'}}}, "optimizer.lr_factors.a.b='x' must be a positive number; "),
        ({'decay_norms_and_biases': 'no'}, "optimizer.decay_norms_and_biases='no' must be true or false"),
        ({'lr_factor': {}}, 'optimizer.lr_factor is not an argument of SGD.'),
    ],
)
def test_what_is_wrong_is_said(more: dict[str, Any], message: str) -> None:
    [fault] = check_optimizer({**SGD, **more})
    assert fault.startswith(message)


def test_a_part_that_the_network_does_not_have(synthetic_folder: Path) -> None:
    with pytest.raises(UserError, match=r"optimizer.lr_factors=backbon is not known. Did you mean 'backbone'\? Legal"):
        run(arguments(synthetic_folder, 'max_duration=1ba', 'optimizer.lr_factors.backbon=0.1'))
    with pytest.raises(UserError, match=r"model.freeze=backbone.layer9 is not known. Did you mean 'backbone.layer4'"):
        run(arguments(synthetic_folder, 'max_duration=1ba', 'model.freeze=[backbone.layer9]'))


# Whole runs


def test_the_schedule_keeps_the_ratios(synthetic_folder: Path) -> None:
    trainer = run(arguments(
        synthetic_folder, 'max_duration=4ba', 'eval_interval=0ba', 'scheduler={name: linear, alpha_f: 0.2}',
        'optimizer.lr_factors={backbone: 0.1, backbone.layer4: 0.5}', 'optimizer.lr=0.01',
    ))  # fmt: skip
    rates = [group['lr'] for group in trainer.state.optimizers[0].param_groups]
    scale = 0.01 * (1 - 0.8 * 3 / 4)  # of the last of four batches
    assert rates == pytest.approx([0.1 * scale, 0.5 * scale, scale])


FREEZES = {
    'plain': (),
    'averaged': ('algorithms={ema: {half_life: 1ba, update_interval: 1ba}, channels_last: {}}',),
    'sharpness': ('algorithms={sam: {rho: 0.3, interval: 1}, mixup: {alpha: 0.2}}',),
    'compiled': ('compile={backend: eager}',),
}


@pytest.mark.parametrize('more', FREEZES.values(), ids=FREEZES)
def test_a_frozen_part_does_not_change(more: tuple[str, ...], synthetic_folder: Path, tmp_path: Path) -> None:
    """Neither its weights nor its running statistics, in the raw weights and in their average; all else does."""
    trainer = run(arguments(
        synthetic_folder, 'max_duration=4ba', 'eval_interval=2ba', 'save_interval=1ba', 'model.auxiliary_weight=0.4',
        'save_num_checkpoints_to_keep=-1', f'save_folder={tmp_path}', 'model.freeze=[backbone, auxiliary_head.convs]',
        *more,
    ))  # fmt: skip
    first, last = (read_checkpoint(next(tmp_path.glob(f'ep*-ba{batch}-rank0.pt'))) for batch in (1, 4))
    frozen = ('backbone.', 'auxiliary.convs.')
    pairs = [(first.weights, last.weights)] + ([(first.ema, last.ema)] if first.ema and last.ema else [])
    for before, after in pairs:
        same = {name for name, value in before.items() if torch.equal(value, after[name])}
        assert same == {name for name in before if name.startswith(frozen)}
    model = trainer.state.model
    model.train()
    names = {name: module for name, module in model.module.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert {name for name, module in names.items() if not module.training} == {
        name for name in names if name.startswith(frozen)
    }
    assert model.module.classifier.dropout.training


@pytest.mark.parametrize('recipe', ['mild', 'medium'])
def test_groups_and_frozen_parts_resume_bitwise(recipe: str, synthetic_folder: Path, tmp_path: Path) -> None:
    argv = arguments(
        synthetic_folder, f'recipe_name={recipe}', 'max_duration=4ba', 'eval_interval=0ba', 'save_interval=2ba',
        'save_num_checkpoints_to_keep=-1', 'model.freeze=[backbone.layer1]', 'optimizer.decay_norms_and_biases=false',
        'optimizer.lr_factors={backbone: 0.1, backbone.layer4: 0.5}', 'optimizer.weight_decay=0.01', 'save_best=false',
        'algorithms.ema.update_interval=1ba',
    )  # fmt: skip
    run([*argv, f'save_folder={tmp_path}/whole'])
    half = next((tmp_path / 'whole').glob('ep*-ba2-rank0.pt'))
    run([*argv, f'save_folder={tmp_path}/resumed', f'load_path={half}'])
    whole, resumed = (next((tmp_path / name).glob('ep*-ba4-rank0.pt')) for name in ('whole', 'resumed'))
    assert_same_weights(whole, resumed)
    [(_, saved)] = torch.load(resumed, weights_only=False)['state']['optimizers'].items()
    groups = {(group['initial_lr'], group['weight_decay']) for group in saved['param_groups']}
    assert groups == {(lr, decay) for lr in (0.01, 0.001, 0.005) for decay in (0.0, 0.01)}
    assert not torch.equal(*(weights(file)['module.backbone.layer4.0.conv1.weight'] for file in (half, whole)))


def test_keys_of_parts_from_a_command_line() -> None:
    argv = ['yamls/demo.yaml', 'optimizer.lr_factors.backbone.layer1=0.1', 'optimizer.decay_norms_and_biases=false']
    cfg, _ = load_config([*argv, 'model.freeze=[backbone.conv1, decode_head]'])
    assert cfg.optimizer['lr_factors'] == {'backbone': {'layer1': 0.1}}
    assert cfg.model.freeze == ['backbone.conv1', 'decode_head']
    assert check_optimizer(cfg.optimizer) == []
