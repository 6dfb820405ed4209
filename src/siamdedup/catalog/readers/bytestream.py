"""Files as streams of UTF-8: decompressed, transcoded, without a byte order mark, in pieces of bounded size."""

from __future__ import annotations

import bz2
import codecs
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from siamdedup.catalog.ledger import Ledger
from siamdedup.errors import CatalogError

PIECE = 1 << 18  # bytes read at once
_MOST = 1 << 20  # bytes that one step of a decompressor may give: a bomb is met in small pieces
FALLBACK = "windows-1252"

_MAGIC: dict[bytes, tuple[str, Callable[[], Any] | None]] = {
    b"\x1f\x8b": ("gzip", lambda: zlib.decompressobj(31)),
    b"BZh": ("bzip2", bz2.BZ2Decompressor),
    b"\xfd7zXZ\x00": ("xz", lambda: lzma.LZMADecompressor(memlimit=1 << 28)),
    b"\x28\xb5\x2f\xfd": ("zstd", None),
}
_PACKED_SUFFIXES = frozenset({".gz", ".bz2", ".xz", ".zst"})
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with UTF-16's
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# What does not decode becomes a lone surrogate, which UTF-8 cannot hold: the row that it stands in is found by that.
codecs.register_error("siamdedup.undecodable", lambda error: ("\udcff", error.end))  # type: ignore[attr-defined]


class _BreakError(Exception):
    """The file ends or fails before its end."""


def stem(path: Path) -> Path:
    """The path without the suffix of a compression: ``a.csv.gz`` is ``a.csv``."""
    return path.with_suffix("") if path.suffix.lower() in _PACKED_SUFFIXES else path


class TextStream:
    """The text of a file as UTF-8, read once from its start by iteration.

    Attributes:
        broken: why it ended early (damaged compression, a read error), "" where it did not; known at the end.
        encoding: of the file.

    Bytes that do not decode in a known encoding come out as bytes that are no UTF-8, so that their row can be told.
    """

    def __init__(self, path: Path, encoding: str | None = None) -> None:
        self.path, self.broken = path, ""
        self._noted = False
        self._pieces = self._raw()
        head = b""
        while len(head) < 4096 and (piece := next(self._pieces, b"")):
            head += piece
        mark, found = next((pair for pair in _MARKS if head.startswith(pair[0])), (b"", ""))
        if mark and encoding and codecs.lookup(encoding).name.removesuffix("-sig")[:6] != found[:6]:
            mark, found = b"", ""  # another encoding was asked for, in which these bytes are text
        elif not encoding and not found:
            found = _unmarked_utf16(head)
        self._fallback = not (encoding or found)
        self.encoding = codecs.lookup(found or encoding or "utf-8").name
        self._head = head[len(mark) :]

    def __iter__(self) -> Iterator[bytes]:
        pieces = self._chain()
        if self.encoding in ("utf-8", "utf-8-sig", "ascii"):
            yield from pieces
            return
        decoder = codecs.getincrementaldecoder(self.encoding)("siamdedup.undecodable")
        for piece in pieces:
            yield decoder.decode(piece).encode("utf-8", "surrogatepass")
        if last := decoder.decode(b"", True):
            yield last.encode("utf-8", "surrogatepass")

    def decode(self, raw: bytes, source: str, row: int, ledger: Ledger) -> str | None:
        """Text of a cell, by way of windows-1252 where that is allowed; None where it is neither, or holds a NUL."""
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            if not self._fallback:
                return None
            try:
                text = raw.decode(FALLBACK)
            except UnicodeDecodeError:
                return None
            if not self._noted:
                ledger.add(source, row, text[:80], f"not UTF-8: this row and others are read as {FALLBACK}")
                self._noted = True
        return None if "\x00" in text else text

    @property
    def undecodable(self) -> str:
        """Why ``decode`` gave None."""
        return f"bytes that are no {self.encoding} text"

    def _chain(self) -> Iterator[bytes]:
        if self._head:
            yield self._head
        yield from self._pieces

    def _raw(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                magic = file.read(6)
                file.seek(0)
                for known, (name, make) in _MAGIC.items():
                    if magic.startswith(known):
                        yield from _unpack(file, name, make, known)
                        return
                while piece := file.read(PIECE):
                    yield piece
        except _BreakError as error:
            self.broken = str(error)
        except OSError as error:
            self.broken = f"not readable: {error.strerror or error}"


def _unpack(file: IO[bytes], name: str, make: Callable[[], Any] | None, magic: bytes) -> Iterator[bytes]:
    if make is None:
        yield from _unpack_by_arrow(file, name)
        return
    unpacker, fed = make(), False
    while piece := file.read(PIECE):
        while piece:
            fed = True
            yield from _feed(unpacker, piece, name)
            piece = b""
            if unpacker.eof:  # another member may follow, and padding with zeros
                piece = unpacker.unused_data.lstrip(b"\x00")
                if piece and not magic.startswith(piece[: len(magic)]):
                    raise _BreakError(f"bytes that are no {name} follow the compressed data")
                unpacker, fed = make(), False
    if fed:
        raise _BreakError(f"the {name} data end before their end mark")


def _feed(unpacker: Any, piece: bytes, name: str) -> Iterator[bytes]:
    try:
        if name != "gzip":
            yield unpacker.decompress(piece, _MOST)
            while not (unpacker.needs_input or unpacker.eof):
                yield unpacker.decompress(b"", _MOST)
            return
        while piece and not unpacker.eof:
            before = unpacker.copy()
            yield unpacker.decompress(piece, _MOST)
            piece = unpacker.unconsumed_tail
        while not unpacker.eof and (more := unpacker.decompress(b"", _MOST)):
            yield more
    except (zlib.error, OSError, EOFError, lzma.LZMAError, ValueError) as error:
        if name == "gzip":  # what the failing step would have given before it failed
            yield from _bytewise(before, piece)
        raise _BreakError(f"damaged {name} data ({error})") from None


def _bytewise(unpacker: Any, piece: bytes) -> Iterator[bytes]:
    given = 0
    for k in range(len(piece)):
        try:
            out = unpacker.decompress(piece[k : k + 1], _MOST - given)
        except zlib.error:
            return
        given += len(out)
        yield out
        if given >= _MOST:
            return


def _unpack_by_arrow(file: IO[bytes], name: str) -> Iterator[bytes]:
    try:
        with pa.CompressedInputStream(pa.PythonFile(file, "r"), name) as stream:
            while piece := stream.read(PIECE):
                yield piece
    except (OSError, pa.ArrowException) as error:
        raise _BreakError(f"damaged {name} data ({error})") from None


def _unmarked_utf16(head: bytes) -> str:
    """UTF-16 without a mark, told by the zero byte beside each Latin letter; "" where it is not."""
    head = head[:64]
    if len(head) >= 8 and not any(head[1::2]) and all(head[0::2]):
        return "utf-16-le"
    if len(head) >= 8 and not any(head[0::2]) and all(head[1::2]):
        return "utf-16-be"
    return ""


def read_head(path: Path, encoding: str | None, most: int = 1 << 16) -> bytes:
    """The first bytes of a file's text.

    Raises:
        CatalogError: the file is empty, cannot be read, or breaks before it gives anything.
    """
    stream = TextStream(path, encoding)
    head = b""
    for piece in stream:
        head += piece
        if len(head) >= most:
            break
    if not head and stream.broken:
        raise CatalogError(stream.broken, where=str(path), remedy="copy or export the file again")
    if not head:
        raise CatalogError("the file is empty", where=str(path), remedy="export the catalogue again")
    return head
