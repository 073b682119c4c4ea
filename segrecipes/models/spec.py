"""What a network is: all that has to be known to build it, and nothing about how it is trained."""

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class NetworkSpec:
    """The network's part of ``model`` in a config, and of the card in a checkpoint.

    A new knob is one field here, and the builder that reads it.

    Args:
        architecture: a row of ``architectures.ARCHITECTURES``.
        num_classes: classes of the logits.
        backbone_arch: a row of ``backbones.table.BACKBONES``.
        output_stride: of the backbone's last map; None is the architecture's own.
        head_channels: width of the decode head.
        in_channels: of the images.
    """

    architecture: str = 'deeplabv3plus'
    num_classes: int = 150
    backbone_arch: str = 'resnet101'
    output_stride: int | None = None
    head_channels: int = 512
    in_channels: int = 3

    @property
    def network(self) -> 'NetworkSpec':
        """These fields alone, of a subclass that has more."""
        return NetworkSpec(**{name: getattr(self, name) for name in SPEC_FIELDS})

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in SPEC_FIELDS}


SPEC_FIELDS = tuple(field.name for field in fields(NetworkSpec))
