"""python sweep.py: a study of train.py's settings that stands being killed, or a fair comparison.

    python sweep.py +experiment=demo search=head study=demo-head trials=20
    python sweep.py +experiment=demo search=head study=demo-head trials=40 workers=2     # goes on, to 40 in all
    python sweep.py +experiment=losses_x_miners comparison=losses_x_miners

The settings below are sweep.py's own; all others are train.py's, and every trial starts from them. What is varied
is a file of conf/search/, less what the command line sets itself. Under `out` lie study.journal, trials/0007/
(config.yaml, metrics.json), trials.csv, and best.yaml, the best trial as an experiment file:

    python train.py --config-dir outputs/sweeps +demo-head=best

A trial whose process died runs again with the same parameters. With logger=wandb the runs form one group.
"""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siamdedup.errors import ConfigError, SiamdedupError
from siamdedup.utils.hydra import config_dir, plain

if TYPE_CHECKING:
    from siamdedup.sweeps.comparison import ComparisonSettings
    from siamdedup.sweeps.study import StudySettings


def main() -> None:
    """Exit codes as train.py's: 2 where a setting is at fault or too many trials failed."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(__doc__ + "\n" + (Path(config_dir()) / "sweep.yaml").read_text(encoding="utf-8"))
        return
    try:
        run(arguments)
    except SiamdedupError as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on", file=sys.stderr, flush=True)
        raise SystemExit(130) from None


def run(arguments: list[str]) -> None:
    """Split the command line, and run the study or the comparison that it asks for."""
    own, overrides = split(arguments)
    settings, workers = read_settings(own, overrides)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Heavy imports only now: a wrong setting is said at once.
    from siamdedup.cli.train import run as train
    from siamdedup.sweeps.comparison import ComparisonSettings, compare
    from siamdedup.sweeps.run import sweep

    if isinstance(settings, ComparisonSettings):
        print(f"results: {compare(settings, train, workers=workers)}")
        return
    best = sweep(settings, train, workers=workers)
    if best is not None:
        print(f"best: {settings.metric} {best.value:.4f}, trial {best.number}: {settings.out / 'best.yaml'}")


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """sweep.py's own settings, and those of train.py.

    Raises:
        ConfigError: an option of Hydra's command line, or Hydra's own settings.
    """
    from omegaconf import OmegaConf

    keys = {str(k) for k in OmegaConf.load(Path(config_dir()) / "sweep.yaml")} - {"defaults"}
    keys |= {"search", "comparison"}
    own: list[str] = []
    overrides: list[str] = []
    for argument in arguments:
        key = argument.partition("=")[0]
        if argument.startswith("-") or (key.startswith("hydra.") and key != "hydra.searchpath"):
            raise ConfigError(f"sweep.py does not take {argument}", remedy="see python sweep.py --help")
        (own if key.lstrip("+~").split(".")[0] in keys else overrides).append(argument)
    return own, overrides


def read_settings(own: list[str], overrides: list[str]) -> tuple[StudySettings | ComparisonSettings, int]:
    """The settings as ``sweep`` or ``compare`` takes them, and the number of workers.

    Raises:
        ConfigError: a setting is wrong or missing.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from siamdedup.sweeps.comparison import ComparisonSettings
    from siamdedup.sweeps.grid import read_grid
    from siamdedup.sweeps.space import read_space
    from siamdedup.sweeps.study import StudySettings, set_keys

    try:
        with initialize_config_dir(config_dir(), version_base="1.3"):
            config = compose("sweep", own)
        if OmegaConf.is_missing(config, "study"):
            raise ConfigError("study is missing", remedy="python sweep.py search=head study=NAME")
        given = plain(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(" ".join(str(error).split()), remedy="see python sweep.py --help") from None
    if "search" not in given:
        raise ConfigError(
            "search is missing", remedy="search=NAME names a file of conf/search/, e.g. search=head"
        )
    if not isinstance(given["workers"], int) or given["workers"] < 1:
        raise ConfigError(f"workers={given['workers']}", remedy="at least 1")
    optuna: dict[str, Any] = given["optuna"]
    study = StudySettings(
        name=str(given["study"]),
        out=Path(given["out"]).expanduser().resolve(),
        space=read_space(given["search"]).without(set_keys(overrides)),
        overrides=tuple(overrides),
        command=shlex.join(["python", "sweep.py", *own, *overrides]),
        sampler=optuna["sampler"],
        sampler_options=optuna["sampler_options"] or {},
        pruner=optuna["pruner"],
        pruner_options=optuna["pruner_options"] or {},
        seed=optuna["seed"],
        **{k: given[k] for k in ("trials", "metric", "direction", "max_failures", "checkpoints")},
    )
    if "comparison" not in given:
        return study, given["workers"]
    grid = given["comparison"]
    seeds = grid.pop("seeds", 3)
    unknown = sorted(set(grid) - {"axes", "skip"})
    if unknown:
        raise ConfigError(f"comparison has no {unknown[0]!r}", remedy="it has axes, skip and seeds")
    return ComparisonSettings(study, read_grid(grid), seeds), given["workers"]


if __name__ == "__main__":
    main()
