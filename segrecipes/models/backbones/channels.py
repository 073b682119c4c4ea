"""Images of another number of channels than three."""

import torch
from torch import nn


def take_channels(backbone: nn.Module, channels: int, is_trained: bool) -> None:
    """Give the backbone's first convolution so many input channels.

    If it is trained, on RGB, each channel has the mean of the three weights, times 3 / ``channels``: for equal channels
    the output is what it was. Else it begins as torchvision's do.
    """
    first = next(module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    if first.in_channels == channels:
        return
    mean = first.weight.detach().mean(dim=1, keepdim=True) * (first.in_channels / channels)
    weight = mean.repeat(1, channels, 1, 1)
    if not is_trained:
        weight = nn.init.kaiming_normal_(torch.empty_like(weight), mode='fan_out', nonlinearity='relu')
    first.in_channels = channels
    first.weight = nn.Parameter(weight)
