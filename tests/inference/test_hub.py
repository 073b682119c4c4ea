"""A network goes to a folder or a repository, and comes back as it was."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from helpers.buckets import lay_out
from safetensors import safe_open

from segrecipes import Predictor, UserError
from segrecipes.base.errors import MissingPathError
from segrecipes.checkpoints.card import ModelCard
from segrecipes.checkpoints.export import export
from segrecipes.evaluation.scores import Scores
from segrecipes.models.network import build_network
from segrecipes.models.spec import NetworkSpec

CARD = ModelCard(
    NetworkSpec('deeplabv3plus', 3, 'resnet18', head_channels=16),
    auxiliary=True,
    class_names=('sky', 'a | b', 'Gebäude'),
    dataset='mydata',
    image_size=40,
)
IMAGE = np.random.default_rng(0).integers(0, 256, (45, 70, 3), np.uint8)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = build_network(CARD.network, auxiliary=True)
    head: Any = network.classifier
    torch.nn.init.normal_(head.conv_seg.weight)
    with torch.no_grad():
        head.conv_seg.bias -= network.eval()(torch.randn(1, 3, 64, 64)).mean(dim=(0, 2, 3))
    path = tmp_path_factory.mktemp('run') / 'best.safetensors'
    export(network.eval(), CARD, path, 'safetensors')
    return path


@pytest.fixture(scope='module')
def saved(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('saved') / 'mymodel'
    Predictor(checkpoint).save_pretrained(folder)
    return folder


def front_matter(readme: str) -> dict[str, Any]:
    return yaml.safe_load(readme.split('---')[1])


def test_a_folder_gives_the_same_labels(checkpoint: Path, saved: Path) -> None:
    before, after = Predictor(checkpoint), Predictor.from_pretrained(saved)
    assert len(np.unique(before(IMAGE))) > 1
    np.testing.assert_array_equal(after(IMAGE), before(IMAGE))
    assert after.card == before.card
    np.testing.assert_array_equal(Predictor.from_pretrained(str(saved), device='cpu')(IMAGE), before(IMAGE))


def test_what_is_in_the_folder(saved: Path) -> None:
    """No path of this machine among it."""
    assert sorted(file.name for file in saved.iterdir()) == ['README.md', 'config.json', 'model.safetensors']
    config = json.loads((saved / 'config.json').read_text())
    with safe_open(str(saved / 'model.safetensors'), 'pt') as file:
        assert json.loads(file.metadata()['model_card']) == config
    assert ModelCard.from_dict(config, 'config.json').class_names == CARD.class_names
    readme = (saved / 'README.md').read_text()
    assert str(saved.parent.parent) not in readme + json.dumps(config)


def test_the_readme(saved: Path, checkpoint: Path) -> None:
    readme = (saved / 'README.md').read_text()
    data = front_matter(readme)
    assert data['pipeline_tag'] == 'image-segmentation' and data['library_name'] == 'segrecipes'
    assert 'license' not in data and 'model-index' not in data
    assert '## Licence\n\nNot stated.' in readme and '## Figures\n\nNone are given.' in readme
    assert '| index | class |\n|---|---|\n| 0 | sky |\n| 1 | a \\| b |\n| 2 | Gebäude |\n' in readme
    assert 'trained on mydata. It' in readme and 'at 40 pixels' in readme


def test_a_readme_with_figures_and_a_licence(checkpoint: Path, tmp_path: Path) -> None:
    scores = Scores(np.diag([3, 4, 0]) + np.eye(3, k=1, dtype=int), CARD.class_names, 7, 'ade20k-ss', 'ema')
    given = {'license': 'cc-by-4.0', 'scores': [scores], 'notes': 'Seen from *above*.'}
    Predictor(checkpoint).save_pretrained(tmp_path, model_card_kwargs=given)
    readme = (tmp_path / 'README.md').read_text()
    data = front_matter(readme)
    assert data['license'] == 'cc-by-4.0'
    [result] = data['model-index'][0]['results']
    assert result['dataset']['name'] == 'mydata'
    # IoU: 3 of 4, 4 of 6, 0 of 1; 7 of 9 pixels; accuracy 3 of 4, 4 of 5, no pixel
    assert result['metrics'][0]['value'] == round(100 * (3 / 4 + 4 / 6 + 0) / 3, 2) == 47.22
    assert '| ade20k-ss | ema | 7 | 77.78 | 77.50 | 47.22 |' in readme
    assert 'Seen from *above*.' in readme and '## Licence\n\ncc-by-4.0' in readme


def test_push_and_fetch(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the Hub's own calls, which here end in a folder."""
    hub = tmp_path / 'hub'

    def upload_folder(self: Any, *, repo_id: str, folder_path: Path, **_: Any) -> str:
        (hub / repo_id).parent.mkdir(parents=True)
        Path(folder_path).rename(hub / repo_id)
        return f'https://hub/{repo_id}'

    def download(repo_id: str, filename: str, **_: Any) -> str:
        return str(hub / repo_id / filename)

    api = huggingface_hub.HfApi
    monkeypatch.setattr(
        api, 'create_repo', lambda self, repo_id, **_: huggingface_hub.RepoUrl(f'https://huggingface.co/{repo_id}')
    )
    monkeypatch.setattr(api, 'upload_folder', upload_folder)
    monkeypatch.setattr('huggingface_hub.hub_mixin.hf_hub_download', lambda **options: download(**options))
    monkeypatch.setattr('segrecipes.inference.hub.hf_hub_download', download)

    predictor = Predictor(checkpoint)
    predictor.push_to_hub('me/mine', model_card_kwargs={'license': 'mit'})
    assert front_matter((hub / 'me/mine/README.md').read_text())['license'] == 'mit'
    fetched = Predictor.from_pretrained('me/mine', revision='main')
    np.testing.assert_array_equal(fetched(IMAGE), predictor(IMAGE))


def test_a_file_of_the_hub(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path, monkeypatch)
    there = tmp_path / 'hf/me/mine/model.safetensors'
    there.parent.mkdir(parents=True)
    there.write_bytes(checkpoint.read_bytes())
    np.testing.assert_array_equal(Predictor('hf://me/mine/model.safetensors')(IMAGE), Predictor(checkpoint)(IMAGE))
    with pytest.raises(MissingPathError, match=r'^checkpoint=hf://me/mine/none\.pt: no such file$'):
        Predictor('hf://me/mine/none.pt')


def test_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (tmp_path, tmp_path / 'none', 'a/b/c'):
        with pytest.raises(UserError, match=str(name)):
            Predictor.from_pretrained(name)
    with pytest.raises(MissingPathError, match=r'^me/mine is no folder with model\.safetensors, and no repository of'):
        Predictor.from_pretrained('me/mine', local_files_only=True, cache_dir=tmp_path)


def test_an_exported_program_is_not_weights(checkpoint: Path, tmp_path: Path) -> None:
    network = build_network(CARD.network, auxiliary=True)
    export(network.eval(), CARD, tmp_path / 'a.onnx', 'onnx')
    with pytest.raises(UserError, match=r'a\.onnx'):
        Predictor(tmp_path / 'a.onnx').save_pretrained(tmp_path / 'out')
    assert not (tmp_path / 'out/model.safetensors').exists()
