"""Recipes for semantic segmentation with Composer, Streaming and mmsegmentation.

    from segrecipes import evaluate, predict, train

    run = train('deeplabv3', dataset='mydata', recipe_name='mild')
    print(run.scores, run.checkpoint)
    labels = predict(run.checkpoint, 'photos/')['street']

Nothing is imported before it is asked for: ``import segrecipes`` takes a moment.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from segrecipes.base.version import VERSION

if TYPE_CHECKING:
    from segrecipes.api import RunResult, evaluate, predict, train
    from segrecipes.base.errors import UserError
    from segrecipes.evaluation.scores import Scores
    from segrecipes.inference.predictor import Predictor

__version__ = VERSION

__all__ = ['Predictor', 'RunResult', 'Scores', 'UserError', 'evaluate', 'predict', 'train']

_PLACES = {
    'Predictor': 'segrecipes.inference.predictor',
    'RunResult': 'segrecipes.api',
    'Scores': 'segrecipes.evaluation.scores',
    'UserError': 'segrecipes.base.errors',
    'evaluate': 'segrecipes.api',
    'predict': 'segrecipes.api',
    'train': 'segrecipes.api',
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
