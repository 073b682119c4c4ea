"""Search for the best settings: many trainings, each with what those before it say is promising.

    segrecipes sweep yamls/deeplabv3.yaml dataset=mydata max_duration=20ep --space space.yaml --trials 30 --out sweep

space.yaml has keys of a run, and what each may be:

    optimizer.lr: {low: 0.01, high: 1, log: true}
    train_dataset.min_resize_scale: [0.5, 0.75]
    scheduler: [null, {name: cosine_annealing_with_warmup, t_warmup: 0.05dur}]
    algorithms:
      sam: [null, {rho: {low: 0.05, high: 0.5}, interval: {choices: [1, 2]}}]

Every trial is a `segrecipes train` of its own, into OUT/trial-N, with the seed of the config. Each has the same
max_duration; where settings cost unlike much, such as SAM, --seconds gives each the same time instead. All trials,
the failed among them, are lines of OUT/trials.jsonl; OUT/best.yaml is the best one's recipe. The same command goes on
where it was stopped, and begins an unfinished trial again.
"""

import argparse
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from segrecipes.base.errors import UserError, suggestion
from segrecipes.base.run_files import MEAN_IOU
from segrecipes.commands import configs

if TYPE_CHECKING:
    from segrecipes.sweep.space import Space

OWN = ('save_folder', 'is_train', 'autoresume', 'load_path')  # what a trial's folder decides, or leaves no meaning


def add_arguments(parser: argparse.ArgumentParser) -> None:
    configs.add_arguments(parser)
    parser.add_argument('--space', required=True, metavar='YAML', help='keys and what they may be, see above')
    parser.add_argument('--trials', required=True, type=count, metavar='N', help='in all, those of before among them')
    parser.add_argument('--out', required=True, metavar='FOLDER', type=Path, help='of the sweep')
    parser.add_argument(
        '--metric', default=MEAN_IOU, help='of the last evaluation, in percent; or iou.CLASS; default: %(default)s'
    )
    parser.add_argument(
        '--seconds',
        type=float,
        metavar='S',
        help='of training that each trial has in place of max_duration, by a short run before it; starts and '
        'evaluations are not counted',
    )


def count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text} must be 1 or more')
    return int(text)


def run(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from segrecipes.sweep.results import line, table, write_recipe
    from segrecipes.sweep.space import read_space
    from segrecipes.sweep.study import BEST, TRIALS, Study, best, import_optuna

    import_optuna()
    argv, metric, out = [arguments.config, *arguments.settings], arguments.metric, arguments.out
    space = read_space(arguments.space)
    seed = check(argv, space, arguments)
    signal.signal(signal.SIGTERM, stop)
    out.mkdir(parents=True, exist_ok=True)
    study = Study(out, argv, space, metric=metric, seconds=arguments.seconds, seed=seed)
    try:
        for record in study.run(arguments.trials):
            print(line(record, study.records(), metric), flush=True)
    except KeyboardInterrupt:
        print('\nstopped; the same command goes on', file=sys.stderr)
        sys.exit(130)
    records = study.records()
    Console().print(table(records, metric))
    top = best(records)
    if top is None:
        raise UserError(f'none of the {len(records)} trials has a score; {out / TRIALS} says why')
    print(write_recipe(top, out / BEST, argv, len(records)))
    print(f'trials: {out / TRIALS}\nbest: {out / BEST}, or recipe_name={shlex.quote(str(out / BEST))}')


def check(argv: list[str], space: 'Space', arguments: argparse.Namespace) -> int:
    """Refuse before the first trial what would make each of them fail; the config's seed.

    Raises:
        UserError: of the config, the keys and values of the space, or the metric.
    """
    from segrecipes.config.merge import load_config
    from segrecipes.datasets.table import get_dataset
    from segrecipes.sweep.space import as_text
    from segrecipes.training.run import check_registered

    config, _ = load_config(argv)
    for key, of in space.items():
        if key in OWN or key in (setting.partition('=')[0] for setting in argv[1:]):
            why = 'is decided by the sweep' if key in OWN else 'is set on the command line too'
            raise UserError(f'{arguments.space}: {key} {why}')
        for value in of.ends():
            try:
                check_registered(load_config([*argv, f'{key}={as_text(value)}'])[0])
            except UserError as error:
                raise UserError(f'{arguments.space}: {key}={as_text(value)}: {error}') from error
    for setting in argv[1:]:
        if setting.partition('=')[0] in OWN:
            raise UserError(f'{setting} is decided by the sweep')
    names = get_dataset(config.eval_dataset.name or '').class_names(config.eval_dataset.ignore_background)
    legal = [MEAN_IOU, 'pixel_accuracy', 'mean_accuracy', 'final_score', *(f'iou.{name}' for name in names)]
    if arguments.metric not in legal:
        raise UserError(f'--metric {arguments.metric} is not known.{suggestion(arguments.metric, legal)}')
    if arguments.seconds is not None and arguments.seconds <= 0:
        raise UserError(f'--seconds {arguments.seconds:g} must be above 0')
    return config.seed


def stop(signum: int, frame: FrameType | None) -> NoReturn:
    """The trial in work is ended, too."""
    sys.exit(128 + signum)
