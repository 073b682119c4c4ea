"""What the commands do, as functions: the same config, and what they print is what is returned."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segrecipes.base.errors import UserError
from segrecipes.config.checkpoint import config_of, is_checkpoint
from segrecipes.config.merge import load
from segrecipes.config.schema import Config
from segrecipes.config.settings import Settings
from segrecipes.evaluation.table import PROTOCOLS

if TYPE_CHECKING:
    import numpy as np

    from segrecipes.evaluation.scores import Scores


@dataclass(frozen=True)
class RunResult:
    """What a run, a training or an evaluation, has come to.

    Args:
        config: the effective one.
        run_name: its own, or the one that Composer gave it.
        evaluations: in the order in which they were made; empty if ``callbacks.show_results`` was taken away.
        folder: of checkpoints, config and history: a path or a URL; None if the run kept nothing.
        checkpoint: of the best evaluation, or else the latest; evaluate and predict take it. None if none was kept.
        results: the folder of the last evaluation's scores and pictures.
    """

    config: Config
    run_name: str
    evaluations: 'tuple[Scores, ...]'
    folder: str | None
    checkpoint: str | None
    results: str | None

    @property
    def scores(self) -> 'Scores | None':
        """Of the last evaluation."""
        return self.evaluations[-1] if self.evaluations else None


def train(
    config: str | Path | Mapping[str, Any], settings: Settings = (), /, *, verbose: bool = False, **keys: Any
) -> RunResult:
    """Train a network, as ``segrecipes train`` does.

        train('deeplabv3', dataset='mydata', recipe_name='mild', max_duration='10ep')
        train('yamls/pspnet.yaml', {'optimizer.lr': 0.01, 'train_dataset': {'path': 'mydata', 'batch_size': 8}})

    Started by ``composer -n 8 script.py`` it is one run on 8 ranks, each of which gets the result.

    Args:
        config: a yaml, by its path or, of this package, its name; or the content of one.
        settings: over the config: nested mappings, dotted keys, or ``key=value`` as on a command line.
        keys: over those, of the config's top level.
        verbose: print all of the config, and not only what was set.

    Raises:
        UserError: wrong input, in one message that names the key or path.
    """
    return _run(*load(config, settings, *_given(keys)), verbose)


def evaluate(
    config: str | Path | Mapping[str, Any],
    settings: Settings = (),
    /,
    *,
    protocol: str | None = None,
    data: str | Path | None = None,
    out: str | Path | None = None,
    verbose: bool = False,
    **keys: Any,
) -> 'list[Scores]':
    """Score a checkpoint, as ``segrecipes evaluate`` does; its averaged weights, if it has them, and the raw ones.

        evaluate('runs/first/best-rank0.pt', protocol='fit-ss')
        evaluate('runs/first/config.yaml', load_path='runs/first/best-rank0.pt', protocol='ade20k-ss')

    Args:
        config, settings, keys: as of :func:`train`; ``load_path`` is the checkpoint. ``precision`` is fp32 by default.
            Or a checkpoint in place of the config: that of its run then, or what the card in it says.
        data: of a checkpoint alone, another dataset: a name of yamls/datasets, or a dataset.yaml or its folder.
        protocol: a name, or ``all``; by default the config's ``eval_protocol``.
        out: the folder of the results; by default beside the checkpoint.
        verbose: print all of the config, and not only what was set.

    Raises:
        UserError: wrong input, in one message that names the key or path.
    """
    below: list[str] = []
    if isinstance(config, str | Path) and is_checkpoint(config):
        trust = 'trust_checkpoint=true' in settings or bool(keys.get('trust_checkpoint'))
        config, below = config_of(str(config), data and str(data), trust)
    elif data:
        raise UserError(f'--data={data} goes with a checkpoint alone; beside a yaml it is dataset={data}')
    evaluations: list[Scores] = []
    for name in PROTOCOLS if protocol == 'all' else [protocol]:
        above = ['is_train=false', *([f'eval_protocol={name}'] if name else [])]
        cfg, sources = load(config, ['precision=fp32', *below], settings, *_given(keys), above)
        if not cfg.load_path:
            raise UserError(
                'load_path is not set: the checkpoint to evaluate, such as load_path=runs/first/best-rank0.pt'
            )
        if out:
            shown = cfg.callbacks.get('show_results') or {}
            cfg.callbacks['show_results'] = shown | {'folder': f'{out}/{cfg.eval_protocol}'}
        evaluations += _run(cfg, sources, verbose).evaluations
    return evaluations


def predict(
    checkpoint: str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    protocol: str | None = None,
    ms: bool = False,
    flip: bool = False,
    size: int | None = None,
    submission: bool = False,
    weights: str = 'best',
    device: str | None = None,
    trust: bool = False,
    on_error: 'Callable[[str, Exception], None] | None' = None,
) -> 'dict[str, np.ndarray]':
    """Segment images, as ``segrecipes predict`` does: by the name of each image, its (H, W) uint8 class indices.

        predict('runs/first/best-rank0.pt', ['street.jpg', 'photos/'])

    All are kept in memory; :func:`segrecipes.inference.segment.segment` gives them one by one, and a ``Predictor``,
    made once, is a function of one image: a file, a PIL image or an array.

    Args:
        checkpoint: as of :class:`Predictor`, as are ``weights``, ``device`` and ``trust``.
        images: files, folders of images, patterns.
        out: a folder for masks, overlays and shares.json; by default nothing is written.
        protocol: a name; ``ms`` (six scales) and ``flip`` add to it. ``size``: short side, or window, in pixels.
        submission: with ``out``, also write ADE20K's form.
        on_error: is told of an image that cannot be read, by its name, and the others go on; by default it is raised.

    Raises:
        UserError: wrong input, in one message that names the file or argument.
    """
    from segrecipes.inference.predictor import Predictor
    from segrecipes.inference.segment import choose_protocol, segment

    predictor = Predictor(checkpoint, weights=weights, device=device, trust=trust)
    predictor.protocol = choose_protocol(protocol, size, predictor.card.image_size, ms=ms, flip=flip)
    images = [images] if isinstance(images, str | Path) else images
    return dict(segment(predictor, images, out=out, submission=submission, on_error=on_error))


def _given(keys: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [keys] if keys else []


def _run(cfg: Config, sources: Mapping[str, str], verbose: bool = False) -> RunResult:
    """A config from its beginning to its end, whichever of train and evaluate it says."""
    from segrecipes.training.evaluate import shown_results
    from segrecipes.training.folder import best_checkpoint
    from segrecipes.training.run import main
    from segrecipes.training.trainer import close
    from segrecipes.training.warnings import ignore_known_warnings

    with warnings.catch_warnings():
        ignore_known_warnings()
        trainer = main(cfg, sources, verbose)
        close(trainer)
    name, results = trainer.state.run_name, shown_results(trainer)
    folder = cfg.save_folder.format(run_name=name) if cfg.is_train and cfg.save_folder else None
    return RunResult(
        cfg,
        name,
        tuple(results.evaluations) if results else (),
        folder,
        best_checkpoint(trainer, folder) if folder else None,
        results.folder.format(run_name=name) if results and results.folder else None,
    )
