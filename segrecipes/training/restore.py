"""What a run starts from: weights, or the whole state of another."""

from composer.utils import dist

from segrecipes.base.errors import UserError
from segrecipes.base.pickles import check_safe
from segrecipes.base.stores import local_copy
from segrecipes.checkpoints.card import ModelCard
from segrecipes.checkpoints.fine_tune import load_to_fine_tune, new_layers
from segrecipes.checkpoints.fit import load_weights
from segrecipes.checkpoints.read import Checkpoint, read_checkpoint
from segrecipes.config.schema import Config
from segrecipes.training.device import say
from segrecipes.training.tasks.segmentation import SegmentationModel


def load_checkpoint(cfg: Config, model: SegmentationModel, card: ModelCard) -> tuple[Checkpoint | None, str | None]:
    """Weights to train from go into the model; a whole training state is left to the Trainer, by its path.

    Raises:
        UserError: the file cannot be read, or does not fit. With ``load_weights_only`` its last layers need not.
    """
    if cfg.load_path is None:
        return None, None
    where = f'load_path={cfg.load_path}'
    path = local_copy(cfg.load_path.format(rank=dist.get_global_rank(), local_rank=dist.get_local_rank()))
    checkpoint = read_checkpoint(path, cfg.trust_checkpoint)
    if not cfg.is_train:
        return checkpoint, None
    if cfg.load_weights_only:
        said = load_to_fine_tune(model.module, checkpoint, card, where)
        if checkpoint.kind == 'composer':
            said += [f'{where}: a new training begins from its weights; load_weights_only=false goes on with that run']
        for line in said:
            say(line)
        return checkpoint, None
    check_classes(model, checkpoint, card, where)
    if checkpoint.kind == 'composer':
        check_safe(path, cfg.trust_checkpoint)  # the Trainer will run what is in it
        return checkpoint, path
    load_weights(model.module, checkpoint.weights, where)
    return checkpoint, None


def check_classes(model: SegmentationModel, checkpoint: Checkpoint, card: ModelCard, where: str) -> None:
    """Refuse to go on with a run of another number of classes."""
    new = new_layers(model.module.state_dict(), checkpoint, card)
    if new and any(there != here for there, here in new.shapes.values()):
        raise UserError(
            f'{where} {new.reason}. Set load_weights_only=true to begin a new training from its weights; these are '
            f'then new: {", ".join(new.shapes)}'
        )
