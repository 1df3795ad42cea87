"""What is packed, declared, pinned and documented fits what is in the repository."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from front_ends.command import app

ROOT = Path(__file__).parents[1]
PACKAGES = [
    "mattoni",
    "assistant",
    "modality_bricks",
    "task_bricks",
    "knowledge_bricks",
    "emergent_bricks",
    "brick_training",
    "ui",
    "server",
    "front_ends",
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def plain(name):
    """A distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared():
    return {plain(re.split(r"[<>=\[ ]", text)[0]) for text in PROJECT["project"]["dependencies"]}


def offered():
    """What is installed with an extra, and imported only where it is there."""
    extras = PROJECT["project"]["optional-dependencies"]
    return {plain(re.split(r"[<>=\[ ]", text)[0]) for name, texts in extras.items() if name != "dev" for text in texts}


def imported_modules():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if path.stem.endswith("_dev"):
                continue  # what makes a dev set may use the tools of the dev extra
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    yield from (alias.name.split(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    yield node.module.split(".")[0]


def test_everything_imported_is_declared():
    own = {*PACKAGES, *sys.stdlib_module_names}
    distributions = packages_distributions()
    needed = {module: {plain(d) for d in distributions.get(module, [module])} for module in {*imported_modules()} - own}
    assert {module for module, found in needed.items() if not found & (declared() | offered())} == set()


def test_everything_declared_is_pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    wanted = (
        declared()
        | offered()
        | {plain(re.split(r"[<>=\[ ]", text)[0]) for text in PROJECT["project"]["optional-dependencies"]["dev"]}
    )
    assert wanted <= {plain(name) for name in pins}
    assert pins["torch"] == "2.13.0"  # without the local part: a CPU build and a CUDA build are the same version
    assert not [line for line in lines if "+" in line or "://" in line]


def test_make_has_the_targets_that_the_documents_name():
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", text, flags=re.MULTILINE))
    assert {"setup", "chat", "test", "check", "bench"} <= targets
    documents = "".join((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md"))
    assert set(re.findall(r"`?make ([a-z]+)", "\n".join(commands(documents)))) <= targets


def commands(text):
    """The lines of a document's shell blocks."""
    for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", text, flags=re.DOTALL):
        yield from (line.strip() for line in block.splitlines() if line.strip())


def known_options(words):
    """The options of the command that the words begin with. Fails when there is no such command."""
    command, path = typer.main.get_command(app), []
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, f"there is no command {words[0]}"
        path.append(words.pop(0))
        command = command.commands[path[-1]]
    if command.context_settings.get("ignore_unknown_options"):  # handed on to a parser that only its help knows
        return set(re.findall(r"--[a-z-]+", CliRunner().invoke(app, [*path, "--help"]).output))
    return {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_the_commands_in_the_documents_exist(document):
    for line in commands((ROOT / document).read_text()):
        for part in re.split(r"&&|\||;", line):
            words = part.split("#")[0].split()
            if words[:1] == ["mattoni"]:
                rest = [re.split("=", word)[0] for word in words[1:]]
                options = {word for word in rest if word.startswith("--")}
                assert options <= known_options([word for word in rest if not word.startswith("-")]), line
            elif "-m" in words[:3]:
                module = words[words.index("-m") + 1]
                if module.split(".")[0] in PACKAGES:
                    assert importlib.util.find_spec(module), line


def test_the_files_that_the_documents_point_to_are_there():
    for document in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / document).read_text()):
            assert (ROOT / target).exists(), f"{document} points to {target}"


@pytest.mark.slow
def test_an_installed_copy_brings_its_bricks_and_works_from_any_folder(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("mattoni-*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "ls-files", *PACKAGES, "models"], cwd=ROOT, capture_output=True, text=True)
    for name in tracked.stdout.splitlines():
        packed = f"mattoni/{name}" if name.startswith("models/") else name
        assert packed in inside
    assert not [name for name in inside if name.startswith(("tests/", "runs/", "cache/", "models/"))]
    target = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    # In front of everything else, so that this copy is imported and not the checkout.
    environment = {**os.environ, "PYTHONPATH": str(target), "MATTONI_HOME": str(tmp_path / "home")}

    def mattoni(*arguments):
        script = target / "bin" / "mattoni"
        return subprocess.run(
            [sys.executable, script, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    where = "import mattoni.paths; print(mattoni.paths.shipped_models())"
    found = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == str(target / "mattoni" / "models")
    listed = mattoni("bricks", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    for folder in (ROOT / "models" / "bricks").glob("*/brick.yaml"):
        assert f'"name": "{folder.parent.name}"' in listed.stdout
    assert "smollm2-135m-instruct" in mattoni("models", "list", "--json").stdout
