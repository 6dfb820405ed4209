"""Stops a trial of a sweep that falls behind: each validation is reported, and the study's pruner decides."""

from __future__ import annotations

import lightning as L
import optuna

from siamdedup.errors import ConfigError


class PruningCallback(L.Callback):
    """Reports ``monitor`` to an Optuna trial after every validation; the step is the epoch.

    The exception goes through ``Trainer.fit``, which closes loaders and loggers on its way.

    Args:
        trial: of the study.
        monitor: the metric, e.g. ``val/micro_ap``.

    Raises:
        optuna.TrialPruned: the pruner says stop.
        ConfigError: validation logs no such metric.
    """

    def __init__(self, trial: optuna.Trial, monitor: str) -> None:
        self.trial, self.monitor = trial, monitor
        self._reported = -1

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch = trainer.current_epoch
        # Where validation runs more than once an epoch, the first counts: Optuna takes one value a step.
        if trainer.sanity_checking or epoch <= self._reported:
            return
        if self.monitor not in trainer.callback_metrics:
            known = sorted(k for k in trainer.callback_metrics if k.startswith("val/"))
            raise ConfigError(
                f"validation measures no {self.monitor!r}",
                remedy=f"metric= one of {', '.join(known) or '(nothing is measured)'}",
            )
        value = float(trainer.callback_metrics[self.monitor])
        self._reported = epoch
        self.trial.report(value, epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned(f"{self.monitor} = {value:.6g} after epoch {epoch}")
