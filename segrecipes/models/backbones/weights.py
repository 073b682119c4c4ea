"""Pretrained weights of a backbone, by torchvision's names or from a file."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import torchvision
from composer.utils import dist
from torch import Tensor, nn

from segrecipes.base.errors import MissingPathError, UserError, unknown_name
from segrecipes.base.pickles import torch_load
from segrecipes.models.backbones.table import TORCHVISION


def has_weights(backbone_weights: str | None) -> bool:
    return backbone_weights is not None and backbone_weights.lower() not in ('', 'none', 'null')


def load_backbone_weights(backbone: nn.Module, backbone_arch: str, backbone_weights: str) -> None:
    """Load torchvision's weights of that name, or a file's; a classifier in them is left out."""
    published: Any = torchvision.models.get_model_weights(backbone_arch) if backbone_arch in TORCHVISION else None
    names = {} if published is None else {**{one.name: one for one in published}, 'DEFAULT': published.DEFAULT}
    if backbone_weights in names:
        weights = names[backbone_weights]
        try:
            with dist.run_local_rank_zero_first():
                state_dict = weights.get_state_dict(progress=dist.get_global_rank() == 0, check_hash=True)
        except (URLError, OSError, RuntimeError) as error:  # RuntimeError: a download cut short fails its hash
            raise UserError(
                f'model.backbone_weights={backbone_weights}: cannot download {weights.url} ({error}). Fetch that file '
                f'where there is a network and set model.backbone_weights=/path/to/{Path(weights.url).name}, or set '
                'model.backbone_weights=null to train from scratch.'
            ) from error
    elif Path(backbone_weights).suffix or '/' in backbone_weights:
        state_dict = read_state_dict(backbone_weights)
    else:
        raise unknown_name('model.backbone_weights', backbone_weights, [*names, 'null', '/path/to/file.pth'])
    state_dict = {key: value for key, value in state_dict.items() if not key.startswith('fc.')}
    own = {key: value.shape for key, value in backbone.state_dict().items()}
    unexpected = [key for key, value in state_dict.items() if own.get(key) != getattr(value, 'shape', None)]
    missing = [key for key in own if key not in state_dict and not key.endswith('num_batches_tracked')]
    if missing or unexpected:
        raise UserError(
            f'model.backbone_weights={backbone_weights} does not fit model.backbone_arch={backbone_arch}: '
            f'{len(missing)} parameters are missing ({", ".join(missing[:3])} …), {len(unexpected)} are not known '
            f'or of another shape ({", ".join(unexpected[:3])} …).'
        )
    backbone.load_state_dict(state_dict, strict=False)  # num_batches_tracked may be missing


def read_state_dict(path: str) -> dict[str, Tensor]:
    """The state dict in a file, read without running any code in it."""
    if not Path(path).is_file():
        raise MissingPathError(f'model.backbone_weights={path}: no such file')
    try:
        content = torch_load(path)
    except Exception as error:  # a damaged file raises anything from EOFError to UnpicklingError
        raise UserError(f'model.backbone_weights={path}: not a readable state dict ({type(error).__name__})') from error
    content = content.get('state_dict', content) if isinstance(content, dict) else content
    if not isinstance(content, dict):
        raise UserError(f'model.backbone_weights={path}: holds a {type(content).__name__}, not a state dict')
    return content
