"""``measure_fingerprints(config, out)``: hashes instead of a network; nothing is trained, all else is as after training."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from omegaconf import DictConfig, OmegaConf

from siamdedup.embedding.prepare import PreparedData, prepare_data, settings_from
from siamdedup.errors import ConfigError, OperatingPointError
from siamdedup.files import write_json
from siamdedup.fingerprint.detail import TRUSTED_ALONE, TRUSTED_DETAIL, trusted
from siamdedup.fingerprint.hashes import HASHES, Fingerprints, describe_pictures, fingerprints_of
from siamdedup.fingerprint.pca import SPECTRUM, PcaHash
from siamdedup.fingerprint.thumbnail import SIDE
from siamdedup.report.console import comparison_table, counts_table, point_lines, point_table
from siamdedup.report.record import commit, run_record
from siamdedup.report.runs.artefacts import OURS, write_artefacts
from siamdedup.types import Catalog, FloatArray, OperatingPoint, ScoredPairs
from siamdedup.utils.hydra import build, plain
from siamdedup.verification.bootstrap import ranking_intervals
from siamdedup.verification.evaluate import (
    RATES,
    Evaluation,
    frozen_rates,
    prepare_evaluation,
    ranking_metrics,
    try_tune,
)
from siamdedup.verification.pairs import ImageTruth, score_hashes
from siamdedup.verification.rates import rates_at

_USAGE = "see conf/experiment/krawetz_hashes.yaml and wen_pcahash.yaml"


@dataclass(frozen=True)
class HashSettings:
    """What ``config.hashes`` says.

    Attributes:
        measured: some of ``hashes.HASHES``.
        headline: the method whose figures are the run's own (``test/...``).
        pca_bits: lengths of the PCA hash, multiples of 8 up to 64: so many of its first components, those of the
            largest variance. Each is a method of its own, ``pca64`` and the like.
        radii: by method, the Hamming distances of published rules "the same up to here", whose rates are measured too.
    """

    measured: Sequence[str]
    headline: str
    pca_bits: Sequence[int] = (SPECTRUM,)
    radii: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def refuse(problem: str, remedy: str) -> None:
            raise ConfigError(problem, where="hashes", remedy=remedy)

        if unknown := sorted(set(self.measured) - set(HASHES)):
            refuse(f"no hash {unknown}", f"measured: some of {', '.join(HASHES)}")
        if bad := [b for b in self.pca_bits if b not in range(8, SPECTRUM + 1, 8)]:
            refuse(f"pca_bits {bad}", "use multiples of 8 from 8 to 64")
        if unknown := [name for name in (self.headline, *self.radii) if name not in self.methods]:
            refuse(f"{unknown[0]!r} is not measured", f"one of {', '.join(self.methods)}")
        if bad := [r for radii in self.radii.values() for r in radii if r < 0]:
            refuse(f"radii {bad} are negative", "give how many bits may differ, from 0 on")

    @property
    def methods(self) -> list[str]:
        """Names by which figures are told: those of the hashes, the PCA hash with its bits."""
        every = [[f"pca{b}" for b in self.pca_bits] if name == "pca" else [name] for name in self.measured]
        return [name for names in every for name in names]


@dataclass(frozen=True)
class Scored:
    """A held-out split as one hash sees it: ``pairs``, of which ``left`` and ``right`` are positions in ``prints``."""

    prints: Fingerprints
    pairs: ScoredPairs
    truth: ImageTruth

    @property
    def n_bits(self) -> int:
        return 8 * self.prints.bits.shape[1]

    @property
    def facts(self) -> dict[str, Any]:
        return self.truth.of_items(self.prints.image_rows)


def measure_fingerprints(
    config: DictConfig,
    out: str | Path,
    *,
    callbacks: Sequence[Any] = (),  # noqa: ARG001
    test: bool = True,
) -> dict[str, Any]:
    """Measure hashes on the pairs of a trained embedding: threshold tuned on validation, frozen, applied to test.

    Writes ``config.yaml``, ``ledger.csv``, ``metrics.json``, ``artefacts.npz``, and where there is one
    ``operating_point.json`` and the fitted ``pca.json`` under ``out``. The PCA hash is fitted on training pictures.

    Args:
        callbacks: taken for ``train``'s sake; without a training there is nothing to call.
        test: False for what must not look at test: validation's figures alone, no rows, pairs or ``artefacts.npz``.

    Returns:
        metrics (flat dict of floats), rows (figures by method), point and pairs (test) of each method, pca, data.
        ``METHOD/...`` are test figures, ``test/...`` and ``val/...`` the headline's. Beside the figures of any method:
        ``threshold`` (share of the bits), ``threshold_bits``, ``within_R/...`` for the rule "Hamming distance <= R",
        ``low_detail`` (share of the test pictures with less than ``detail.TRUSTED_DETAIL`` behind their hash),
        ``trusted/...`` without those, ``low_detail_alone`` (share with less than ``detail.TRUSTED_ALONE``), and of each
        split ``suspects``: pairs left out of the non-matching ones.

    Raises:
        ConfigError: ``config.hashes`` is missing or names what is not there.
    """
    started = time.perf_counter()
    commit()  # of the code that is loaded now: the record is written when the run is over
    settings = hash_settings(config)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, out / "config.yaml", resolve=True)
    data = prepare_hashing(config)
    data.ledger.write(out / "ledger.csv")
    workers = config.data.workers
    split = {"val": data.val, "test": data.test} if test else {"val": data.val}
    parts = {
        name: prepare_evaluation(s, suspects=config.suspects, workers=workers) for name, s in split.items()
    }
    suspected = sum(len(part.suspects) for part in parts.values())
    counts_table("Data", {**data.counts, "suspected duplicates left out": suspected}, data.ledger)
    pca = fit_pca(data, workers) if "pca" in settings.measured else None
    if pca is not None:
        write_json(out / "pca.json", pca.to_dict())
    scored = {
        name: score_split(split[name].catalog, part, settings, pca, workers) for name, part in parts.items()
    }
    goal = build(config.threshold)
    rows, points, whys = {}, {}, {}
    for method in settings.methods:
        val = scored["val"][method]
        # "cosine": the share of the bits that differ.
        points[method], whys[method] = try_tune(val.pairs, goal, **val.facts, data_hash=data.data_hash)
        if test:
            rows[method] = figures(scored["test"][method], points[method], settings.radii.get(method, ()))
    best = settings.headline
    seen = scored["val"][best].pairs
    validated = {**ranking_metrics(seen), **frozen_rates(seen, points[best])}
    metrics = {f"val/{key}": value for key, value in validated.items()}
    metrics |= {f"test/{key}": value for key, value in rows.get(best, {}).items()}
    metrics |= {f"{method}/{key}": value for method, row in rows.items() for key, value in row.items()}
    metrics |= {f"{name}/suspects": float(len(part.suspects)) for name, part in parts.items()}
    record = run_record(config, metrics, data, points[best], seconds=time.perf_counter() - started)
    write_json(out / "metrics.json", record)
    if (point := points[best]) is not None:
        write_json(out / "operating_point.json", point.to_dict())
    tested = scored.get("test", {})
    if test:
        _write_artefacts(out, tested, best, point, data.test.catalog)
        comparison_table(rows)
    if point is None:
        point_table(point, whys[best])
    else:
        n_bits = scored["val"][best].n_bits
        said = {"threshold": f"Hamming distance <= {threshold_bits(point, n_bits):.0f} of {n_bits} bits"}
        counts_table(f"Operating point of {best} (validation)", point_lines(point) | said)
    pairs = {method: one.pairs for method, one in tested.items()}
    return {"metrics": metrics, "rows": rows, "points": points, "pairs": pairs, "pca": pca, "data": data}


def _write_artefacts(
    out: Path, tested: Mapping[str, Scored], best: str, point: OperatingPoint | None, catalog: Catalog
) -> None:
    write_artefacts(
        out, pairs={OURS if method == best else method: one.pairs for method, one in tested.items()},
        threshold=point.threshold if point else None, distance="cosine", vectors=unit_signs(tested[best].prints.bits),
        rows=tested[best].prints.image_rows, truth=tested[best].truth, catalog=catalog,
    )  # fmt: skip


def hash_settings(config: DictConfig) -> HashSettings:
    """``config.hashes``. ConfigError where it is missing or has an unknown key."""
    if config.hashes is None:
        raise ConfigError("method=fingerprint needs hashes", where="hashes", remedy=_USAGE)
    try:
        return HashSettings(**plain(config.hashes))
    except TypeError as error:
        raise ConfigError(str(error), where="hashes", remedy=_USAGE) from error


def prepare_hashing(config: DictConfig) -> PreparedData:
    """The very splits, relistings and gallery of a training run with the same ``config.data``."""
    settings = {k: v for k, v in plain(config.data).items() if k not in ("batch_size", "eval_batch_size")}
    return prepare_data(settings_from(settings), store_side=SIDE)  # of the store only the digests are wanted


def fit_pca(data: PreparedData, workers: int) -> PcaHash:
    """The PCA hash of the pictures to learn from, each once: no held-out picture and no relisting is among them."""
    found = describe_pictures(data.catalog, np.unique(data.train_rows), workers=workers)
    return PcaHash.fit(found.arrays["spectrum"])


def score_split(
    catalog: Catalog, part: Evaluation, settings: HashSettings, pca: PcaHash | None, workers: int
) -> dict[str, Scored]:
    """Every pair of a held-out split, scored by each method."""
    found = describe_pictures(catalog, np.arange(catalog.n_images, dtype=np.int64), workers=workers)
    if pca is not None:
        # Given, it is not fitted on what it is measured on.
        found.arrays["pca"] = pca.transform(found.arrays["spectrum"])
    prints = dict(fingerprints_of(found, settings.measured))
    if pca is not None:
        whole = prints.pop("pca")
        for bits in settings.pca_bits:
            prints[f"pca{bits}"] = Fingerprints(whole.bits[:, : bits // 8], whole.image_rows, whole.detail)
    return {
        method: Scored(one, score_hashes(one.bits, one.image_rows, part.truth), part.truth)
        for method, one in prints.items()
    }


def figures(test: Scored, point: OperatingPoint | None, radii: Sequence[int]) -> dict[str, float]:
    """All test figures of one hash.

    Args:
        point: frozen, from validation; None where none could be chosen.
        radii: Hamming distances up to which a published rule calls two pictures the same.
    """
    found = {**ranking_metrics(test.pairs), **frozen_rates(test.pairs, point)}
    for name, (low, high) in ranking_intervals(test.pairs, **test.facts).items():
        found |= {f"{name}_low": low, f"{name}_high": high}
    if point is not None:
        found |= {"threshold": point.threshold, "threshold_bits": threshold_bits(point, test.n_bits)}
    for radius in radii:
        found |= {f"within_{radius}/{key}": value for key, value in rule(test, radius).items()}
    enough = trusted(test.prints.detail, TRUSTED_DETAIL)
    found["low_detail"] = float(1 - enough.mean())
    found["low_detail_alone"] = float(1 - trusted(test.prints.detail, TRUSTED_ALONE).mean())
    rows = test.prints.image_rows[enough]
    left = score_hashes(test.prints.bits[enough], rows, test.truth)
    found |= {"n_match": float(test.pairs.n_match), "trusted/n_match": float(left.n_match)}
    if left.n_match and left.n_nonmatch:
        among = {**ranking_metrics(left), **frozen_rates(left, point)}
        found |= {f"trusted/{key}": value for key, value in among.items()}
    return found


def rule(scored: Scored, radius: int) -> dict[str, float]:
    """Rates and counts (tp, fp) of "the same where at most ``radius`` bits differ"; NaN where that is not known."""
    names = (*RATES, "tp", "fp")
    try:
        # Half a bit further: no rounding of the similarities moves a pair across.
        rates = rates_at(scored.pairs, 1 - (radius + 0.5) / scored.n_bits)
    except OperatingPointError:  # more false matches than were held
        return dict.fromkeys(names, float("nan"))
    return {name: float(rates[name]) for name in names}


def threshold_bits(point: OperatingPoint, n_bits: int) -> float:
    """The largest Hamming distance that the threshold accepts."""
    return float(np.floor(point.threshold * n_bits + 1e-6))


def unit_signs(bits: npt.NDArray[np.uint8]) -> FloatArray:
    """float32 (n, 8 k), of length 1, of packed bits (n, k): their cosine is 1 - 2 Hamming distance / bits."""
    signs = np.unpackbits(bits, axis=1).astype(np.float32) * 2 - 1
    return np.asarray(signs / np.sqrt(np.float32(signs.shape[1])), np.float32)
