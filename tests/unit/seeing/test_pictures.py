"""Pictures from outside: what is no plain picture is refused by name, and the others stand upright."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tianji_helpers.errors import CourseError
from tianji_helpers.seeing import pictures


def saved(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def huge_png(wide, high):
    """A PNG of some bytes that says it has so many pixels."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


RED = Image.new("RGB", (64, 48), "red")
FRAMES = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"hello, I am a text", "不是图片"),
        (b"", "不是图片"),
        (saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "不是图片"),
        (saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), r"动图（2 帧）"),
        (saved(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), r"动图（2 帧）"),
        (saved(RED.convert("CMYK"), "JPEG"), "CMYK"),
        (saved(Image.fromarray(np.zeros((64, 64), np.uint16))), "16 位"),
        (saved(Image.new("RGB", (1, 1))), "只有 1×1 像素"),
        (huge_png(20_000, 20_000), "像素太多：每边最多 8000"),
        (huge_png(7_000, 7_000), "7000×7000 像素"),
        (huge_png(100, 100), "坏了"),
        (saved(Image.effect_noise((200, 200), 50))[:9000], "坏了"),
        (b"0" * (pictures.LARGEST_FILE + 1), "10.0 MB，最多 10 MB"),
    ],
    ids=range(13),
)
def test_what_is_no_plain_picture_is_refused_by_name(data, said, tmp_path):
    file = tmp_path / "card.png"
    file.write_bytes(data)
    with pytest.raises(CourseError, match=f"^card.png .*{said}"):
        pictures.open_picture(file)
    with pytest.raises(CourseError, match=said):
        pictures.open_picture(data)


def test_a_name_that_no_disk_takes_is_told():
    with pytest.raises(CourseError, match="读不了图片 'aaa"):
        pictures.open_picture("a" * 300 + ".png")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CourseError, match=r"找不到图片 .*none\.png"):
        pictures.open_picture(tmp_path / "none.png")


def test_a_picture_of_a_telephone_is_turned_upright():
    held = Image.new("RGB", (64, 48), "red")
    held.paste("blue", (0, 0, 64, 10))  # blue above
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the file's left is the top
    upright = pictures.open_picture(saved(held, "JPEG", exif=exif))
    assert upright.size == (48, 64)
    assert upright.getpixel((45, 30))[2] > 200 > upright.getpixel((5, 30))[2]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1"])
def test_other_plain_modes_become_rgb_on_white(mode):
    image = (
        Image.new("RGBA", (64, 64), (0, 0, 0, 0)) if mode in ("RGBA", "LA") else Image.new("L", (64, 64), 255)
    )
    got = pictures.open_picture(saved(image.convert(mode)))
    assert got.mode == "RGB" and got.getpixel((10, 10)) == (255, 255, 255)


def test_pixels_are_padded_to_a_square_with_the_towers_grey():
    pixels = pictures.to_pixels([RED], 64, [0.5] * 3, [0.5] * 3)
    assert pixels.shape == (1, 3, 64, 64)
    assert pixels[0, :, 32, 32].tolist() == [1.0, -1.0, -1.0]
    assert pixels[0, :, 0, 0].abs().max() < 0.01
