"""What a GPU would refuse or wait for, found on a CPU that plays one; and, where there is a GPU, on it."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from composer.core import Callback
from helpers.networks import build_model
from helpers.pretend_gpu import OnDevice, Read, on_device, pretended_gpu
from helpers.runs import arguments, assert_same_weights, evaluations, launch, run

from segrecipes.base.device import copied_ahead, full_float32
from segrecipes.base.errors import UserError
from segrecipes.evaluation.metrics import score
from segrecipes.models.losses.segmentation import segmentation_loss
from segrecipes.training import run as main_module
from segrecipes.training.tasks.segmentation import SegmentationModel

RECIPES = ('null', 'mild', 'medium', 'hot')
ON_GPU = ('precision=fp32', 'device_train_microbatch_size=2', 'max_duration=3ba')

pytestmark = pytest.mark.usefixtures('clean_shared_memory')


def pretended(argv: list[str]) -> tuple[Any, list[Read]]:
    with pretended_gpu() as reads:
        trainer = run(argv)
        return trainer, list(reads)


def own(reads: list[Read]) -> list[Read]:
    """Those of this package."""
    return [read for read in reads if read.file.startswith('segrecipes/')]


# The pretence


def test_what_is_computed_from_the_devices_is_the_devices() -> None:
    images, weight = on_device(torch.rand(2, 3, 4, 4)), torch.nn.Parameter(torch.rand(1, 3, 1, 1))
    found = torch.nn.functional.conv2d(images, weight).relu()
    total = torch.zeros(1)
    total = total + found.sum()
    assert type(found) is type(total) is type(found[0]) is OnDevice
    assert type(images.cpu()) is torch.Tensor
    with pretended_gpu():
        assert type(torch.zeros(1, device=images.device)) is OnDevice
        assert type(torch.zeros(1)) is torch.Tensor


@pytest.mark.parametrize(
    ('read', 'what'),
    [
        (lambda x: x.sum().item(), 'item'),
        (lambda x: bool(x.sum() > 0), 'bool'),
        (lambda x: x.cpu(), 'cpu'),
        (lambda x: x.tolist(), 'tolist'),
        (lambda x: x[x > 0], 'index by mask'),
        (lambda x: x[torch.tensor([0])], "index of the host's"),
    ],
)
def test_a_read_is_recorded(read: Any, what: str) -> None:
    with pretended_gpu() as reads:
        read(on_device(torch.ones(2)))
    assert [(found.function, found.what) for found in reads] == [('<lambda>', what)]


def test_a_collective_refuses_the_hosts() -> None:
    with pretended_gpu(), pytest.raises(RuntimeError, match='No backend type associated with device type cpu'):
        torch.distributed.all_reduce(torch.zeros(1))


# A run


@pytest.mark.parametrize('recipe', RECIPES)
def test_a_step_waits_only_where_composer_does(recipe: str, synthetic_folder: Path) -> None:
    """Nothing of this package reads the device or reduces on the host; what Composer does, step by step."""
    trainer, reads = pretended(arguments(synthetic_folder, f'recipe_name={recipe}', *ON_GPU, 'eval_interval=0ba'))
    assert trainer.state.timestamp.batch == 3
    assert own(reads) == []
    passes = {'null': 3, 'mild': 3, 'medium': 4, 'hot': 6}[recipe]  # of three steps; SAM takes two, or every other one
    assert Counter((read.function, read.what) for read in reads) == {
        ('_distribute_and_get_random_seed', 'item'): 1,  # once a run
        ('_iter_dataloader', 'item'): 3,  # whether all ranks have a batch
        ('_train_microbatches', 'item'): passes,  # images of the batch over all ranks
        ('<lambda>', 'item'): passes,  # the loss, for the optimizer's closure
        ('<dictcomp>', 'cpu'): 3 * 3,  # total, cross entropy and Dice, for the loggers
        ('_accumulate_time_across_ranks', 'cpu'): 3 * 3,  # images, tokens and seconds
    }


@pytest.mark.parametrize('protocol', ['mosaic-512sq', 'ade20k-ms'])
def test_an_evaluation_reads_scores_and_the_pictures_it_keeps(
    protocol: str, synthetic_folder: Path, tmp_path: Path
) -> None:
    _, reads = pretended(
        arguments(
            synthetic_folder, *ON_GPU, f'eval_protocol={protocol}', f'save_folder={tmp_path}', 'save_best=false',
            'eval_interval=1dur', 'callbacks={show_results: {num_images: 1}}',
        )
    )  # fmt: skip
    found = Counter((read.function, read.what) for read in own(reads) if not read.file.endswith('history.py'))
    batches = {'mosaic-512sq': 3, 'ade20k-ms': 5}[protocol]  # two images each, or of several sizes one
    kept = found['to_pixels', 'cpu']
    assert found == {
        ('eval_after_forward', 'tolist'): batches,
        ('to_pixels', 'cpu'): kept,
        ('arrays', 'cpu'): 2 * kept,
        ('eval_end', 'int'): 2,
        ('eval_end', 'cpu'): 1,
    }
    assert 1 <= kept <= 5


@pytest.mark.slow
def test_every_recipe_on_two_ranks(synthetic_folder: Path, tmp_path: Path) -> None:
    """Each with a process group that refuses the host's tensors; whole runs with evaluation and checkpoint."""
    argv = arguments(
        synthetic_folder, *ON_GPU, 'eval_interval=1dur', 'train_dataset.num_workers=1', yaml='yamls/pspnet.yaml'
    )
    script = ('tests/helpers/pretend_gpu.py', ','.join(RECIPES), str(tmp_path), *argv)
    done = launch('composer', '-n', '2', '--stdout', f'{tmp_path}/{{rank}}.log', *script, timeout=600)
    assert done.returncode == 0, done.stderr + (tmp_path / '1.log').read_text()
    for recipe in RECIPES:
        assert (tmp_path / recipe / 'latest-rank0.pt').exists()
        assert (tmp_path / recipe / 'evaluation' / 'scores.json').exists()


