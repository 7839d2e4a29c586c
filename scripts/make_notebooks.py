"""Write the notebooks from ``notebooks/source``: make_notebooks.py [FOLDER]."""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext
import nbformat

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
# The source is that of the first; the others differ by the name alone, as those that edge bundle makes.
MODELS = ("ConvNeXt_atto", "ConvNeXt_femto", "ConvNeXt_pico", "ConvNeXt_nano")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def convert(source: Path) -> str:
    """Return the text of an ``.ipynb``, without outputs and without anything that changes from run to run."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id, cell.metadata = f"cell-{number:02d}", {}
    nbformat.validate(notebook)
    return nbformat.writes(notebook, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all notebooks."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else NOTEBOOKS
    text = convert(NOTEBOOKS / "source" / "test_model.py")
    for model in MODELS:
        path = out / f"test_{model}.ipynb"
        path.write_text(text.replace(MODELS[0], model), encoding="utf-8")
    text = convert(NOTEBOOKS / "source" / "compare_float_quantized.py")
    (out / "compare_float_quantized.ipynb").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
