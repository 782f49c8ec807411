from __future__ import annotations

import io
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.data import decoding
from bench.data.decoding import UnreadableImageError, decode_bytes, decode_pillow, read_image
from bench.errors import BenchError


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("china.jpg")).crop((100, 50, 301, 203))


def encoded(image: Image.Image, kind: str, **settings: object) -> bytearray:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return bytearray(buffer.getvalue())


def kinds(photo: Image.Image) -> dict[str, bytearray]:
    turned = Image.Exif()
    turned[0x0112] = 6
    shaded = photo.copy()
    shaded.putalpha(photo.convert("L"))
    deep = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    return {
        "JPEG": encoded(photo, "JPEG", quality=96),
        "JPEG without subsampling": encoded(photo, "JPEG", subsampling=0),
        "progressive JPEG": encoded(photo, "JPEG", progressive=True),
        "gray JPEG": encoded(photo.convert("L"), "JPEG"),
        "CMYK JPEG": encoded(photo.convert("CMYK"), "JPEG"),
        "JPEG with an EXIF turn": encoded(photo, "JPEG", exif=turned),
        "PNG": encoded(photo, "PNG"),
        "PNG with a palette": encoded(photo.quantize(64), "PNG"),
        "PNG with alpha": encoded(shaded, "PNG"),
        "PNG of 16 bits": encoded(deep, "PNG"),
        "BMP": encoded(photo, "BMP"),
    }


def test_every_kind_of_image_is_decoded_as_by_pillow(photo: Image.Image) -> None:
    for name, content in kinds(photo).items():
        found = decode_bytes(content)
        assert (found.dtype, found.shape) == (torch.uint8, (3, 153, 201)), name
        assert torch.equal(found, decode_pillow(content)), name
    exact = decode_bytes(encoded(photo, "PNG"))
    assert np.array_equal(exact.permute(1, 2, 0).numpy(), np.asarray(photo))


def test_jpegs_do_not_go_through_pillow(photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(content: bytearray) -> None:
        raise AssertionError("Pillow was asked")

    monkeypatch.setattr(decoding, "decode_pillow", never)
    assert decode_bytes(encoded(photo, "JPEG")).shape == (3, 153, 201)
    with pytest.raises(AssertionError, match="Pillow was asked"):
        decode_bytes(encoded(photo, "PNG"))


def test_without_torchvisions_decoder_pillow_gives_the_same(
    photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encoded(photo, "JPEG", quality=96)
    fast = decode_bytes(content)
    monkeypatch.setattr(decoding, "_torchvision", lambda: None)
    assert torch.equal(decode_bytes(content), fast)


def test_damaged_jpegs_are_readable_when_pillow_reads_them_and_give_its_pixels(photo: Image.Image) -> None:
    rng = random.Random(0)
    small = photo.crop((0, 0, 60, 50))
    read = refused = 0
    for number in range(300):
        content = encoded(small.convert(("RGB", "L", "CMYK")[number % 3]), "JPEG", progressive=bool(number % 2))
        for _ in range(rng.choice((1, 3, 20))):
            content[rng.randrange(3, len(content))] = rng.randrange(256)
        content = content[: rng.randrange(3, len(content))] if number % 5 == 0 else content
        try:
            expected = decode_pillow(content)
        except Exception:  # whatever Pillow raises: a damaged file may fail anywhere in it
            refused += 1
            with pytest.raises(Exception):  # noqa: B017, PT011 (Pillow raises many kinds)
                decode_bytes(content)
        else:
            read += 1
            assert torch.equal(decode_bytes(content), expected), number
    assert min(read, refused) > 50


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_named(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "n01_1.JPEG"
    file.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=f"^{file} cannot be decoded .*replace the file"):
        read_image(file)


@pytest.mark.parametrize("pillow", [False, True])
def test_what_the_file_system_cannot_give_is_no_damaged_image(tmp_path: Path, pillow: bool) -> None:
    for path, reason in ((tmp_path / "gone.jpg", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(BenchError, match=f"^{path} cannot be read \\({reason}") as caught:
            read_image(path, pillow=pillow)
        assert not isinstance(caught.value, UnreadableImageError)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(BenchError, match=r"a\.jpg cannot be read \(it is no file but a pipe"):
        read_image(tmp_path / "a.jpg")
