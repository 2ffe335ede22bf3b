"""Every notebook runs from top to bottom."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
MARKS = {
    "criticality_phase_diagram": (pytest.mark.slow, pytest.mark.long),
    "quickstart": pytest.mark.slow,
    "grokking": (pytest.mark.slow, pytest.mark.long),
    "learnability_bound": pytest.mark.slow,
    "renormalisation": pytest.mark.slow,
    "learning_curves": (pytest.mark.slow, pytest.mark.long),
    "critical_feature_learning": (pytest.mark.slow, pytest.mark.long),
    "feature_learning": (pytest.mark.slow, pytest.mark.long),
}


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=MARKS.get(p.stem, ())) for p in NOTEBOOKS],
    ids=lambda p: p.stem,
)
def test_notebook_runs(path):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    assert any(cell.get("outputs") for cell in notebook.cells)
