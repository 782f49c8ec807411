"""Whatever a file holds ends as the 8-bit picture of the same look, or is refused by name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.data.decoding import UnreadableImageError, decode_bytes, read_image
from bench.data.names import SUFFIXES

GRAY = np.arange(256, dtype=np.uint8).reshape(16, 16)[::-1].copy()
STUBS = {
    "BUFR",
    "GRIB",
    "HDF5",
    "WMF",
    "MPEG",
    "EPS",
}  # formats that Pillow hands to another program, or recognizes only


def saved(image: Image.Image, file: Path) -> Path:
    image.save(file)
    return file


def looks_like_gray(file: Path) -> bool:
    pixels = read_image(file)
    return torch.equal(pixels, torch.from_numpy(GRAY).expand(3, 16, 16))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jp2", ".pgm"])
def test_gray_of_16_bits_is_the_picture_in_8_bits(tmp_path: Path, suffix: str) -> None:
    assert looks_like_gray(saved(Image.fromarray(GRAY.astype(np.uint16) * 257), tmp_path / f"a{suffix}"))
    assert looks_like_gray(saved(Image.fromarray(GRAY.astype(np.uint16) * 256 + 9), tmp_path / f"b{suffix}"))
    assert looks_like_gray(saved(Image.fromarray(GRAY), tmp_path / f"c{suffix}"))


def test_both_orders_of_bytes_are_read(tmp_path: Path) -> None:
    deep = Image.frombytes("I;16B", (16, 16), (GRAY.astype(">u2") * 257).astype(">u2").tobytes())
    file = saved(deep, tmp_path / "a.tif")
    with Image.open(file) as opened:
        assert opened.mode == "I;16B"
    assert looks_like_gray(file)


def test_gray_and_colour_of_16_bits_give_the_same(tmp_path: Path) -> None:
    """Pillow takes the upper eight bits where there are three channels; 16 bits of one channel do the same."""
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, (9, 7), dtype=np.uint16)
    gray = read_image(saved(Image.fromarray(deep), tmp_path / "gray.png"))
    ppm = tmp_path / "colour.tif"
    ppm.write_bytes(colour_tiff(deep))
    assert torch.equal(gray, read_image(ppm))


def tiff(width: int, height: int, bits: tuple[int, ...], photometric: int, content: bytes) -> bytes:
    """A TIFF of one strip, little endian, without help of the library under test."""
    count, after = 9, 8 + 2 + 9 * 12 + 4
    extra = b"".join(n.to_bytes(2, "little") for n in bits) if len(bits) > 2 else b""
    depth = after if extra else sum(n << (16 * place) for place, n in enumerate(bits))
    tags = (
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, len(bits), depth),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, after + len(extra)),
        (277, 3, 1, len(bits)),
        (278, 3, 1, height),
        (279, 4, 1, len(content)),
    )
    body = b"".join(
        tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + n.to_bytes(4, "little") + value.to_bytes(4, "little")
        for tag, kind, n, value in tags
    )
    return b"II*\0" + (8).to_bytes(4, "little") + count.to_bytes(2, "little") + body + bytes(4) + extra + content


def colour_tiff(gray: np.ndarray[tuple[int, int], np.dtype[np.uint16]]) -> bytes:
    height, width = gray.shape
    content = np.repeat(gray[..., None], 3, axis=2).astype("<u2").tobytes()
    return tiff(width, height, (16, 16, 16), 2, content)


def test_white_may_be_zero_and_bits_may_be_twelve(tmp_path: Path) -> None:
    negative = tmp_path / "negative.tif"
    negative.write_bytes(tiff(16, 16, (16,), 0, ((255 - GRAY).astype("<u2") * 257).tobytes()))
    assert looks_like_gray(negative)
    twelve = (GRAY.astype(np.uint32) * 16 + 5).reshape(-1, 2)
    packed = np.stack([twelve[:, 0] >> 4, ((twelve[:, 0] & 15) << 4) | (twelve[:, 1] >> 8), twelve[:, 1] & 255], axis=1)
    file = tmp_path / "twelve.tif"
    file.write_bytes(tiff(16, 16, (12,), 1, packed.astype(np.uint8).tobytes()))
    assert looks_like_gray(file)


@pytest.mark.parametrize("suffix", [".tif", ".pfm"])
def test_floats_run_from_black_at_0_to_white_at_1(tmp_path: Path, suffix: str) -> None:
    assert looks_like_gray(saved(Image.fromarray(GRAY.astype(np.float32) / 255), tmp_path / f"a{suffix}"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (GRAY.astype(np.float32), r"it has floats from 0 to 255, expected 0 \(black\) to 1"),
        (GRAY.astype(np.float32) / 255 - 0.5, "it has floats from -0.5 to 0.5"),
        (np.full((4, 4), np.nan, dtype=np.float32), "it has floats from nan to nan"),
        (GRAY.astype(np.int32) * 257, r"nobody says which of its integers is white \(mode I\)"),
        (-GRAY.astype(np.int32), r"nobody says which of its integers is white \(mode I\)"),
    ],
)
def test_numbers_whose_white_nobody_knows_are_refused_by_name(
    tmp_path: Path, values: np.ndarray[tuple[int, int], np.dtype[np.float32]], message: str
) -> None:
    file = saved(Image.fromarray(values), tmp_path / "a.tif")
    with pytest.raises(UnreadableImageError, match=rf"^{file} cannot be decoded \({message}.*replace the file"):
        read_image(file)


def test_measurements_of_16_bits_are_refused_by_name(tmp_path: Path) -> None:
    cards = ("SIMPLE  = T", "BITPIX  = 16", "NAXIS   = 2", "NAXIS1  = 4", "NAXIS2  = 4", "END")
    header = "".join(f"{card:<80}" for card in cards).ljust(2880).encode()
    file = tmp_path / "a.fits"
    file.write_bytes(header + bytes(2880))
    with pytest.raises(UnreadableImageError, match=r"a\.fits cannot be decoded \(nobody says which"):
        read_image(file)


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    bits = Image.fromarray(GRAY > 127)
    assert bits.mode == "1"
    for suffix in (".png", ".tif", ".pbm", ".bmp"):
        pixels = read_image(saved(bits, tmp_path / f"a{suffix}"))
        assert torch.equal(pixels, torch.from_numpy(np.where(GRAY > 127, 255, 0).astype(np.uint8)).expand(3, 16, 16))


@pytest.mark.parametrize(("mode", "suffix"), [("P", ".png"), ("P", ".gif"), ("PA", ".tif"), ("CMYK", ".tif")])
def test_palettes_and_printing_inks_keep_their_colours(tmp_path: Path, mode: str, suffix: str) -> None:
    colours = Image.new("RGB", (8, 8), (200, 30, 90))
    colours.paste((10, 220, 40), (0, 0, 4, 8))
    made = colours.quantize(2) if mode != "CMYK" else colours.convert("CMYK")
    file = saved(made.convert("PA") if mode == "PA" else made, tmp_path / f"a{suffix}")
    with Image.open(file) as opened:
        assert opened.mode == mode
    assert np.abs(read_image(file).permute(1, 2, 0).numpy().astype(int) - np.asarray(colours)).max() <= 2


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_alpha_is_dropped_as_the_published_loaders_do(tmp_path: Path, mode: str) -> None:
    gray = Image.fromarray(GRAY)
    alpha = Image.fromarray(GRAY.T.copy())
    if mode == "P":
        file = tmp_path / "a.png"
        gray.save(file, transparency=3)
    else:
        image = gray.convert(mode)
        image.putalpha(alpha)
        file = saved(image, tmp_path / "a.png")
    assert looks_like_gray(file)


def test_pictures_of_8_bits_are_pillows_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (23, 31, 4), dtype=np.uint8)
    for image in (
        Image.fromarray(pixels[..., :3]),
        Image.fromarray(pixels),
        Image.fromarray(pixels[..., 0]),
        Image.fromarray(pixels[..., :3]).quantize(17),
        Image.fromarray(pixels[..., 0] > 99),
    ):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        with Image.open(buffer) as file:
            expected = np.array(file.convert("RGB"))
        assert np.array_equal(decode_bytes(bytearray(buffer.getvalue())).permute(1, 2, 0).numpy(), expected)


def test_every_extension_that_pillow_reads_by_itself_is_one_of_an_image() -> None:
    Image.init()
    read = {suffix for suffix, name in Image.EXTENSION.items() if name in Image.OPEN and name not in STUBS}
    assert read <= set(SUFFIXES)
    assert len(set(SUFFIXES)) == len(SUFFIXES)
    assert not {suffix for suffix, name in Image.EXTENSION.items() if name in STUBS} & set(SUFFIXES)
