"""What a result says about where it comes from, and what it keeps to itself."""

import importlib.metadata
import json
import subprocess

import pytest

from hardneg_plugin.runs import provenance as module
from hardneg_plugin.runs.provenance import command_without_secrets, commit, provenance, versions


def test_plain_values_with_the_versions_that_are_installed():
    told = provenance({"sha256": "x"})
    assert json.loads(json.dumps(told)) == told
    assert told["data"] == {"sha256": "x"}
    for name in ("torch", "pytorch-lightning", "timm", "transformers", "hydra-core", "numpy"):
        assert told["versions"][name] == importlib.metadata.version(name)
    assert {"pytest", "ruff", "mypy"}.isdisjoint(versions())


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in a git repository of its own; gives a function that calls git there."""
    folder = tmp_path / "src" / "package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    monkeypatch.setattr(module.hardneg_plugin, "__file__", str(folder / "__init__.py"))

    def git(*arguments):
        name = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(
            ["git", *name, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    return git


def test_the_commit_and_whether_the_checkout_differs_from_it(package, tmp_path):
    head = package("rev-parse", "HEAD").strip()
    assert commit() == head
    (tmp_path / "notes.txt").write_text("not tracked")
    assert commit() == head
    (tmp_path / "src/package/__init__.py").write_text("x = 1\n")
    assert commit() == f"{head}-modified"


def test_a_package_below_a_repository_of_something_else_has_no_commit(package, tmp_path, monkeypatch):
    folder = tmp_path / "site-packages" / "package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    monkeypatch.setattr(module.hardneg_plugin, "__file__", str(folder / "__init__.py"))
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(None))
    assert commit() is None
    url = {"url": "https://host/repo", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(json.dumps(url)))
    assert commit() == "abc"


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed("not JSON"))
    assert commit() is None


class Installed:
    def __init__(self, text):
        self.text = text

    def read_text(self, name):
        assert name == "direct_url.json"
        return self.text


@pytest.mark.parametrize(
    ("override", "written"),
    [
        ("logger.wandb.api_key=s3cret", "logger.wandb.api_key=***"),
        ("+db.password='s3cret, too'", "'+db.password=***'"),
        ("+HF_TOKEN=s3cret", "'+HF_TOKEN=***'"),
        ("+logger.x={api_key: s3cret, project: p}", "'+logger.x={api_key: ***, project: p}'"),
        ("logger.mlflow.tracking_uri=https://me:s3cret@host/x", "'logger.mlflow.tracking_uri=https://me:***@host/x'"),
        # no secrets, whatever they sound like
        ("token_weights=by_text", "token_weights=by_text"),
        ("tokenizer=words", "tokenizer=words"),
        ("visual.options.num_tokens_per_side=2", "visual.options.num_tokens_per_side=2"),
        ("logger.mlflow.tracking_uri=https://host:80/x", "logger.mlflow.tracking_uri=https://host:80/x"),
        ("data.root=a b", "'data.root=a b'"),
    ],
)
def test_the_command_without_secrets(override, written):
    line = command_without_secrets("hardneg-train", ["seed=1", override])
    assert "s3cret" not in line
    # a shell quotes what it would read otherwise; either way it is one argument
    assert line.replace("'", "") == f"hardneg-train seed=1 {written}".replace("'", "")
