"""A run's resumable state: one safetensors file, written atomically; nothing is pickled.

Accelerate's own `save_state` pickles optimizer and random state; ours needs neither, since randomness is keyed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from repro.engine.atomic import write_bytes
from repro.errors import ReproError

_VERSION = 1


def save_state(
    path: Path, identity: dict[str, Any], images: int, model: nn.Module, ema: nn.Module, optimizer: Any
) -> None:
    """Write weights, average, optimizer moments and position; a full disk or a kill leaves the previous file."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in ema.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in moments.items()}
    # Strides are kept out of the file: channels-last weights are written in the ordinary order, laid out again on load.
    tensors = {k: v.detach().to("cpu", memory_format=torch.contiguous_format) for k, v in tensors.items()}
    meta = {"version": _VERSION, "images": images, **identity}
    write_bytes(path, save(tensors, metadata={"run": json.dumps(meta, sort_keys=True)}))


def load_state(path: Path, identity: dict[str, Any], model: nn.Module, ema: nn.Module, optimizer: Any) -> int:
    """Take up the state in `path`; returns the images seen, 0 where there is no file yet.

    Raises `ReproError` where the file is damaged or belongs to another recipe, seed, network or task.
    """
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {}).get("run", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ReproError(f"the training state {path} is damaged ({error}): remove it to start over") from error
    expected = {"version": _VERSION, **identity}
    for key, value in expected.items():
        if meta.get(key) != value:
            other = f"was made with {key} {meta.get(key)!r}, this run has {value!r}"
            raise ReproError(
                f"the training state {path} {other}: remove it to start over, or give the run another name"
            )
    for prefix, module in (("model.", model), ("ema.", ema)):
        module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            moments.setdefault(int(index), {})[name] = value
    state, parameters = optimizer.state_dict(), [p for group in optimizer.param_groups for p in group["params"]]
    state["state"] = {i: {k: _laid_out_like(v, p) for k, v in moments[i].items()} for i, p in enumerate(parameters)}
    optimizer.load_state_dict(state)
    return int(meta["images"])


def _laid_out_like(moment: Tensor, parameter: Tensor) -> Tensor:
    """A moment in its parameter's memory order (fused AdamW walks both in storage order)."""
    if moment.shape != parameter.shape:
        return moment
    return torch.empty_like(parameter, dtype=moment.dtype, device="cpu").copy_(moment)
