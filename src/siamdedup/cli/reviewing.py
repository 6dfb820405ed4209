"""``sample(config)`` draws the merges that people judge, ``certify_file(config)`` writes the file their verdicts prove."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from omegaconf import DictConfig, ListConfig

from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.opening import CatalogSettings
from siamdedup.catalog.table import catalog_hash
from siamdedup.catalog.verdicts import read_verdicts, write_review_csv
from siamdedup.cli.updating import open_run
from siamdedup.dedup.groups import duplicate_groups
from siamdedup.dedup.output import write_duplicates_json
from siamdedup.dedup.tables import read_pairs_parquet, write_groups_parquet, write_pairs_parquet
from siamdedup.errors import CatalogError, ConfigError, OperatingPointError
from siamdedup.files import write_json
from siamdedup.report.console import certificate_table, counts_table, review_table
from siamdedup.report.review_page import write_review_page
from siamdedup.types import Catalog, OperatingPoint, ProductPairs, ReviewList
from siamdedup.verification.review import (
    ReviewOutcome,
    ReviewPlan,
    certify,
    draw,
    plan_review,
    review_list,
)

log = logging.getLogger(__name__)
_PRECISION, _CONFIDENCE = 0.99, 0.95
_INTRO = (
    "These merges were drawn at random from what was found. Judge every one: what is skipped would bias the promise, "
    "so say “unsure” where you cannot tell. Put the downloaded verdicts into the folder of this page."
)


@dataclass
class _Review:
    """A folder that dedup.py wrote, and where its review stands."""

    folder: Path
    run: dict[str, Any]
    catalog: Catalog
    pairs: ProductPairs
    plan: ReviewPlan | None
    round_: int
    looks: list[dict[str, Any]]
    spent: int = 0  # rounds of earlier plans

    @property
    def state(self) -> Path:
        return self.folder / "review" / "plan.json"

    @property
    def sheet(self) -> Path:
        """Named after plan and round: a sheet that somebody has filled in is never overwritten by another."""
        assert self.plan is not None
        digest = hashlib.sha256(json.dumps(self.plan.to_dict()).encode()).hexdigest()[:6]
        return self.folder / "review" / f"sheet-{digest}-{self.round_}.csv"

    def save(self) -> None:
        assert self.plan is not None
        plan = {"plan": self.plan.to_dict(), "round": self.round_, "looks": self.looks}
        write_json(self.state, {**plan, "catalog_hash": self.run["catalog_hash"]})


def sample(config: DictConfig) -> dict[str, Any]:
    """Draw the merges of the current round and write ``review/``: pages to judge on, and a sheet.

    Returns:
        ``pictures`` (pairs of pictures in the sample), ``judged`` of them so far, ``merges`` they stand for.
    """
    review = _open(config)
    if review.plan is None:
        review.plan = plan_review(
            review.pairs.distance,
            precision=_PRECISION if config.precision is None else config.precision,
            confidence=_CONFIDENCE if config.confidence is None else config.confidence,
            reviews=config.reviews,
            narrowest=config.narrowest,
            seed=config.seed,
            spent=review.spent,
        )
    samples = draw(review.plan, review.pairs, review.round_)
    drawn = np.unique(np.concatenate(samples))
    listed = review_list(review.pairs, drawn, _verdicts(config, review)[drawn], review.plan.seed)
    review.save()
    if not review.sheet.exists():  # somebody may be filling it in
        blank = replace(listed, verdict=np.full(len(listed), "", dtype="U9"))
        write_review_csv(review.sheet, review.catalog, blank)
    pages = _write_pages(config, review, listed)
    counts = {
        "candidate merges": len(review.pairs),
        "thresholds considered": len(review.plan.thresholds),
        "merges drawn from each file": max(review.plan.drawn(review.round_)),
        "merges in the sample": len(drawn),
        "picture pairs to judge": len(listed),
        "of them judged already": int((listed.verdict != "").sum()),
    }
    more = f" to {pages[-1].name}" if len(pages) > 1 else ""
    counts_table(
        f"Review, round {review.round_}: {_promise(review.plan)}",
        {
            **counts,
            "judge on": f"{pages[0]}{more}",
            "or in": str(review.sheet),
            "then": f"python review.py certify found={review.folder}",
        },
    )
    return {"pictures": len(listed), "judged": counts["of them judged already"], "merges": len(drawn)}


def certify_file(config: DictConfig) -> ReviewOutcome:
    """Test the verdicts of this round; on success write ``certified/``, else say what is missing.

    Returns:
        The outcome. Without a certificate the round is spent, and ``sample`` draws a larger one.

    Raises:
        OperatingPointError: no sample was drawn, or a merge of it is not judged.
    """
    review = _open(config)
    if review.plan is None:
        raise OperatingPointError(
            "no sample was drawn yet", where=str(review.folder), remedy="python review.py sample found=..."
        )
    verdict = _verdicts(config, review)
    samples = draw(review.plan, review.pairs, review.round_)
    outcome = certify(review.plan, samples, verdict, review.round_, review.run["catalog_hash"])
    review_table(outcome, f"Round {review.round_}: {_promise(review.plan)}")
    review.looks.append(
        {"round": review.round_, "files": [asdict(f) for f in outcome.files], "why_none": outcome.why_none}
    )
    if outcome.certificate is None:
        review.round_ += 1
        review.save()
        log.warning("not proven: %s", outcome.why_none)
        log.warning("python review.py sample found=%s draws round %d", review.folder, review.round_)
        return outcome
    review.save()
    counts = _write_certified(review, outcome, verdict)
    certificate_table(outcome.certificate, counts)
    return outcome


def _write_certified(
    review: _Review, outcome: ReviewOutcome, verdict: npt.NDArray[np.str_]
) -> dict[str, Any]:
    """The proven file, less what was judged not to be the same, plus what was judged so beyond the threshold."""
    out = review.folder / "certified"
    inside = review.pairs.distance <= outcome.threshold
    refused = np.isin(verdict, ["different", "variant"])
    pairs = review.pairs.take((inside & ~refused) | (verdict == "same"))
    groups = duplicate_groups(review.catalog, pairs)
    write_duplicates_json(out / "duplicates.json", review.catalog, pairs)
    write_pairs_parquet(out / "pairs.parquet", review.catalog, pairs)
    write_groups_parquet(out / "groups.parquet", review.catalog, groups)
    unknown = float("nan")
    point = OperatingPoint(
        outcome.threshold, review.run["distance"], _promise(review.plan), unknown, unknown, unknown, unknown,
        unknown, 0, 0, model_hash=review.run["model_hash"], precision_goal=review.plan.precision if review.plan else None,
        certificate=outcome.certificate,
    )  # fmt: skip
    write_json(out / "operating_point.json", point.to_dict())
    return {
        "threshold": f"{review.run['distance']} distance <= {outcome.threshold:.4f}",
        "merges in the file": int(inside.sum()),
        "of them judged wrong or variants, taken out": int((inside & refused).sum()),
        "judged the same beyond the threshold, put in": int((~inside & (verdict == "same")).sum()),
        "duplicate groups": groups.n_groups,
        "JSON": str(out / "duplicates.json"),
    }


def _write_pages(config: DictConfig, review: _Review, listed: ReviewList) -> list[Path]:
    paths, count = [], max(1, -(-len(listed) // config.per_page))
    for k in range(count):
        part = slice(k * config.per_page, (k + 1) * config.per_page)
        name = "index.html" if k == 0 else f"index-{k + 1}.html"
        of = f", page {k + 1} of {count}" if count > 1 else ""
        paths.append(
            write_review_page(
                review.folder / "review" / name,
                review.catalog,
                ReviewList(*(getattr(listed, f)[part] for f in listed.__dataclass_fields__)),
                title=f"Are these the same product?{of}",
                intro=_INTRO,
                goal_lines={"to be proven": _promise(review.plan), "round": str(review.round_)},
                limit=config.per_page,
            )
        )
    return paths


def _promise(plan: ReviewPlan | None) -> str:
    assert plan is not None
    return f"precision >= {plan.precision:g} with confidence {plan.confidence:g}"


def _verdicts(config: DictConfig, review: _Review) -> npt.NDArray[np.str_]:
    """string (n_pairs,): what is known of each candidate merge."""
    given = config.verdicts
    if given is None:
        folder = review.folder / "review"
        found = (p for p in folder.glob("*") if p.suffix in (".csv", ".json") and p != review.state)
        files = sorted(
            found, key=lambda p: (p.stat().st_mtime_ns, p.name)
        )  # a later download corrects an earlier one
    else:
        files = [Path(p).expanduser() for p in ([*given] if isinstance(given, ListConfig) else [given])]
    known = read_verdicts(files)
    for line in known.conflicts:
        log.warning("judged differently, so counted as unsure: %s", line)
    if foreign := known.n_foreign(review.catalog):
        log.warning("%d verdicts are about pictures that this catalogue lacks", foreign)
    return known.of(review.catalog, review.pairs.left_image, review.pairs.right_image)


def _open(config: DictConfig) -> _Review:
    """The folder's run, catalogue, candidates and plan.

    Raises:
        ConfigError: no folder was named, or it is none of dedup.py's.
        CatalogError: the catalogue is not the one that was deduplicated.
    """
    if not config.found:
        raise ConfigError(
            "found is missing", remedy="python review.py sample found=FOLDER (that dedup.py wrote)"
        )
    folder = Path(config.found).expanduser().resolve()
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        CatalogSettings(**run["reading"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"its run.json cannot be read: {error}",
            where=str(folder),
            remedy="name a folder that dedup.py wrote",
        ) from error
    catalog = open_run(folder, run, Ledger())
    if catalog_hash(catalog) != run["catalog_hash"]:
        raise CatalogError(
            "the catalogue has changed since it was deduplicated",
            where=run["catalog"],
            remedy="run dedup.py again",
        )
    review = _Review(
        folder, run, catalog, read_pairs_parquet(folder / "candidates.parquet", catalog), None, 1, []
    )
    if config.plan not in ("keep", "new"):
        raise ConfigError(f"unknown plan {config.plan!r}", remedy="plan=keep or plan=new")
    if review.state.exists():
        saved = json.loads(review.state.read_text(encoding="utf-8"))
        review.looks = saved["looks"]
        if config.plan == "keep":
            _same_promise(config, saved["plan"], review.folder)
            review.plan, review.round_ = ReviewPlan.from_dict(saved["plan"]), saved["round"]
        else:  # what was tested before is paid for
            review.spent = len(review.looks)
    return review


def _same_promise(config: DictConfig, plan: dict[str, Any], folder: Path) -> None:
    """ConfigError where another promise is asked for than the sample was drawn for."""
    for name in ("precision", "confidence"):
        if config[name] is not None and config[name] != plan[name]:
            raise ConfigError(
                f"its review was planned for {name} {plan[name]:g}, not {config[name]:g}",
                where=str(folder),
                remedy=f"leave {name} out, or plan=new (verdicts stay; rounds already tested stay paid for)",
            )
