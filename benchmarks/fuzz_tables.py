"""Damaged tables by the thousand: read to the end, or refused with a reason; never a crash, a hang or a lost row.

    python benchmarks/fuzz_tables.py                 # 5,000 files
    python benchmarks/fuzz_tables.py --count 500 --seed 3

Seeds are sound CSV, TSV, JSON Lines, Parquet, gzip and plain lists in several encodings. Each file is a seed with one
to four mutations: bytes flipped, deleted, inserted, doubled, cut off or spliced in from another seed; quotes, line ends
and delimiters put in. In a third of the files whole lines are damaged instead and the others left alone ("lines"):
there, every untouched line must come out as the row it was. Only CatalogError and ConfigError may be raised, and the
numbers of rows and ledger entries together must leave no gap. A file that takes longer than the limit is a hang.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import resource
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.readers.open import open_rows
from siamdedup.errors import CatalogError, ConfigError

NAMES = ("productId", "imageUrlStr", "productFamily", "title")
SECONDS = 20
_BITS = (
    b'"',
    b'""',
    b"\n",
    b"\r",
    b"\r\n",
    b",",
    b"\t",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b'","',
    b"{",
    b"[" * 50,
)


def records(rng: random.Random, plain: bool) -> list[tuple[str, ...]]:
    words = ["mug", "Größe", "5 cm", "東京", "a b", "x"] if not plain else ["mug", "5 cm", "a b", "x"]
    extra = [] if plain else ["two\nlines", 'a "b" c', "c, d"]
    return [
        (f"p{k}", f"i/{k}.jpg;i/{k}b.jpg", f"F{k // 3}", rng.choice(words + extra))
        for k in range(rng.randint(5, 80))
    ]


def delimited(rows: list[tuple[str, ...]], delimiter: str, end: str) -> str:
    def cell(text: str) -> str:
        quoted = any(sign in text for sign in (delimiter, '"', "\n", "\r"))
        return '"' + text.replace('"', '""') + '"' if quoted else text

    return "".join(delimiter.join(map(cell, row)) + end for row in [NAMES, *rows])


def seed_file(rng: random.Random, kind: str, plain: bool) -> bytes:
    rows = records(rng, plain)
    if kind == "parquet":
        out = io.BytesIO()
        columns = [list(column) for column in zip(*rows, strict=True)]
        pq.write_table(pa.table(dict(zip(NAMES, columns, strict=True))), out, row_group_size=20)
        return out.getvalue()
    if kind == "jsonl":
        return "".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in rows).encode()
    if kind == "txt":
        return "".join(row[1].split(";")[0] + "\n" for row in rows).encode()
    delimiter = "\t" if kind == "tsv" else rng.choice(",;|,,")
    text = delimited(rows, delimiter, "\n" if plain else rng.choice(("\n", "\r\n", "\r")))
    encoding = "utf-8" if plain else rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "windows-1252"))
    data = text.encode(encoding, "replace")
    return gzip.compress(data, mtime=0) if kind == "csv.gz" else data


def mutate(rng: random.Random, data: bytes, other: bytes) -> bytes:
    held = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, size = rng.randrange(len(held) + 1), rng.choice((1, 1, 2, 8, 60))
        kind = rng.randrange(7)
        if kind == 0 and at < len(held):
            held[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del held[at : at + size]
        elif kind == 2:
            held[at:at] = rng.choice(_BITS)
        elif kind == 3:
            held[at:at] = held[at : at + size * 4]
        elif kind == 4:
            del held[at:]
        elif kind == 5:
            start = rng.randrange(len(other))
            held[at:at] = other[start : start + size * 4]
        else:
            held[at : at + size] = rng.randbytes(size)
    return bytes(held)


def mutate_lines(rng: random.Random, data: bytes) -> tuple[bytes, list[bytes]]:
    """Damage inside some lines (no line end, no more than one quote each); and the lines left alone."""
    lines = data.split(b"\n")[:-1]
    bits = [bit for bit in _BITS if b"\n" not in bit and b"\r" not in bit and bit not in (b'""', b'","')]
    touched = set(rng.sample(range(1, len(lines)), rng.randint(1, 3)))
    for k in touched:
        at = rng.randrange(len(lines[k]) + 1)
        lines[k] = lines[k][:at] + rng.choice(bits) + lines[k][at + rng.randrange(3) :]
    intact = [line for k, line in enumerate(lines) if k and k not in touched]
    return b"\n".join(lines) + b"\n", intact


def expected_id(kind: str, line: bytes) -> str:
    if kind == "txt":
        return line.decode()
    if kind == "jsonl":
        return str(json.loads(line)["productId"])
    return line.decode().replace(";", ",").replace("|", ",").replace("\t", ",").split(",")[0]


def read(path: Path) -> tuple[str, list[dict[str, object]], Ledger]:
    ledger = Ledger()
    try:
        stream = open_rows(path, None, ledger=ledger)
        return "read", [row for batch in stream.batches for row in batch.to_pylist()], ledger
    except (CatalogError, ConfigError) as error:
        return f"refused: {error.problem.split(':')[0].split(' is missing')[0][:40]}", [], ledger


def problems(
    kind: str, outcome: str, rows: list[dict[str, object]], ledger: Ledger, intact: list[bytes]
) -> list[str]:
    """What is wrong with how a file was read."""
    found = []
    numbers = [row["row"] for row in rows]
    lost = [row for _, row, _, reason in ledger if reason.startswith("malformed row")]
    broken = any(reason.startswith("broken file") for *_, reason in ledger)
    if (
        outcome == "read"
        and kind != "parquet"
        and sorted(numbers + lost) != list(range(1, len(numbers + lost) + 1))
    ):
        found.append("record numbers have gaps or repeat")
    if outcome == "read" and kind == "parquet" and not broken and numbers != sorted(set(numbers)):
        found.append("record numbers repeat")
    if intact and outcome == "read":
        ids = {row["id"] for row in rows}
        missing = [line for line in intact if expected_id(kind, line) not in ids]
        if missing:
            found.append(f"{len(missing)} untouched lines are lost, e.g. {missing[0][:60]!r}")
    if intact and outcome != "read":
        found.append(f"a file with a sound header was {outcome}")
    return found


def _hang(_signum: int, _frame: FrameType | None) -> None:
    raise TimeoutError("hang")


def run(
    count: int, seed: int, folder: Path, keep: Path | None = None
) -> tuple[Counter[str], list[str], float]:
    """Outcomes, failures, and the slowest file's seconds."""
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    slowest = 0.0
    signal.signal(signal.SIGALRM, _hang)
    for k in range(count):
        rng = random.Random(f"{seed}/{k}")
        kind = rng.choice(("csv", "csv", "tsv", "jsonl", "txt", "csv.gz", "parquet"))
        by_line = kind in ("csv", "tsv", "jsonl", "txt") and rng.random() < 0.45
        data, intact = seed_file(rng, kind, by_line), []
        if by_line:
            data, intact = mutate_lines(rng, data)
        else:
            data = mutate(rng, data, seed_file(rng, rng.choice(("csv", "jsonl", "parquet")), False))
        path = folder / f"t.{kind}"
        path.write_bytes(data)
        start = time.perf_counter()
        signal.alarm(SECONDS)
        wrong: list[str] = []
        try:
            outcome, rows, ledger = read(path)
            wrong = problems(kind, outcome, rows, ledger, intact)
            outcomes["ledger entries"] += len(ledger)
            outcomes["rows"] += len(rows)
        except BaseException as error:
            outcome = "failed"
            wrong = [f"{type(error).__name__}: {error}"]
        finally:
            signal.alarm(0)
        slowest = max(slowest, time.perf_counter() - start)
        outcomes["files"] += 1
        outcomes["by line"] += by_line
        outcomes[outcome] += 1
        for one in wrong:
            failures.append(f"file {k} ({kind}): {one}")
            if keep is not None:
                (keep / f"{seed}-{k}.{kind}").write_bytes(data)
    return outcomes, failures, slowest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that failed")
    options = parser.parse_args()
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        outcomes, failures, slowest = run(options.count, options.seed, Path(folder), options.keep)
    table = Table("what", "count", title=f"{options.count} damaged tables, seed {options.seed}")
    for name, number in sorted(outcomes.items(), key=lambda pair: (pair[0].startswith("refused"), -pair[1])):
        table.add_row(name, f"{number:,}")
    table.add_row("slowest, s", f"{slowest:.3f}")
    table.add_row("peak RSS, MiB", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")
    table.add_row("failures", str(len(failures)))
    console = Console()
    console.print(table)
    for failure in failures[:30]:
        console.print(failure, markup=False)
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
