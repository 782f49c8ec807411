from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import __version__
from bench.runs import commit as asking


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the packages, in a repository with one commit that does not have them."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # of a hook that runs the tests
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "theirs.txt").write_text("")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "theirs.txt")
    git(tmp_path, "commit", "--quiet", "--message", "their own work")
    root = tmp_path / "code"
    (root / "bench").mkdir(parents=True)
    (root / "bench" / "__init__.py").write_text("")
    monkeypatch.setattr(asking, "ROOT", root)
    forget()
    yield root
    forget()


def forget() -> None:
    asking.commit.cache_clear()
    asking.installed.cache_clear()


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def test_code_that_a_repository_does_not_track_has_no_commit_of_it(code: Path) -> None:
    assert asking.commit() == "unknown"


def test_a_checkout_has_its_commit_and_says_when_it_was_edited(code: Path) -> None:
    git(code, "add", "bench")
    git(code, "commit", "--quiet", "--message", "ours")
    assert asking.commit() == git(code, "rev-parse", "--short=12", "HEAD")
    (code / "bench" / "__init__.py").write_text("edited = 1\n")
    forget()
    assert asking.commit() == git(code, "rev-parse", "--short=12", "HEAD") + "+dirty"


def test_a_snapshot_has_the_commit_that_it_was_made_with(code: Path) -> None:
    (code / "COMMIT").write_text("abc")
    assert asking.commit() == "abc"


def test_a_wheel_has_a_version_whatever_lies_around_it(code: Path) -> None:
    (code / "COMMIT").write_text("of another distribution")
    (code / f"ssl_tables-{__version__}.dist-info").mkdir()
    git(code, "add", "bench")
    git(code, "commit", "--quiet", "--message", "an environment that somebody keeps in Git")
    assert asking.commit() == f"ssl-tables {__version__}"
