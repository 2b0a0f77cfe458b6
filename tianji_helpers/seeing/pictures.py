"""Pictures of students: opened with care, and made into what a tower takes.

A file from outside may be anything. What is not one plain picture is refused by name, before its pixels are
unpacked: a few kilobytes can hold 20,000 by 20,000 of them.
"""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from reprlib import repr as brief
from typing import TYPE_CHECKING

from tianji_helpers.errors import CourseError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

LARGEST_FILE = 10_000_000  # bytes
LARGEST, SMALLEST = 8_000, 32  # pixels along a side
MOST_PIXELS = 30_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_MODES = ("RGB", "RGBA", "L", "LA", "P", "1")


def open_picture(source: str | Path | bytes, name: str = "") -> "Image":
    """Return a picture as RGB, upright, on white where it was transparent.

    source: a file, or what is in it. name: for messages; empty means the file's. Raises CourseError for what
    is no picture, or animated, CMYK, of 16 bits, too small or too large, with the way to mend it.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    name = name or (Path(source).name if isinstance(source, str | Path) else "图片")
    data, size = _read(Path(source)) if isinstance(source, str | Path) else (source, len(source))
    if size > LARGEST_FILE:
        raise CourseError(f"{name} 有 {size / 1e6:.1f} MB，最多 {LARGEST_FILE / 1e6:.0f} MB。请先缩小。")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is stricter
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise CourseError(
            f"{name} 不是图片（能读的格式：{'、'.join(FORMATS)}）。请用看图软件另存为 PNG。"
        ) from None
    except Image.DecompressionBombError:
        raise CourseError(
            f"{name} 的像素太多：每边最多 {LARGEST}、一共最多 {MOST_PIXELS:,}。请先缩小。"
        ) from None
    except (ValueError, OSError, SyntaxError) as error:
        raise CourseError(f"{name} 打不开：{error}。请用看图软件另存为 PNG。") from error
    wide, high = image.size
    if max(wide, high) > LARGEST or wide * high > MOST_PIXELS:
        raise CourseError(
            f"{name} 是 {wide}×{high} 像素，每边最多 {LARGEST}、一共最多 {MOST_PIXELS:,}。请先缩小。"
        )
    if min(wide, high) < SMALLEST:
        raise CourseError(f"{name} 只有 {wide}×{high} 像素，看不出什么；每边至少 {SMALLEST}。")
    if (frames := getattr(image, "n_frames", 1)) > 1:
        raise CourseError(f"{name} 是动图（{frames} 帧）。请把其中一帧另存为 PNG。")
    if image.mode not in _MODES:
        raise CourseError(f"{name} 的颜色模式是 {image.mode}（CMYK 或 16 位）。请另存为 8 位的 RGB 图片。")
    try:
        upright = ImageOps.exif_transpose(image)  # a telephone only notes down how it was held
        if upright.mode in ("RGBA", "LA", "P"):
            ground = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(ground, upright.convert("RGBA"))
        return upright.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise CourseError(f"{name} 坏了，读到一半读不下去：{error}。") from error


def _read(file: Path) -> tuple[bytes, int]:
    """Return what is in a file, of one that is too large nothing, and how large it is."""
    try:
        if not file.is_file():
            raise CourseError(f"找不到图片 {file}。")
        size = file.stat().st_size
        return file.read_bytes() if size <= LARGEST_FILE else b"", size
    except OSError as error:  # a name that is too long, a disk that is gone
        raise CourseError(f"读不了图片 {brief(str(file))}：{error.strerror or error}。") from error


def to_pixels(
    images: Sequence["Image"], size: int, mean: Sequence[float], std: Sequence[float]
) -> "torch.Tensor":
    """Return pictures as (images, 3, size, size), padded to a square with the tower's grey, and scaled."""
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    grey = tuple(round(255 * part) for part in mean)
    squares = [ImageOps.pad(image, (size, size), Image.Resampling.BICUBIC, color=grey) for image in images]
    pixels = torch.from_numpy(np.stack([np.asarray(square) for square in squares])).permute(0, 3, 1, 2) / 255
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
