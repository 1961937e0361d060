"""docs/SECURITY.md: each line has a test that exists; and what holds for the source as a whole."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "hardneg_plugin"


def test_each_line_of_the_document_has_its_test():
    rows = [
        line
        for line in (ROOT / "docs" / "SECURITY.md").read_text().splitlines()
        if line.startswith("|") and "---" not in line
    ]
    rows = [row for row in rows if not row.startswith("| what it might try")]
    assert len(rows) > 25
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            tree = ast.parse((ROOT / file).read_text())
            assert any(isinstance(node, ast.FunctionDef) and node.name == test for node in tree.body), (file, test)


def test_nothing_is_unpickled():
    loads = 0
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword):
                assert node.arg != "allow_pickle", path
            if not isinstance(node, ast.Call):
                continue
            name, given = ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert not re.search(r"\b(pickle|joblib|dill|cloudpickle|marshal|shelve)\.(load|loads|open)$", name), path
            assert name not in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "np.load", "numpy.load"), path
            if name in ("torch.load", "load_state_dict"):
                assert given.get("weights_only") == "True", (path, ast.unparse(node))
                loads += 1
    assert loads >= 3
