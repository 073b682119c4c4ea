"""An evaluation without a training: of a checkpoint's averaged weights, and of its raw ones."""

from composer import Trainer
from composer.core import Precision, Timestamp

from segrecipes.checkpoints.fit import load_weights
from segrecipes.checkpoints.read import Checkpoint
from segrecipes.models.network import for_inference
from segrecipes.training.callbacks.results import ShowResults


def evaluate(trainer: Trainer, checkpoint: Checkpoint | None) -> None:
    """Evaluate a checkpoint's averaged weights, if it has them, and its raw ones; without one, the model as it is."""
    results = shown_results(trainer)
    if results is None or checkpoint is None:
        trainer.eval()
        return
    trainer.state.timestamp = Timestamp(epoch=checkpoint.epoch, batch=checkpoint.batch)
    model, folder = results.strategy.unwrapped(trainer.state.model), results.folder
    network = model.module
    # Reduced precision would round otherwise than in training's own evaluations
    exact = trainer.state.precision == Precision.FP32 and model.autocast is None
    for weights in ('raw',) if checkpoint.ema is None else ('ema', 'raw'):
        load_weights(network, checkpoint.choose(weights), f'load_path={checkpoint.path}')
        model.module = for_inference(network) if exact else network
        results.weights, results.folder = weights, folder and f'{folder}/{weights}'
        trainer.eval()
    model.module, results.folder = network, folder


def shown_results(trainer: Trainer) -> ShowResults | None:
    return next((callback for callback in trainer.state.callbacks if isinstance(callback, ShowResults)), None)
