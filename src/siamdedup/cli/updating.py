"""``python dedup.py out=found/ add=new.csv remove=ids.csv``: an earlier run, brought up to date.

The catalogue is the earlier run's tables and the added ones, less the removed products. A product that is in several
counts as the newest table has it, so a changed product is simply added again, and so is one that comes back.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from siamdedup.catalog.building.store import source_key
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.opening import CatalogSettings, open_catalog
from siamdedup.catalog.readers.open import open_rows
from siamdedup.cli.inputs import STATE, Inputs, read_ids
from siamdedup.dedup.cascade import Cascade
from siamdedup.dedup.incremental import IncrementalJoin
from siamdedup.dedup.join_state import open_state
from siamdedup.errors import CatalogError, ConfigError
from siamdedup.types import Catalog
from siamdedup.utils.hydra import plain

_ANEW = "run dedup.py on the whole catalogue: checkpoint=... catalog=... out=..., without add= and remove="
_THIS_RUN = frozenset({"add", "remove", "query", "out"})  # settings that no later run takes over
_NOT_THERE = object()


def begin(config: DictConfig) -> tuple[DictConfig, Inputs]:
    """What to run: ``config`` as it is, or with ``add`` or ``remove`` the earlier run's settings and inputs.

    Settings come from the run that ``out`` holds, but for those that the command line names.

    Raises:
        ConfigError: ``out`` holds no run to build on, or ``catalog`` is given as well.
        CatalogError: a table of the earlier run has changed, or what is to be added or removed cannot be read.
    """
    add, remove = (_listed(config.get(key)) for key in ("add", "remove"))
    if not add and not remove:
        return config, Inputs()
    named = _overrides()
    if "catalog" in named:
        raise ConfigError(
            "catalog is given, and add= or remove= as well", where="catalog",
            remedy="leave catalog out: the run in out=... is built on; or leave add and remove out",
        )  # fmt: skip
    if not config.out:
        raise ConfigError("out is missing", remedy="python dedup.py out=found/ add=new.csv")
    out = Path(config.out).expanduser().resolve()
    run = read_run(out)
    if "inputs" not in run or "config" not in run:
        raise ConfigError("its run.json does not say what to build on", where=str(out), remedy=_ANEW)
    merged = OmegaConf.create(plain(config))
    for key, value in run["config"].items():
        if key in merged and key not in _THIS_RUN:
            merged[key] = value
    for key in named:
        value = OmegaConf.select(config, key, default=_NOT_THERE)
        if key.split(".")[0] not in _THIS_RUN and value is not _NOT_THERE:
            OmegaConf.update(merged, key, value, merge=False, force_add=True)
    inputs = earlier_inputs(out, run)
    columns, root = plain(merged)["columns"], merged.root and Path(merged.root)
    if remove:
        inputs = _with_removed(inputs, remove, columns)
    for source in add:
        stream = open_rows(str(Path(source).expanduser().absolute()), columns, root=root, ledger=Ledger())
        inputs = _with_layer(inputs, stream.sources)
    return merged, inputs


def read_run(out: Path) -> dict[str, Any]:
    """``run.json`` of a folder that dedup.py wrote. Raises ConfigError where there is none."""
    try:
        run = json.loads((out / "run.json").read_text(encoding="utf-8"))
        CatalogSettings(**run["reading"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"its run.json cannot be read: {error}", where=str(out), remedy=_ANEW) from error
    return dict(run)


def open_run(out: Path, run: dict[str, Any], ledger: Ledger) -> Catalog:
    """The catalogue of an earlier run. Raises CatalogError where one of its tables has changed since."""
    settings = CatalogSettings(**run["reading"])
    return (
        earlier_inputs(out, run).open(settings, ledger) if "inputs" in run else open_catalog(settings, ledger)
    )


def earlier_inputs(out: Path, run: dict[str, Any]) -> Inputs:
    """Raises CatalogError where a table has changed since, ConfigError where the list of removed ids is lost."""
    kept = run["inputs"]
    layers = tuple(tuple(layer) for layer in kept["layers"])
    for layer, key in zip(layers, kept["keys"], strict=True):
        if source_key(layer, {}) != key:
            more = f" (or one of {len(layer) - 1} more)" if len(layer) > 1 else ""
            raise CatalogError(
                f"it has changed or is gone{more} since the run in {out}", where=layer[0],
                remedy=f"give what is new another name than what was read before, or {_ANEW}",
            )  # fmt: skip
    if kept["removed"] is None:
        return Inputs(layers, tuple(kept["keys"]))
    try:
        table = pq.read_table(out / STATE / kept["removed"]).combine_chunks()
        ids, since = table["productId"].combine_chunks(), table["since"].to_numpy()
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise ConfigError(
            f"the list of removed products cannot be read: {str(error).splitlines()[0][:160]}",
            where=str(out / STATE / kept["removed"]), remedy=_ANEW,
        ) from error  # fmt: skip
    return Inputs(layers, tuple(kept["keys"]), ids, since, np.zeros(len(ids), bool))


def _with_layer(inputs: Inputs, files: tuple[str, ...]) -> Inputs:
    """What was added before, by the same name, is older than itself: only its newest place counts."""
    layers = tuple(tuple(name for name in layer if name not in files) for layer in inputs.layers)
    keys = tuple(source_key(layer, {}) for layer in (*layers, files))
    return replace(inputs, layers=(*layers, files), keys=keys)


def _with_removed(inputs: Inputs, sources: list[str], columns: Any) -> Inputs:
    ids = pa.concat_arrays([read_ids(Path(source).expanduser(), columns) for source in sources])
    now = pa.table({"id": ids, "since": pa.array(np.full(len(ids), len(inputs.layers)))})
    before = pa.table({"id": inputs.removed.cast(pa.string()), "since": pa.array(inputs.since)})
    both = pa.concat_tables([before, now]).group_by("id", use_threads=False).aggregate([("since", "max")])
    both = both.sort_by("id")
    removed = both["id"].combine_chunks()
    asked = pc.is_in(removed, value_set=ids).to_numpy(zero_copy_only=False)
    return replace(inputs, removed=removed, since=both["since_max"].to_numpy(), asked=asked)


def with_state(cascade: Cascade, inputs: Inputs, out: Path, model_hash: str) -> IncrementalJoin | None:
    """Lets the cascade's index remember its pairs and, in an update, start from those of the run before.

    Returns:
        What ``save`` is to be called of when the join is done; None where the embedding join is left out.

    Raises:
        SiamdedupError: an update finds no state, or one that it cannot use (``open_state``).
    """
    if cascade.index is None:
        return None
    state = open_state(out / STATE, model_hash) if inputs.is_update else None
    join = IncrementalJoin(cascade.index, state)
    cascade.index = join
    return join


def kept_settings(config: DictConfig, settings: CatalogSettings) -> dict[str, Any]:
    """For run.json: all of ``config`` that a later run takes over, with absolute paths."""
    values = {key: value for key, value in plain(config).items() if key not in _THIS_RUN}
    for key in ("checkpoint", "operating_point"):
        values[key] = values[key] and str(Path(values[key]).expanduser().resolve())
    source = settings.source if isinstance(settings.source, str) else list(settings.source)
    return {**values, "catalog": source, "root": settings.root, "truth": settings.truth}


def _listed(value: Any) -> list[str]:
    return [] if value is None else [str(value)] if isinstance(value, str) else [str(v) for v in value]


def _overrides() -> list[str]:
    """The settings that the command line names."""
    if not HydraConfig.initialized():
        return []
    return [o.split("=")[0].lstrip("+~").split("@")[0] for o in HydraConfig.get().overrides.task]
