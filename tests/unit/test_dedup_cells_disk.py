"""A disk that is full or damaged, and a folder of something else: clear errors, and nothing lost."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from cells_helpers import RESULT, content, join, parts, split_in_many
from dedup_helpers import assert_same_pairs

from siamdedup.dedup.cells.merge import open_pairs
from siamdedup.errors import SiamdedupError


@pytest.fixture(autouse=True)
def _many_small_parts(monkeypatch):
    split_in_many(monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as monkeypatch:
        split_in_many(monkeypatch)
        assert len(join(folder)) > 500
    assert len([name for name in parts(folder) if name.startswith("pairs-")]) > 5
    assert len([name for name in parts(folder) if name.startswith("assign-")]) >= 6
    return folder


@pytest.fixture
def whole(finished, tmp_path):
    """A finished join's folder, and its pairs."""
    folder = Path(shutil.copytree(finished, tmp_path / "whole"))
    return folder, open_pairs(folder)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("centres", "cut short"),
        ("truth", "empty"),
        ("assign-*-1", "other bytes"),
        ("pairs-*-2", "cut short"),
        ("pairs-*-2", "empty"),
    ],
)
def test_a_damaged_part_is_named_and_can_be_deleted(whole, name, kind):
    folder, wanted = whole
    [path] = folder.glob(f"{name}.npz")
    held = path.read_bytes()
    middle = len(held) // 2
    path.write_bytes(
        {
            "cut short": held[:middle],
            "empty": b"",
            "other bytes": held[:middle]
            + bytes(b ^ 0x55 for b in held[middle : middle + 64])
            + held[middle + 64 :],
        }[kind]
    )
    with pytest.raises(SiamdedupError, match=r"is damaged[\s\S]*delete this file, and run again") as error:
        join(folder)
    assert error.value.where == str(path)
    path.unlink()
    assert_same_pairs(join(folder), wanted)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_disk_full_while_a_part_is_written(whole, tmp_path, monkeypatch, code):
    folder, wanted = whole
    full, save = tmp_path / "full", np.savez
    left = [0]

    def write(*args, **arrays):
        left[0] -= 1
        if left[0] < 0:
            args[0].write(b"some")
            raise OSError(code, os.strerror(code))
        save(*args, **arrays)

    for left[0] in (0, 1, 2, 5, 9):
        monkeypatch.setattr(np, "savez", write)
        before = parts(full)
        with pytest.raises(SiamdedupError, match=os.strerror(code)) as error:
            join(full)
        assert error.value.where == str(full)
        assert "make room or name another folder" in error.value.remedy
        assert before.items() <= parts(full).items()
        assert not list(full.glob(".*.tmp"))
    monkeypatch.setattr(np, "savez", save)
    assert_same_pairs(join(full), wanted)
    assert content(full) == content(folder)


def test_disk_full_while_the_result_is_written(whole, monkeypatch):
    folder, wanted = whole
    for name in RESULT:
        (folder / name).unlink()
    before, opened = parts(folder), Path.open

    def no_room(self, mode="r", *args, **options):
        if "w" in mode:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(self, mode, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", no_room)
        with pytest.raises(SiamdedupError, match="No space left"):
            join(folder)
    assert parts(folder) == before
    assert_same_pairs(join(folder), wanted)
    assert parts(folder) == before


def test_parts_outlive_a_label_that_cannot_be_read_just_now(whole, monkeypatch):
    """A disk that fails for a moment is no reason to delete hours of work."""
    folder, before = whole[0], parts(whole[0])

    def fails(*args, **options):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", fails)
        with pytest.raises((OSError, SiamdedupError)):
            join(folder)
    assert parts(folder) == before


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    """``work_dir`` may be named by mistake: nothing that a join did not write is deleted."""
    mine = tmp_path / "mine"
    (mine / "photos").mkdir(parents=True)
    (mine / "photos" / "a.jpg").write_bytes(b"picture")
    (mine / "notes.txt").write_text("notes")
    with pytest.raises(SiamdedupError):
        join(mine)
    assert (mine / "photos" / "a.jpg").read_bytes() == b"picture"
    assert (mine / "notes.txt").read_text() == "notes"


def test_a_work_dir_that_cannot_be(tmp_path):
    file = tmp_path / "file"
    file.write_text("a file")
    for folder in (file, file / "below"):
        with pytest.raises(SiamdedupError):
            join(folder)
    assert file.read_text() == "a file"
