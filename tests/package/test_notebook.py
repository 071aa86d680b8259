"""The notebook runs from its first to its last cell."""

import os
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
NOTEBOOK = REPO / 'docs' / 'notebooks' / 'train_on_your_data.ipynb'


@pytest.mark.slow
def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip('nbclient', reason='`pip install nbclient ipykernel`: they run the notebook')
    pytest.importorskip('ipykernel', reason='`pip install ipykernel`')
    nbformat = pytest.importorskip('nbformat')
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get('outputs') for cell in notebook.cells)
    for cell in notebook.cells:  # as short as it can be
        cell.source = cell.source.replace('train=200, val=40', 'train=16, val=8').replace('epochs=2', 'epochs=1')
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.setenv('PYTHONPATH', str(REPO))
    monkeypatch.setenv('JUPYTER_PLATFORM_DIRS', '1')
    monkeypatch.setenv('PATH', f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}')
    client = nbclient.NotebookClient(notebook, timeout=120, resources={'metadata': {'path': str(tmp_path)}})
    client.execute()
    printed = {cell.id: ''.join(out.get('text', '') for out in cell.get('outputs', ())) for cell in notebook.cells}
    assert '16' in printed['look'] and printed['fit'].strip().endswith('.pth')
    assert 'model.onnx' in printed['onnx'], printed['onnx']
    by_torch, by_onnx = (int(word) for word in printed['serve'].split() if word.isdigit())
    assert by_torch == by_onnx
    assert (tmp_path / 'model.onnx').is_file()
