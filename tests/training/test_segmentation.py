from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.error import URLError

import composer.algorithms
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from composer.core import Event, State
from composer.devices import DeviceCPU
from composer.loggers import Logger
from composer.loss.utils import ensure_targets_one_hot
from composer.utils import dist, get_device
from helpers.networks import build_model, build_network
from torch import Tensor, nn
from torch.distributed._tools.mem_tracker import MemTracker
from torchvision.models._api import WeightsEnum

from segrecipes.algorithms.mixup import MixUp
from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.evaluation.metrics import score_predictions
from segrecipes.evaluation.table import PROTOCOLS, get_protocol
from segrecipes.models.architectures import ARCHITECTURES
from segrecipes.models.backbones.table import BACKBONES, TORCHVISION
from segrecipes.models.heads import published_init
from segrecipes.models.losses.segmentation import segmentation_loss
from segrecipes.models.network import for_inference, upsample
from segrecipes.training.strategy import STRATEGIES
from segrecipes.training.tasks.segmentation import SegmentationModel

CLASSES = 5
STRIDES = {8: (4, 8, 8, 8), 16: (4, 8, 16, 16), 32: (4, 8, 16, 32)}
WEIGHTS: dict[str, Any] = {'cross_entropy_weight': 0.375, 'dice_weight': 1.125}

strides = pytest.mark.parametrize('output_stride', STRIDES)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


def tiny(architecture: str = 'pspnet', backbone_arch: str = 'resnet18', **options) -> Any:
    """A SegmentationModel; Any, because PyTorch types every submodule as a Tensor or a Module."""
    options = {'num_classes': CLASSES, 'head_channels': 8, **options}
    return build_model(architecture=architecture, backbone_arch=backbone_arch, **options)


