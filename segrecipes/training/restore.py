"""What a run starts from: weights, or the whole state of another."""

from composer.utils import dist

from segrecipes.base.pickles import check_safe
from segrecipes.base.s3 import local_copy
from segrecipes.checkpoints.fit import load_weights
from segrecipes.checkpoints.read import Checkpoint, read_checkpoint
from segrecipes.config.schema import Config
from segrecipes.training.tasks.segmentation import SegmentationModel


def load_checkpoint(cfg: Config, model: SegmentationModel) -> tuple[Checkpoint | None, str | None]:
    """Weights to train from go into the model; a whole training state is left to the Trainer, by its path."""
    if cfg.load_path is None:
        return None, None
    path = local_copy(cfg.load_path.format(rank=dist.get_global_rank(), local_rank=dist.get_local_rank()))
    checkpoint = read_checkpoint(path, cfg.trust_checkpoint)
    if cfg.is_train and not cfg.load_weights_only and checkpoint.kind == 'composer':
        check_safe(path, cfg.trust_checkpoint)  # the Trainer will run what is in it
        return checkpoint, path
    if cfg.is_train:
        load_weights(model.module, checkpoint.weights, f'load_path={cfg.load_path}')
    return checkpoint, None
