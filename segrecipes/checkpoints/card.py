"""What a network is and what it takes: kept in each checkpoint and export, so that they are used without a yaml."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from segrecipes.base.errors import UserError
from segrecipes.base.palette import Color, voc_colors
from segrecipes.data.normalize import statistics
from segrecipes.datasets.row import Pixels
from segrecipes.models.spec import SPEC_FIELDS, NetworkSpec

CARD = 'model_card'  # its name in the metadata of a file


@dataclass(frozen=True)
class ModelCard:
    """A network's spec, and the meaning of its input and output.

    ``auxiliary`` says whether the weights have an auxiliary head. ``palette`` is the RGB of each class;
    ``label_offset`` is the label of class 0 in a mask file. ``image_size`` is the side, in pixels, the network is
    evaluated at; ``mean`` and ``std`` are those of its channels in 0…255, and ``values`` what becomes 0 and 255, as
    ``DatasetRow.values`` says. ``warning`` is what the dataset's row has to say with every figure.
    """

    network: NetworkSpec
    auxiliary: bool = False
    class_names: tuple[str, ...] = ()
    palette: tuple[Color, ...] = ()
    dataset: str = ''
    label_offset: int = 1
    image_size: int = 512
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    warning: str = ''
    values: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        count = self.network.num_classes
        if len(self.class_names) != count:
            object.__setattr__(self, 'class_names', _numbered(count))
        for name, usual in zip(('mean', 'std'), statistics(self.network.in_channels)):
            if len(getattr(self, name)) != self.network.in_channels:
                object.__setattr__(self, name, usual)
        if len(self.palette) != count:
            object.__setattr__(self, 'palette', voc_colors(count))  # as before cards had one

    @property
    def pixels(self) -> Pixels:
        return Pixels(self.network.in_channels, self.values)

    @property
    def num_classes(self) -> int:
        return self.network.num_classes

    @property
    def has_names(self) -> bool:
        """Whether its classes were named, and not only counted."""
        return self.class_names != _numbered(self.num_classes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, in one level, as JSON and ``torch.load(weights_only=True)`` take them."""
        values = asdict(self)
        return values.pop('network') | values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> 'ModelCard':
        """The card in a file, ``where`` names it. Values a later version has added are left out.

        Raises:
            UserError: something is missing or of another type.
        """
        try:
            values = {key: _frozen(value) for key, value in values.items()}
            spec = NetworkSpec(
                architecture=values['architecture'],
                num_classes=values['num_classes'],
                backbone_arch=values['backbone_arch'],
                **{name: values[name] for name in SPEC_FIELDS[3:] if name in values},
            )
            known = {entry.name for entry in fields(cls)} - {'network'}
            return cls(spec, **{key: value for key, value in values.items() if key in known})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f'{error} is missing' if isinstance(error, KeyError) else error
            raise UserError(f'{where}: its model card is damaged: {reason}') from error


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f'class {index}' for index in range(count))


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
