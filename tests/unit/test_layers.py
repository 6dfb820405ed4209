"""Each stage imports only the stages before it; faiss has one door."""

from __future__ import annotations

import ast
from pathlib import Path

import siamdedup

ROOT = Path(siamdedup.__file__).parent
FOUNDATION = {"cores", "types", "errors", "files"}
BEFORE = {
    "catalog": set(),
    "imagepass": {"catalog"},
    "embedding": {"catalog", "imagepass"},
    "fingerprint": {"catalog", "imagepass"},
    "verification": {"catalog", "imagepass", "embedding", "fingerprint"},
    "dedup": {"catalog", "imagepass", "embedding", "fingerprint", "verification"},
    "report": {"catalog", "imagepass", "embedding", "fingerprint", "verification", "dedup"},
    "utils": set(),
}
BEFORE["callbacks"] = set(BEFORE)
BEFORE["sweeps"] = set(BEFORE)
BEFORE["cli"] = set(BEFORE)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def test_stages_import_only_what_comes_before() -> None:
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        stage = path.relative_to(ROOT).parts[0]
        if stage not in BEFORE:
            continue
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "siamdedup" and len(parts) > 1:
                allowed = BEFORE[stage] | FOUNDATION | {stage}
                if parts[1] not in allowed:
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_every_folder_is_a_known_stage() -> None:
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and p.name not in ("__pycache__", "conf")}
    assert folders == set(BEFORE)


def test_only_the_index_imports_faiss() -> None:
    users = [
        p.relative_to(ROOT).as_posix()
        for p in ROOT.rglob("*.py")
        if any(n.split(".")[0] == "faiss" for n in imports(p))
    ]
    assert users == ["dedup/index.py"]


def test_torch_free_stages_stay_torch_free() -> None:
    """The catalogue and the verification's arithmetic are plain NumPy."""
    for stage in ("catalog", "imagepass", "fingerprint", "verification"):
        users = [
            p.name
            for p in (ROOT / stage).rglob("*.py")
            if any(n.split(".")[0] in ("torch", "lightning") for n in imports(p))
        ]
        assert not users
