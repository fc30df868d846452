"""Run folders as training would leave them, with numbers that follow simple laws and so can be checked."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import yaml


def curves(data="mnist", d=18, seed=0, flatten="left_right", epochs=90, num_classes=10, profile_levels=0):
    """A training that learns: costs fall, accuracies rise, entropies grow as the costs fall."""
    generator = np.random.default_rng([d, seed, sum(map(ord, data + flatten))])
    epoch = np.arange(-1, epochs)
    progress = 1 - np.exp(-(epoch + 1) / 15)
    noise = generator.normal(scale=0.004, size=(len(epoch), 2))
    floor = (0.05 if data == "mnist" else 0.16) + 0.25 / d
    table = pd.DataFrame({"epoch": epoch})
    for column, (part, gap) in enumerate((("train", 0.0), ("test", 0.03))):
        table[f"cost/{part}"] = floor + gap + (0.9 - floor - gap) * (1 - progress) + np.abs(noise[:, column])
        table[f"accuracy/{part}"] = 0.1 + (0.9 - floor - gap) * progress + noise[:, column] / 4
    scale = 0.3 + 0.02 * d + 0.1 * generator.random(num_classes)
    entropies = np.outer(progress**2, scale) + generator.normal(scale=0.01, size=(len(epoch), num_classes)) ** 2
    for label in range(num_classes):
        table[f"ee/class_{label}"] = entropies[:, label]
    table["ee/mean"] = entropies.mean(1)
    for level in range(profile_levels):
        table[f"profile/level_{level}"] = np.where(
            epoch % 10 == 0, scale.mean() * progress * (level + 1) / profile_levels, np.nan
        )
    table["time/epoch_s"] = 10.0
    table["learning_rate"] = [np.nan, *(0.01 * 0.5 ** (np.arange(epochs) // 10))]
    return table


def write_run(
    folder,
    data="mnist",
    d=18,
    seed=0,
    flatten="left_right",
    epochs=90,
    status="finished",
    table=None,
    model=(),
    cost=None,
    **more,
):
    """Write a run folder; `table` replaces the curves."""
    folder = Path(folder)
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    config = {
        "model": {"_target_": "qcnn_lightning.QCNN", "d": d, "sharing": "full", **dict(model)},
        "data": {"name": data, "flatten": flatten, "size": 16, "seed": "${seed}"},
        "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.01},
        "trainer": {"_target_": "pytorch_lightning.Trainer", "max_epochs": epochs},
        "seed": seed,
        "sweep": {"name": folder.parent.name},
        **({} if cost is None else {"cost": cost}),
    }
    overrides = [f"data={data}", f"model.d={d}", f"seed={seed}", f"data.flatten={flatten}"]
    (folder / ".hydra/config.yaml").write_text(yaml.safe_dump(config))
    (folder / ".hydra/overrides.yaml").write_text(yaml.safe_dump(overrides))
    table = curves(data, d, seed, flatten, epochs, **more) if table is None else table
    table.to_csv(folder / "metrics.csv", index=False)
    summary = {"status": status, "seed": seed, "num_parameters": 240 * d**2 + 180 * d}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write_sweep(root, data=("mnist", "fmnist"), d=(2, 10, 18), seeds=(0, 1), flatten=("left_right",), **more):
    """Write a run for every combination."""
    return [
        write_run(
            Path(root) / f"data={name},model.d={width},seed={seed},data.flatten={order}",
            name,
            width,
            seed,
            order,
            **more,
        )
        for name in data
        for width in d
        for seed in seeds
        for order in flatten
    ]
