import inspect
import re
from typing import Any

import composer.algorithms
import composer.callbacks
import composer.loggers
import composer.optim
import pytest
import torch
from composer.algorithms import EMA, SAM, ChannelsLast, LabelSmoothing, MixUp, ProgressiveResizing
from composer.core import Algorithm, Callback
from composer.loggers import InMemoryLogger, LoggerDestination
from composer.optim import ConstantScheduler, CosineAnnealingScheduler, DecoupledSGDW, PolynomialScheduler
from torch.optim import Optimizer

from segrecipes.algorithms import mixup
from segrecipes.algorithms import sgdw as optimizers
from segrecipes.base.errors import UserError
from segrecipes.config.merge import load_config
from segrecipes.training import registry
from segrecipes.training.callbacks.progress import ProgressBar
from segrecipes.training.callbacks.results import ShowResults
from segrecipes.training.callbacks.table import CALLBACKS


def public_classes(module: Any, base: type) -> list[type]:
    found = (getattr(module, name) for name in dir(module) if not name.startswith('_'))
    return [cls for cls in found if inspect.isclass(cls) and issubclass(cls, base) and cls is not base]


CLASSES: list[tuple[str, type]] = [
    *(('algorithms', cls) for cls in public_classes(composer.algorithms, Algorithm)),
    *(('callbacks', cls) for cls in public_classes(composer.callbacks, Callback)),
    ('callbacks', ShowResults),
    *(('loggers', cls) for cls in public_classes(composer.loggers, LoggerDestination)),
    *(('scheduler', cls) for cls in public_classes(composer.optim, object) if cls.__name__.endswith('Scheduler')),
    *(('optimizer', cls) for cls in public_classes(composer.optim, Optimizer)),
    *(('optimizer', cls) for cls in public_classes(torch.optim, Optimizer)),
]
CLASSES = [
    (kind, cls)
    for kind, cls in CLASSES
    # Bases, which build nothing; and the bar, of which there is one of our own.
    if cls.__name__ not in ('ComposerScheduler', 'RemoteUploaderDownloader', 'ProgressBarLogger')
]


OURS = (
    EMA,
    LabelSmoothing,
    MixUp,
    ProgressiveResizing,
    SAM,
    DecoupledSGDW,
)  # there is a subclass of each in this package


def snake(name: str) -> str:
    return re.sub(r'(?<=[a-z])(?=[A-Z])', '_', name).lower()


@pytest.mark.parametrize(
    ('kind', 'cls'), CLASSES, ids=lambda value: value if isinstance(value, str) else value.__name__
)
def test_every_class_is_found_under_its_name(kind: str, cls: type):
    suffix = {'loggers': 'Logger', 'scheduler': 'Scheduler'}.get(kind, '')
    name = cls.__name__.removesuffix(suffix)
    for spelled in (name, name.lower(), name.upper(), snake(name), f'{snake(name)}_'):
        found = registry.find(kind, spelled)
        assert found is cls or (cls in OURS and found.__bases__ == (cls,))


def test_every_row_is_found_under_its_own_name():
    for kind, table in registry.REGISTRY.items():
        squashed = [name.replace('_', '') for name in table]
        assert len(set(squashed)) == len(squashed)
        for name, cls in table.items():
            assert name == name.lower()
            assert registry.find(kind, name) is cls
    sizes = {kind: len(table) for kind, table in registry.REGISTRY.items()}
    assert min(sizes.values()) > 8


@pytest.mark.parametrize(
    ('kind', 'name'),
    [
        ('algorithms', 'mixup'), ('algorithms', 'cutmix'), ('algorithms', 'blurpool'), ('algorithms', 'sam'),
        ('algorithms', 'ema'), ('algorithms', 'channels_last'), ('algorithms', 'progressive_resizing'),
        ('algorithms', 'gradient_clipping'), ('algorithms', 'label_smoothing'),
        ('callbacks', 'lr_monitor'), ('callbacks', 'speed_monitor'), ('callbacks', 'early_stopper'),
        ('callbacks', 'show_results'), ('loggers', 'wandb'), ('loggers', 'tensorboard'), ('loggers', 'mlflow'),
        ('loggers', 'progress_bar'), ('loggers', 'in_memory'), ('scheduler', 'cosine_annealing'),
        ('scheduler', 'polynomial'), ('scheduler', 'multi_step_with_warmup'), ('optimizer', 'decoupled_sgdw'),
        ('optimizer', 'decoupled_adamw'), ('optimizer', 'adamw'), ('optimizer', 'sgd'),
    ],
)  # fmt: skip
def test_names_that_people_will_write(kind: str, name: str):
    assert name in registry.REGISTRY[kind]  # the name that suggestions show


