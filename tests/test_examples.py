"""The notebook runs as it stands, and shows what it says."""

import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / 'examples/quickstart.ipynb'


def test_it_is_kept_without_outputs() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == 'code']
    assert len(cells) > 4
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


@pytest.mark.slow
def test_the_quick_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a kernel of this Python, whatever kernels the machine knows."""
    for name in ('IPYTHONDIR', 'JUPYTER_CONFIG_DIR', 'JUPYTER_DATA_DIR', 'JUPYTER_RUNTIME_DIR'):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv('PYTHONPATH', str(NOTEBOOK.parents[1]))
    monkeypatch.delenv('MPLBACKEND', raising=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={'metadata': {'path': str(tmp_path)}})
    manager: Any = client.create_kernel_manager()
    manager.kernel_spec.argv[0] = sys.executable
    client.execute()
    shown = [output for cell in notebook.cells for output in cell.get('outputs', [])]
    assert sum('image/png' in output.get('data', {}) for output in shown) == 2  # a scene, and its labels beside it
    printed = ''.join(output.get('text', '') for output in shown)
    assert 'fit-ss' in printed and 'fit-ms' in printed
    assert shown[-1].data['text/plain'] == "['README.md', 'config.json', 'model.safetensors']"
    assert len(list((tmp_path / 'quickstart/predictions/masks').iterdir())) == 8
