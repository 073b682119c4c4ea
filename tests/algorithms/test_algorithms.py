"""Our forms of Composer's EMA, MixUp, SAM and DecoupledSGDW against Composer's own."""

from typing import Any

import composer.algorithms
import composer.optim
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from composer.algorithms.sam.sam import SAMOptimizer
from composer.core import Event, State
from composer.devices import DeviceCPU
from composer.loggers import Logger
from torch import Tensor, nn

from segrecipes.algorithms.ema import EMA
from segrecipes.algorithms.label_smoothing import LabelSmoothing, smoothed
from segrecipes.algorithms.mixup import MixUp
from segrecipes.algorithms.sam import ResumableSAMOptimizer
from segrecipes.algorithms.sgdw import DecoupledSGDW
from segrecipes.models.losses.segmentation import MixedTarget, segmentation_loss
from segrecipes.training.callbacks.batches import SeedEachBatch

MIXUP = 'composer.algorithms.mixup.mixup'


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(5 * 4 * 4, 2))


def images(seed: int) -> Tensor:
    return torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def state_of(model: nn.Module, batch: Any = None) -> Any:
    state = State(model=model, rank_zero_seed=0, run_name='test', device=DeviceCPU())  # type: ignore[arg-type]
    state.batch = batch
    return state


# EMA


@pytest.mark.parametrize('half_life', ['1ba', '50ba'])
def test_ema_follows_composers(half_life) -> None:
    averages = []
    for cls in (composer.algorithms.EMA, EMA):
        model = network()
        state, ema = state_of(model), cls(half_life=half_life)
        logger = Logger(state)
        ema.apply(Event.INIT, state, logger)
        for seed in range(6):
            model(images(seed)).square().sum().backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter -= 0.01 * parameter.grad
            ema.apply(Event.BATCH_END, state, logger)
        assert ema.ema_model is not None
        averages.append({**ema.ema_model.named_parameters_dict, **ema.ema_model.named_buffers_dict})
    theirs, ours = averages
    assert theirs.keys() == ours.keys()
    counters = [name for name in theirs if not theirs[name].is_floating_point()]
    assert counters == ['1.num_batches_tracked'] and ours[counters[0]] == 6
    for name in theirs.keys() - set(counters):
        torch.testing.assert_close(ours[name], theirs[name])
    assert not torch.equal(ours['3.weight'], network().state_dict()['3.weight'])


# MixUp


def test_mixup_keeps_a_pair_and_what_else_is_in_the_batch(monkeypatch) -> None:
    monkeypatch.setattr(f'{MIXUP}._gen_mixing_coef', lambda alpha: 0.25)
    monkeypatch.setattr(torch, 'randperm', lambda count, device: torch.tensor([1, 2, 3, 0]))
    labels, pixels = torch.randint(5, (4, 6, 6)), torch.full((4,), 36.0)
    state = state_of(network(), (images(0), labels, pixels))
    MixUp(alpha=0.2).apply(Event.BEFORE_FORWARD, state, Logger(state))
    mixed, target, kept = state.batch
    torch.testing.assert_close(mixed, 0.75 * images(0) + 0.25 * images(0)[[1, 2, 3, 0]])
    assert isinstance(target, MixedTarget) and target.mixing == 0.25 and kept is pixels
    assert target.labels is labels and torch.equal(target.other, labels[[1, 2, 3, 0]])


def test_mixup_draws_as_composers_does() -> None:
    drawn = []
    for cls in (composer.algorithms.MixUp, MixUp):
        np.random.seed(3)
        torch.manual_seed(3)
        state = state_of(network(), (images(0), torch.zeros(4, 6, 6, dtype=torch.int64)))
        cls(alpha=0.5).apply(Event.BEFORE_FORWARD, state, Logger(state))
        drawn.append(state.batch[0])
    assert torch.equal(*drawn)


def test_mixup_is_drawn_alike_in_both_passes_of_sam() -> None:
    state = state_of(network())
    logger, mixed = Logger(state), []
    for event in ('batch_start', 'before_train_batch', 'before_train_batch'):
        getattr(SeedEachBatch(), event)(state, logger)
        state.batch = images(0), torch.zeros(4, 6, 6, dtype=torch.int64)
        MixUp(alpha=0.5).apply(Event.BEFORE_FORWARD, state, logger)
        mixed.append(state.batch[0])
    assert torch.equal(mixed[0], mixed[1]) and torch.equal(mixed[1], mixed[2])
    state.timestamp = state.timestamp.to_next_batch(samples=4)
    SeedEachBatch().before_train_batch(state, logger)
    state.batch = images(0), torch.zeros(4, 6, 6, dtype=torch.int64)
    MixUp(alpha=0.5).apply(Event.BEFORE_FORWARD, state, logger)
    assert not torch.equal(mixed[0], state.batch[0])


def test_mixup_refuses_a_negative_alpha() -> None:
    with pytest.raises(ValueError, match=r'alpha=-1 is out of range'):
        MixUp(alpha=-1)


# Label smoothing


def logits_and_labels() -> tuple[Tensor, Tensor]:
    labels = torch.randint(-1, 5, (4, 6, 6), generator=torch.Generator().manual_seed(1))
    assert (labels == -1).any()
    return torch.randn(4, 5, 6, 6, generator=torch.Generator().manual_seed(2)), labels


