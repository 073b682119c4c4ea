"""Evaluate a checkpoint in full resolution, by a protocol whose numbers can be quoted.

    python evaluate.py yamls/deeplabv3.yaml load_path=runs/first/best-rank0.pt protocol=ade20k-ss
    composer -n 2 evaluate.py runs/first/config.yaml load_path=runs/first/best-rank0.pt protocol=all

Takes the keys of main.py, and ``protocol``: one of the table in protocols.py, or all of them. ``out`` is the folder of
the results, by default beside the checkpoint. Of a checkpoint with averaged weights (EMA) both they and the raw ones
are evaluated. Computes in float32 unless ``precision`` is set.
"""

import sys
from collections.abc import Sequence

from composer import Trainer
from composer.core import Precision, Timestamp
from composer.utils import dist
from rich.console import Console

from callbacks import ShowResults
from checkpoints import Checkpoint, load_weights
from config import load_config
from errors import UserError, clean_exit
from model import for_inference, unwrapped
from protocols import PROTOCOLS
from scores import Scores, comparison


def evaluate(trainer: Trainer, checkpoint: Checkpoint | None) -> None:
    """Evaluate a checkpoint's averaged weights, if it has them, and its raw ones; without one, the model as it is."""
    results = shown_results(trainer)
    if results is None or checkpoint is None:
        trainer.eval()
        return
    trainer.state.timestamp = Timestamp(epoch=checkpoint.epoch, batch=checkpoint.batch)
    model, folder = unwrapped(trainer.state.model), results.folder
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


def show(evaluations: Sequence[Scores]) -> None:
    """Print the table of each evaluation, then the figures of all; on rank 0."""
    if evaluations and dist.get_global_rank() == 0:
        console = Console()
        for scores in evaluations:
            console.print(scores.table())
        console.print(comparison(evaluations) if len(evaluations) > 1 else str(evaluations[0]), soft_wrap=True)


@clean_exit
def cli() -> None:
    import main as main_module

    given = dict(argument.split('=', 1) for argument in sys.argv[2:] if '=' in argument)
    argv = [argument for argument in sys.argv[1:] if argument.partition('=')[0] not in ('protocol', 'out')]
    main_module.ignore_known_warnings()
    evaluations: list[Scores] = []
    for name in PROTOCOLS if given.get('protocol') == 'all' else [given.get('protocol')]:
        more = ['is_train=false', *([f'eval_protocol={name}'] if name else [])]
        cfg, sources = load_config([*argv[:1], 'precision=fp32', *argv[1:], *more])
        if not cfg.load_path:
            raise UserError(
                'load_path is not set: the checkpoint to evaluate, such as load_path=runs/first/best-rank0.pt'
            )
        if 'out' in given:
            settings = cfg.callbacks.get('show_results') or {}
            cfg.callbacks['show_results'] = settings | {'folder': f'{given["out"]}/{cfg.eval_protocol}'}
        trainer = main_module.main(cfg, sources)
        trainer.close()
        results = shown_results(trainer)
        evaluations += results.evaluations if results else []
    show(evaluations)


if __name__ == '__main__':
    cli()
