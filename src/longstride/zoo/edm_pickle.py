"""EDM's own checkpoints as folders. The checkpoints are pickles, which can run code; the folders hold none."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from longstride.errors import InputError
from longstride.zoo.edm_unet import EDM_UNETS

__all__ = ["convert_pickle"]

#: First and last level of EDM's own sampler (Karras et al., 2022, Table 1); a network may narrow the range.
_SIGMA_MIN, _SIGMA_MAX = 0.002, 80.0
_NEEDS = "git clone https://github.com/NVlabs/edm, and run again with PYTHONPATH=edm"


def convert_pickle(file: Path, out: Path, *, run_code_in_file: bool) -> dict[str, Any]:
    """Write EDM's averaged network as a folder for :func:`longstride.load_model`.

    The folder holds ``model_index.json``, ``unet/`` (settings and safetensors) and ``scheduler/`` (an
    ``EDMEulerScheduler``). It is written whole or not at all.

    Args:
        file: A pickle of NVlabs/edm, such as ``edm-cifar10-32x32-cond-vp.pkl``: a dictionary whose ``ema`` is an
            ``EDMPrecond`` around a ``SongUNet`` or a ``DhariwalUNet``.
        out: The new folder.
        run_code_in_file: Must be True, because to read a pickle is to run the code in it.

    Returns:
        The network's kind, the shape of a sample, the number of classes and of parameters.

    Raises:
        InputError: ``run_code_in_file`` is False, ``out`` exists, or the file cannot be read or holds something else.
    """
    if not run_code_in_file:
        raise InputError(
            f"{file} is a pickle: reading it runs the code in it. If you trust where it comes from, give "
            "--run-code-in-file; nothing was read"
        )
    if out.exists():
        raise InputError(f"{out} is there already: give the name of a new folder")
    if not out.parent.is_dir():
        raise InputError(f"no such folder: {out.parent}")
    outer = _unpickle(file)
    inner = getattr(outer, "model", None)
    kinds = (type(outer).__name__, type(inner).__name__)
    if kinds[0] != "EDMPrecond" or kinds[1] not in EDM_UNETS:
        raise InputError(
            f"{file} holds a {kinds[0]} around a {kinds[1]}: only EDMPrecond around {' or '.join(EDM_UNETS)} is known"
        )
    try:
        settings, state, scheduler = _settings(kinds[1], inner), _state(inner), _scheduler(outer)
        with torch.device("meta"):
            network = EDM_UNETS[kinds[1]](**settings)
        network.load_state_dict(state, assign=True)  # names and shapes fit, or it raises
    except Exception as error:  # a foreign object can raise nearly anything
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"the {kinds[1]} in {file} does not fit ({type(error).__name__}: {reason})") from None
    index: dict[str, Any] = {
        "_class_name": "EDM",
        "unet": ["longstride", kinds[1]],
        "scheduler": ["diffusers", "EDMEulerScheduler"],
    }
    classes = int(settings.get("label_dim", 0))
    if network.config["num_class_embeds"] > classes:
        index["_null_class"] = classes
    settings = {"_class_name": kinds[1], **network.config, **settings}
    _write(out, index, settings, scheduler, state)
    return {
        "network": kinds[1],
        "shape": [settings["in_channels"], settings["sample_size"], settings["sample_size"]],
        "classes": classes,
        "parameters": sum(value.numel() for value in network.parameters()),
        "folder": str(out),
    }


def _unpickle(file: Path) -> Any:
    """The averaged network in a file, by running the code in it."""
    try:
        with file.open("rb") as handle:
            content = pickle.load(handle)
    except ModuleNotFoundError as error:
        raise InputError(f"{file} needs the module {error.name}, which is EDM's own code: {_NEEDS}") from None
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from None
    except Exception as error:  # the code in it can raise anything
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"cannot unpickle {file} ({type(error).__name__}: {reason})") from None
    if not isinstance(content, dict) or "ema" not in content:
        raise InputError(f"{file} is no checkpoint of EDM: expected a dictionary with 'ema'")
    return content["ema"]


def _settings(kind: str, network: Any) -> dict[str, Any]:
    """The arguments that made the network, as plain numbers and lists; EDM has the same order of arguments."""
    given = inspect.signature(EDM_UNETS[kind]).bind(*network.init_args, **network.init_kwargs)
    plain: dict[str, Any] = json.loads(json.dumps(dict(given.arguments)))
    return plain


def _state(network: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().float().cpu().contiguous() for name, value in network.state_dict().items()}


def _scheduler(outer: Any) -> dict[str, Any]:
    return {
        "_class_name": "EDMEulerScheduler",
        "sigma_min": max(_SIGMA_MIN, float(outer.sigma_min)),
        "sigma_max": min(_SIGMA_MAX, float(outer.sigma_max)),
        "sigma_data": float(outer.sigma_data),
        "prediction_type": "epsilon",
    }


def _write(
    out: Path, index: dict[str, Any], settings: dict[str, Any], scheduler: dict[str, Any], state: dict[str, Any]
) -> None:
    """Write the folder under another name, then rename it."""
    try:
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from None
    try:
        contents = {"unet/config.json": settings, "scheduler/scheduler_config.json": scheduler}
        for name, content in {**contents, "model_index.json": index}.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        save_file(state, temporary / "unet" / "diffusion_pytorch_model.safetensors")
        temporary.chmod(0o755)
        os.replace(temporary, out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from None
    finally:  # also when interrupted
        shutil.rmtree(temporary, ignore_errors=True)
