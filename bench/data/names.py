"""What the name of a file in a data set's folder says: an image, a shard of a pack, no data. Imports no torch."""

from __future__ import annotations

import os
import re
import sys

SHARD = ".pack"
PACKED = re.compile(r"\.pack/(\d+)-(\d+)-([0-9a-f]{8})/")  # of an image's path: SHARD_FILE/OFFSET-LENGTH-CRC32/NAME
# What Pillow 10 to 13 reads by itself: the names that its formats register, less those that it hands to another program
# or only recognizes (PostScript, MPEG, WMF, BUFR, GRIB, HDF5). As a list, so that a data set has the same images
# whatever the version and build of Pillow; what a build lacks is then an error that names the file.
# fmt: off
SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jfif", ".jpe", ".mpo", ".avif", ".avifs",
    ".j2c", ".j2k", ".jp2", ".jpc", ".jpf", ".jpx", ".apng", ".blp", ".bw", ".cur", ".dcx", ".dds", ".dib", ".fit",
    ".fits", ".flc", ".fli", ".ftc", ".ftu", ".gbr", ".icb", ".icns", ".ico", ".iim", ".im", ".msp", ".pbm", ".pcd",
    ".pcx", ".pfm", ".pgm", ".pnm", ".ppm", ".psd", ".pxr", ".qoi", ".ras", ".rgb", ".rgba", ".sgi", ".tga", ".vda",
    ".vst", ".xbm", ".xpm",
)
# fmt: on
MACOS = "__MACOSX"  # what archives made by macOS unpack beside the data


def is_hidden(name: str) -> bool:
    """Whether a path of a list or a folder's entry is hidden, as AppleDouble's `._1.jpg` is: no data, wherever met."""
    if name[:1] != "." and "/." not in name and MACOS not in name:  # nearly all of millions
        return False
    return any((part.startswith(".") and part not in {".", ".."}) or part == MACOS for part in name.split("/"))


def portable(text: str) -> str:
    """The same bytes of a file's name as text, whatever the locale: what is written down."""
    if sys.getfilesystemencoding() == "utf-8":
        return text
    return os.fsencode(text).decode("utf-8", "surrogateescape")


def native(text: str) -> str:
    """A name that was written down as this process has it."""
    if sys.getfilesystemencoding() == "utf-8":
        return text
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))
