"""The wheel carries the configs, and its scripts find them without a clone."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_carries_configs_and_templates_and_finds_them(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="pip install hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=300)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    in_clone = {p.relative_to(ROOT / "conf") for p in (ROOT / "conf").rglob("*.yaml")}
    assert {
        p.relative_to(site / "siamdedup/conf") for p in (site / "siamdedup/conf").rglob("*.yaml")
    } == in_clone
    assert (site / "siamdedup/report/templates/page.html.j2").is_file()
    assert not (site / "experiments").exists()
    code = (
        "import siamdedup, sys; from siamdedup.utils.hydra import config_dir; "
        f"assert siamdedup.__file__.startswith({str(site)!r}), siamdedup.__file__; print(config_dir())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(site / "siamdedup/conf")
