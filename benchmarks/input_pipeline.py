"""Where the time of a training picture goes: decoding, augmentation, fitting, loading; against a naive PIL pipeline.

python benchmarks/input_pipeline.py [CATALOG.csv]     (default: the embedded catalogue)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from siamdedup.catalog.images import decode, read_bytes
from siamdedup.catalog.locate import locate
from siamdedup.embedding.dataset import TrainImages, collate_train
from siamdedup.embedding.prepare import DataSettings, prepare_data
from siamdedup.embedding.sampler import MPerClass
from siamdedup.embedding.transforms import InputTransform, TrainTransform

SIZE, COUNT = 160, 256


def rate(name: str, one: Callable[[int], object], count: int = COUNT) -> None:
    one(0)
    started = time.perf_counter()
    for k in range(count):
        one(k)
    seconds = time.perf_counter() - started
    print(f"{name:58s} {1000 * seconds / count:8.2f} ms {count / seconds:9.0f} images/s")


def main() -> None:
    source = sys.argv[1] if len(sys.argv) > 1 else "rendered"
    transform = TrainTransform(InputTransform(SIZE))
    data = prepare_data(
        DataSettings(source=source, cache_dir=".cache", relist=False), store_side=transform.store_side
    )
    rows = np.resize(data.train_rows, COUNT)
    files = [read_bytes(locate(data.catalog, int(r))) for r in rows]
    pixels = [np.array(data.store.get(int(r))) for r in rows]
    naive = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, (0.4, 1)),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.4, 0.4, 0.4, 0.05),
            v2.RandomRotation(15, fill=255),
            v2.GaussianBlur(5),
        ]
    )
    height, width = decode(files[0]).shape[:2]
    print(f"{source}: first picture {width} x {height}; one process, to {SIZE} px")
    rate(
        "naive: PIL decode + torchvision augmentation",
        lambda k: naive(Image.open(BytesIO(files[k])).convert("RGB")),
    )
    rate("decode (simplejpeg, scaled) and shrink", lambda k: decode(files[k], max_side=transform.store_side))
    rate("augment (relisting operations) and fit", lambda k: transform(pixels[k], np.random.default_rng(k)))
    rate("fit alone", lambda k: transform.input(pixels[k]))
    items = TrainImages(data.store, data.train_rows, data.train_labels, transform)
    rate("one training item from the store", lambda k: items[(k % len(items), k)])
    for workers in (0, 1, 2):
        sampler = MPerClass(data.train_labels, 64, 4, length=2048)
        loader = DataLoader(items, 64, sampler=sampler, num_workers=workers, collate_fn=collate_train)  # type: ignore[arg-type]
        iterator = iter(loader)
        next(iterator)  # workers have started
        started, images = time.perf_counter(), 0
        for batch in iterator:
            images += len(batch.labels)
        name, speed = f"loader, {workers} workers, batches of 64", images / (time.perf_counter() - started)
        print(f"{name:58s} {'':11s} {speed:9.0f} images/s")


if __name__ == "__main__":
    Path(".cache").mkdir(exist_ok=True)
    main()
