"""What a network is and what it takes: kept in each checkpoint and export, so that they are used without a yaml."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from errors import UserError
from layouts import palette
from transforms import IMAGENET_CHANNEL_MEAN, IMAGENET_CHANNEL_STD

Color = tuple[int, int, int]


@dataclass(frozen=True)
class ModelCard:
    """The arguments of ``model.build_network``, and the meaning of its input and output.

    ``label_offset`` is the label of class 0 in a mask file. ``image_size`` is the side, in pixels, the network is
    evaluated at; ``mean`` and ``std`` are those of RGB in 0…255.
    """

    architecture: str
    num_classes: int
    backbone_arch: str
    output_stride: int | None = None
    head_channels: int = 512
    auxiliary: bool = False
    class_names: tuple[str, ...] = ()
    palette: tuple[Color, ...] = ()
    dataset: str = ''
    label_offset: int = 1
    image_size: int = 512
    mean: tuple[float, float, float] = field(default=IMAGENET_CHANNEL_MEAN)
    std: tuple[float, float, float] = field(default=IMAGENET_CHANNEL_STD)

    def __post_init__(self) -> None:
        if len(self.class_names) != self.num_classes:
            object.__setattr__(self, 'class_names', tuple(f'class {index}' for index in range(self.num_classes)))
        if len(self.palette) != self.num_classes:
            colors = tuple(tuple(map(int, color)) for color in palette(self.num_classes))
            object.__setattr__(self, 'palette', colors)

    def network_arguments(self) -> dict[str, Any]:
        """What ``model.build_network`` takes."""
        names = ('architecture', 'num_classes', 'backbone_arch', 'output_stride', 'head_channels', 'auxiliary')
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, as JSON and ``torch.load(weights_only=True)`` take them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> 'ModelCard':
        """The card in a file, ``where`` names it. Values a later version has added are left out.

        Raises:
            UserError: something is missing or of another type.
        """
        known = {entry.name for entry in fields(cls)}
        try:
            values = {key: _frozen(value) for key, value in values.items() if key in known}
            return cls(**values)
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(f'{where}: its model card is damaged: {error}') from error


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
