"""A catalogue damaged on purpose, with the list of what was done to it: what the doctor must find, and where."""

from __future__ import annotations

import csv
import io
import os
import shutil
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ID, TITLE, IMAGES, FAMILY = range(4)  # columns of the Magento sample


@dataclass(frozen=True)
class Damage:
    """One thing that was done.

    Attributes:
        what: in words.
        finding: kind of the finding that must name it; "" where it is no damage and nothing may be said of it.
        row: record of the damaged table, counted from 1.
        item: the product id or the picture's name that it is about; "" where the row alone tells.
    """

    what: str
    finding: str
    row: int
    item: str = ""


class _Patient:
    """The rows while they are being damaged; their numbers are known when all is done."""

    def __init__(self, source: Path, out: Path, seed: int) -> None:
        with source.open(encoding="utf-8", newline="") as file:
            self.header, *rows = csv.reader(file)
        self.rows: list[list[str] | str] = [*rows]
        self.out, self.rng = out, np.random.default_rng(seed)
        self.done: list[tuple[str, str, int, str]] = []  # the int is id() of a row
        self._victims = [rows[k] for k in self.rng.permutation(len(rows))]
        self._families: set[str] = set()
        for name in sorted({name for row in rows for name in row[IMAGES].split(";")}):
            link(source.parent / name, out / name)

    def victim(self) -> list[str]:
        """An unharmed row of a family that nothing was done to yet."""
        while True:
            row = self._victims.pop()
            if row[FAMILY] not in self._families:
                self._families.add(row[FAMILY])
                return row

    def note(self, what: str, finding: str, row: list[str] | str, item: str = "") -> None:
        self.done.append((what, finding, id(row), item))

    def insert(self, row: list[str] | str, after: list[str] | None = None) -> None:
        """At a random place; behind ``after`` where one is given."""
        low = 0 if after is None else 1 + next(k for k, other in enumerate(self.rows) if other is after)
        self.rows.insert(int(self.rng.integers(low, len(self.rows) + 1)), row)

    def show(self, row: list[str], name: str, data: bytes | None, what: str, finding: str) -> None:
        """The row lists one more picture; ``data`` becomes its file."""
        if data is not None:
            (self.out / name).write_bytes(data)
        row[IMAGES] += ";" + name
        self.note(what, finding, row, name)

    def picture(self, row: list[str]) -> Image.Image:
        with Image.open(self.out / row[IMAGES].split(";")[0]) as image:
            return image.convert("RGB")

    def write(self, path: Path) -> list[Damage]:
        number = {id(row): k for k, row in enumerate(self.rows, 1)}
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self.header)
            for row in self.rows:
                if isinstance(row, str):
                    file.write(row + "\n")
                else:
                    writer.writerow(row)
        return [Damage(what, finding, number[row], item) for what, finding, row, item in self.done]


def damage(source: Path, out: Path, seed: int = 0) -> list[Damage]:
    """Write a damaged copy of the catalogue ``source`` (Magento's columns) as ``out/catalog.csv``, and say what was done.

    Pictures of the source are hard links where the file system allows; none is changed.
    """
    patient = _Patient(source, out, seed)
    _rows(patient)
    _ids(patient)
    _files(patient)
    _shared(patient)
    return patient.write(out / "catalog.csv")


def damage_siblings(source: Path, out: Path, seed: int = 0) -> list[Damage]:
    """The same catalogue with families as lists of sibling ids, and lists that contradict each other or name nobody."""
    patient = _Patient(source, out, seed)
    rows = [row for row in patient.rows if isinstance(row, list)]
    members: dict[str, list[str]] = {}
    for row in rows:
        members.setdefault(row[FAMILY], []).append(row[ID])
    absent, one_sided = patient.victim(), patient.victim()
    families = {id(row): row[FAMILY] for row in rows}
    for row in rows:
        row[FAMILY] = ",".join(name for name in members[row[FAMILY]] if name != row[ID])
    absent[FAMILY] += ",GONE-1"
    patient.note("a sibling that is not there", "unknown-sibling", absent, absent[ID])
    listed = one_sided[FAMILY].split(",")
    one_sided[FAMILY] = ",".join(listed[1:])
    first = next(row for row in rows if families[id(row)] == families[id(one_sided)])
    patient.note("lists that disagree", "lists-disagree", first, first[ID])
    return patient.write(out / "catalog.csv")


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _rows(patient: _Patient) -> None:
    for text in ("just one field", "a,b,c,d,e,f,g"):
        patient.insert(text)
        patient.note("malformed row", "malformed-row", text)
    row = patient.victim()
    copy = [*row]
    patient.insert(copy, row)
    patient.note("repeated id, same row", "repeated-id", copy, row[ID])
    for what, column in (("family", FAMILY), ("pictures", IMAGES)):
        row = patient.victim()
        copy = [*row]
        copy[column] = patient.victim()[column]
        patient.insert(copy, row)
        patient.note(f"repeated id, other {what}", f"repeated-id-other-{what}", copy, row[ID])
    for what, column, finding in (
        ("no id", ID, "no-id"),
        ("no family", FAMILY, "no-family"),
        ("no picture", IMAGES, "no-picture"),
    ):
        row = patient.victim()
        row[column] = "  "
        patient.note(what, finding, row, row[ID].strip())
    for name, what, finding in (
        ("../../../../etc/passwd", "path that climbs", "outside-root"),
        ("images/../../secret.jpg", "path that climbs", "outside-root"),
        ("/etc/hostname", "absolute path", "outside-root"),
        ("ftp://shop.example/a.jpg", "unsupported address", "unsupported-address"),
        ("file:///etc/passwd", "unsupported address", "unsupported-address"),
    ):
        patient.show(patient.victim(), name, None, what, finding)


