"""A run's record names the code that ran."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from siamdedup.report import record

NAME = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")


def git(folder: Path, *command: str) -> str:
    told = subprocess.run(
        ["git", "-C", str(folder), *NAME, *command], check=True, capture_output=True, text=True
    )
    return told.stdout.strip()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("first\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    monkeypatch.setattr(record, "__file__", str(tmp_path / "code.py"))
    record.commit.cache_clear()
    yield tmp_path
    record.commit.cache_clear()


def test_what_is_committed_during_a_run_is_not_what_ran(tree: Path) -> None:
    first = git(tree, "rev-parse", "HEAD")
    assert record.commit() == first
    (tree / "code.py").write_text("second\n")
    git(tree, "commit", "--quiet", "-am", "second")
    assert git(tree, "rev-parse", "HEAD") != first
    assert record.commit() == first


def test_uncommitted_changes_show(tree: Path) -> None:
    (tree / "code.py").write_text("changed\n")
    assert record.commit() == git(tree, "rev-parse", "HEAD") + "+"


def test_outside_a_clone_there_is_none(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    record.__file__ = str(tmp_path_factory.mktemp("elsewhere") / "code.py")
    assert record.commit() == ""
