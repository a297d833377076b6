"""Changes of a run's files, as damage or as a stranger might make them; drawn from a seed."""

import hashlib
import json
import math
import os
import random
import struct
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomli_w

# Names of code that would leave a mark if it were imported; the module is on sys.path.
CODE_SETTINGS = (
    "env.id", "env.wrappers", "env.backend", "network.custom", "network.encoder", "loss.kind", "learner.optimizer",
    "actor.placement", "schedules.learning_rate", "schedules.entropy_coefficient", "schedules.clip",
)  # fmt: skip
PREFERRED = {  # what a command reads besides settings and checkpoints
    "plot": ("metrics.jsonl", "summary.json"),
    "replay": ("journal.jsonl",),
    "resume": ("metrics.jsonl", "summary.json"),
}


def odd_values(dice: random.Random) -> list[Any]:
    deep: Any = 1
    for _ in range(dice.choice([40, 400])):
        deep = [deep]
    return [
        None, True, False, 0, -1, 1, 2.5, -0.0, 1e308, -1e308, math.inf, -math.inf, math.nan, 10**6, 2**31, 2**53,
        2**63, -(2**63), 10**20, 10**400, "", "x", "1", "auto", "\x1b[2J\x07", "\u202eabc", "a" * 100_000,
        "../../etc/passwd", "/dev/zero", [], {}, [[]], [None], [1] * 1000, {"type": "Dict", "spaces": []},
        {"type": "Box"}, {"array": "0"}, {"__reduce__": "os.system"}, deep, [dice.random() for _ in range(5)],
        {str(n): n for n in range(300)},
    ]  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Container and key of every value inside."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


def change_tree(tree: Any, dice: random.Random) -> str:
    """Changes one value somewhere in JSON or TOML."""
    every = list(places(tree)) if isinstance(tree, dict | list) else []
    if not every:
        return "nothing"
    container, key = dice.choice(every)
    how = dice.choice(["odd", "odd", "odd", "remove", "add", "huge", "swap"])
    if how == "odd":
        container[key] = dice.choice(odd_values(dice))
    elif how == "remove":
        del container[key]
    elif how == "add":
        added = dice.choice(odd_values(dice))
        if isinstance(container, dict):
            container[dice.choice(["x", "", "__class__", "type", "0", "steps"])] = added
        else:
            container.insert(key, added)
    elif how == "huge":
        numbers = [(c, k) for c, k in every if type(c[k]) in (int, float)]
        if numbers:
            container, key = dice.choice(numbers)
            container[key] = container[key] * dice.choice([-1, 10, 10**3, 10**6, 10**12]) + dice.choice([0, 1])
    else:
        other, place = dice.choice(every)
        container[key] = other[place]
    return f"{how} {key}"


def change_json(data: bytes, dice: random.Random) -> tuple[bytes, str]:
    tree = json.loads(data)
    what = change_tree(tree, dice)
    return _json(tree), what


def _json(tree: Any) -> bytes:
    try:
        return json.dumps(tree).encode()
    except (ValueError, RecursionError):  # an integer of 400 digits can be written, 5,000 not
        return b"[" * 5000


def change_toml(data: bytes, dice: random.Random, canary: str) -> tuple[bytes, str]:
    tree = tomllib.loads(data.decode())
    if dice.random() < 0.3:
        setting = dice.choice(CODE_SETTINGS)
        section, name = setting.split(".")
        tree.setdefault(section, {})[name] = [canary] if setting == "env.wrappers" else canary
        what = f"code {setting}"
    else:
        what = change_tree(tree, dice)
    return tomli_w.dumps(_tomlable(tree)).encode(errors="replace"), what


def _tomlable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tomlable(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_tomlable(inner) for inner in value if inner is not None]
    return value