def _ids(patient: _Patient) -> None:
    row = patient.victim()
    copy = [row[ID].lower(), *row[1:]]
    patient.insert(copy)
    for either in (row, copy):
        patient.note("ids that differ in case", "alike-ids", either, either[ID])
    row = patient.victim()
    row[ID] = row[ID][:3] + "\u00c5" + row[ID][3:]  # A with ring, as one sign and as two
    copy = [row[ID].replace("\u00c5", "A\u030a"), *row[1:]]
    patient.insert(copy)
    for either in (row, copy):
        patient.note("ids that differ in encoding", "alike-ids", either, either[ID])
    for sign in ("\x07", "\u200b", "\ufffd"):
        row = patient.victim()
        row[ID] = row[ID][:3] + sign + row[ID][3:]
        patient.note("invisible character", "control-character", row, row[ID])
    row = patient.victim()
    row[ID] = "4.90123E+12"
    patient.note("id made a number", "spreadsheet-id", row, row[ID])
    row = patient.victim()
    row[FAMILY] = "NULL"
    patient.note("family NULL", "nameless-family", row, row[ID])
    patient.insert([row[ID] + "-2", *row[1:]], row)
    row = patient.victim()
    noise = patient.rng.integers(0, 256, (60, 64, 64, 3), dtype=np.uint8)
    names = [f"images/many-{k}.png" for k in range(len(noise))]
    for name, pixels in zip(names, noise, strict=True):
        Image.fromarray(pixels).save(patient.out / name)
    row[IMAGES] = ";".join(names)
    patient.note("60 pictures", "many-pictures", row, row[ID])
    Image.fromarray(patient.rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        patient.out / "images/all.png"
    )
    heap = [[f"ALL-{k}", "", "images/all.png", "Default Category"] for k in range(300)]
    patient.rows.extend(heap)
    patient.note("family of 300", "large-family", heap[0], heap[0][ID])


def _files(patient: _Patient) -> None:
    """Files that cannot be read, or hold next to nothing; and unusual ones that are read like any other."""
    show = patient.show
    show(patient.victim(), "images/not-there.jpg", None, "missing file", "missing-file")
    show(patient.victim(), "images/empty.jpg", b"", "empty file", "empty-file")
    page = b"<!doctype html><html><body>404 Not Found</body></html>"
    show(patient.victim(), "images/page.jpg", page, "HTML saved as .jpg", "unreadable")
    row = patient.victim()
    whole = (patient.out / row[IMAGES].split(";")[0]).read_bytes()
    show(row, "images/cut.jpg", whole[: len(whole) // 2], "truncated JPEG", "unreadable")
    show(patient.victim(), "images/bomb.png", bomb(50_000, 50_000), "decompression bomb", "unreadable")
    for name, size, value, what, finding in (
        ("blank.png", (300, 300), 255, "blank picture", "blank-picture"),
        ("small.png", (8, 8), None, "8 px picture", "tiny-picture"),
        ("strip.png", (400, 8), None, "strip of 400 x 8", "long-picture"),
    ):
        pixels = np.full((size[1], size[0], 3), 255, np.uint8)
        if value is None:
            pixels = patient.rng.integers(0, 256, pixels.shape, dtype=np.uint8)
        show(patient.victim(), f"images/{name}", encoded(Image.fromarray(pixels), "PNG"), what, finding)
    row = patient.victim()
    show(row, "images/cmyk.jpg", encoded(patient.picture(row).convert("CMYK"), "JPEG"), "CMYK", "")
    row, exif = patient.victim(), Image.Exif()
    exif[0x0112] = 6
    show(row, "images/turned.jpg", encoded(patient.picture(row), "JPEG", exif=exif), "EXIF orientation", "")
    row = patient.victim()
    grey = np.asarray(patient.picture(row).convert("L"), np.uint16) * 257
    show(row, "images/deep.png", encoded(Image.fromarray(grey), "PNG"), "16 bits", "")


def _shared(patient: _Patient) -> None:
    """One picture in families that are not one: by name, by bytes, by look, and a placeholder in many."""
    row, other = patient.victim(), patient.victim()
    name = other[IMAGES].split(";")[0]
    patient.show(row, name, None, "picture of another family", "shared-name")
    row, other = patient.victim(), patient.victim()
    data = (patient.out / other[IMAGES].split(";")[0]).read_bytes()
    patient.show(row, "images/copy.jpg", data, "copy of another family's file", "shared-bytes")
    row = patient.victim()
    board = patient.rng.integers(0, 256, (9, 9, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
    for name, form, receiver in (("look.png", "PNG", row), ("look.bmp", "BMP", patient.victim())):
        data = encoded(Image.fromarray(board), form)
        patient.show(receiver, f"images/{name}", data, "same look, another file", "shared-look")
    sign = Image.new("RGB", (240, 240), "#e8e8e8")
    pen = ImageDraw.Draw(sign)
    pen.rectangle((40, 60, 200, 180), outline="#555555", width=6)
    pen.ellipse((95, 95, 145, 145), fill="#777777")
    pen.text((70, 195), "no image available", fill="#222222")
    for _ in range(12):
        patient.show(patient.victim(), "images/none.png", encoded(sign, "PNG"), "placeholder", "placeholder")


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to hold width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
