"""``longstride convert``: EDM's pickles become folders; nothing is unpickled unless it is said twice."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

import longstride as ls
from longstride.cli import app
from longstride.zoo.edm import EDMPreconditioning
from longstride.zoo.edm_unet import EDM_UNETS

SETTINGS: dict[str, Any] = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}


class Stored:
    """Stands for a network of EDM in a pickle: its class is named like EDM's, and keeps its arguments."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.weights


class SongUNet(Stored):
    pass


class DhariwalUNet(Stored):
    pass


class EDMPrecond(Stored):
    pass


class VPPrecond(Stored):
    pass


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.file, "the code in the pickle ran")


def checkpoint(file: Path, *, kind: type[Stored] = SongUNet, outer: type[Stored] = EDMPrecond, **changes: Any) -> Any:
    """A pickle as EDM's training writes it; returns our network with the same weights."""
    torch.manual_seed(0)
    given = {"img_resolution": 8, "in_channels": 3, "out_channels": 3, "label_dim": 4, **SETTINGS, **changes}
    network = EDM_UNETS[kind.__name__](**given).eval()
    bare = kind(init_args=(), init_kwargs=given, weights=network.state_dict())
    shape = {"img_resolution": 8, "img_channels": 3, "label_dim": given["label_dim"], "sigma_data": 0.5}
    ema = outer(init_args=(), init_kwargs={}, model=bare, sigma_min=0, sigma_max=float("inf"), **shape)
    file.write_bytes(pickle.dumps({"ema": ema, "loss_fn": None, "augment_pipe": None}))
    return network


def convert(*args: object) -> Result:
    return CliRunner().invoke(app, ["convert", *map(str, args)])


def refusal(*args: object) -> str:
    result = convert(*args)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line


@torch.no_grad()
@pytest.mark.parametrize("kind", [SongUNet, DhariwalUNet])
@pytest.mark.parametrize("classes", [0, 4])
def test_a_converted_network_is_the_same_denoiser(tmp_path: Path, kind: type[Stored], classes: int):
    network = checkpoint(tmp_path / "edm.pkl", kind=kind, label_dim=classes, augment_dim=9)
    result = convert(tmp_path / "edm.pkl", tmp_path / "out", "--run-code-in-file")
    assert result.exit_code == 0, result.output
    assert f"{kind.__name__}, " in result.stdout
    model = ls.load_model(tmp_path / "out")
    assert (model.shape, model.num_classes, model.null_class) == ((3, 8, 8), classes, None)
    assert (model.prediction, model.schedule) == ("data", ls.Schedule.edm(0.002, 80.0))
    x, sigma = model.noise(range(3), 5.0), torch.full((3,), 5.0)
    labels = {"class_labels": torch.tensor([0, 1, 2])} if classes else {}
    expected = EDMPreconditioning(network)(x, sigma, **labels)
    torch.testing.assert_close(model.denoiser(range(3))(x, 5.0), expected, rtol=1e-5, atol=1e-6)
    assert ls.load_model(tmp_path / "out", dtype=torch.bfloat16).network.bare.map_layer0.weight.dtype == torch.bfloat16


def test_a_network_with_label_dropout_can_be_guided(tmp_path: Path):
    checkpoint(tmp_path / "edm.pkl", label_dropout=0.1)
    assert convert(tmp_path / "edm.pkl", tmp_path / "out", "--run-code-in-file").exit_code == 0
    model = ls.load_model(tmp_path / "out")
    assert (model.num_classes, model.null_class) == (4, 4)
    x = model.noise(range(2), 1.0)
    assert not torch.equal(model.denoiser(range(2), guidance=3.0)(x, 1.0), model.denoiser(range(2))(x, 1.0))


def test_what_is_written(tmp_path: Path):
    checkpoint(tmp_path / "edm.pkl")
    made = json.loads(convert(tmp_path / "edm.pkl", tmp_path / "out", "--run-code-in-file", "--json").stdout)
    files = sorted(str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file())
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert files == ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json", weights]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["edm.pkl", "out"]
    total = sum(v.numel() for name, v in load_file(tmp_path / "out" / weights).items() if "resample" not in name)
    assert made["parameters"] == total
    assert (made["network"], made["shape"], made["classes"]) == ("SongUNet", [3, 8, 8], 4)


