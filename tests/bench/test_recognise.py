"""What is no checkpoint of the network asked for is named in one short line."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from bench.errors import BenchError, first_words
from bench.networks import encoders
from bench.spec import Backbone
from bench.weights import layouts
from bench.weights.recognise import resnet
from tests.bench import tensor_bundle

SMALL = Backbone(name="resnet10", base_channels=4, stem="small")
SHORT = 200  # characters of a line, without the path


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"hello, this is text\n" * 99, "is a text file, not a checkpoint; it begins with 'hello, this is text'."),
        ("größer als ".encode() * 99, "is a text file, not a checkpoint; it begins with 'größer als"),
        (b'{"state_dict": {}}', "is a text file, not a checkpoint; it begins with '{\"state_dict\": {}}'."),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a pointer of Git LFS, not the checkpoint"),
        (b"", "cut off or another kind of file (it is empty)."),
        (b"\0" * 4096, "cut off or another kind of file (it begins with zeros)."),
        (b"\x80\x02\x8c\xff\xfe" * 99, "cannot be read as a checkpoint, it is cut off or another kind of file ("),
        (b"PK\x03\x04" + b"\x93" * 999, "cannot be read as a checkpoint, it is cut off or another kind of file ("),
    ],
    ids=["text", "umlauts", "JSON", "LFS", "empty", "zeros", "a pickle of nonsense", "a zip of nonsense"],
)
def test_the_line_is_short_and_says_what_the_file_is(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    with pytest.raises(BenchError) as caught:
        layouts.load(SMALL, path)
    line = str(caught.value)
    assert told in line
    assert len(line.replace(str(path), "")) < SHORT
    assert "\n" not in line


def test_of_torchs_errors_its_advice_to_its_callers_is_left_out() -> None:
    told = """Weights only load failed. In PyTorch 2.6, we changed the default value of `weights_only`.
    Please file an issue with the following so that we can make `weights_only=True` compatible with your use case: \
WeightsUnpickler error: Unsupported operand 149

Check the documentation of torch.load to learn more."""
    assert first_words(RuntimeError(told)) == "Unsupported operand 149"
    zipped = (
        "PytorchStreamReader failed reading zip archive: failed finding central directory. This is an internal error"
    )
    assert first_words(RuntimeError(zipped)) == zipped.partition(".")[0]
    assert first_words(KeyError(101)) == "KeyError: 101"
    assert first_words(EOFError()) == "EOFError"
    assert len(first_words(ValueError("long words " * 99))) == 100


@pytest.mark.parametrize(("name", "width"), [("resnet18", 1), ("resnet50", 1), ("resnet50", 2), ("resnet101", 1)])
def test_a_papers_resnet_is_recognised_by_its_layers(name: str, width: int) -> None:
    with torch.device("meta"):
        state = encoders.build(Backbone(name=name, width=width), seed=0).state_dict()
    assert resnet(state) == (name, width)
    assert resnet({name: value for name, value in state.items() if not name.startswith("layer4.1")}) is None
    assert resnet(encoders.build(SMALL, seed=0).state_dict()) is None


def test_another_network_is_named_with_the_flags_that_take_it(tmp_path: Path) -> None:
    torch.save(encoders.build(Backbone(name="resnet18"), seed=0).state_dict(), tmp_path / "file.pt")
    hint = "It looks like a resnet18 1x: --scale paper --network resnet18 --width 1."
    for asked in (SMALL, Backbone(name="resnet18", width=2), Backbone(name="resnet50")):
        with pytest.raises(BenchError) as caught:
            layouts.load(asked, tmp_path / "file.pt")
        assert str(caught.value).endswith(hint), asked
    torch.save(encoders.build(SMALL, seed=0).state_dict(), tmp_path / "file.pt")
    with pytest.raises(BenchError, match=r"differ\. Another width\?$"):
        layouts.load(Backbone(name="resnet10"), tmp_path / "file.pt")


def cut(data: bytes, start: int) -> bytes:
    return data[:start] + b"\xff" * 40 + data[start + 40 :]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_a_damaged_member_of_a_zipped_tensorflow_checkpoint_is_one_line(
    method: int, suffix: str, tmp_path: Path
) -> None:
    network = Backbone(name="resnet50", base_channels=4, stem="small")
    state = encoders.build(network, seed=0).state_dict()
    index = tensor_bundle.write(tmp_path / "model.ckpt-1", tensor_bundle.simclr_names(state))
    zipped = tmp_path / "model.zip"
    with zipfile.ZipFile(zipped, "w", method) as archive:
        for file in sorted(index.parent.glob("model.ckpt-1.*")):
            archive.write(file, file.name)
        (member,) = (one for one in archive.infolist() if one.filename.endswith(suffix))
    begin = member.header_offset + 30 + len(member.filename)
    zipped.write_bytes(cut(zipped.read_bytes(), begin + member.compress_size // 2))
    with pytest.raises(BenchError, match=r"model\.zip is damaged: ") as caught:
        layouts.load(network, zipped)
    assert "\n" not in str(caught.value)