# Faults


@pytest.mark.parametrize(
    ('kind', 'specs', 'fault'),
    [
        (
            'algorithms',
            {'mixupp': {}},
            r"^algorithms\.mixupp is not known\. Did you mean 'mixup'\? Legal: alibi, .*sam",
        ),
        ('callbacks', {'lr_moniter': {}}, r"^callbacks\.lr_moniter is not known\. Did you mean 'lr_monitor'\?"),
        ('loggers', {'qqqq': {}}, r'^loggers\.qqqq is not known\. Legal: .*tensorboard, wandb\.$'),
        (
            'algorithms',
            {'sam': {'roh': 0.1}},
            r"^algorithms\.sam\.roh is not an argument of \w*SAM\. Did you mean 'rho'\?",
        ),
        ('algorithms', {'sam': {'rho': 'big'}}, r"^algorithms\.sam\.rho='big' must be of type float$"),
        ('algorithms', {'sam': {'rho': True}}, r'^algorithms\.sam\.rho=True must be of type float$'),
        ('algorithms', {'sam': {'interval': 1.5}}, r'^algorithms\.sam\.interval=1\.5 must be of type int$'),
        ('algorithms', {'cutmix': {'interpolate_loss': 1}}, r'^algorithms\.cutmix\.interpolate_loss=1 .*type bool$'),
        ('algorithms', {'sam': 3}, r'^algorithms\.sam=3 must be a mapping of arguments, \{\} for none$'),
        (
            'callbacks',
            {'early_stopper': {'monitor': 'MIoU'}},
            r'^callbacks\.early_stopper\.dataloader_label is not set and EarlyStopper needs it$',
        ),
        (
            'callbacks',
            {'show_results': {'num_images': 0.5}},
            r'^callbacks\.show_results\.num_images=0\.5 must be of type int$',
        ),
    ],
)
def test_one_fault(kind: str, specs: dict[str, Any], fault: str):
    [found] = registry.check(kind, specs)
    assert re.search(fault, found)
    with pytest.raises(UserError, match=fault):
        registry.build(kind, specs)


def test_all_faults_are_reported_together():
    specs = {'sma': {}, 'sam': {'roh': 1, 'rho': 'x'}, 'ema': {}, 'mixup': None}
    faults = registry.check('algorithms', specs)
    assert [fault.split(' ')[0] for fault in faults] == [
        'algorithms.sma', 'algorithms.sam.roh', "algorithms.sam.rho='x'",
    ]  # fmt: skip
    with pytest.raises(UserError) as error:
        registry.build('algorithms', specs)
    assert [line.strip() for line in str(error.value).splitlines()] == faults


@pytest.mark.parametrize(
    ('kind', 'spec', 'fault'),
    [
        ('optimizer', {'lr': 0.1}, r'^optimizer\.name is not set\. Legal: .*decoupled_sgdw'),
        ('optimizer', {'name': 'sgdd'}, r"^optimizer\.name=sgdd is not known\. Did you mean 'sgd'\?"),
        ('optimizer', {'name': 'sgd', 'momentun': 0.9}, r"^optimizer\.momentun is .* SGD\. Did you mean 'momentum'\?"),
        ('optimizer', {'name': 'decoupled_sgdw', 'params': []}, r'^optimizer\.params is not an argument of'),
        ('optimizer', {'name': 'sgd', 'momentum': 'x'}, r"^optimizer\.momentum='x' must be of type float$"),
        ('scheduler', {'name': 'multi_step'}, r'^scheduler\.milestones is not set and MultiStepScheduler needs it$'),
        ('scheduler', {'name': 'polynomal'}, r"^scheduler\.name=polynomal is .* Did you mean 'polynomial'\?"),
    ],
)
def test_faults_of_the_optimizer_and_the_scheduler(kind: str, spec: dict[str, Any], fault: str):
    [found] = registry.check_one(kind, spec)
    assert re.search(fault, found)
    with pytest.raises(UserError, match=fault):
        registry.build_one(kind, spec, [torch.nn.Parameter(torch.zeros(1))])


