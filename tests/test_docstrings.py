"""What every public name says of itself, and what the documents name: arguments, examples, files."""

import ast
import re
from collections import Counter
from pathlib import Path

import hardneg_plugin
from hardneg_plugin import objectives

SOURCE = Path(__file__).resolve().parents[1] / "src" / "hardneg_plugin"
TREES = {path.relative_to(SOURCE): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}


def public(kind):
    """Definitions of a kind at the top of every module."""
    for path, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, kind) and not node.name.startswith("_"):
                yield path, node


def test_functions_of_two_or_more_arguments_say_what_they_are():
    missing = []
    for path, node in public(ast.FunctionDef):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if len(arguments) >= 2 and "Args:" not in (ast.get_docstring(node) or ""):
            missing.append(f"{path}:{node.lineno} {node.name}")
    assert not missing


def test_no_two_classes_share_a_name():
    names = Counter(node.name for _, node in public(ast.ClassDef))
    assert [name for name, count in names.items() if count > 1] == []


def test_what_a_user_of_the_plug_in_imports_has_an_example():
    classes = {node.name: ast.get_docstring(node) or "" for _, node in public((ast.ClassDef, ast.FunctionDef))}
    # examples/ runs those of the mixin and plug_in; nobody but the objective makes its output
    elsewhere = {"HardNegativeMixin", "plug_in", "ObjectiveOutput", "__version__"}
    exported = {*hardneg_plugin.__all__, *objectives.__all__} - elsewhere
    missing = [name for name in sorted(exported) if ">>>" not in classes[name]]
    assert not missing


def test_every_public_name_is_in_the_reference():
    pages = "".join(page.read_text() for page in (SOURCE.parents[1] / "docs" / "api").glob("*.md"))
    named = re.findall(r"^\.\. auto(?:class|function):: hardneg_plugin\.(\w+)$", pages, re.M)
    assert sorted(named) == sorted({*hardneg_plugin.__all__} - {"__version__"})


def test_files_that_the_documents_name_are_there():
    root = SOURCE.parents[1]
    for document in [*root.glob("*.md"), *root.glob("docs/*.md")]:
        for path in re.findall(r"`((?:\w+/)+\w+\.(?:py|yaml|md))`", document.read_text()):
            assert any((folder / path).is_file() for folder in (root, SOURCE, document.parent)), (
                f"{document.name}: {path}"
            )
