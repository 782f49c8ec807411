from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.commands import printing
from tests.conftest import ROOT

ENCODINGS = ("latin-1", "ascii", "cp1252", "utf-8", "koi8-r")
CLI = [sys.executable, "-P", "-m", "bench.cli"]


def bench(*arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    known = {"PYTHONPATH": str(ROOT), "PYTHONCOERCECLOCALE": "0", **variables}
    return subprocess.run([*CLI, *arguments], env=os.environ | known, capture_output=True, timeout=300, check=False)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_text_can_be_printed_in_any_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    printing.never_fail()
    text = "67.1 ± 0.3, \N{MINUS SIGN}2 … \N{GREEK SMALL LETTER TAU} 表 " + os.fsdecode(b"caf\xe9.png")
    for stream in (out, err):
        print(text, file=stream, flush=True)
    printed = out.buffer.getvalue().decode(encoding)
    assert "67.1" in printed
    assert printed.endswith("caf\\xe9.png\n")
    if encoding == "ascii":
        assert printed == "67.1 +- 0.3, -2 ... ? ? caf\\xe9.png\n"


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_a_run_writes_every_file_whatever_the_locale(workplace: Path, encoding: str) -> None:
    asked = ("--table", "fnc_table1", "--scale", "smoke")
    part = ("--rows", "SimCLR")
    found = bench("run", *asked, *part, PYTHONIOENCODING=encoding, PYTHONUTF8="0", LC_ALL="C")
    assert found.returncode == 0, found.stderr
    written = {path.suffix for path in (workplace / "results/out/smoke").iterdir()}
    assert {".csv", ".md", ".tex"} <= written
    assert (workplace / "reports/out/index.html").is_file()
    for command in (("plan", *asked), ("status", *asked[:2]), ("report",), ("list", "tables"), ("list", "methods")):
        again = bench(*command, PYTHONIOENCODING=encoding, PYTHONUTF8="0", LC_ALL="C")
        assert (again.returncode, again.stderr) == (0, b""), command
