"""Kinds of damage to a file of a run folder: each takes a random generator and a path, and says what it did."""

import io
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from qcnn_lightning.runs.checkpoint import MOST_BYTES_OF_OBJECTS

Random = np.random.Generator
Damage = Callable[[Random, Path], str]


def nested(depth: int) -> Any:
    """Lists within one another."""
    inner: Any = 1
    for _ in range(depth):
        inner = [inner]
    return inner


HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 2**53, 2**63, 10**400, -(10**400), 1e308, float("nan"), float("inf")),
    *("", "x", "²", "½", "猫", "../../x", "[red]", "$x$", "1e999", "=1+1", "\x00", "\ud800", "a" * 100_000),
    *([], {}, [1, 2], [[]], {"a": {}}, {"": 1}, nested(30), nested(90), list(range(10_000)), {"status": "finished"}),
)
"""Values that stand where others are expected."""
GARBAGE_YAML = (
    "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\nd: [*c, *c, *c]\n",
    "&a [*a]\n",
    "a: &a {b: *a}\n",
    "[" * 100_000,
    "{a: " * 5_000,
    "- " * 20_000 + "x",
    "? [a, b]\n: c\n",
    "? {a: b}\n: c\n",
    "!!python/object/apply:os.system ['true']\n",
    "!!binary x\n",
    "model: !!set {a, b}\ndata: {name: 2024-02-31}\n",
    "model: {d: 9" + "9" * 5_000 + "}\n",
    "model: {d: 190:20:30, _target_: .nan}\n",
    "data: {name: {a: b}, flatten: [1, 2]}\nseed: [1]\nmodel: 3\ntrainer: x\n",
    "hydra: {runtime: {config_sources: [{provider: command-line, path: 3}], cwd: 4}}\n",
    "hydra: {runtime: {config_sources: 7}}\n",
    "<<: {a: 1}\n<<: [1]\n",
    "a: b: c\n",
    "\t- x\n",
    "%YAML 9.9\n---\na: 1\n",
    "--- a\n--- b\n",
    "null\n",
    "7\n",
    "- [a, {b: c}]\n- 3\n- null\n",
    "x: '" + "y" * 3_000_000 + "'\n",
    "x: [" + "1, " * 300_000 + "]\n",
)
GARBAGE_JSON = (
    "[" * 100_000,
    '{"a":' * 50_000,
    "1" * 5_000,
    "NaN",
    "Infinity",
    "null",
    "[]",
    '"finished"',
    '{"status": "finished", "status": 3}',
    '{"final": 3, "best": [], "seconds": "x", "class_names": {"a": 1}, "metrics": [1]}',
    '{"status": {"a": 1}, "num_parameters": [], "seed": {}, "class_names": 7, "final": {"epoch": "x"}}',
    '{"metrics": {"lines": -3, "crc32": 1}}',
    '{"metrics": {"lines": 1e400, "crc32": null}}',
    '{"metrics": {"lines": 99999999999999999999999, "crc32": -1}}',
    '{"status": "finished", "num_parameters": 1' + "0" * 4_000 + "}",
    '{"class_names": ["\\ud800", "a"]}',
    '{"x": "' + "y" * 3_000_000 + '"}',
    "{'status': 1}",
    "\ufeff{}",
)
GARBAGE_CSV = (
    "epoch\n",
    "epoch,ee/mean\n",
    "epoch,epoch\n-1,2\n0,3\n",
    "epoch,cost/train,cost/train\n-1,1,2\n0,3,4\n",
    "epoch,ee/class_²,ee/class_0,ee/class_99999999999999999999\n-1,1,2,3\n0,1,2,3\n",
    "epoch,ee/mean\n1.2,3\n1.7,4\n",
    "epoch,ee/mean\n1e300,3\n-1e300,4\ninf,1\nnan,2\n",
    "epoch,ee/mean\n-1,0x10\n0,1_000\n1,1+2j\n2,2024-01-01\n3,True\n",
    'epoch,ee/mean\n-1,"1\n2"\n0,"3\n',
    "epoch,ee/mean\n" + "".join(f"{epoch},1,2,3,4\n" for epoch in range(50)),
    "epoch," + ",".join(f"x{column}" for column in range(20_000)) + "\n-1" + ",1" * 20_000 + "\n",
    "epoch,ee/mean\n-1," + "9" * 100_000 + "\n",
    "epoch,ee/mean\n" + "0,1\n" * 100_000,
    "epoch;ee/mean\n-1;1\n",
    ",,,\n,,,\n",
    "\n\n\n",
    "epoch,profile/level_0,profile/level_x,spectrum/p_-1\n-1,a,b,c\n0,1,2,3\n",
    "epoch,cost/batch,cost/train\n-1,,\n0,,\n1,,\n",
    "\ufeffepoch,ee/mean\n-1,1\n",
    "epoch,ee/mean\r-1,1\r0,2\r",
    "epoch,\x00\n-1,\x00\n",
    "9223372036854775807,epoch\n1,9223372036854775807\n2,9223372036854775808\n",
    "epoch,Unnamed: 0,index\n0,1,2\n",
    "{}",
    "=cmd()",
)