def test_what_a_constructor_says_names_the_arguments():
    with pytest.raises(UserError, match=r"^optimizer=\{'lr': -1\.0\}: Invalid learning rate: -1\.0$"):
        registry.build_one('optimizer', {'name': 'sgd', 'lr': -1.0}, [torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(UserError, match=r"^algorithms\.ema=\{'half_life': '5 parsecs'\}: .*parsecs"):
        registry.build('algorithms', {'ema': {'half_life': '5 parsecs'}})


# Objects


def test_null_takes_a_row_away_and_order_stays():
    built = registry.build('algorithms', {'mixup': {'alpha': 0.4}, 'sam': None, 'ChannelsLast': {}})
    assert [type(algorithm) for algorithm in built] == [mixup.MixUp, ChannelsLast]
    assert built[0].alpha == 0.4
    for nothing in (None, {}, {'nonsense': None}):
        assert registry.check('algorithms', nothing) == []
        assert registry.build('algorithms', nothing) == []
    for kind in ('optimizer', 'scheduler'):
        assert registry.check_one(kind, None) == []
        assert registry.build_one(kind, None) is None


def test_optimizer_without_its_null_arguments():
    parameter = torch.nn.Parameter(torch.zeros(1))
    spec = {'name': 'adamw', 'lr': 0.01, 'weight_decay': 0.02, 'momentum': None, 'betas': None}
    optimizer = registry.build_one('optimizer', spec, [parameter])
    [group] = optimizer.param_groups
    assert type(optimizer) is torch.optim.AdamW
    assert (group['lr'], group['weight_decay'], group['betas']) == (0.01, 0.02, (0.9, 0.999))
    assert group['params'][0] is parameter
    assert spec['momentum'] is None  # the config is left as it was


def test_published_optimizer(tmp_path):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = registry.build_one('optimizer', recipe('null', tmp_path).optimizer, [parameter])
    [group] = optimizer.param_groups
    assert type(optimizer) is optimizers.DecoupledSGDW
    assert (group['lr'], group['momentum'], group['weight_decay']) == (0.08, 0.9, 5e-5)


def test_scheduler_with_arguments():
    scheduler = registry.build_one('scheduler', {'name': 'Polynomial', 'power': 0.9, 'alpha_f': 0.01, 't_max': None})
    assert type(scheduler) is PolynomialScheduler
    assert (scheduler.power, scheduler.alpha_f, str(scheduler.t_max)) == (0.9, 0.01, '1dur')
    assert type(registry.build_one('scheduler', {'name': 'constant'})) is ConstantScheduler


def test_loggers():
    [bar, memory] = registry.build('loggers', {'progress_bar': {}, 'in_memory': {}})
    assert type(bar) is ProgressBar
    assert type(memory) is InMemoryLogger


def recipe(name: str, folder: Any) -> Any:
    (folder / 'run.yaml').write_text('train_dataset: {path: a}\neval_dataset: {path: a}\n')
    return load_config([str(folder / 'run.yaml'), f'recipe_name={name}'])[0]


@pytest.mark.parametrize(
    ('name', 'ema', 'sam', 'alpha', 'scheduler'),
    [
        ('null', None, None, None, CosineAnnealingScheduler),
        ('mild', ('1000ba', '10ba'), None, None, type(None)),
        ('medium', ('1000ba', '10ba'), (0.3, 2), 0.2, type(None)),
        ('hot', ('2000ba', '1ba'), (0.3, 1), 0.5, CosineAnnealingScheduler),
    ],
)
def test_published_recipes(name: str, ema: Any, sam: Any, alpha: float | None, scheduler: type, tmp_path):
    config = recipe(name, tmp_path)
    built: dict[type, Any] = {
        next((cls for cls in OURS if isinstance(algorithm, cls)), type(algorithm)): algorithm
        for algorithm in registry.build('algorithms', config.algorithms)
    }
    wanted = [(ChannelsLast, ema), (EMA, ema), (SAM, sam), (MixUp, alpha)]
    assert list(built) == [cls for cls, value in wanted if value]
    assert type(registry.build_one('scheduler', config.scheduler)) is scheduler
    if ema:
        assert (built[EMA].half_life, built[EMA].update_interval.to_timestring()) == ema
    if sam:
        assert (built[SAM].rho, built[SAM].interval) == sam
    if alpha:
        assert built[MixUp].alpha == alpha


class TakesAnything(Callback):
    def __init__(self, **given: Any):
        self.given = given


def test_what_takes_any_argument_is_given_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CALLBACKS, 'takes_anything', TakesAnything)
    specs = {'takes_anything': {'entity': 'me', 'rhho': 1}}
    assert registry.check('callbacks', specs) == []
    (made,) = registry.build('callbacks', specs)
    assert made.given == specs['takes_anything']
