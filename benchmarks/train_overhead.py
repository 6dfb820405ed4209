"""What training through our module and Lightning's Trainer costs over a bare PyTorch loop.

Same network, loss, miner, optimiser, precision and loader; the two alternate in one run, and the ratio of the
medians is what counts.

    python benchmarks/train_overhead.py [rounds=3] [epochs=2] [any override of train.py]
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import lightning as L
import torch
from configuration import configuration
from omegaconf import DictConfig

from siamdedup.cli.measuring import resolve_precision
from siamdedup.cli.training import build_datamodule, build_objective
from siamdedup.embedding.datamodule import CatalogDataModule
from siamdedup.embedding.module import SiameseModule, fused_options
from siamdedup.embedding.network import build_network
from siamdedup.utils.hydra import build, plain
from siamdedup.utils.quiet import quiet


def new_module(config: DictConfig, datamodule: CatalogDataModule) -> SiameseModule:
    L.seed_everything(0, verbose=False)
    head = plain(config.head)
    head.pop("init", None)
    network = build_network(plain(config.backbone), head)
    objective = build_objective(config, datamodule.data.n_labels, network.dim)
    return SiameseModule(network, objective, build(config.optimizer), None, **plain(config.model))


class Clock(L.Callback):
    """Seconds from the first batch's request to the last batch's end, as the bare loop measures them."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds = time.perf_counter() - self.started


def lightning_loop(config: DictConfig, datamodule: CatalogDataModule, epochs: int) -> float:
    module, clock = new_module(config, datamodule), Clock()
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="auto",
        devices=1,
        precision=config.trainer.precision,
        gradient_clip_val=config.trainer.gradient_clip_val,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
    )
    trainer.fit(module, train_dataloaders=datamodule.train_dataloader())
    return clock.seconds


def bare_loop(config: DictConfig, datamodule: CatalogDataModule, epochs: int) -> float:
    module = new_module(config, datamodule)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, objective = module.network.to(device).train(), module.objective.to(device).train()
    make = module.make_optimizer
    optimizer = make(module.parameter_groups(make), **fused_options(make))
    parameters: list[Any] = [p for group in optimizer.param_groups for p in group["params"]]
    loader = datamodule.train_dataloader()
    bf16 = "bf16" in str(config.trainer.precision)
    started = time.perf_counter()
    for epoch in range(epochs):
        datamodule.sampler.set_epoch(epoch)
        for batch in loader:
            images, labels = (
                batch.images.to(device, non_blocking=True),
                batch.labels.to(device, non_blocking=True),
            )
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss, _ = objective(network(images), labels, batch.families.to(device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.trainer.gradient_clip_val)
            optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    quiet()
    own = dict(a.split("=") for a in sys.argv[1:] if a.split("=")[0] in ("rounds", "epochs"))
    rounds, epochs = int(own.get("rounds", 3)), int(own.get("epochs", 2))
    config = configuration(
        ["+experiment=demo", *(a for a in sys.argv[1:] if a.split("=")[0] not in ("rounds", "epochs"))]
    )
    resolve_precision(config)
    datamodule = build_datamodule(config)
    images = len(datamodule.sampler) * epochs
    bare_loop(config, datamodule, 1)  # warm-up: caches, allocator
    seconds: dict[str, list[float]] = {"bare": [], "lightning": []}
    for _ in range(rounds):
        seconds["bare"].append(bare_loop(config, datamodule, epochs))
        seconds["lightning"].append(lightning_loop(config, datamodule, epochs))
    print(
        f"{config.backbone.name}, {config.transform.size} px, batch {config.data.batch_size}, {config.trainer.precision}"
    )
    for name, values in seconds.items():
        shown = " ".join(f"{v:.1f}" for v in values)
        print(f"{name:10s} {shown} s   median {images / statistics.median(values):6.1f} images/s")
    ratios = [b / a for a, b in zip(seconds["bare"], seconds["lightning"], strict=True)]
    print(
        f"lightning / bare: median of pairs {statistics.median(ratios):.3f}, of all {', '.join(f'{r:.3f}' for r in ratios)}"
    )


if __name__ == "__main__":
    main()