# Bytes.


def flip_bits(random: Random, path: Path) -> str:
    content = bytearray(path.read_bytes())
    places = random.integers(8 * len(content), size=random.integers(1, 9))
    for place in places:
        content[place // 8] ^= 1 << (place % 8)
    path.write_bytes(content)
    return f"bits {places.tolist()}"


def flip_digits(random: Random, path: Path) -> str:
    content = bytearray(path.read_bytes())
    digits = [place for place, byte in enumerate(content) if 48 <= byte <= 57]
    if not digits:
        return flip_bits(random, path)
    places = random.choice(digits, size=random.integers(1, 4))
    for place in places:
        content[place] = random.choice([byte for byte in range(48, 58) if byte != content[place]])
    path.write_bytes(content)
    return f"digits {places.tolist()}"


def flip_letters(random: Random, path: Path) -> str:
    content = bytearray(path.read_bytes())
    places = random.integers(len(content), size=random.integers(1, 4))
    for place in places:
        content[place] = random.integers(32, 127)
    path.write_bytes(content)
    return f"letters {places.tolist()}"


def cut_off(random: Random, path: Path) -> str:
    kept = int(random.choice([0, 1, random.integers(path.stat().st_size + 1), path.stat().st_size - 1]))
    os.truncate(path, max(kept, 0))
    return f"cut off after {kept} bytes"


def block(random: Random, path: Path) -> str:
    content = path.read_bytes()
    start = int(random.integers(len(content)))
    size = int(random.integers(1, 1 + min(4096, len(content))))
    kind = str(random.choice(["zeros", "ones", "garbage", "left out", "doubled", "inserted", "moved"]))
    end = min(start + size, len(content))
    garbage = random.bytes(size)
    other = int(random.integers(len(content)))
    content = {
        "zeros": content[:start] + bytes(end - start) + content[end:],
        "ones": content[:start] + b"\xff" * (end - start) + content[end:],
        "garbage": content[:start] + garbage[: end - start] + content[end:],
        "left out": content[:start] + content[end:],
        "doubled": content[:end] + content[start:],
        "inserted": content[:start] + garbage + content[start:],
        "moved": (rest := content[:start] + content[end:])[:other] + content[start:end] + rest[other:],
    }[kind]
    path.write_bytes(content)
    return f"block {kind}, {start} to {end}"


def lines(random: Random, path: Path) -> str:
    content = path.read_bytes().splitlines(keepends=True)
    one, other = (int(place) for place in random.integers(len(content), size=2))
    kind = str(random.choice(["left out", "doubled", "exchanged", "carriage returns", "mark of bytes", "last"]))
    if kind == "left out":
        del content[one]
    elif kind == "doubled":
        content.insert(other, content[one])
    elif kind == "exchanged":
        content[one], content[other] = content[other], content[one]
    elif kind == "carriage returns":
        content = [line.replace(b"\n", b"\r\n") for line in content]
    elif kind == "mark of bytes":
        content.insert(0, b"\xef\xbb\xbf")
    else:
        content[-1:] = []
    path.write_bytes(b"".join(content))
    return f"lines {kind}, {one} and {other}"


# Files.


def no_file(random: Random, path: Path) -> str:
    kind = str(random.choice(["missing", "folder", "pipe", "socket", "dangling link", "circle", "device", "link out"]))
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        # The path of a socket may have a hundred letters.
        with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"{short}/s")
            Path(short, "s").rename(path)
    elif kind == "dangling link":
        path.symlink_to(path.with_name("nowhere"))
    elif kind == "circle":
        path.symlink_to(path.name)
    elif kind == "device":
        path.symlink_to(random.choice(["/dev/zero", "/dev/urandom", "/dev/full"]))
    elif kind == "link out":
        path.symlink_to("/etc/passwd")
    return kind


def huge(random: Random, path: Path) -> str:
    size = int(random.choice([2**20, 5 * 2**20, 257 * 2**20, 3 * 2**30, 2**40]))
    kind = str(random.choice(["zeros at the end", "nothing but zeros"]))
    if kind == "nothing but zeros":
        path.write_bytes(b"")
    os.truncate(path, size)
    return f"{size} bytes, {kind}"


def swapped(random: Random, path: Path) -> str:
    """Put another file of the run in its place, or the same file of the run beside it."""
    others = [other for other in run_of(path).rglob("*") if other.is_file() and other != path]
    beside = run_of(path).with_name("b") / path.relative_to(run_of(path))
    other = beside if beside.is_file() and random.random() < 0.6 else others[random.integers(len(others))]
    shutil.copyfile(other, path)
    return f"swapped for {other.relative_to(run_of(path).parent)}"


