"""What a run says when it ends: small tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from siamdedup.catalog.ledger import Ledger
from siamdedup.types import Certificate, OperatingPoint
from siamdedup.verification.review import ReviewOutcome

FIGURES = {
    "micro_ap": "µAP",
    "recall_at_p90": "recall@P90",
    "recall_at_p99": "recall@P99",
    "best_f1": "best F1",
    "precision": "precision",
    "recall": "recall",
}
METHODS = {
    "ahash": "aHash",
    "dhash": "dHash",
    "phash": "pHash",
    "pdq": "PDQ",
    **{f"pca{bits}": f"PCA hash, {bits} bits" for bits in (16, 32, 64)},
    "frozen backbone": "untrained",
}


def counts_table(title: str, counts: Mapping[str, object], ledger: Ledger | None = None) -> None:
    """Name and number a line; what the ledger holds is named with its reason."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in counts.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    if ledger is not None:
        for reason, count in sorted(ledger.reasons().items()):
            table.add_row(f"[yellow]left out: {reason}[/yellow]", f"{count:,}")
    Console().print(table)


def figure(figures: Mapping[str, float], key: str) -> str:
    """Three digits, or "-" where a figure is missing or undefined (the precision of nothing)."""
    value = figures.get(key, float("nan"))
    return "-" if value != value else f"{value:.3f}"


def comparison_table(
    rows: Mapping[str, Mapping[str, float]], title: str = "Test pairs, every method by one protocol"
) -> None:
    """Methods beside each other on the same test pairs; the last two columns at the frozen threshold."""
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    for name in FIGURES.values():
        table.add_column(name, justify="right")
    for method, figures in rows.items():
        style = "bold green" if method == "siamdedup" else ""
        cells = [figure(figures, key) for key in FIGURES]
        table.add_row(METHODS.get(method, method), *cells, style=style)
    Console().print(table)
    Console().print(
        "[dim]"
        + ("untrained: the same backbone before training; " if "frozen backbone" in rows else "")
        + "precision, recall: threshold tuned on validation, then frozen ('-': goal not met there)[/dim]"
    )


def review_table(outcome: ReviewOutcome, title: str) -> None:
    """One line per file that was considered: what the verdicts say of it and whether that proves the promise."""
    table = Table(title=title, title_justify="left")
    for name in ("distance <=", "merges", "judged", "wrong", "variants", "p", "level", ""):
        table.add_column(name, justify="right")
    for file in outcome.files:
        table.add_row(
            f"{file.threshold:.4f}", f"{file.n_pairs:,}", f"{file.n_reviewed:,}", f"{file.n_wrong:,}",
            f"{file.n_variant:,}", f"{file.p:.2g}", f"{file.level:.2g}", "[green]proven[/green]" if file.proven else "",
        )  # fmt: skip
    Console().print(table)


def certificate_line(certificate: Certificate) -> str:
    return (
        f"with confidence {certificate.confidence:g}, at least {certificate.precision:g} of these "
        f"{certificate.n_pairs:,} merges are right ({certificate.n_reviewed:,} judged, {certificate.n_wrong:,} wrong)"
    )


def certificate_table(certificate: Certificate, counts: Mapping[str, object]) -> None:
    Console().print(f"[bold green]Proven: {certificate_line(certificate)}[/bold green]")
    counts_table("The certified file", counts)


def point_lines(point: OperatingPoint) -> dict[str, str]:
    """The operating point in words, with its intervals where there are any."""

    if point.certificate is not None:
        return {
            "threshold": f"{point.distance} distance <= {point.threshold:.4f}",
            "chosen for": point.goal,
            "proven": certificate_line(point.certificate),
        }

    def rate(name: str) -> str:
        low, high = point.ci.get(name, (float("nan"),) * 2)
        value = getattr(point, name)
        form = "{:.2e}" if name == "fmr" else "{:.3f}"
        text = form.format(value)
        return text if low != low else f"{text}  ({form.format(low)} to {form.format(high)})"

    return {
        "threshold": f"{point.distance} distance <= {point.threshold:.4f}",
        "chosen for": point.goal,
        "false match rate (FMR, FAR)": rate("fmr"),
        "false non-match rate (FNMR)": rate("fnmr"),
        "precision": rate("precision"),
        "recall (VAL)": rate("recall"),
        "F1": rate("f1"),
        "measured on": f"{point.n_match:,} matching and {point.n_nonmatch:,} non-matching validation pairs",
    }


def point_table(point: OperatingPoint | None, why_none: str) -> None:
    if point is None:
        Console().print(f"[yellow]No operating point: {why_none}[/yellow]")
    else:
        counts_table("Operating point (validation; 95 % intervals over families)", point_lines(point))
