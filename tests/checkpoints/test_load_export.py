"""An exported file that cannot be read is one message."""

import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import safetensors.torch
import torch
from helpers.exported_files import SUFFIXES, card_of, exported_files, network_of  # noqa: F401

from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.checkpoints.export import export
from segrecipes.checkpoints.load_export import load_exported, read_card


def broken(path: Path, content: bytes, cut: int | None) -> Path:
    damaged = path.parent / 'damaged' / path.name
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes(content[:cut])
    return damaged


@pytest.mark.parametrize('read', [read_card, load_exported])
@pytest.mark.parametrize('damage', ['cut', 'text', 'empty'])
@pytest.mark.parametrize('to', SUFFIXES)
def test_a_damaged_file_is_one_message(to: str, damage: str, read: Callable, files: dict[str, Path]) -> None:
    content = {'cut': files[to].read_bytes()[:-1000], 'text': b'<html>not found</html>', 'empty': b''}[damage]
    path = broken(files[to], content, None)
    with pytest.raises(UserError, match=f'^{re.escape(str(path))}: not (a )?readable') as error:
        read(path)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('read', [read_card, load_exported])
def test_a_file_that_is_missing_or_of_another_kind(read: Callable, tmp_path: Path) -> None:
    with pytest.raises(MissingPathError, match=r'net\.onnx: no such file$'):
        read(tmp_path / 'net.onnx')
    (tmp_path / 'net.pth').touch()
    with pytest.raises(UserError, match=r'net\.pth: not an exported file\. Legal: \.onnx, \.pt2, \.safetensors\.$'):
        read(tmp_path / 'net.pth')


def with_card(path: Path, text: str | None, files: dict[str, Path]) -> None:
    """A file with ``text`` in place of its card, None for no card at all."""
    if path.suffix == '.onnx':
        model = onnx.load(files['onnx'])
        onnx.helper.set_model_props(model, {} if text is None else {'model_card': text})
        onnx.save(model, path)
    elif path.suffix == '.pt2':
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('version', '8.5')
            if text is not None:
                archive.writestr('extra_files/model_card.json', text)
    else:
        metadata = {} if text is None else {'model_card': text}
        safetensors.torch.save_file({'weight': torch.ones(1)}, path, metadata)


@pytest.mark.parametrize('suffix', SUFFIXES.values())
def test_a_file_without_a_sound_card(suffix: str, tmp_path: Path, files: dict[str, Path]) -> None:
    path = tmp_path / f'net{suffix}'
    for text, message in {
        None: 'has no model card; it was not written by segrecipes export',
        '{"architecture": ': rf'not readable as \{suffix} \(JSONDecodeError: Expecting value.*\)',
        '["pspnet"]': 'its model card is damaged: .*',
        '{"architecture": "pspnet"}': 'its model card is damaged: .*num_classes.*',
    }.items():
        with_card(path, text, files)
        with pytest.raises(UserError, match=f'^{re.escape(str(path))}: {message}$'):
            read_card(path)


def test_packages_only_onnx_needs(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, 'onnx', None)
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    for to in ('torch.export', 'safetensors'):
        assert read_card(files[to]) == card_of()
        load_exported(files[to])
    with pytest.raises(UserError, match=r'^ONNX needs the package onnxruntime '):
        load_exported(files['onnx'])
    with pytest.raises(UserError, match=r'^ONNX needs the package onnx .*: pip install -r requirements\.txt$'):
        export(network_of(card_of()), card_of(), tmp_path / 'net.onnx', 'onnx')
    assert list(tmp_path.iterdir()) == []