def run_of(path: Path) -> Path:
    return next(folder for folder in path.parents if folder.name == "a")


# Content.


def replaced(random: Random, value: Any) -> tuple[Any, str]:
    """Return a nested value with a random part replaced by a hostile one, left out or renamed; and what was done."""
    hostile = HOSTILE[random.integers(len(HOSTILE))]
    if not isinstance(value, dict | list) or not value or random.random() < 0.15:
        return hostile, f"-> {hostile!r:.60}"
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[random.integers(len(keys))]
    changed = value.copy()
    drawn = random.random()
    if drawn < 0.1:
        del changed[key]
        return changed, f"{key} left out"
    if drawn < 0.2 and isinstance(changed, dict):
        new = [key for key in HOSTILE if isinstance(key, str | int | float | None)][random.integers(20)]
        changed[new] = changed.pop(key)
        return changed, f"{key} renamed {new!r:.40}"
    changed[key], told = replaced(random, value[key])
    return changed, f"{key} {told}"


def content(random: Random, path: Path) -> str:
    """Damage what a file says, in its own format."""
    if path.suffix == ".ckpt":
        return checkpoint_content(random, path)
    if path.suffix == ".safetensors":
        return header(random, path)
    if path.suffix == ".csv":
        return cells(random, path)
    is_json = path.suffix == ".json"
    garbage = GARBAGE_JSON if is_json else GARBAGE_YAML
    if random.random() < 0.4:
        number = int(random.integers(len(garbage)))
        path.write_text(garbage[number], encoding="utf-8", errors="surrogatepass")
        return f"garbage {number}"
    old = json.loads(path.read_text()) if is_json else yaml.safe_load(path.read_text())
    new, told = replaced(random, old)
    text = json.dumps(new) if is_json else yaml.safe_dump(new, allow_unicode=True)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return told


def cells(random: Random, path: Path) -> str:
    if random.random() < 0.5:
        number = int(random.integers(len(GARBAGE_CSV)))
        path.write_text(GARBAGE_CSV[number])
        return f"garbage {number}"
    table = [line.split(",") for line in path.read_text().splitlines()]
    row, column = int(random.integers(len(table))), int(random.integers(len(table[0])))
    hostile = str(HOSTILE[random.integers(len(HOSTILE))]).replace("\ud800", "?")
    table[row][column] = hostile
    path.write_text("".join(",".join(cells) + "\n" for cells in table))
    return f"row {row}, column {column} -> {hostile:.40}"


def checkpoint_content(random: Random, path: Path) -> str:
    """Write another checkpoint, whole in itself: other values, other tensors, other kinds of file."""
    kind = str(random.choice(["value", "value", "value", "tensor", "deep", "large", "object", "other"]))
    stored = torch.load(path, weights_only=True)
    told = ""
    if kind == "value":
        stored, told = replaced(random, dict(stored))
    elif kind == "tensor":
        weights = stored["state_dict"]
        name = list(weights)[random.integers(len(weights))]
        made = [torch.zeros(0), torch.tensor(torch.nan), weights[name].int(), weights[name].flatten()[:1], "x", None]
        made += [torch.full_like(weights[name], torch.inf), weights[name].to_sparse(), weights[name].bool()]
        weights[name] = made[random.integers(len(made))]
        told = f"{name} -> {weights[name]!r:.60}"
    elif kind == "deep":
        stored["hyper_parameters"]["more"] = nested(int(random.choice([100, 300])))
    elif kind == "large":
        stored["hyper_parameters"]["more"] = "x" * int(random.choice([10**6, MOST_BYTES_OF_OBJECTS + 1]))
    elif kind == "object":
        stored["callbacks"]["more"] = path
    else:
        stored = [stored, 3, {"a": 1}, torch.zeros(3), None][random.integers(5)]
    written = io.BytesIO()
    torch.save(stored, written)
    path.write_bytes(written.getvalue())
    return f"{kind} {told}"


def header(random: Random, path: Path) -> str:
    """Damage the header of a safetensors file, whose first 8 bytes say how long it is."""
    old = path.read_bytes()
    length = int.from_bytes(old[:8], "little")
    described, told = replaced(random, json.loads(old[8 : 8 + length]))
    if random.random() < 0.2:
        described, told = nested(90), "deep"
    text = json.dumps(described).encode()
    claimed = len(text) if random.random() < 0.8 else int(random.choice([0, 2**31, 2**63, len(text) + 1]))
    path.write_bytes(claimed.to_bytes(8, "little") + text + old[8 + length :])
    return f"header {told}, {claimed} bytes long"


KINDS: dict[str, tuple[Damage, ...]] = {
    "bytes": (flip_bits, flip_bits, flip_digits, flip_letters, cut_off, block, block, lines),
    "file": (no_file, no_file, huge, swapped, swapped),
    "content": (content, content, content, content),
}