def batch_of(size: tuple[int, int] = (32, 48), count: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(-1, CLASSES, (count, *size), generator=generator)
    return torch.randn(count, 3, *size, generator=generator), labels


def without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0


@pytest.mark.parametrize('backbone_arch', ['resnet18', 'resnet50'])
@pytest.mark.parametrize('architecture', ARCHITECTURES)
def test_every_architecture(architecture, backbone_arch) -> None:
    model = tiny(architecture, backbone_arch)
    assert SegmentationModel in type(model).__mro__
    for size in [(64, 64), (65, 47), (33, 71)]:
        images, labels = batch_of(size)
        model.eval()
        with torch.no_grad():
            logits = model((images, labels))
        assert logits.shape == (2, CLASSES, *size)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()
        assert logits.std(dim=(2, 3)).min() > 0  # looks at the image
    model.train()
    model.loss(model((images, labels)), (images, labels))['total'].backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    unused = [name for name, parameter in model.named_parameters() if not parameter.grad.any()]
    assert not [name for name in unused if name.endswith('weight')]


@pytest.mark.parametrize('architecture', ARCHITECTURES)
def test_images_of_a_batch_are_independent_in_evaluation(architecture) -> None:
    model = tiny(architecture).eval()
    images, labels = batch_of(count=3)
    with torch.no_grad():
        together = model((images, labels))
        alone = torch.cat([model((image[None], None)) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ('architecture', 'stages', 'output_stride'),
    [('deeplabv3plus', 4, 8), ('deeplabv3', 4, 8), ('pspnet', 4, 8), ('upernet', 4, 32)],
)
def test_usual_output_stride(architecture, stages, output_stride) -> None:
    features = tiny(architecture).module.backbone(torch.zeros(1, 3, 64, 64))
    assert [64 // feature.shape[-1] for feature in features] == [*STRIDES[output_stride]]
    assert len(features) == stages


def test_deeplabv3plus_reads_the_low_level_features_and_deeplabv3_does_not() -> None:
    """The head's own resolution tells: stride 4 with them, 8 without."""
    features = tiny('deeplabv3plus').module.backbone(torch.zeros(2, 3, 64, 64))
    assert tiny('deeplabv3plus').module.classifier(features).shape[-1] == 16
    assert tiny('deeplabv3').module.classifier(features).shape[-1] == 8


@pytest.mark.parametrize('architecture', ['deeplabv3plus', 'deeplabv3'])
def test_aspp_dilations(architecture) -> None:
    """As mmsegmentation and the paper have them at output stride 8; the first branch is a 1×1 convolution."""
    head = tiny(architecture).module.classifier
    dilations = [
        m.dilation[0] for m in head.aspp_modules.modules() if isinstance(m, nn.Conv2d) and m.kernel_size > (1, 1)
    ]
    assert dilations == [12, 24, 36]


@pytest.mark.parametrize('head_channels', [8, 24])
@pytest.mark.parametrize('architecture', ARCHITECTURES)
def test_head_channels_and_classes(architecture, head_channels) -> None:
    head = tiny(architecture, head_channels=head_channels, num_classes=7).module.classifier
    assert head.conv_seg.in_channels == head_channels
    assert head.conv_seg.out_channels == 7


@strides
@pytest.mark.parametrize('size', [(64, 64), (65, 47)])
@pytest.mark.parametrize('backbone_arch', ['resnet18', 'resnet50'])
def test_output_stride_gives_the_feature_sizes(backbone_arch, output_stride, size) -> None:
    backbone = BACKBONES[backbone_arch](output_stride)
    features = backbone(torch.zeros(1, 3, *size))
    channels = [64, 128, 256, 512] if backbone_arch == 'resnet18' else [256, 512, 1024, 2048]
    assert backbone.channels == channels
    for feature, count, stride in zip(features, channels, STRIDES[output_stride], strict=True):
        assert feature.shape == (1, count, *(-(-side // stride) for side in size))


def with_random_statistics(resnet: Any) -> Any:
    """So that batch norm in evaluation is more than the identity."""
    for name, buffer in resnet.named_buffers():
        if name.endswith(('running_mean', 'running_var')):
            buffer.uniform_(*((-0.2, 0.2) if name.endswith('mean') else (0.7, 1.3)))
    return resnet


@pytest.mark.parametrize('backbone_arch', ['resnet50', 'resnext50_32x4d'])
@strides
def test_dilated_bottlenecks_equal_torchvisions(backbone_arch, output_stride) -> None:
    dilated = [False, output_stride <= 8, output_stride <= 16]
    resnet = torchvision.models.get_model(backbone_arch, replace_stride_with_dilation=dilated)
    resnet = with_random_statistics(resnet).eval()
    backbone = BACKBONES[backbone_arch](output_stride).eval()
    backbone.load_state_dict({k: v for k, v in resnet.state_dict().items() if not k.startswith('fc.')})
    x = torch.randn(1, 3, 65, 47)
    with torch.no_grad():
        features = backbone(x)
        x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(x))))
        for feature, stage in zip(features, (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4), strict=True):
            x = stage(x)
            torch.testing.assert_close(feature, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('output_stride', [8, 16])
@pytest.mark.parametrize('backbone_arch', ['resnet18', 'resnet34', 'resnet50'])
def test_dilation_only_fills_in_between(backbone_arch, output_stride) -> None:
    """Of a dilated stage every second (or fourth) pixel is the one that the stage with its stride gives."""
    strided = with_random_statistics(BACKBONES[backbone_arch](32)).eval()
    dilated = BACKBONES[backbone_arch](output_stride).eval()
    dilated.load_state_dict(strided.state_dict())
    images = torch.randn(1, 3, 65, 96, dtype=torch.float64)
    steps = [stride // own for stride, own in zip(STRIDES[32], STRIDES[output_stride])]
    with torch.no_grad():
        for step, few, many in zip(steps, strided.double()(images), dilated.double()(images), strict=True):
            assert many.shape[-1] == few.shape[-1] * step
            torch.testing.assert_close(many[:, :, ::step, ::step], few)


@pytest.mark.parametrize('backbone_arch', TORCHVISION)
def test_backbones_are_torchvisions(backbone_arch) -> None:
    """Under its names, without its classifier, so its weight files fit."""
    with torch.device('meta'):
        expected = torchvision.models.get_model(backbone_arch, weights=None).state_dict()
        backbone = BACKBONES[backbone_arch](8)
    expected = {name: value.shape for name, value in expected.items() if not name.startswith('fc.')}
    assert {name: value.shape for name, value in backbone.state_dict().items()} == expected
    width = 1 if backbone_arch in ('resnet18', 'resnet34') else 4
    assert backbone.channels == [64 * width, 128 * width, 256 * width, 512 * width]


class TestInit:
    @pytest.mark.parametrize(('layer', 'fan_in'), [(nn.Conv2d(64, 96, 3), 576), (nn.Linear(500, 300), 500)])
    def test_kaiming(self, layer, fan_in) -> None:
        nn.init.ones_(layer.weight)
        published_init(layer)
        assert layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.03)
        assert layer.weight.mean().item() == pytest.approx(0, abs=3 * (2 / fan_in) ** 0.5 / layer.weight.numel() ** 0.5)

    def test_grouped_convolution(self) -> None:
        layer = nn.Conv2d(2048, 2048, 3, groups=2048)
        published_init(layer)
        assert layer.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.03)

    def test_batch_norm(self) -> None:
        layer = nn.BatchNorm2d(5)
        nn.init.uniform_(layer.weight)
        nn.init.uniform_(layer.bias)
        published_init(layer)
        assert layer.weight.tolist() == [1] * 5 and layer.bias.tolist() == [0] * 5

    def test_reaches_the_whole_network(self) -> None:
        network = tiny('deeplabv3plus', auxiliary_weight=0.4, init_fn=published_init).module
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 3000:
                fan_in = layer.weight[0].numel()
                assert layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1), name
            elif isinstance(layer, nn.BatchNorm2d):
                assert (layer.weight == 1).all() and (layer.bias == 0).all(), name

    def test_is_left_out_where_none_is_given(self) -> None:
        """PyTorch's own draw is narrower: 1 / √(3 · fan in)."""
        for init_fn, expected in ((None, 1 / (3 * 32)), (published_init, 2 / 32)):
            weight = tiny(num_classes=150, head_channels=32, init_fn=init_fn).module.classifier.conv_seg.weight
            assert weight.std().item() == pytest.approx(expected**0.5, rel=0.05)


@pytest.fixture(scope='module')
def weights_file(tmp_path_factory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp('weights') / 'mine.pth'
    torch.save(with_random_statistics(torchvision.models.resnet18()).state_dict(), path)
    return path


class TestWeights:
    @staticmethod
    def assert_loaded(model: Any, path: Path) -> None:
        state_dict = torch.load(path, weights_only=True)
        state_dict = state_dict.get('state_dict', state_dict)
        loaded = model.module.backbone.state_dict()
        assert set(loaded) == {name for name in state_dict if not name.startswith('fc.')}
        assert all(torch.equal(value, state_dict[name]) for name, value in loaded.items())

    @pytest.mark.parametrize('output_stride', [None, 16])
    def test_a_local_file_is_loaded_and_only_heads_are_initialised(self, weights_file, output_stride) -> None:
        seen = []
        model = tiny(
            'deeplabv3plus',
            backbone_weights=str(weights_file),
            output_stride=output_stride,
            auxiliary_weight=0.4,
            init_fn=seen.append,
        )
        self.assert_loaded(model, weights_file)
        assert set(seen) == {*model.module.classifier.modules(), *model.module.auxiliary.modules()}

    @pytest.mark.parametrize('backbone_weights', [None, '', 'none', 'None', 'null'])
    def test_without_weights_everything_is_initialised(self, backbone_weights) -> None:
        seen = []
        model = tiny(backbone_weights=backbone_weights, init_fn=seen.append)
        assert set(seen) == set(model.module.modules())

    def test_a_file_with_its_state_dict_inside(self, weights_file, tmp_path) -> None:
        path = tmp_path / 'inside.pth'
        torch.save({'state_dict': torch.load(weights_file, weights_only=True), 'epoch': 3}, path)
        self.assert_loaded(tiny(backbone_weights=str(path)), path)

    def test_a_file_without_its_classifier(self, weights_file, tmp_path) -> None:
        path = tmp_path / 'bare.pth'
        state_dict = torch.load(weights_file, weights_only=True)
        torch.save({name: value for name, value in state_dict.items() if not name.startswith('fc.')}, path)
        self.assert_loaded(tiny(backbone_weights=str(path)), path)

    def test_a_name_is_looked_up_for_its_own_backbone(self, weights_file, monkeypatch) -> None:
        asked = []

        def get_state_dict(self, **options):
            asked.append((self, options['check_hash']))
            return torch.load(weights_file, weights_only=True)

        monkeypatch.setattr(WeightsEnum, 'get_state_dict', get_state_dict)
        for name in ('IMAGENET1K_V1', 'DEFAULT'):
            self.assert_loaded(tiny(backbone_weights=name), weights_file)
        with pytest.raises((UserError, RuntimeError)):
            tiny(backbone_arch='resnet50', backbone_weights='IMAGENET1K_V2')
        first, second = (
            torchvision.models.ResNet18_Weights.IMAGENET1K_V1,
            torchvision.models.ResNet50_Weights.IMAGENET1K_V2,
        )
        assert asked == [(first, True), (first, True), (second, True)]

    @pytest.mark.parametrize('fault', [URLError('no route to host'), TimeoutError('timed out')])
    def test_without_a_network_the_file_is_named(self, monkeypatch, fault) -> None:
        def get_state_dict(self, **options):
            raise fault

        monkeypatch.setattr(WeightsEnum, 'get_state_dict', get_state_dict)
        with pytest.raises(UserError, match=r'model\.backbone_weights=IMAGENET1K_V1: cannot download') as error:
            tiny(backbone_weights='IMAGENET1K_V1')
        message = str(error.value)
        assert 'https://download.pytorch.org/models/resnet18-f37072fd.pth' in message
        assert 'set model.backbone_weights=/path/to/resnet18-f37072fd.pth' in message
        assert 'model.backbone_weights=null' in message
        assert str(fault) in message

    def test_a_download_cut_short_is_named(self, monkeypatch) -> None:
        def get_state_dict(self, **options):
            raise RuntimeError('invalid hash value (expected "f37072fd", got "00000000")')

        monkeypatch.setattr(WeightsEnum, 'get_state_dict', get_state_dict)
        with pytest.raises(UserError, match=r'model\.backbone_weights=IMAGENET1K_V1'):
            tiny(backbone_weights='IMAGENET1K_V1')

    def test_a_missing_file_is_named(self, tmp_path) -> None:
        with pytest.raises(MissingPathError, match=f'model.backbone_weights={tmp_path}/no.pth: no such file'):
            tiny(backbone_weights=f'{tmp_path}/no.pth')

    @pytest.mark.parametrize('kept', [0, 100, 100_000])
    def test_a_damaged_file_is_named(self, weights_file, tmp_path, kept) -> None:
        path = tmp_path / 'damaged.pth'
        path.write_bytes(weights_file.read_bytes()[:kept])
        with pytest.raises(UserError, match=f'model.backbone_weights={path}: not a readable state dict'):
            tiny(backbone_weights=str(path))

    def test_no_code_in_a_file_is_run(self, tmp_path) -> None:
        path = tmp_path / 'pickle.pth'
        torch.save({'conv1.weight': nn.ReLU()}, path)
        with pytest.raises(UserError, match=f'model.backbone_weights={path}: not a readable state dict'):
            tiny(backbone_weights=str(path))

    @pytest.mark.parametrize('backbone_arch', ['resnet34', 'resnet50'])
    def test_a_file_of_another_backbone_is_refused(self, weights_file, backbone_arch) -> None:
        with pytest.raises(UserError, match='does not fit') as error:
            tiny(backbone_arch=backbone_arch, backbone_weights=str(weights_file))
        assert f'model.backbone_weights={weights_file}' in str(error.value)
        assert f'model.backbone_arch={backbone_arch}' in str(error.value)

    def test_a_file_of_something_else_is_refused(self, tmp_path) -> None:
        path = tmp_path / 'else.pth'
        torch.save({'encoder.weight': torch.zeros(3)}, path)
        with pytest.raises(
            UserError,
            match=r'100 parameters are missing \(conv1.weight, .*1 are not known or of another shape \(encoder',
        ):
            tiny(backbone_weights=str(path))

    def test_a_file_without_a_dict_is_refused(self, tmp_path) -> None:
        path = tmp_path / 'list.pth'
        torch.save([torch.zeros(3)], path)
        with pytest.raises(UserError, match=f'model.backbone_weights={path}'):
            tiny(backbone_weights=str(path))


@pytest.mark.parametrize(
    ('options', 'message', 'legal'),
    [
        (
            {'architecture': 'deeplabv3pluss'},
            "model.architecture=deeplabv3pluss is not known. Did you mean 'deeplabv3plus'?",
            [*ARCHITECTURES],
        ),
        (
            {'backbone_arch': 'resnet19'},
            'model.backbone_arch=resnet19 is not known. Did you mean ',
            [*BACKBONES],
        ),
        ({'backbone_arch': 'vgg16'}, 'model.backbone_arch=vgg16', BACKBONES),
        ({'output_stride': 4}, 'model.output_stride=4 is not possible', ('8', '16', '32')),
        ({'output_stride': 0}, 'model.output_stride=0 is not possible', ('8', '16', '32')),
        (
            {'backbone_weights': 'IMAGENET1K_V2'},  # a ResNet-18 has only V1
            "model.backbone_weights=IMAGENET1K_V2 is not known. Did you mean 'IMAGENET1K_V1'?",
            ('DEFAULT', 'null', '/path/to/file.pth'),
        ),
    ],
    ids=str,
)
def test_a_wrong_name_is_answered_with_the_legal_ones(options, message, legal) -> None:
    with pytest.raises(UserError) as error:
        tiny(**options)
    assert message in str(error.value)
    listed = str(error.value).partition('Legal: ')[2].removesuffix('.').split(', ')
    assert set(legal) <= set(listed)


class TestLoss:
    @pytest.mark.parametrize('auxiliary_weight', [0.4, 1.0])
    def test_auxiliary_loss_is_added_in_training(self, auxiliary_weight) -> None:
        model = tiny('pspnet', auxiliary_weight=auxiliary_weight, **WEIGHTS)
        without_dropout(model)
        batch = batch_of()
        logits = model(batch)
        loss = model.loss(logits, batch)
        expected_logits, auxiliary_logits = (upsample(one, batch[0]) for one in model.module.heads(batch[0]))
        assert auxiliary_logits.shape == logits.shape and not torch.allclose(auxiliary_logits, logits, atol=0.01)
        main = segmentation_loss(expected_logits, batch[1], **WEIGHTS)
        auxiliary = segmentation_loss(auxiliary_logits, batch[1], **WEIGHTS)['total']
        assert set(loss) == {'total', 'cross_entropy', 'dice', 'auxiliary'}
        torch.testing.assert_close(logits, expected_logits)
        torch.testing.assert_close(loss['auxiliary'], auxiliary)
        torch.testing.assert_close(loss['total'], main['total'] + auxiliary_weight * auxiliary)
        torch.testing.assert_close(loss['dice'], main['dice'])

    def test_auxiliary_logits_come_from_stage_3(self) -> None:
        network = tiny('pspnet', auxiliary_weight=0.4).module.eval()
        features = [torch.randn(2, count, 6, 6) for count in network.backbone.channels]
        expected = network.auxiliary(features)
        for stage in (0, 1, 3):
            features[stage] = torch.randn_like(features[stage])
        assert torch.equal(network.auxiliary(features), expected)
        features[2] = torch.randn_like(features[2])
        assert not torch.allclose(network.auxiliary(features), expected)

    def test_no_auxiliary_in_evaluation(self) -> None:
        model = tiny('pspnet', auxiliary_weight=0.4, **WEIGHTS)
        calls = []
        model.module.auxiliary.register_forward_hook(lambda *_: calls.append(1))
        batch = batch_of()
        model.loss(model(batch), batch)
        assert len(calls) == 1
        model.eval()
        logits = model(batch)
        loss = model.loss(logits, batch)
        assert len(calls) == 1
        assert set(loss) == {'total', 'cross_entropy', 'dice'}
        torch.testing.assert_close(loss['total'], segmentation_loss(logits, batch[1], **WEIGHTS)['total'])

    def test_no_auxiliary_by_default(self) -> None:
        model = tiny()
        assert model.module.auxiliary is None
        assert set(model.loss(model(batch_of()), batch_of())) == {'total', 'cross_entropy'}

    def test_auxiliary_head_learns(self) -> None:
        model = tiny('pspnet', auxiliary_weight=0.4)
        model.loss(model(batch_of()), batch_of())['total'].backward()
        assert model.module.auxiliary.conv_seg.weight.grad.any()
        assert all(parameter.grad is not None for parameter in model.parameters())

    @pytest.mark.parametrize('auxiliary_weight', [0.0, 0.4])
    def test_forward_returns_one_tensor_and_loss_takes_mixups_targets(self, auxiliary_weight) -> None:
        model = tiny('pspnet', auxiliary_weight=auxiliary_weight, **WEIGHTS)
        without_dropout(model)
        images, labels = batch_of()
        logits = model((images, labels))
        assert isinstance(logits, Tensor)
        one_hot = ensure_targets_one_hot(logits, labels)
        dense = 0.3 * one_hot + 0.7 * one_hot.flip(0)
        loss = model.loss(logits, (images, dense))
        main = segmentation_loss(logits, dense, **WEIGHTS)['total']
        expected = main + auxiliary_weight * loss.get('auxiliary', torch.zeros(()))
        torch.testing.assert_close(loss['total'], expected)
        loss['total'].backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    @pytest.mark.parametrize('algorithm', [composer.algorithms.MixUp, MixUp])
    def test_mixup_trains_it(self, algorithm, monkeypatch) -> None:
        """Through the algorithm's own code, with a ratio and an order that are known."""
        monkeypatch.setattr('composer.algorithms.mixup.mixup._gen_mixing_coef', lambda alpha: 0.3)
        monkeypatch.setattr(torch, 'randperm', lambda count, device=None: torch.tensor([1, 0]))
        model = tiny('pspnet', auxiliary_weight=0.4, **WEIGHTS)
        without_dropout(model)
        images, labels = batch_of()
        state = State(model=model, rank_zero_seed=0, run_name='test', device=DeviceCPU())
        state.batch = images, labels
        logger, mixup = Logger(state), algorithm(alpha=0.5)
        mixup.apply(Event.BEFORE_FORWARD, state, logger)
        state.outputs = model(state.batch)
        if mixup.match(Event.BEFORE_LOSS, state):
            mixup.apply(Event.BEFORE_LOSS, state, logger)
        loss = model.loss(state.outputs, state.batch)

        one_hot = F.one_hot(labels + 1, CLASSES + 1).movedim(-1, 1)[:, 1:]
        dense = 0.7 * one_hot + 0.3 * one_hot.flip(0)
        outputs = model.module.heads(0.7 * images + 0.3 * images.flip(0))
        main, auxiliary = (segmentation_loss(logits, dense, **WEIGHTS)['total'] for logits in outputs)
        torch.testing.assert_close(loss['total'], main + 0.4 * auxiliary)

    def test_ignore_index_reaches_loss_and_metrics(self) -> None:
        model = tiny(ignore_index=3)
        batch = batch_of()[0], batch_of()[1].clamp(min=0)
        logits = model(batch)
        expected = F.cross_entropy(logits, batch[1], ignore_index=3)
        torch.testing.assert_close(model.loss(logits, batch)['total'], expected)
        for metric in model.get_metrics().values():
            model.update_metric(batch, model.eval_forward(batch, logits), metric)
        predicted, labels = logits.argmax(dim=1)[batch[1] != 3], batch[1][batch[1] != 3]
        assert model.val_metrics['MIoU'].confusion.trace() == (predicted == labels).sum()
        assert model.val_metrics['MIoU'].confusion.sum() == len(labels)
        torch.testing.assert_close(model.val_metrics['CrossEntropy'].compute(), expected)


class TestPrecision:
    def test_bfloat16_is_close_to_float32(self) -> None:
        model = tiny('deeplabv3plus', init_fn=published_init).eval()
        images, _ = batch_of()
        with torch.no_grad():
            full = model((images, None))
            model.autocast = torch.bfloat16
            half = model((images, None))
        assert half.dtype == torch.float32
        difference = (half - full).norm() / full.norm()
        assert 1e-4 < difference < 0.05

    def test_autocast_covers_the_network_and_not_the_loss(self) -> None:
        model = tiny('pspnet', autocast=torch.bfloat16, auxiliary_weight=0.4)
        seen = {}
        for name in ('backbone.conv1', 'classifier.conv_seg', 'auxiliary.conv_seg'):
            layer = model.module.get_submodule(name)
            layer.register_forward_hook(lambda *args, name=name: seen.update({name: args[2].dtype}))
        batch = batch_of()
        logits = model(batch)
        assert set(seen.values()) == {torch.bfloat16} and len(seen) == 3
        loss = model.loss(logits, batch)
        assert {value.dtype for value in loss.values()} == {torch.float32}
        loss['total'].backward()
        assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}

    @pytest.mark.parametrize('outer', [False, True])
    def test_without_autocast_the_callers_precision_holds(self, outer) -> None:
        """Composer puts its own autocast around forward."""
        model = tiny()
        seen = []
        model.module.backbone.conv1.register_forward_hook(lambda *args: seen.append(args[2].dtype))
        with torch.autocast('cpu', torch.bfloat16) if outer else nullcontext():
            assert model(batch_of()).dtype == torch.float32
        assert seen == [torch.bfloat16 if outer else torch.float32]

    def test_logits_are_resized_in_float32(self) -> None:
        """Interpolated in bfloat16 neighbouring pixels would collapse onto a few values."""
        model = tiny('upernet', autocast=torch.bfloat16).eval()
        with torch.no_grad():
            logits = model(batch_of((64, 64)))
        assert not torch.equal(logits, logits.bfloat16().float())


class TestMetrics:
    def test_training_metrics_are_asked_for(self) -> None:
        assert tiny().get_metrics(is_train=True) == {}
        assert set(tiny(train_metrics=True).get_metrics(is_train=True)) == {'CrossEntropy', 'MIoU'}
        assert set(tiny().get_metrics(is_train=False)) == {'CrossEntropy', 'MIoU'}

    def test_training_and_evaluation_count_apart(self) -> None:
        model = tiny(train_metrics=True)
        train, val = model.get_metrics(is_train=True), model.get_metrics(is_train=False)
        assert not {id(metric) for metric in train.values()} & {id(metric) for metric in val.values()}

    def test_values(self) -> None:
        """Class 0 is 2 of 3 right and once too many: 2/4; class 1 is 1 of 2: 1/3; 2…4 do not occur; one is ignored."""
        model = tiny()
        labels = torch.tensor([[[0, 0, 0, 1, 1, -1]]])
        predicted = torch.tensor([[[0, 0, 1, 0, 1, 0]]])
        logits = 10.0 * F.one_hot(predicted, CLASSES).movedim(-1, 1)
        metrics = model.get_metrics()
        for metric in metrics.values():
            model.update_metric((None, labels), model.eval_forward((None, labels), logits), metric)
        assert metrics['MIoU'].compute().item() == pytest.approx(100 * (1 / 2 + 1 / 3) / 2, rel=1e-4)
        expected = F.cross_entropy(logits, labels, ignore_index=-1)
        torch.testing.assert_close(metrics['CrossEntropy'].compute(), expected)


def test_only_training_is_compiled() -> None:
    """Backbone and heads, to the same logits and gradients; an evaluation of any size compiles nothing more."""
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled, plain = (
        tiny('deeplabv3plus', auxiliary_weight=0.4, full_size_logits=False, compile_options=options, **WEIGHTS)
        for options in ({'backend': backend}, None)
    )
    plain.load_state_dict(compiled.state_dict())
    batch, values = batch_of(), []
    for model in (compiled, plain):
        without_dropout(model)
        loss = model.loss(model(batch), batch)['total']
        loss.backward()
        values.append((loss.detach(), *(parameter.grad for parameter in model.parameters())))
    torch.testing.assert_close(values[0], values[1])
    assert len(graphs) == 1
    compiled.eval()
    with torch.no_grad():
        for size in ((32, 48), (40, 24)):
            compiled.eval_forward(batch_of(size))
    assert len(graphs) == 1


def test_memory_of_an_evaluation_does_not_grow_with_the_batch(monkeypatch) -> None:
    """Counted at every operator; full-size logits of 32 images would be 79 MB."""
    monkeypatch.setattr('segrecipes.evaluation.protocols.EVALUATED_AT_ONCE', 4 * 64**2)
    network: Any = nn.Conv2d(3, 150, 4, stride=4)
    network.logits = network.forward
    model = SegmentationModel(network, 150, loss_fn=dict).eval()
    peaks = []
    for count in (8, 32):
        batch = torch.zeros(count, 3, 64, 64), torch.zeros(count, 64, 64, dtype=torch.int64)
        with torch.no_grad(), MemTracker() as tracker:
            model.eval_forward(batch)
        snapshot = tracker.get_tracker_snapshot('peak')[torch.device('cpu')]
        peaks.append(next(size for kind, size in snapshot.items() if str(kind) == 'Total'))
    assert peaks[0] < 30e6
    assert peaks[1] - peaks[0] < 0.05 * 24 * 150 * 64**2 * 4  # of the full-size logits of the images that are more


def test_class_names() -> None:
    assert tiny(class_names=['a', 'b', 'c', 'd', 'e']).class_names == ('a', 'b', 'c', 'd', 'e')
    assert tiny().class_names == ('class 0', 'class 1', 'class 2', 'class 3', 'class 4')


def test_batch_norm_is_not_synchronised_on_one_rank() -> None:
    assert not [m for m in tiny(sync_bn=True).modules() if isinstance(m, nn.SyncBatchNorm)]


def network_of(architecture: str, backbone_arch: str, **options: Any) -> Any:
    """In evaluation mode, with batch norms that are far from the identity."""
    network = build_network(
        architecture=architecture, backbone_arch=backbone_arch, num_classes=CLASSES, head_channels=8, **options
    )
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.get_buffer('running_mean'), -0.5, 0.5)
            nn.init.uniform_(norm.get_buffer('running_var'), 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
    return network.eval()


class TestForInference:
    @pytest.mark.parametrize('backbone_arch', ['resnet18', 'resnet50', 'resnetv1c18'])
    @pytest.mark.parametrize('architecture', ARCHITECTURES)
    def test_the_same_logits_without_batch_norm(self, architecture, backbone_arch) -> None:
        network = network_of(architecture, backbone_arch, auxiliary=True)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        faster = for_inference(network)
        for size in [(64, 64), (33, 47)]:
            images, _ = batch_of(size)
            with torch.no_grad():
                expected, logits = network(images), faster(images)
            assert logits.dtype == torch.float32 and logits.shape == expected.shape
            assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()
            assert expected.std(dim=(2, 3)).min() > 0  # looks at the image

        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        assert len(norms) > 20
        assert not [module for module in faster.modules() if isinstance(module, nn.BatchNorm2d)]
        after = network.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        assert network.auxiliary is not None and faster.auxiliary is None
        assert all(parameter.requires_grad for parameter in network.parameters())
        assert not any(parameter.requires_grad for parameter in faster.parameters())

    def test_a_network_in_training_stays_so(self) -> None:
        network = network_of('pspnet', 'resnet18').train()
        faster = for_inference(network)
        assert all(module.training for module in network.modules())
        assert not faster.training
        images, _ = batch_of()
        assert torch.equal(faster(images), faster(images))  # no dropout

    def test_weights_are_channels_last_and_its_own(self) -> None:
        network = network_of('deeplabv3plus', 'resnet18')
        faster = for_inference(network)
        weights = [module.weight for module in faster.modules() if isinstance(module, nn.Conv2d)]
        assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
        own = {parameter.data_ptr() for parameter in network.parameters()}
        assert not own & {parameter.data_ptr() for parameter in faster.parameters()}


def test_unwrapped_is_the_model_with_and_without_ranks() -> None:
    model, unwrapped = tiny(), STRATEGIES['ddp'].unwrapped
    assert unwrapped(model) is model
    dist.initialize_dist(get_device('cpu'))  # if no other test has done so
    assert unwrapped(nn.parallel.DistributedDataParallel(model)) is model


def model_input(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 64 - 2


class TestProtocol:
    """Images of several sizes, each shown to the network as the protocol has it."""

    SIZES = ((40, 60), (64, 33))

    def model_and_batch(self, name: str, size: int = 32) -> tuple[Any, Any, list[np.ndarray]]:
        protocol = get_protocol(name, size)
        model = tiny('deeplabv3plus', protocol=protocol, init_fn=published_init).eval()
        rng = np.random.default_rng(0)
        images = [
            np.kron(rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3)), np.ones((8, 8, 1)))[:height, :width]
            for height, width in self.SIZES
        ]
        images = [image.astype(np.uint8) for image in images]
        views = [[model_input(view)[0] for view in protocol.views(image)] for image in images]
        return model, (views, [torch.from_numpy(rng.integers(-1, CLASSES, size)) for size in self.SIZES]), images

    @pytest.mark.parametrize('name', [name for name in PROTOCOLS if name != 'mosaic-512sq'])
    def test_predictions_have_the_size_of_the_labels(self, name) -> None:
        model, batch, _ = self.model_and_batch(name)
        with torch.no_grad():
            outputs = model.eval_forward(batch)
            expected = [model.protocol.labels(model.logits, *pair, size) for *pair, size in zip(batch[0], self.SIZES)]
        assert [found.shape for found in outputs.predictions] == [*self.SIZES]
        assert all(torch.equal(found, labels) for found, labels in zip(outputs.predictions, expected, strict=True))

    def test_an_image_in_its_own_size_has_the_labels_of_its_logits(self) -> None:
        """Short side 40 and no resizing: what the network alone says."""
        model, batch, images = self.model_and_batch('ade20k-ss', 40)
        with torch.no_grad():
            prediction = model.eval_forward(batch).predictions[0]
            expected = model.module(model_input(images[0])).argmax(dim=1)[0]
        assert len(expected.unique()) > 2
        assert (prediction != expected).float().mean() < 0.005  # where two classes are as good as equal

    @pytest.mark.parametrize(
        ('name', 'size', 'names'),
        [
            ('mosaic-512sq', 512, {'CrossEntropy', 'MIoU'}),
            ('mosaic-512sq', 48, {'CrossEntropy', 'MIoU'}),
            ('ade20k-ss', 512, {'mIoU[ade20k-ss]', 'CrossEntropy[ade20k-ss]'}),
            ('ade20k-ss', 48, {'mIoU[ade20k-ss@48]', 'CrossEntropy[ade20k-ss@48]'}),
            ('ade20k-ms', 512, {'mIoU[ade20k-ms]', 'CrossEntropy[ade20k-ms]'}),
            ('slide', 769, {'mIoU[slide@769]', 'CrossEntropy[slide@769]'}),
        ],
    )
    def test_the_metric_is_named_after_it(self, name, size, names) -> None:
        model = tiny(protocol=get_protocol(name, size), train_metrics=True)
        assert set(model.get_metrics()) == names
        assert set(model.get_metrics(is_train=True)) == {'CrossEntropy', 'MIoU'}
        assert str(tiny().protocol) == 'mosaic-512sq'

    def test_metric_over_images_of_several_sizes(self) -> None:
        """Class 0 is 2 of 3 right and once too many: 2/4; class 1 is 1 of 3: 1/4; class 2 never is: 0."""
        model = tiny(protocol=get_protocol('ade20k-ss'))
        labels = [torch.tensor([[0, 0, 0], [1, 1, -1]]), torch.tensor([[1]])]
        outputs = [torch.tensor([[0, 0, 1], [0, 1, 0]], dtype=torch.uint8), torch.tensor([[2]], dtype=torch.uint8)]
        metric = model.get_metrics()['mIoU[ade20k-ss]']
        model.update_metric((None, labels), score_predictions(outputs, labels, CLASSES), metric)
        assert int(metric.images) == 2
        assert metric.compute().item() == pytest.approx(100 * (2 / 4 + 1 / 4 + 0) / 3, rel=1e-4)

    def test_training_is_not_touched(self) -> None:
        batch, values = batch_of(), []
        for protocol in (None, get_protocol('ade20k-ms', 32)):
            torch.manual_seed(0)
            model = tiny('pspnet', protocol=protocol, **WEIGHTS)
            torch.manual_seed(1)  # dropout's
            values.append(model.loss(model(batch), batch)['total'])
        assert torch.equal(*values)
