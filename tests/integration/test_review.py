"""People judge a sample of what dedup found, and their verdicts prove a file."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import make_catalog, run_script
from test_road import SMALL, Configure, planted, trained  # noqa: F401

from siamdedup.catalog.table import read_catalog
from siamdedup.cli.deduplication import deduplicate
from siamdedup.cli.reviewing import certify_file, sample
from siamdedup.dedup.reading import read_duplicates_json
from siamdedup.errors import CatalogError, ConfigError, OperatingPointError
from siamdedup.types import OperatingPoint
from siamdedup.verification.review import ReviewPlan

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*smaller than the logging interval.*"
)


@pytest.fixture
def found(configure: Configure, planted: Path, tmp_path: Path) -> Path:  # noqa: F811
    """A folder that dedup wrote, with a loose threshold so that right and wrong merges are in it."""
    model = trained(configure, planted, tmp_path / "model", "trainer.max_epochs=1", "baselines=false")[
        "model"
    ]
    arguments = [f"checkpoint={model}", f"catalog={planted}/planted/catalog.csv", f"out={tmp_path}/found"]
    deduplicate(configure("dedup", *arguments, "max_distance=0.05", "device=cpu"))
    return tmp_path / "found"


def judge(folder: Path, right: set[tuple[str, str]], name: str = "verdicts.csv") -> int:
    """Fill the newest sheet by the truth, as a person would, into another file; how many rows."""
    sheet = max((folder / "review").glob("sheet-*.csv"), key=lambda p: p.stat().st_mtime_ns)
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        pair = tuple(sorted((row["left_family"], row["right_family"])))
        row["verdict"] = "same" if pair in right else "different"
    with (folder / "review" / name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def truth(planted: Path) -> set[tuple[str, str]]:  # noqa: F811
    catalog = read_catalog(planted / "planted/catalog.csv", truth=planted / "planted/truth.csv")
    family = catalog.families.to_pylist()
    return {tuple(sorted((family[a], family[b]))) for a, b in catalog.relisted.tolist()}


def test_verdicts_prove_a_file_and_wrong_merges_leave_it(
    configure: Configure,
    planted: Path,  # noqa: F811
    found: Path,
    tmp_path: Path,
) -> None:
    right = truth(planted)
    all_pairs = pq.read_table(found / "candidates.parquet").to_pylist()
    families = dict(zip(*read_families(planted), strict=True))
    correct = [tuple(sorted((families[p["left_id"]], families[p["right_id"]]))) in right for p in all_pairs]
    assert 0 < sum(correct) < len(correct), "the fixture needs right and wrong merges"
    share = sum(correct) / len(correct)

    # Judging everything leaves nothing to chance: a promise just below the true share is kept, one above is not.
    easy = configure(
        "review", f"found={found}", f"precision={share * 0.9}", f"reviews={len(all_pairs)}", "narrowest=1"
    )
    drawn = sample(easy)
    assert drawn["merges"] == len(all_pairs)
    with pytest.raises(OperatingPointError, match="not judged"):
        certify_file(easy)
    assert judge(found, right) == drawn["pictures"]
    assert sample(easy)["judged"] == drawn["pictures"]
    outcome = certify_file(easy)
    assert outcome.certificate is not None
    assert outcome.certificate.n_pairs == len(all_pairs)
    assert outcome.certificate.lower_bound == pytest.approx(share)

    kept = pq.read_table(found / "certified/pairs.parquet").to_pylist()
    assert len(kept) == sum(correct), "what was judged different is taken out"
    partners = read_duplicates_json(found / "certified/duplicates.json")
    assert {(p["left_id"], p["right_id"]) for p in kept} == {
        (a, b) for a, others in partners.items() for b in others if rank(all_pairs, a, b)
    }
    point = OperatingPoint.from_dict(json.loads((found / "certified/operating_point.json").read_text()))
    assert point.certificate == outcome.certificate

    # The proven point is applied again; on another catalogue it is said that nothing is proven there.
    run = json.loads((found / "run.json").read_text())
    again = deduplicate(
        configure(
            "dedup", f"checkpoint={run['checkpoint']}", f"catalog={run['catalog']}", f"out={tmp_path}/again",
            f"operating_point={found}/certified/operating_point.json", "device=cpu",
        )
    )  # fmt: skip
    assert again["duplicate product pairs"] == len(all_pairs)
    assert "proven by review" in again["threshold"]
    other = make_catalog(tmp_path / "other", families=5)
    elsewhere = deduplicate(
        configure(
            "dedup", f"checkpoint={run['checkpoint']}", f"catalog={tmp_path}/other/catalog.csv",
            f"out={tmp_path}/elsewhere", f"operating_point={found}/certified/operating_point.json", "device=cpu",
        )
    )  # fmt: skip
    assert other is not None
    assert "not proven for this one" in elsewhere["warning 1"]


def rank(pairs: list[dict], a: str, b: str) -> bool:
    return any(p["left_id"] == a and p["right_id"] == b for p in pairs)


def read_families(planted: Path) -> tuple[list[str], list[str]]:  # noqa: F811
    catalog = read_catalog(planted / "planted/catalog.csv")
    return catalog.product_ids.to_pylist(), catalog.families.to_pylist()


def test_a_round_that_falls_short_says_so_and_asks_for_more(
    configure: Configure,
    planted: Path,  # noqa: F811
    found: Path,
) -> None:
    config = configure("review", f"found={found}", "precision=0.999", "reviews=10", "narrowest=0.5")
    with pytest.raises(OperatingPointError, match="no sample"):
        certify_file(config)
    first = sample(config)
    judge(found, truth(planted))
    outcome = certify_file(config)
    assert outcome.certificate is None
    assert outcome.why_none
    assert not (found / "certified").exists()
    second = sample(config)
    assert second["merges"] > first["merges"]
    assert second["judged"] == first["pictures"], "what was judged stays judged"
    with pytest.raises(OperatingPointError, match="not judged"):
        certify_file(config)
    with pytest.raises(ConfigError, match="planned for precision 0.999, not 0.9"):
        sample(configure("review", f"found={found}", "precision=0.9"))
    assert sample(configure("review", f"found={found}"))["merges"] == second["merges"], "left out: as planned"
    looks = json.loads((found / "review/plan.json").read_text())["looks"]
    assert [look["round"] for look in looks] == [1]
    assert np.isfinite([f["p"] for f in looks[0]["files"]]).all()

    # Another plan is another try: it starts with what is left of the chance of a false promise.
    other = configure("review", f"found={found}", "precision=0.9", "reviews=10", "narrowest=0.5", "plan=new")
    sample(other)
    plan = ReviewPlan.from_dict(json.loads((found / "review/plan.json").read_text())["plan"])
    assert plan.spent == 1
    assert plan.alpha(1) == ReviewPlan.from_dict({**plan.to_dict(), "spent": 0}).alpha(2)


def test_bad_input_of_a_review_ends_with_its_message(
    configure: Configure,
    found: Path,
    tmp_path: Path,
) -> None:
    run_script("review.py", "sample", cwd=tmp_path, code=2)
    done = run_script("review.py", "certify", f"found={found}", cwd=tmp_path, code=2)
    assert "no sample was drawn" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(ConfigError, match=r"run\.json"):
        sample(configure("review", f"found={tmp_path}"))
    run = json.loads((found / "run.json").read_text())
    text = Path(run["catalog"]).read_text().splitlines()
    (tmp_path / "less.csv").write_text("\n".join(text[:-1]) + "\n")
    (found / "run.json").write_text(
        json.dumps({**run, "reading": {**run["reading"], "source": str(tmp_path / "less.csv")}})
    )
    with pytest.raises(CatalogError, match="has changed"):
        sample(configure("review", f"found={found}"))
