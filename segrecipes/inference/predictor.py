"""A trained network as a function of an image."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from segrecipes.base.errors import UserError
from segrecipes.base.stores import is_url, local_copy
from segrecipes.checkpoints.formats.table import FORMATS
from segrecipes.checkpoints.load_export import load_exported, read_card
from segrecipes.checkpoints.network import load_network
from segrecipes.data.sample import to_tensor
from segrecipes.evaluation.protocols import EvalProtocol
from segrecipes.evaluation.table import USUAL, get_protocol
from segrecipes.evaluation.views import Network
from segrecipes.inference.hub import OnHub
from segrecipes.inference.images import read_image
from segrecipes.models.network import for_inference


class Predictor(OnHub):
    """A trained network as a function of an image: ``Predictor('best-rank0.pt')(image)``.

    ``save_pretrained``, ``push_to_hub`` and ``from_pretrained`` keep it in a folder or a repository of the Hugging Face
    Hub: :mod:`segrecipes.inference.hub`.

    Args:
        path: a checkpoint with a model card, mmsegmentation's of the usual networks, or an exported .onnx or .pt2 file;
            or the URL of one, such as ``hf://owner/name/model.safetensors``.
        weights: ``best`` (averaged ones where the file has them), ``ema`` or ``raw``.
        protocol: how an image is shown to the network; by default ade20k-ss at the size it was evaluated at.
        device: such as ``cuda:1``; by default a GPU where there is one. Exported files run on the CPU.
        trust: run the code in a checkpoint that cannot be read without.

    Raises:
        UserError: the file cannot be read, or does not say what network it is of.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        weights: str = 'best',
        protocol: EvalProtocol | None = None,
        device: str | None = None,
        trust: bool = False,
    ):
        self.path = str(path)  # as it is called; a copy of it may be read
        path = local_copy(self.path, 'checkpoint') if is_url(path) else path
        self.source = {'path': path, 'weights': weights, 'trust': trust}
        form = next((row for row in FORMATS.values() if row.suffix == Path(path).suffix and row.is_program), None)
        self.network: Network
        if form is not None:
            if form.runs_code and not trust:
                raise UserError(f'{path} is a program, and loading it may run any code: --trust-checkpoint to insist')
            self.device = torch.device('cpu')
            self.card, self.network = read_card(path), load_exported(path)
        else:
            self.device = find_device(device)
            self.card, network = load_network(**self.source)
            self.network = for_inference(network).to(self.device).logits
        self.protocol = protocol or get_protocol(USUAL, self.card.image_size)

    def __call__(self, image: 'str | Path | Image.Image | np.ndarray') -> np.ndarray:
        """A file, a PIL image or (H, W, 3) uint8 RGB → (H, W) uint8 class indices, of the image as it is displayed.

        Raises:
            UserError: the file is damaged, or no image.
        """
        return self.labels(read_image(image, self.card.pixels), self.protocol)

    @torch.inference_mode()
    def labels(self, pixels: np.ndarray, protocol: EvalProtocol) -> np.ndarray:
        """(H, W, C) uint8 → (H, W) uint8 class indices, by this protocol."""
        mean, std = (
            torch.tensor(values, device=self.device).view(-1, 1, 1) for values in (self.card.mean, self.card.std)
        )
        views = [(to_tensor(view).to(self.device).float() - mean) / std for view in protocol.views(pixels)]
        height, width = pixels.shape[:2]
        return protocol.labels(self.network, views, (height, width)).cpu().numpy()


def find_device(name: str | None) -> torch.device:
    name = name or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        return torch.empty(0, device=name).device
    except (AssertionError, RuntimeError) as error:  # of a torch without CUDA, and of one
        raise UserError(f'--device={name} is not there: {str(error).partition(chr(10))[0]}') from error
