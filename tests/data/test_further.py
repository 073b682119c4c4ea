"""Transforms of albumentations after ours, from the sample's own generator."""

import builtins
import random
from typing import Any

import numpy as np
import pytest

from segrecipes.base.errors import UserError
from segrecipes.data.augment import TrainTransform, sample_rng
from segrecipes.data.further import Further, faults_of

KEY = 'train_dataset.albumentations'
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
MASK = np.random.default_rng(1).integers(0, 5, (4, 4)).repeat(10, 0).repeat(10, 1).astype(np.uint8)

needs_package = pytest.mark.usefixtures('package')


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv('NO_ALBUMENTATIONS_UPDATE', '1')
    return pytest.importorskip('albumentations')


def applied(specs: list[Any], seed: int = 0, image: np.ndarray = IMAGE) -> tuple[np.ndarray, np.ndarray]:
    return Further(specs)(image, MASK, np.random.default_rng(seed))


@needs_package
def test_it_is_what_the_package_does(package: Any) -> None:
    specs = [{'name': 'random_brightness_contrast', 'p': 0.7}, {'name': 'Rotate', 'limit': [-40, 40], 'p': 0.8}]
    compose = package.Compose(
        [package.RandomBrightnessContrast(p=0.7), package.Rotate(limit=(-40, 40), p=0.8, fill_mask=255)]
    )
    changed = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        compose.set_random_state(rng, random.Random(int(rng.integers(2**63))))
        expected = compose(image=IMAGE, mask=MASK)
        image, mask = applied(specs, seed)
        assert np.array_equal(image, expected['image']) and np.array_equal(mask, expected['mask'])
        changed += not np.array_equal(mask, MASK)
    assert changed > 3


@needs_package
@pytest.mark.parametrize(
    'spec',
    [
        {'name': 'Affine', 'rotate': [40, 45], 'scale': [0.5, 0.6], 'p': 1},
        {'name': 'ElasticTransform', 'alpha': 60, 'p': 1},
        {'name': 'OneOf', 'p': 1, 'transforms': [
            {'name': 'Perspective', 'scale': [0.2, 0.3], 'p': 1, 'fit_output': True},
            {'name': 'Affine', 'translate_percent': [0.2, 0.3], 'p': 1},
        ]},
    ],
    ids=lambda spec: spec['name'],
)  # fmt: skip
def test_masks_stay_indices_and_what_is_empty_is_ignored(spec: dict[str, Any]) -> None:
    found = [np.unique(applied([spec], seed)[1]) for seed in range(10)]
    assert {int(label) for labels in found for label in labels} == {*range(5), 255}


@needs_package
def test_a_hole_in_the_image_leaves_the_mask() -> None:
    spec = {'name': 'CoarseDropout', 'num_holes_range': [4, 4], 'p': 1}
    image, mask = applied([spec])
    assert not np.array_equal(image, IMAGE) and np.array_equal(mask, MASK)
    assert (applied([{**spec, 'fill_mask': 255}])[1] == 255).any()


@needs_package
def test_a_sample_depends_on_its_seed_epoch_and_name_alone() -> None:
    specs = [{'name': 'HueSaturationValue'}, {'name': 'GridDistortion'}, {'name': 'GaussNoise'}]
    transform = TrainTransform(48, 40, albumentations=specs)

    def sample(*key: Any, transform: TrainTransform = transform) -> bytes:
        image, mask = transform(IMAGE, MASK, sample_rng(*key))
        assert (image.shape, image.dtype, mask.shape, mask.dtype) == ((40, 40, 3), np.uint8, (40, 40), np.uint8)
        return image.tobytes() + mask.tobytes()

    first = sample(1, 2, 'a')
    random.seed(3)
    np.random.seed(3)
    assert sample(1, 0, 'a') != first
    assert sample(1, 2, 'a') == first  # whatever came between
    assert sample(1, 2, 'a', transform=TrainTransform(48, 40, albumentations=specs)) == first
    assert len({sample(1, epoch, name) for epoch in range(4) for name in 'abc'}) == 12


@needs_package
def test_transforms_draw_on_and_not_all_the_same() -> None:
    """One generator through all of them: that one is applied says nothing of the next."""
    specs = [{'name': 'HorizontalFlip', 'p': 0.5}, {'name': 'VerticalFlip', 'p': 0.5}]
    ways = [MASK, MASK[:, ::-1], MASK[::-1], MASK[::-1, ::-1]]
    found = [applied(specs, seed)[1] for seed in range(200)]
    counts = [sum(np.array_equal(way, mask) for mask in found) for way in ways]
    assert sum(counts) == 200 and min(counts) > 30  # 50 ± 6 each


@needs_package
@pytest.mark.parametrize(
    ('specs', 'messages'),
    [
        ('CLAHE', [f"{KEY}='CLAHE' must be a list of transforms, such as [{{name: CLAHE, p: 0.2}}]"]),
        (['CLAHE'], [f"{KEY}[0]='CLAHE' must be a mapping with the name of a transform, such as {{name: CLAHE}}"]),
        ([{'name': 'CLAHEE'}], [f"{KEY}[0].name=CLAHEE is not known. Did you mean 'CLAHE'? Legal: AdditiveNoise, "]),
        ([{'name': 'os'}], [f'{KEY}[0].name=os is not known.']),
        ([{'name': 'CLAHE'}, {'name': 'CLAHE', 'clip': 2}], [
            f"{KEY}[1].clip is not an argument of CLAHE. Did you mean 'clip_limit'?",
        ]),
        ([{'name': 'CLAHE', 'p': 'often'}, {'name': 'Blur', 'p': 3}], [
            f"{KEY}[0]={{'name': 'CLAHE', 'p': 'often'}}: ", f"{KEY}[1]={{'name': 'Blur', 'p': 3}}: ",
        ]),
        ([{'name': 'OneOf', 'transforms': [{'name': 'Blurr'}]}], [
            f"{KEY}[0].transforms[0].name=Blurr is not known. Did you mean 'Blur'?",
        ]),
    ],
)  # fmt: skip
def test_all_that_is_wrong_is_said(specs: Any, messages: list[str]) -> None:
    found = [*faults_of(specs, KEY)]
    assert len(found) == len(messages)
    for fault, message in zip(found, messages):
        assert fault.startswith(message)
        assert '\n' not in fault


@needs_package
@pytest.mark.parametrize(
    ('spec', 'message'),
    [
        (
            {'name': 'RandomCrop', 'height': 8, 'width': 8, 'p': 1},
            r'image \(8, 8, 3\) uint8; it must stay \(40, 40, 3\)',
        ),
        ({'name': 'ToFloat', 'p': 1}, r'image \(40, 40, 3\) float32; it must stay \(40, 40, 3\) uint8'),
    ],
    ids=['size', 'type'],
)
def test_another_size_or_type_is_an_error(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f'^{KEY}: {spec["name"]} make the {message}'):
        applied([spec])


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only who asks for it needs it."""
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith('albumentations'):
            raise ModuleNotFoundError(f'No module named {name!r}')
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', missing)
    assert [*faults_of([], KEY)] == []
    TrainTransform(48, 40)(IMAGE, MASK, np.random.default_rng(0))
    assert [*faults_of([{'name': 'CLAHE'}], KEY)] == [
        f"{KEY}[0] needs a package that is not installed (No module named 'albumentations'): "
        'pip install albumentations==2.0.8'
    ]