@pytest.mark.parametrize('smoothing', [0.0, 0.1, 1.0])
def test_label_smoothing_is_torchs_and_leaves_ignored_pixels_alone(smoothing) -> None:
    logits, labels = logits_and_labels()
    state = state_of(network(), (images(0), labels))
    state.outputs = logits.requires_grad_()
    algorithm = LabelSmoothing(smoothing)
    algorithm.apply(Event.BEFORE_LOSS, state, Logger(state))
    loss = segmentation_loss(logits, state.batch[1])['total']
    expected = F.cross_entropy(logits, labels, ignore_index=-1, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients)
    assert (gradients[0].movedim(1, -1)[labels == -1] == 0).all()
    algorithm.apply(Event.AFTER_LOSS, state, Logger(state))
    assert state.batch[1] is labels


def test_label_smoothing_of_mixups_pair() -> None:
    logits, labels = logits_and_labels()
    pair = MixedTarget(labels, labels.roll(1, dims=0), 0.3)
    found = segmentation_loss(logits, smoothed(pair, 5, 0.1))['total']
    parts = [
        F.cross_entropy(logits, label, ignore_index=-1, label_smoothing=0.1) for label in (pair.labels, pair.other)
    ]
    torch.testing.assert_close(found, 0.7 * parts[0] + 0.3 * parts[1])
    torch.testing.assert_close(smoothed(pair, 5, 0.1).sum(dim=1), 0.7 * (labels != -1) + 0.3 * (pair.other != -1))


def test_label_smoothing_refuses_what_is_no_share() -> None:
    with pytest.raises(ValueError, match=r'smoothing=1.5 is out of range'):
        LabelSmoothing(1.5)


# DecoupledSGDW


@pytest.mark.parametrize(
    'options',
    [
        {'momentum': 0.9, 'weight_decay': 5e-5},
        {'momentum': 0.9, 'nesterov': True},
        {'momentum': 0.9, 'dampening': 0.5, 'weight_decay': 1e-4},
        {},
    ],
    ids=str,
)
def test_decoupled_sgdw_takes_composers_steps_bitwise(options) -> None:
    weights = []
    for cls in (composer.optim.DecoupledSGDW, DecoupledSGDW):
        model = network()
        optimizer = cls(model.parameters(), lr=0.05, **options)
        for seed in range(5):
            optimizer.param_groups[0]['lr'] = 0.05 / (seed + 1)  # as a scheduler does
            optimizer.zero_grad()
            model(images(seed)).square().mean().backward()
            optimizer.step()
        weights.append([*model.parameters()])
    for theirs, ours in zip(*weights):
        assert torch.equal(theirs, ours)


# SAM


def sam_run(cls: type, interval: int) -> tuple[list[Tensor], list[bool]]:
    """Weights after six batches, and for each pass whether gradients were to be synchronised."""
    model = network()
    optimizer = cls(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), rho=0.3, interval=interval)
    passes = []
    for seed in range(6):

        def closure(loss_dict: Any = None, ddp_sync: bool = True, seed: int = seed) -> float | None:
            passes.append(ddp_sync)
            optimizer.zero_grad(set_to_none=True)
            loss = model(images(seed)).square().mean()
            loss.backward()
            return loss.item()

        optimizer.step(closure=closure)
    return [*model.parameters()], passes


@pytest.mark.parametrize('interval', [1, 2, 4])
def test_sam_takes_composers_steps(interval) -> None:
    theirs, their_passes = sam_run(SAMOptimizer, interval=interval)
    ours, our_passes = sam_run(ResumableSAMOptimizer, interval=interval)
    assert our_passes == their_passes and len(our_passes) == 6 + 6 // interval
    for one, other in zip(theirs, ours):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_sam_puts_the_weights_back_when_its_second_pass_fails() -> None:
    model = network()
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = ResumableSAMOptimizer(torch.optim.SGD(model.parameters(), lr=0.05), rho=0.3)
    passes = []

    def closure(loss_dict: Any = None, ddp_sync: bool = True) -> float:
        passes.append([parameter.detach().clone() for parameter in model.parameters()])
        optimizer.zero_grad(set_to_none=True)
        if len(passes) == 2:
            raise RuntimeError('out of memory')
        loss = model(images(0)).square().mean()
        loss.backward()
        return loss.item()

    with pytest.raises(RuntimeError, match='out of memory'):
        optimizer.step(closure=closure)
    displacement = torch.stack([(now - then).norm() for now, then in zip(passes[1], before)]).norm()
    assert displacement.item() == pytest.approx(0.3, rel=1e-4)
    for now, then in zip(model.parameters(), before):
        torch.testing.assert_close(now.detach(), then)


def test_sam_keeps_nothing_but_the_momentum() -> None:
    model = network()
    optimizer = ResumableSAMOptimizer(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), rho=0.3)

    def closure(loss_dict: Any = None, ddp_sync: bool = True) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = model(images(0)).square().mean()
        loss.backward()
        return loss.item()

    optimizer.step(closure=closure)
    assert {key for state in optimizer.state.values() for key in state} == {'momentum_buffer'}


@pytest.mark.parametrize('overflow', [1, 2])
def test_sam_takes_no_step_where_the_gradient_scaler_met_an_overflow(overflow) -> None:
    model = network()
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = ResumableSAMOptimizer(torch.optim.SGD(model.parameters(), lr=0.05), rho=0.3)
    passes = []

    def closure(loss_dict: Any = None, ddp_sync: bool = True) -> float | None:
        passes.append(ddp_sync)
        optimizer.zero_grad(set_to_none=True)
        model(images(0)).square().mean().backward()
        return None if len(passes) == overflow else 1.0

    optimizer.step(closure=closure)
    assert len(passes) == overflow
    for now, then in zip(model.parameters(), before):
        torch.testing.assert_close(now.detach(), then)
