"""Networks and models by keywords, the way a config names them."""

from dataclasses import fields
from typing import Any

from segrecipes.models.network import SegmentationNetwork
from segrecipes.models.network import build_network as build_network_of
from segrecipes.models.spec import NetworkSpec
from segrecipes.training.tasks.segmentation import SegmentationModel
from segrecipes.training.tasks.segmentation import build_model as build_model_of

SPEC = {field.name for field in fields(NetworkSpec)}


def build_model(**arguments: Any) -> SegmentationModel:
    """``build_model`` of the package; keywords of the spec go into one."""
    spec, rest = apart(arguments)
    return build_model_of(spec, **rest)


def build_network(**arguments: Any) -> SegmentationNetwork:
    spec, rest = apart(arguments)
    return build_network_of(spec, **rest)


def apart(arguments: dict[str, Any]) -> tuple[NetworkSpec, dict[str, Any]]:
    spec = {name: value for name, value in arguments.items() if name in SPEC}
    return NetworkSpec(**spec), {name: value for name, value in arguments.items() if name not in SPEC}
