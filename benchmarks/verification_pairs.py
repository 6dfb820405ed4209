"""A verification benchmark from any catalogue: ten folds of matching and non-matching pairs, for verify.py.

    python benchmarks/verification_pairs.py DATA/grocery/catalog.csv --label title --out pairs.csv
    python verify.py checkpoint=model.ckpt pairs=pairs.csv root=DATA/grocery out=verified

Two pictures match where they show the same value of the ``--label`` column. Each value lies in one fold, so that no
product is in two (LFW's rule for people: Huang et al. 2007).
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--label", default="productFamily")
    parser.add_argument("--images", default="imageUrlStr")
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=300, help="of each kind in each fold")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with options.catalog.open(newline="", encoding="utf-8-sig") as file:
        rows = [(r[options.images].split(";")[0], r[options.label]) for r in csv.DictReader(file)]
    rng = np.random.default_rng(options.seed)
    names = sorted({label for _, label in rows})
    fold_of = dict(zip(names, (rng.permutation(len(names)) % options.folds).tolist(), strict=True))
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["left", "right", "is_match", "fold"])
        for fold in range(options.folds):
            inside = sorted({row for row in rows if fold_of[row[1]] == fold})
            label = np.array([name for _, name in inside])
            left, right = np.triu_indices(len(inside), 1)
            same = label[left] == label[right]
            for match in (True, False):
                known = np.flatnonzero(same == match)
                if len(known) < options.pairs:
                    raise SystemExit(
                        f"fold {fold + 1} has {len(known)} pairs of a kind, {options.pairs} are wanted"
                    )
                for k in np.sort(rng.choice(known, options.pairs, replace=False)):
                    writer.writerow([inside[left[k]][0], inside[right[k]][0], int(match), fold + 1])


if __name__ == "__main__":
    main()
