"""Reads Jupyter notebooks cell by cell. Runs none of them."""

import json
from typing import Any

_LONGEST_OUTPUT = 4000


def cells_of(text: str) -> list[str] | None:
    """Each cell as Markdown: notes as they are, code in a fence and its output below; None for what is no notebook.

    The format: https://nbformat.readthedocs.io, versions 3 and 4.
    """
    if not text.startswith("{") or '"cell' not in text or '"nbformat"' not in text:
        return None
    try:
        notebook = json.loads(text)
    except ValueError:
        return None
    sheets = [notebook, *notebook.get("worksheets", [])] if isinstance(notebook, dict) else []
    cells = [cell for sheet in sheets for cell in sheet.get("cells", []) if isinstance(cell, dict)]
    language = notebook.get("metadata", {}).get("kernelspec", {}).get("language", "python") if sheets else ""
    return [part for cell in cells for part in _parts(cell, language)] or None


def _parts(cell: dict[str, Any], language: str) -> list[str]:
    source = _joined(cell.get("source", cell.get("input", ""))).strip()
    if cell.get("cell_type") != "code":
        return [source] if source else []
    parts = [f"```{language}\n{source}\n```"] if source else []
    outputs = [_output(output) for output in cell.get("outputs", []) if isinstance(output, dict)]
    shown = "\n".join(output for output in outputs if output)
    return [*parts, f"Output:\n{shown[:_LONGEST_OUTPUT]}"] if shown else parts


def _output(output: dict[str, Any]) -> str:
    """What an output says in words; a picture says nothing, and of an error its last line counts."""
    if output.get("output_type") in ("error", "pyerr"):
        return f"{output.get('ename', 'Error')}: {output.get('evalue', '')}"
    data = output.get("data", output)
    return _joined(data.get("text/plain", data.get("text", output.get("text", "")))).rstrip()


def _joined(source: object) -> str:
    """A text, which notebooks may keep as a list of lines."""
    return "".join(map(str, source)) if isinstance(source, list) else str(source)
