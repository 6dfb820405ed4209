"""Shared fixtures: tiny catalogues drawn in milliseconds."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict
from PIL import Image

from siamdedup.utils.hydra import config_dir

# No test may reach for a hub: a missing weight must fail at once, not after minutes of retries.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"


def draw(family: int, view: int, size: int = 96) -> np.ndarray:
    """uint8 (size, size, 3): an object whose shape and pattern tell its family, seen a little differently."""
    rng = np.random.default_rng([family, 7])
    image = np.full((size, size, 3), 255, np.uint8)
    colour = tuple(int(c) for c in rng.integers(20, 220, 3))
    accent = tuple(int(c) for c in rng.integers(20, 220, 3))
    shift = (view * 5 % 13 - 6, view * 3 % 11 - 5)  # no two views are the same picture
    centre = (size // 2 + shift[0], size // 2 + shift[1])
    corners = int(rng.integers(3, 9))
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False) + rng.uniform(0, 1)
    radius = size * rng.uniform(0.25, 0.4, corners)
    points = np.stack([centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles)], 1)
    cv2.fillPoly(image, [points.astype(np.int32)], colour)
    for k in range(int(rng.integers(1, 5))):
        y = centre[1] - size // 5 + k * size // 9
        cv2.line(image, (centre[0] - size // 6, y), (centre[0] + size // 6, y), accent, 3)
    return image


def write_rows(path: Path, rows: list[tuple[str, str, str]], header: tuple[str, ...] | None = None) -> Path:
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(header or ("productId", "imageUrlStr", "productFamily"))
        writer.writerows(rows)
    return path


def make_catalog(folder: Path, families: int = 12, products: int = 2, views: int = 2) -> Path:
    """A catalogue CSV with its pictures; returns the CSV."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for family in range(families):
        for product in range(products):
            names = []
            for view in range(views):
                name = f"images/f{family}_p{product}_v{view}.png"
                picture = draw(family, 10 * product + view)
                cv2.imwrite(str(folder / name), picture[:, :, ::-1])
                names.append(name)
            rows.append((f"P{family}-{product}", ";".join(names), f"F{family}"))
    return write_rows(folder / "catalog.csv", rows)


@pytest.fixture(scope="session")
def tiny_catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CSV of 12 families x 2 products x 2 pictures; read-only for tests."""
    return make_catalog(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., DictConfig]:
    """compose("train", overrides...) as the script would, with outputs under tmp_path."""

    def make(name: str = "train", *overrides: str) -> DictConfig:
        with initialize_config_dir(config_dir(), version_base="1.3"):
            config = compose(name, [*overrides, f"hydra.run.dir={tmp_path}/run"], return_hydra_config=True)
        with open_dict(config):
            config.hydra.runtime.output_dir = str(tmp_path / "run")
            config.hydra.runtime.cwd = str(tmp_path)
            config.paths.root_dir = str(tmp_path)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        return config

    yield make
    HydraConfig.instance().cfg = None


def shared_data() -> Path | None:
    """Real pictures for tests and benchmarks: SIAMDEDUP_DATA, else ../shared/data beside the clone, else None."""
    given = os.environ.get("SIAMDEDUP_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None


def run_script(name: str, *arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).resolve().parents[1] / name
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "COLUMNS": "160"},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def strong_colours(page: Path, folder: Path, height: int) -> float:
    """Share of strongly coloured pixels of a page as a headless browser draws it; skips where there is none."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("needs chromium on the PATH")
    shot = folder / "shot.png"
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += [
        "--no-first-run",
        "--disable-sync",
        "--disable-component-update",
        f"--user-data-dir={folder}/profile",
    ]
    command += [f"--window-size=1000,{height}", f"--screenshot={shot}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    return float((np.ptp(pixels, axis=2) > 60).mean())
