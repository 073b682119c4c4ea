"""What only Composer and torch know of a config: which algorithms and optimizers there are, and what they take."""

import torch

from segrecipes.base.errors import UserError, unknown_name
from segrecipes.config.schema import GROUPING, Config
from segrecipes.data.further import faults_of
from segrecipes.training import registry
from segrecipes.training.durations import check_shares
from segrecipes.training.optimizer import check_optimizer
from segrecipes.training.strategy import STRATEGIES


def check_registered(cfg: Config) -> None:
    """Refuse unknown algorithms, callbacks, … and wrong arguments, all of them at once.

    The optimizer is made of a parameter of its own, and the scheduler too: they know what their arguments may be.
    """
    if cfg.strategy not in STRATEGIES:
        raise unknown_name('strategy', cfg.strategy, STRATEGIES)
    faults = [
        *(faults_of(cfg.train_dataset.albumentations, 'train_dataset.albumentations') if cfg.is_train else ()),
        *check_optimizer(cfg.optimizer),
        *registry.check_one('scheduler', cfg.scheduler),
        *registry.check('algorithms', cfg.algorithms),
        *registry.check('callbacks', cfg.callbacks),
        *registry.check('loggers', cfg.loggers),
        *check_shares(cfg),
    ]
    if faults:
        raise UserError('\n       '.join(faults))
    arguments = {key: value for key, value in cfg.optimizer.items() if key not in GROUPING}
    registry.build_one('optimizer', arguments, [torch.nn.Parameter(torch.zeros(1, 1))])
    registry.build_one('scheduler', cfg.scheduler)