# Nothing runs unasked


def test_nothing_is_unpickled_without_the_flag(tmp_path: Path):
    (tmp_path / "trap.pkl").write_bytes(pickle.dumps({"ema": Trap(tmp_path / "sprung")}))
    message = refusal(tmp_path / "trap.pkl", tmp_path / "out")
    assert "reading it runs the code in it" in message
    assert "--run-code-in-file" in message
    assert not (tmp_path / "sprung").exists()
    refusal(tmp_path / "trap.pkl", tmp_path / "out", "--run-code-in-file")
    assert (tmp_path / "sprung").exists()  # the trap does work


def test_the_converted_folder_is_opened_without_any_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    checkpoint(tmp_path / "edm.pkl")
    assert convert(tmp_path / "edm.pkl", tmp_path / "out", "--run-code-in-file").exit_code == 0

    def forbidden(*args: object, **options: object) -> None:
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    monkeypatch.setattr(torch, "load", forbidden)
    ls.load_model(tmp_path / "out")


# What is wrong


def test_edm_s_own_code_is_missing(tmp_path: Path):
    """Real files name EDM's module ``torch_utils.persistence``, which rebuilds the network's class."""
    (tmp_path / "edm.pkl").write_bytes(b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n.")
    message = refusal(tmp_path / "edm.pkl", tmp_path / "out", "--run-code-in-file")
    assert "needs the module torch_utils, which is EDM's own code" in message
    assert "git clone https://github.com/NVlabs/edm" in message
    assert "PYTHONPATH=edm" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot unpickle"),
        (b"no pickle", "cannot unpickle"),
        (pickle.dumps([1]), "is no checkpoint of EDM: expected a dictionary with 'ema'"),
        (pickle.dumps({"ema": 3}), "holds a int around a NoneType: only EDMPrecond around"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "edm.pkl").write_bytes(content)
    assert message in refusal(tmp_path / "edm.pkl", tmp_path / "out", "--run-code-in-file")
    assert not (tmp_path / "out").exists()


def test_other_networks(tmp_path: Path):
    checkpoint(tmp_path / "vp.pkl", outer=VPPrecond)
    message = refusal(tmp_path / "vp.pkl", tmp_path / "out", "--run-code-in-file")
    assert "holds a VPPrecond around a SongUNet" in message


def test_weights_that_do_not_fit_the_arguments(tmp_path: Path):
    network = EDM_UNETS["SongUNet"](8, 3, 3, **SETTINGS)
    bare = SongUNet(init_args=(8, 3, 3), init_kwargs={**SETTINGS, "num_blocks": 2}, weights=network.state_dict())
    ema = EDMPrecond(model=bare, sigma_min=0, sigma_max=80, sigma_data=0.5)
    (tmp_path / "edm.pkl").write_bytes(pickle.dumps({"ema": ema}))
    message = refusal(tmp_path / "edm.pkl", tmp_path / "out", "--run-code-in-file")
    assert "the SongUNet in" in message
    assert "does not fit" in message


def test_wrong_places(tmp_path: Path):
    checkpoint(tmp_path / "edm.pkl")
    assert "is there already" in refusal(tmp_path / "edm.pkl", tmp_path, "--run-code-in-file")
    assert "no such folder" in refusal(tmp_path / "edm.pkl", tmp_path / "a" / "b", "--run-code-in-file")
    assert "cannot read" in refusal(tmp_path / "none.pkl", tmp_path / "out", "--run-code-in-file")


def test_a_damaged_converted_folder(tmp_path: Path):
    checkpoint(tmp_path / "edm.pkl")
    convert(tmp_path / "edm.pkl", tmp_path / "out", "--run-code-in-file")
    config = tmp_path / "out" / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_blocks": 3}))
    with pytest.raises(ls.InputError, match="cannot load the unet of .*SongUNet"):
        ls.load_model(tmp_path / "out")
