"""Keeps the card of the network."""

from typing import Any

from composer.core import Callback

from segrecipes.checkpoints.card import ModelCard


class Describe(Callback):
    """Keeps the model's card in each checkpoint, which is then used without a yaml."""

    def __init__(self, card: ModelCard):
        self.card = card

    def state_dict(self) -> dict[str, Any]:
        return self.card.to_dict()
