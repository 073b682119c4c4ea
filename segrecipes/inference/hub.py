"""A network in a folder, or a repository of the Hugging Face Hub: its weights, its card, and a README about it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import EvalResult, ModelCardData, ModelHubMixin, hf_hub_download
from huggingface_hub import ModelCard as Readme

from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.base.files import write_text
from segrecipes.checkpoints.card import ModelCard
from segrecipes.checkpoints.export import export
from segrecipes.checkpoints.network import load_network
from segrecipes.evaluation.scores import Scores

WEIGHTS, CONFIG = 'model.safetensors', 'config.json'
TASK = 'image-segmentation'  # the Hub's name for it
TEMPLATE = Path(__file__).with_name('readme.md.jinja')

T = TypeVar('T', bound='OnHub')


class OnHub(ModelHubMixin):
    """``save_pretrained``, ``push_to_hub`` and ``from_pretrained``, as huggingface_hub's mixin has them.

    ``model_card_kwargs`` of the first two go to :meth:`generate_model_card`.
    """

    card: ModelCard
    source: dict[str, Any]  # the arguments of load_network

    @classmethod
    def from_pretrained(cls: type[T], pretrained_model_name_or_path: str | Path, **options: Any) -> T:
        """What was saved in a folder, or pushed to a repository such as ``owner/name``.

        Args:
            options: the mixin's ``revision``, ``token``, ``cache_dir``, …, and ``device`` and ``protocol`` of the
                network.

        Raises:
            UserError: there is no such folder or repository, or no network in it.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **options)
        except UserError:
            raise
        except (OSError, ValueError) as error:  # of huggingface_hub: a bad name, nothing there, no connection
            reason = str(error).strip().partition('\n')[0]
            raise MissingPathError(
                f'{pretrained_model_name_or_path} is no folder with {WEIGHTS}, and no repository of the Hub: {reason}'
            ) from error

    @classmethod
    def _from_pretrained(
        cls: type[T], *, model_id: str, resume_download: Any = None, proxies: Any = None, **options: Any
    ) -> T:
        names = ('revision', 'cache_dir', 'force_download', 'local_files_only', 'token')
        download = {name: options.pop(name) for name in names if name in options}
        if Path(model_id).is_dir():
            return cls(Path(model_id) / WEIGHTS, **options)
        return cls(hf_hub_download(model_id, WEIGHTS, proxies=proxies, **download), **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        card, network = load_network(**self.source)
        export(network, card, save_directory / WEIGHTS, 'safetensors')
        write_text(save_directory / CONFIG, json.dumps(card.to_dict(), indent=1) + '\n')

    def generate_model_card(
        self, *, license: str | None = None, scores: Sequence[Scores] = (), notes: str = ''
    ) -> Readme:
        """The README: what the network is, its classes, and figures with the protocol by which they were found.

        Args:
            license: such as ``cc-by-4.0``; whose weights and data they are, only their owner knows.
            scores: of ``segrecipes.evaluate``.
            notes: what else there is to say, in Markdown.
        """
        name = f'{self.card.network.architecture}-{self.card.network.backbone_arch}-{self.card.dataset or "own"}'
        data = ModelCardData(
            model_name=name,
            eval_results=[_result(one, self.card.dataset) for one in scores] or None,
            library_name='segrecipes',
            license=license,
            pipeline_tag=TASK,
            tags=['semantic-segmentation', self.card.network.architecture, self.card.network.backbone_arch],
        )
        return Readme.from_template(
            data,
            template_str=TEMPLATE.read_text(),
            name=name,
            card=self.card,
            scores=scores,
            license=license,
            notes=notes,
        )


def _result(scores: Scores, dataset: str) -> EvalResult:
    return EvalResult(
        task_type=TASK,
        dataset_type=dataset or 'own',
        dataset_name=dataset or 'own',
        metric_type='mean_iou',
        metric_name=f'mean IoU, {scores.protocol}, {scores.weights} weights',
        metric_value=round(scores.mean_iou, 2),
    )
