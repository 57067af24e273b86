"""Any bytes in; an upright RGB image or ``BadSample`` out."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, PngImagePlugin

from contrastive.data.content_hash import sample_key
from contrastive.data.images import open_image
from contrastive.errors import BadSample


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def arrow(size=(24, 16)):
    """Return an image that looks different after every turn: its top left corner is red."""
    image = Image.new("RGB", size, "blue")
    ImageDraw.Draw(image).rectangle((0, 0, 7, 7), "red")
    return image


def pixel(image, at=(2, 2)):
    return np.array(image.getpixel(at)).round(-1).tolist()


RED, WHITE, BLUE = [260, 0, 0], [260, 260, 260], [0, 0, 260]
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_turned_camera_gives_an_upright_picture(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = arrow().transpose(TURNS[orientation])
    options = {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    seen = open_image(encode(stored, kind, exif=exif, **options))
    assert seen.size == (24, 16)
    assert np.abs(np.asarray(seen, int) - np.asarray(arrow(), int)).mean() < 10  # edges of a JPEG


def test_rgba_is_laid_on_white():
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    image.putpixel((2, 2), (0, 0, 0, 0))
    image.putpixel((3, 3), (0, 0, 0, 128))
    for kind in ("PNG", "WEBP"):
        seen = open_image(encode(image, kind, **({"lossless": True} if kind == "WEBP" else {})))
        assert seen.mode == "RGB"
        assert pixel(seen) == WHITE
        assert pixel(seen, (0, 0)) == RED
    assert seen.getpixel((3, 3)) == (127, 127, 127)


def test_gray_with_alpha_is_laid_on_white():
    image = Image.new("LA", (8, 8), (0, 255))
    image.putpixel((2, 2), (0, 0))
    seen = open_image(encode(image, "PNG"))
    assert pixel(seen) == WHITE
    assert pixel(seen, (0, 0)) == [0, 0, 0]


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"], ids=["one colour", "a table"])
def test_a_transparent_palette_is_laid_on_white(transparency):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((2, 2), 0)
    seen = open_image(encode(image, "PNG", transparency=transparency))
    assert pixel(seen) == WHITE
    assert pixel(seen, (0, 0)) == RED


def test_a_transparent_colour_of_an_rgb_picture_is_laid_on_white():
    seen = open_image(encode(arrow(), "PNG", transparency=(0, 0, 255)))
    assert pixel(seen, (20, 10)) == WHITE
    assert pixel(seen) == RED


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_the_first_frame_of_an_animation_is_seen(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert pixel(open_image(data)) == RED


def test_sixteen_bits_keep_their_shades():
    shades = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    seen = np.asarray(open_image(encode(Image.fromarray(shades), "PNG")), int)
    assert np.abs(seen[..., 0] - shades / 257).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "CMYK"])
def test_other_colour_models_become_rgb(mode):
    image = Image.new("RGB", (16, 16), "white").convert(mode)
    seen = open_image(encode(image, "JPEG" if mode == "CMYK" else "PNG"))
    assert seen.mode == "RGB"
    assert pixel(seen) == WHITE


def on_white(colours, alpha):
    """Return colours over white, by the definition."""
    share = alpha[..., None] / 255
    return np.asarray(colours, float) * share + 255 * (1 - share)


def images_of_modes():
    """Images of every mode that a decoder or a user makes, with what a person sees of them."""
    noise = np.random.default_rng(0)
    rgb = noise.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    grey, alpha = rgb[..., 0], noise.integers(0, 256, (6, 5), dtype=np.uint8)
    wide = noise.integers(0, 65536, (6, 5), dtype=np.uint16)
    of_three = np.repeat(grey[..., None], 3, 2)
    inks = noise.integers(0, 256, (6, 5, 4), dtype=np.uint8)
    over = Image.fromarray(np.dstack([rgb, alpha]))
    pale = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
    indexed = Image.new("P", (5, 6))
    indexed.putdata((grey % 4).flatten().tolist())
    colours = noise.integers(0, 256, (256, 3), dtype=np.uint8)
    indexed.putpalette(colours.tobytes())
    clear, hole = indexed.copy(), indexed.copy()
    clear.info["transparency"] = bytes([0, 85, 170, 255])
    hole.info["transparency"] = 2
    gap = Image.fromarray(wide)
    gap.info["transparency"] = int(wide[0, 0])
    upper = (wide >> 8)[..., None].repeat(3, 2)
    left_white = np.where((wide == wide[0, 0])[..., None], 255, upper)
    seen = colours[grey % 4]
    yield "1", Image.fromarray(grey > 99), np.where(of_three > 99, 255, 0)
    yield "L", Image.fromarray(grey), of_three
    yield "LA", pale, on_white(of_three, alpha)
    yield "La", pale.convert("La"), on_white(of_three, alpha)
    yield "RGB", Image.fromarray(rgb), rgb
    yield "RGBA", over, on_white(rgb, alpha)
    yield "RGBa", over.convert("RGBa"), on_white(rgb, alpha)
    yield "P", indexed, seen
    yield "P, alpha of each colour", clear, on_white(seen, (grey % 4) * 85)
    yield "P, a transparent colour", hole, np.where((grey % 4 == 2)[..., None], 255, seen)
    yield "PA", clear.convert("PA"), on_white(seen, (grey % 4) * 85)
    plates = [Image.fromarray(plate) for plate in inks.transpose(2, 0, 1)]
    white = 255 - inks.astype(float)
    yield "CMYK", Image.merge("CMYK", plates), white[..., :3] * white[..., 3:] / 255
    yield "I;16", Image.fromarray(wide), upper
    yield "I;16B", Image.fromarray(wide.astype(">u2")), upper
    yield "I;16, a transparent shade", gap, left_white
    yield "I;16 as a file", encode(gap, "PNG", transparency=gap.info["transparency"]), left_white
    yield "I", Image.fromarray(grey.astype(np.int32)), of_three
    yield "F", Image.fromarray(grey.astype(np.float32) / 255), of_three


def test_every_mode_is_what_its_numbers_say():
    for name, source, expected in images_of_modes():
        seen = open_image(source)
        assert seen.mode == "RGB", name
        assert np.abs(np.asarray(seen, float) - expected).max() < 1.5, name


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (Image.fromarray(np.full((4, 4), 300, np.int32)), "values from 300 to 300 are no image"),
        (Image.fromarray(np.full((4, 4), 200, np.float32)), "or floats from 0 to 1"),
        (Image.fromarray(np.full((4, 4), np.nan, np.float32)), "values from nan to nan"),
        (np.ma.masked_equal(np.eye(4), 1), r"a masked array is no image; .* array.filled\(255\)"),
        (7, "an int is no image; give a path, a file's bytes, a PIL image or an array"),
        ([], "a list is no image; give a path"),
    ],
)
def test_numbers_that_say_nothing_are_refused(source, said):
    with pytest.raises(BadSample, match=said):
        open_image(source)


def test_the_remedy_for_a_masked_array_works():
    masked = np.ma.masked_equal(np.eye(4), 1)
    assert pixel(open_image(masked.filled(1))) == WHITE
    assert open_image(np.ma.masked_equal(np.eye(4), 9)).size == (4, 4)  # nothing is masked


def test_bytes_of_any_kind_and_small_floats_are_images():
    data = encode(arrow(), "PNG")
    for source in (bytearray(data), memoryview(data)):
        assert open_image(source).tobytes() == open_image(data).tobytes()
    shades = torch.rand(3, 8, 8, dtype=torch.float32).bfloat16()
    assert open_image(shades).tobytes() == open_image(shades.float()).tobytes()


def test_path_bytes_and_picture_give_the_same(tmp_path):
    data = encode(arrow(), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    sources = [tmp_path / "a.png", str(tmp_path / "a.png"), data, arrow()]
    seen = [np.asarray(open_image(source)) for source in sources]
    assert all((each == seen[0]).all() for each in seen)


def test_the_picture_given_is_neither_returned_nor_changed():
    given_one = arrow()
    seen = open_image(given_one)
    seen.putpixel((0, 0), (1, 2, 3))
    assert given_one.getpixel((0, 0)) == (255, 0, 0)


def png_header(width, height):
    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BROKEN = {
    "truncated JPEG": encode(Image.effect_noise((64, 64), 90), "JPEG")[:900],
    "truncated PNG": encode(Image.effect_noise((64, 64), 90), "PNG")[:900],
    "TIFF": encode(arrow(), "TIFF"),
    "text": b"<html>404 Not Found</html>",
    "empty": b"",
    "nine gigapixels": png_header(95_000, 95_000),
    "over the limit": png_header(9000, 9000),
    "over Pillow's warning": png_header(10_000, 10_000),
    "a thread": encode(Image.new("L", (5000, 1)), "PNG"),
    "nothing": None,
    "a number": 7,
}


@pytest.mark.parametrize("long", ["text", "profile"])
def test_an_image_is_not_refused_for_what_is_written_beside_its_pixels(long):
    info, profile = PngImagePlugin.PngInfo(), bytes(3 << 20)
    if long == "text":
        info.add_text("parameters", "x" * (2 << 20), zip=True)
    written = encode(arrow(), "PNG", pnginfo=info, icc_profile=profile * (long == "profile"))
    assert np.array_equal(open_image(written), arrow())


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_used_is_a_bad_sample_in_one_line(data):
    with pytest.raises(BadSample) as error:
        open_image(data)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("image: ")


def test_a_file_is_named(tmp_path):
    (tmp_path / "notes.jpg").write_text("not a picture")
    for name, problem in [("notes.jpg", "not a readable JPEG"), ("gone.jpg", "no such file")]:
        with pytest.raises(BadSample, match=f"{name}: {problem}"):
            open_image(tmp_path / name)
    with pytest.raises(BadSample, match="is a folder; give the files in it"):
        open_image(tmp_path)


@pytest.mark.parametrize(
    ("size", "problem"),
    [((6000, 6000), "6000 x 6000 pixels; of a PNG are read at most"), ((10, 2000), "1 to 100")],
)
def test_a_bomb_is_refused_before_it_is_decoded(size, problem):
    with pytest.raises(BadSample, match=problem):
        open_image(png_header(*size))


def test_a_jpeg_of_many_scans_is_refused():
    whole = encode(arrow(), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    scan = whole[last:-2]
    assert open_image(whole[:-2] + 50 * scan + whole[-2:]).size == (24, 16)
    with pytest.raises(BadSample, match=r"a JPEG of 2,010 scans; at most 100 are decoded"):
        open_image(whole[:-2] + 2000 * scan + whole[-2:])


@pytest.mark.parametrize(("width", "seen"), [(4096, 2048), (4000, 4000)])
def test_a_large_jpeg_is_decoded_at_a_smaller_size(width, seen):
    red = Image.new("RGB", (width, width), "red")
    red.paste("blue", (0, 0, width // 2, width))
    found = open_image(encode(red, "JPEG"))
    assert found.size == (seen, seen)
    left, right = np.array(found)[9, [seen // 4, 3 * seen // 4]]
    assert left.argmax() == 2
    assert right.argmax() == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_what_is_no_regular_file_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name, problem in [("pipe", "no regular"), ("zero", "no regular"), ("loop", "symbolic")]:
        with pytest.raises(BadSample, match=f"{name}.png: .*{problem}"):
            open_image(tmp_path / f"{name}.png")
        with pytest.raises(BadSample, match=f"{name}.png: .*{problem}"):
            sample_key(tmp_path / f"{name}.png", "image")


def test_a_file_of_too_many_bytes_is_not_read(tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 40)
    for look in (open_image, lambda path: sample_key(path, "image")):
        with pytest.raises(BadSample, match=r"huge.png: .*1,099,511,627,776 bytes are too many"):
            look(tmp_path / "huge.png")


def test_nothing_is_said_to_the_terminal():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    with warnings.catch_warnings(record=True, action="always") as said:
        open_image(encode(image, "PNG", transparency=b"\x00\xff"))
        with pytest.raises(BadSample):
            open_image(png_header(10_000, 10_000))
    assert not said


WHOLE = [
    encode(
        arrow(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    ),
    encode(arrow(), "PNG", transparency=(0, 0, 255)),
    encode(arrow().convert("P"), "GIF"),
    encode(arrow(), "WEBP"),
    encode(arrow(), "BMP"),
]


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    whole=st.sampled_from(WHOLE),
    edits=st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=4)), min_size=1, max_size=8),
    cut=st.none() | st.integers(0, 2000),
)
def test_damaged_bytes_never_raise_anything_else(whole, edits, cut):
    data = bytearray(whole)
    for place, patch in edits:
        start = place % len(data)
        data[start : start + len(patch)] = patch
    problem = ""
    try:
        assert open_image(bytes(data[:cut])).mode == "RGB"
    except BadSample as error:
        problem = str(error)
    assert "\n" not in problem


def parts(kind, repeated, at):
    """Return a small image into which a part of its header is put a thousand times."""
    whole = encode(Image.new("RGB", (8, 8)), kind)
    return whole[:at] + repeated + whole[at:]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (parts("JPEG", b"\xff\xe1\0\x09Exif\0\0a" * 6000, 2), "too many small parts"),
        (parts("JPEG", b"\xff\xfe\0\2" * 6000, 2), "too many small parts"),
        (parts("JPEG", b"\xff" * 6000, 2), "too many small parts"),
        (parts("JPEG", (b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)) * 400, 2), "without EXIF"),
        (
            parts("PNG", (bytes(4) + b"abCd" + struct.pack(">I", zlib.crc32(b"abCd"))) * 6000, 33),
            "too many small parts",
        ),
        (parts("GIF", b"!\xfe" + b"\1a" * 6000 + b"\0", 19), "too many small parts"),
    ],
    ids=["EXIF", "comments", "padding", "much EXIF", "chunks", "blocks"],
)
def test_parts_that_take_long_to_read_are_refused(content, problem):
    with pytest.raises(BadSample, match=problem):
        open_image(content)
