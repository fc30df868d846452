"""Amplitudes alpha_y(x) from a state file and upright 8-bit images: python rebuild_amplitudes.py FILE IMAGES.npy"""

import json
import sys
from pathlib import Path

import numpy as np


def read(path):  # safetensors: the length of a JSON header in 8 bytes, the header, the numbers
    content = Path(path).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    metadata, arrays = header.pop("__metadata__"), {}
    for name, entry in header.items():
        first, last = (start + offset for offset in entry["data_offsets"])
        kind = {"F64": "<f8", "I64": "<i8"}[entry["dtype"]]
        arrays[name] = np.frombuffer(content[first:last], kind).reshape(entry["shape"])
    return arrays, metadata


def amplitudes(path, images):  # (images, height, width) of uint8
    arrays, metadata = read(path)
    order = arrays["pixel_order"]
    grey = np.where(order >= 0, images.reshape(len(images), -1)[:, order], 0)  # padding is black
    x, k = float(metadata.get("white", 1)) * grey / 255, np.arange(1, arrays["site_tensor_0"].shape[2])  # k = 1 .. d_0
    if metadata["basis"] == "fourier":
        angle = 2 * np.pi * x[..., None] * ((k + 1) // 2)
        functions = np.sqrt(2) * np.where(k % 2 == 1, np.cos(angle), np.sin(angle))
    else:  # legendre, shifted to [0, 1]
        functions = np.stack([np.sqrt(2 * n + 1) * np.polynomial.Legendre.basis(n)(2 * x - 1) for n in k], -1)
    features = np.concatenate((np.ones_like(x)[..., None], functions), -1)
    for level in range(int(metadata["num_levels"])):
        matrices = arrays[f"site_tensor_{level}"]  # one for both children, or left and right
        features = (features[:, 0::2] @ matrices[0].T) * (features[:, 1::2] @ matrices[-1].T)
    return features[:, 0] @ arrays["top"].T, json.loads(metadata["class_names"])


if __name__ == "__main__":
    print(*amplitudes(sys.argv[1], np.load(sys.argv[2])))