def change_lines(data: bytes, dice: random.Random) -> tuple[bytes, str]:
    """Of a file with a JSON value in each line."""
    lines = data.splitlines()
    if not lines:
        return data, "nothing"
    at = dice.randrange(len(lines))
    how = dice.choice(["change", "change", "change", "remove", "repeat", "swap"])
    if how == "change":
        try:
            lines[at], what = change_json(lines[at], dice)
        except ValueError:
            return data, "nothing"
        return b"\n".join(lines) + b"\n", what
    if how == "remove":
        del lines[at]
    elif how == "repeat":
        lines.insert(at, lines[at])
    else:
        other = dice.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    return b"\n".join(lines) + b"\n", f"{how} line"


DTYPES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8, "I8": 1, "U8": 1, "I32": 4, "I64": 8, "BOOL": 1, "F8_E4M3": 1}


def change_tensors(data: bytes, dice: random.Random, canary: str) -> tuple[bytes, str]:
    """Of a safetensors file: another header, or other tensors with a header that fits them."""
    size = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    about = header.pop("__metadata__", None)
    parts = {name: [each, body[slice(*each["data_offsets"])]] for name, each in header.items()}
    how = dice.choice(["dtype", "shape", "drop", "rename", "add", "values", "header", "size", "metadata", "metadata"])
    if how in ("dtype", "shape", "drop", "rename", "values") and parts:
        name = dice.choice(sorted(parts))
        part = parts[name]
        if how == "dtype":
            part[0]["dtype"] = dice.choice(sorted(DTYPES))
            part[1] = bytes(DTYPES[part[0]["dtype"]] * math.prod(part[0]["shape"]))
        elif how == "shape":
            shape = part[0]["shape"]
            shape = dice.choice([shape[::-1], [*shape, 1], [*shape, 3], shape[:-1], [0], [7], [2] * 9, [2**16]])
            width = DTYPES.get(part[0]["dtype"], 4)
            part[0]["shape"], part[1] = shape, bytes(width * math.prod(shape))
        elif how == "drop":
            del parts[name]
        elif how == "rename":
            parts[dice.choice(["x", "", f"{name}.x", "a" * 3000])] = parts.pop(name)
        else:
            width = DTYPES.get(part[0]["dtype"], 4)
            number = dice.choice([math.nan, math.inf, -math.inf, 1e38, 0.0])
            value = {4: struct.pack("<f", number), 8: struct.pack("<d", number)}.get(width, b"\xff" * width)
            part[1] = value * (len(part[1]) // width)
    elif how == "add":
        parts["added"] = [{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, bytes(8)]
    elif how == "metadata":
        if about and "config" in about and dice.random() < 0.5:
            changed, what = change_toml(about["config"].encode(), dice, canary)
            about["config"], how = changed.decode(), f"metadata {what}"
        elif about and dice.random() < 0.8:
            name = dice.choice(sorted(about))
            try:
                changed, what = change_json(about[name].encode(), dice)
                about[name], how = changed.decode(), f"metadata {what}"
            except ValueError:
                about[name] = "x"
        else:
            about = dice.choice([None, {}, {"x": "y"}, {"nested": "[" * 3000}, {"state": 3}])
    joined, header = b"", {} if about is None else {"__metadata__": about}
    for name, (each, content) in parts.items():
        header[name] = each | {"data_offsets": [len(joined), len(joined) + len(content)]}
        joined += content
    if how == "header":
        change_tree(header, dice)
    text = _json(header)
    size = len(text) if how != "size" else dice.choice([0, 7, 2**16, 2**31, 2**62, 2**64 - 1])
    return struct.pack("<Q", size) + text + joined, how


def change_bytes(data: bytes, dice: random.Random) -> tuple[bytes, str]:
    how = dice.choice(["flip", "flip", "truncate", "empty", "zeros", "insert", "remove", "brackets", "text", "pickle"])
    at = dice.randrange(len(data) + 1)
    if how == "flip":
        changed = bytearray(data)
        for _ in range(dice.choice([1, 2, 8])) if data else ():
            changed[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        return bytes(changed), how
    other = {
        "truncate": data[:at],
        "empty": b"",
        "zeros": data[:at] + bytes(len(data) - at),
        "insert": data[:at] + dice.randbytes(dice.choice([1, 8, 4096])) + data[at:],
        "remove": data[:at] + data[at + dice.choice([1, 8, 100]) :],
        "brackets": b"[" * 200_000,
        "text": dice.choice([b"null", b"[]", b"{}", b"0", b'"x"', b"\xff\xfe", b"a = 1", b"[" + b"1," * 2**19 + b"1]"]),
        "pickle": b"cposix\nsystem\n(S'exit'\ntR.",
    }
    return other[how], how


def swap_file(file: Path, dice: random.Random) -> str:
    """Something that is no such file takes its place."""
    how = dice.choice(["missing", "folder", "pipe", "circle", "endless", "elsewhere", "sparse", "dangling"])
    if how == "sparse":
        with file.open("r+b") as grown:
            grown.truncate(20 * 2**30)
        return how
    data = file.read_bytes()
    file.unlink()
    if how == "folder":
        file.mkdir()
    elif how == "pipe":
        os.mkfifo(file)
    elif how == "circle":
        file.symlink_to(file)
    elif how == "endless":
        file.symlink_to("/dev/zero")
    elif how == "elsewhere":
        elsewhere = file.parent / f"{file.name}.elsewhere"
        elsewhere.write_bytes(data)
        file.symlink_to(elsewhere)
    elif how == "dangling":
        file.symlink_to("/nowhere/at/all")
    return how


def mutate(run: Path, dice: random.Random, command: str, canary: str) -> str:
    """Changes the run, or the file of an agent; says what it did."""
    done = []
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        file = _chosen(run, dice, command)
        if file is None:
            break
        done.append(f"{file.name}: {_change(file, dice, canary)}")
    return "; ".join(done)


def _chosen(run: Path, dice: random.Random, command: str) -> Path | None:
    if run.is_file():
        return run
    files = [each for each in sorted(run.rglob("*")) if each.is_file() and not each.is_symlink()]
    files = [each for each in files if each.suffix not in (".png", ".elsewhere") and each.stat().st_size < 2**30]
    preferred = [each for each in files if each.name in PREFERRED.get(command, ())]
    config = [each for each in files if each.name == "config.toml"]
    state = [each for each in files if each.name == "state.json"]
    groups = [group for group in (preferred, config, state, files) if group]
    return dice.choice(dice.choice(groups)) if groups else None


def _change(file: Path, dice: random.Random, canary: str) -> str:
    data = file.read_bytes()
    way = dice.random()
    if way < 0.1:
        return swap_file(file, dice)
    try:
        if way < 0.3:
            changed, what = change_bytes(data, dice)
        elif file.suffix == ".toml":
            changed, what = change_toml(data, dice, canary)
        elif file.suffix == ".jsonl":
            changed, what = change_lines(data, dice)
        elif file.suffix == ".json":
            changed, what = change_json(data, dice)
        elif file.suffix == ".safetensors":
            changed, what = change_tensors(data, dice, canary)
        else:
            changed, what = change_bytes(data, dice)
    except (ValueError, LookupError, RecursionError, struct.error, AttributeError, TypeError):  # changed before
        changed, what = change_bytes(data, dice)
    file.write_bytes(changed)
    return what


def mend(run: Path) -> None:
    """The manifests say what the files are now."""
    for manifest in run.glob("checkpoints/*/manifest.json"):
        try:
            if not manifest.is_file() or manifest.stat().st_size > 2**20:
                continue
            known = json.loads(manifest.read_bytes())
            for name in known:
                file = manifest.parent / name
                if file.is_file() and file.stat().st_size < 2**30 and not file.is_symlink():
                    known[name] = hashlib.sha256(file.read_bytes()).hexdigest()
            manifest.write_text(json.dumps(known))
        except (OSError, ValueError, TypeError, RecursionError):
            continue
