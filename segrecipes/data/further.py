"""Further augmentation, after ours: a list of transforms of albumentations, an optional package."""

import inspect
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from segrecipes.base.errors import UserError, suggestion
from segrecipes.datasets.row import IGNORED

INSTALL = 'pip install albumentations==2.0.8'


class Further:
    """Transforms of albumentations by name and arguments: ``[{name: CLAHE, p: 0.2}, {name: Affine, shear: 8}, …]``.

    Those that take others have them as a list, ``{name: OneOf, transforms: [{name: Blur}, …]}``. All draw from the
    sample's own generator. What they leave empty of a mask is ignored, unless ``fill_mask`` says otherwise.
    """

    def __init__(self, specs: Sequence[Mapping[str, Any]], key: str = 'train_dataset.albumentations'):
        """
        Raises:
            UserError: the package is missing, a name is unknown, or arguments are not right; ``key`` is the config's.
        """
        self.key = key
        self.names = ', '.join(str(spec['name']) for spec in specs)
        self.compose = _package(key).Compose([_build(spec, f'{key}[{index}]') for index, spec in enumerate(specs)])

    def __call__(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 and (H, W) uint8 → the same.

        Raises:
            UserError: they come back in another size or type.
        """
        self.compose.set_random_state(rng, random.Random(int(rng.integers(2**63))))
        found = self.compose(image=image, mask=mask)
        for name, before in (('image', image), ('mask', mask)):
            after = found[name]
            if (after.shape, after.dtype) != (before.shape, before.dtype):
                raise UserError(
                    f'{self.key}: {self.names} make the {name} {(*after.shape,)} {after.dtype}; it must stay '
                    f'{before.shape} {before.dtype}'
                )
        return np.ascontiguousarray(found['image']), np.ascontiguousarray(found['mask'])


def faults_of(specs: Sequence[Any], key: str) -> Iterator[str]:
    """What is wrong with the specs, as one line each; nothing for an empty list, for which no package is needed."""
    if not isinstance(specs, list):
        yield f'{key}={specs!r} must be a list of transforms, such as [{{name: CLAHE, p: 0.2}}]'
        return
    for index, spec in enumerate(specs):
        try:
            _build(spec, f'{key}[{index}]')
        except UserError as error:
            yield str(error)


def _build(spec: Any, where: str) -> Any:
    if not isinstance(spec, Mapping) or 'name' not in spec:
        raise UserError(f'{where}={spec!r} must be a mapping with the name of a transform, such as {{name: CLAHE}}')
    package = _package(where)
    bases = package.BasicTransform, package.BaseCompose
    found = {name: getattr(package, name) for name in dir(package)}
    table = {name: cls for name, cls in found.items() if inspect.isclass(cls) and issubclass(cls, bases)}
    cls = {name.lower(): cls for name, cls in table.items()}.get(str(spec['name']).replace('_', '').lower())
    if cls is None:
        raise UserError(f'{where}.name={spec["name"]} is not known.{suggestion(spec["name"], table)}')
    arguments = {key: value for key, value in spec.items() if key != 'name'}
    parameters = inspect.signature(cls).parameters
    for name in arguments:
        if name not in parameters:
            raise UserError(f'{where}.{name} is not an argument of {spec["name"]}.{suggestion(name, parameters)}')
    if 'transforms' in arguments:
        inner = arguments['transforms']
        arguments['transforms'] = [_build(one, f'{where}.transforms[{i}]') for i, one in enumerate(inner)]
    # Where it is None, a hole in the image leaves the mask as it is
    if 'fill_mask' in parameters and parameters['fill_mask'].default == 0:
        arguments.setdefault('fill_mask', IGNORED)
    if issubclass(cls, package.BasicTransform):
        arguments['strict'] = True  # it would warn of what is wrong, and go on with its defaults
    try:
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()})
    except (TypeError, ValueError) as error:
        raise UserError(f'{where}={dict(spec)}: {" ".join(str(error).split())}') from error


def _package(where: str) -> Any:
    os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')  # it would ask the network for its latest version
    try:
        import albumentations
    except ImportError as error:
        raise UserError(f'{where} needs a package that is not installed ({error}): {INSTALL}') from error
    return albumentations
