"""Every module stands in a room that the import contracts know, so that none goes unchecked."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]


def test_every_module_is_in_a_layer():
    (layers,) = (c["layers"] for c in CONTRACTS["contracts"] if c["type"] == "layers")
    rooms = [name for layer in layers for name in layer.replace(":", "|").replace("|", " ").split()]
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in CONTRACTS["root_packages"]
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name != "__init__.py" or path.parent != ROOT / package
    ]
    homeless = [m for m in modules if not any(m == room or m.startswith(f"{room}.") for room in rooms)]
    assert homeless == []


def test_no_contract_has_an_exception():
    assert not [c["name"] for c in CONTRACTS["contracts"] if "ignore_imports" in c]
