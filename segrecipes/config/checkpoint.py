"""The config of a checkpoint: that of its run, which lies beside it, or what the card in it says."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from segrecipes.base.errors import UserError
from segrecipes.base.run_files import CONFIG
from segrecipes.config.layers import available
from segrecipes.evaluation.table import USUAL

SUFFIXES = ('.pt', '.pth', '.ckpt', '.safetensors')


def is_checkpoint(path: str | Path) -> bool:
    return str(path).endswith(SUFFIXES) and '=' not in Path(path).name


def config_of(checkpoint: str, data: str | None = None, trust: bool = False) -> tuple[str | dict[str, Any], list[str]]:
    """A config to evaluate a checkpoint by, and what is to be set over it.

    Args:
        data: a dataset: a name of yamls/datasets, or a dataset.yaml or its folder; None: the one it was trained on.
        trust: run the code in a file that cannot be read without.

    Raises:
        UserError: neither a config nor a card, or the card's dataset is not known here.
    """
    settings = [f'load_path={checkpoint}', *([f'dataset={data}'] if data else [])]
    beside = Path(checkpoint).expanduser().parent / CONFIG
    if '://' not in checkpoint and beside.is_file():
        return str(beside), settings
    from segrecipes.base.stores import local_copy
    from segrecipes.checkpoints.read import read_checkpoint

    card = read_checkpoint(local_copy(checkpoint), trust).card
    if card is None:
        raise UserError(
            f'{checkpoint} has no model card, and no {CONFIG} lies beside it: evaluate it by the yaml that it was '
            f'trained by, and load_path={checkpoint}'
        )
    if not data and card.dataset not in available('dataset'):
        raise UserError(
            f'{checkpoint} was trained on {card.dataset or "a dataset without a name"}, and no {CONFIG} beside it says '
            f'where that is: --data PATH. By name: {", ".join(available("dataset"))}.'
        )
    network = asdict(card.network) | {'auxiliary_weight': float(card.auxiliary)}
    given = {
        'model': network,
        'dataset': data or card.dataset,
        'eval_protocol': USUAL,
        'train_dataset': {'ignore_background': card.label_offset > 0},
        'eval_dataset': {'final_size': card.image_size},
    }
    return given, settings