@pytest.mark.filterwarnings('ignore:CUDA out of memory')
def test_auto_microbatching_halves_until_it_fits(synthetic_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is tried again with half; the steps are those of a microbatch that was right from the start."""
    forward, tried = SegmentationModel.forward, []

    def limited(model: Any, batch: Any) -> Any:
        tried.append(len(batch[0]))
        if tried[-1] > 2:
            raise RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB')
        return forward(model, batch)

    monkeypatch.setattr(SegmentationModel, 'forward', limited)
    argv = arguments(synthetic_folder, 'precision=fp32', 'max_duration=2ba', 'eval_interval=0ba', 'recipe_name=mild')
    weights = []
    for size in ('auto', '2'):
        tried.clear()
        trainer, reads = pretended([*argv, f'device_train_microbatch_size={size}'])
        assert trainer.state.device_train_microbatch_size == 2
        assert tried == [4, 2, 2, 2, 2][size == '2' :]
        assert own(reads) == []
        weights.append(trainer.state.model.state_dict())
    first, second = weights
    assert all(torch.equal(first[name], second[name]) for name in first)


# Exactness


@pytest.fixture
def fast_settings() -> Iterator[Any]:
    """As Composer and main.py leave those of a GPU: a function that reads them."""
    settings = (
        (torch.backends.cuda.matmul, 'allow_tf32'), (torch.backends.cudnn, 'allow_tf32'),
        (torch.backends.cudnn, 'benchmark'),
    )  # fmt: skip
    before = [getattr(owner, name) for owner, name in settings]
    for owner, name in settings:
        setattr(owner, name, True)
    yield lambda: [getattr(owner, name) for owner, name in settings]
    for (owner, name), value in zip(settings, before):
        setattr(owner, name, value)


def test_float32_is_exact_for_the_loss_and_the_evaluation_alone(fast_settings: Any, monkeypatch: Any) -> None:
    """Seen where the arithmetic is, and as before afterwards."""
    seen: dict[str, list[bool]] = {}

    def look(where: str, result: Any) -> Any:
        seen[where] = fast_settings()
        return result

    model = build_model(
        architecture='pspnet', backbone_arch='resnet18', num_classes=4, head_channels=8, full_size_logits=False
    )
    model._loss_fn = lambda *args, **kwargs: look('loss', segmentation_loss(*args, **kwargs))
    monkeypatch.setattr('segrecipes.evaluation.protocols.score', lambda *args: look('score', score(*args)))
    model.module.classifier.register_forward_hook(lambda *args: look(f'network, {model.training}', None))
    batch = torch.rand(2, 3, 32, 32), torch.randint(-1, 4, (2, 32, 32))
    model.train().loss(model(batch), batch)['total'].backward()
    model.eval().eval_forward(batch)
    off, on = [False] * 3, [True] * 3
    assert seen == {'network, True': on, 'loss': off, 'network, False': off, 'score': off}
    assert fast_settings() == on
    with pytest.raises(UserError), full_float32():
        raise UserError
    assert fast_settings() == on


@pytest.mark.parametrize(
    ('settings', 'benchmark'),
    [((), True), (('deterministic_mode=true',), False), (('is_train=false',), False)],
    ids=['training', 'deterministic', 'evaluation'],
)
def test_cudnn_tries_its_kernels_in_training(
    settings: tuple[str, ...], benchmark: bool, synthetic_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', not benchmark)
    try:
        run(arguments(synthetic_folder, 'max_duration=1ba', 'eval_interval=0ba', *settings))
        assert torch.backends.cudnn.benchmark is benchmark
        assert torch.are_deterministic_algorithms_enabled() is ('deterministic_mode=true' in settings)
    finally:
        torch.use_deterministic_algorithms(False)


# With a GPU

# The recipes of main.py as they are, but for the size of the network
TRAINED = ('max_duration=3ba', 'eval_interval=1dur', 'precision=amp_bf16', 'device_train_microbatch_size=auto')


class NoWait(Callback):
    """Makes torch raise where the host waits for the GPU between the loader and the loss."""

    def before_forward(self, state: Any, logger: Any) -> None:
        torch.cuda.set_sync_debug_mode('error')

    def before_backward(self, state: Any, logger: Any) -> None:
        torch.cuda.set_sync_debug_mode('default')


def on_gpu(test: Any) -> Any:
    for mark in (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')):
        test = mark(test)
    return test


@on_gpu
@pytest.mark.parametrize('recipe', RECIPES)
def test_a_recipe_trains_on_a_gpu(recipe: str, synthetic_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    build_trainer = main_module.build_trainer

    def with_no_wait(cfg: Any, *, callbacks: Any, **options: Any) -> Any:
        return build_trainer(cfg, callbacks=[*callbacks, NoWait()], **options)

    monkeypatch.setattr(main_module, 'build_trainer', with_no_wait)
    trainer = run(arguments(synthetic_folder, f'recipe_name={recipe}', *TRAINED, f'save_folder={tmp_path}'))
    assert trainer.state.timestamp.batch == 3
    assert (tmp_path / 'evaluation' / 'scores.json').exists()


@on_gpu
@pytest.mark.parametrize('options', ['true', '{mode: reduce-overhead}'])
def test_a_compiled_network_trains_on_a_gpu(options: str, synthetic_folder: Path) -> None:
    run(arguments(synthetic_folder, f'compile={options}', *TRAINED))


@on_gpu
@pytest.mark.parametrize(('recipe', 'yaml'), [('mild', 'deeplabv3'), ('hot', 'deeplabv3'), ('null', 'pspnet')])
def test_deterministic_mode_resumes_bitwise_on_a_gpu(
    recipe: str, yaml: str, synthetic_folder: Path, tmp_path: Path
) -> None:
    argv = arguments(
        synthetic_folder, f'recipe_name={recipe}', 'precision=amp_bf16', 'eval_interval=0ba', 'save_interval=2ba',
        'deterministic_mode=true', 'save_num_checkpoints_to_keep=-1', 'device_train_microbatch_size=4',
        yaml=f'yamls/{yaml}.yaml',
    )  # fmt: skip
    try:
        run([*argv, 'max_duration=4ba', f'save_folder={tmp_path}/whole'])
        start = f'load_path={tmp_path}/whole/ep0-ba2-rank0.pt'
        run([*argv, 'max_duration=4ba', f'save_folder={tmp_path}/resumed', start])
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same_weights(tmp_path / 'whole/ep1-ba4-rank0.pt', tmp_path / 'resumed/ep1-ba4-rank0.pt')


@on_gpu
@pytest.mark.parametrize('protocol', ['mosaic-512sq', 'ade20k-ms'])
def test_a_gpu_scores_as_a_cpu_does(protocol: str, synthetic_folder: Path, tmp_path: Path) -> None:
    run(arguments(synthetic_folder, *TRAINED, f'save_folder={tmp_path}'))
    argv = arguments(
        synthetic_folder, 'is_train=false', 'precision=fp32', f'eval_protocol={protocol}',
        f'load_path={tmp_path}/latest-rank0.pt',
    )  # fmt: skip
    (found,) = evaluations(run(argv))
    done = launch(sys.executable, 'main.py', *argv, CUDA_VISIBLE_DEVICES='')
    assert done.returncode == 0, done.stderr
    on_cpu = f'mean iou {found.mean_iou:.2f}'
    assert on_cpu in done.stdout


@on_gpu
def test_an_evaluation_of_128_images_fits_into_4_gb() -> None:
    model = build_model(backbone_arch='resnet101', full_size_logits=False).cuda().eval()
    batch = torch.rand(128, 3, 512, 512, device='cuda'), torch.zeros(128, 512, 512, dtype=torch.int64, device='cuda')
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.no_grad():
        model.eval_forward(batch)
    assert torch.cuda.max_memory_allocated() - before < 4e9


@on_gpu
def test_batches_are_copied_ahead_as_they_are() -> None:
    batches = [(torch.full((4, 1000, 1000), index).pin_memory(), [f'{index}']) for index in range(6)]

    def reused() -> Iterator[Any]:
        yield from batches

    for index, (images, uids) in enumerate(copied_ahead(reused())):
        assert images.is_cuda and uids == [f'{index}']
        torch.cuda._sleep(10**7)  # the step, which the next copy must not disturb
        assert (images == index).all()
