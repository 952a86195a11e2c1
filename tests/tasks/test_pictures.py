"""Pictures are read completely or refused: damage, kinds of JPEG and PNG, sizes, several files of one id, special files."""

from __future__ import annotations

import os
import signal
import struct
import tarfile
import time
import zlib
from collections.abc import Iterator
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from harness.core.errors import HarnessError
from harness.evaluation.image_screening import without_undecodable_images
from harness.readers.text_files import read_text
from harness.storage.packs import open_pack, write_pack
from harness.storage.plain_files import check_plain_file
from harness.storage.store import Store
from harness.tasks.crossmodal3600 import crossmodal3600
from harness.tasks.entities.corpus import read_annotation
from harness.tasks.entities.region_proposals import read_regions
from harness.tasks.flickr30k import Flickr30k
from harness.tasks.readers.karpathy import read_photos
from harness.tasks.readers.picture_decoding import MAX_RATIO, MAX_SCANS, decode_picture
from harness.tasks.readers.pictures import Pictures, find_pictures
from harness.tasks.readers.shards import MAX_PICTURE_BYTES, Blob, index_shards

Pixels = npt.NDArray[np.uint8]
TASK = Flickr30k()


def photograph(height: int = 120, width: int = 160) -> Pixels:
    """Return smooth noise, whose JPEG is as long as that of a photograph."""
    walk = np.cumsum(np.random.default_rng(0).normal(size=(height, width, 3)), axis=1)
    return (walk * 12 + 128).clip(0, 255).astype(np.uint8)


def encoded(pixels: Pixels, form: str, mode: str = "RGB", **options: Any) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form, **options)
    return file.getvalue()


def by_pillow(data: bytes) -> Pixels:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))


def zeroed(data: bytes, length: int) -> bytes:
    """Return the file with zeros in its middle."""
    start = (len(data) - length) // 2
    return data[:start] + bytes(length) + data[start + length :]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(rows: npt.NDArray[Any], colours: int, extra: bytes = b"") -> bytes:
    """Return a PNG with the bit depth of its array (height, width[, channels]), which Pillow cannot write."""
    height, width = rows.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8 * rows.dtype.itemsize, colours, 0, 0, 0)
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = (chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(body)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def grey_jpeg(sampling: list[tuple[int, int]], precision: int = 8, side: int = 64) -> bytes:
    """Return a handmade JPEG of one grey with any sampling and precision: every block has two zero bits."""
    planes = range(len(sampling))
    frame = struct.pack(">BHHB", precision, side, side, len(sampling))
    frame += b"".join(bytes([plane + 1, 16 * sampling[plane][0] + sampling[plane][1], 0]) for plane in planes)
    most = [max(factors) for factors in zip(*sampling, strict=True)]
    blocks = ceil(side / 8 / most[0]) * ceil(side / 8 / most[1]) * sum(across * down for across, down in sampling)
    bits = "0" * (2 * blocks) + "1" * (-2 * blocks % 8)
    code = bytes([1, *[0] * 15, 0])
    scan = bytes([len(sampling), *(byte for plane in planes for byte in (plane + 1, 0)), 0, 63, 0])
    head = segment(0xDB, bytes([0, *[1] * 64])) + segment(0xC0 if precision == 8 else 0xC1, frame)
    tables = segment(0xC4, b"\0" + code) + segment(0xC4, b"\x10" + code)
    return b"\xff\xd8" + head + tables + segment(0xDA, scan) + int(bits, 2).to_bytes(len(bits) // 8) + b"\xff\xd9"


def with_scans(data: bytes, more: int) -> bytes:
    """Return a progressive JPEG whose last scan is repeated."""
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * more + b"\xff\xd9"


@pytest.fixture
def at_once() -> Iterator[None]:
    """Fail the test after 20 s, since opening a FIFO blocks forever."""

    def late(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 20)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# damage

JPEGS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "grey": {"mode": "L"},
    "cmyk": {"mode": "CMYK"},
    "rgb": {"keep_rgb": True},
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
}


@pytest.mark.parametrize("kind", JPEGS)
def test_a_whole_jpeg_of_any_kind_is_read_as_pillow_reads_it(kind: str) -> None:
    data = encoded(photograph(), "JPEG", quality=90, **JPEGS[kind])
    assert np.array_equal(np.asarray(decode_picture(data, "1.jpg")), by_pillow(data))


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("length", [200, 4096])
def test_a_jpeg_with_zeroed_bytes_is_refused(kind: str, length: int) -> None:
    """Pillow reads most of them. Lost parts are grey, and later parts are shifted."""
    data = zeroed(encoded(photograph(), "JPEG", quality=95, **JPEGS[kind]), length)
    with pytest.raises(HarnessError, match=r"^1\.jpg cannot be decoded: [^\n]+; download or save it again, or .* --skip-broken$"):
        decode_picture(data, "1.jpg")


def test_pillow_would_have_read_a_damaged_picture() -> None:
    """This is the failure that the test above guards against."""
    data = encoded(photograph(), "JPEG", quality=95)
    wrong = by_pillow(zeroed(data, 4096)) != by_pillow(data)
    assert 0.2 < wrong.any(axis=2).mean() < 0.9


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.99])
@pytest.mark.parametrize(("form", "mode"), [("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGB")])
def test_truncated_pictures_are_refused_despite_library_options(
    form: str, mode: str, keep: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded(photograph(), form, mode)
    with pytest.raises(HarnessError, match="1 cannot be decoded"):
        decode_picture(data[: int(keep * len(data))], "1")


@pytest.mark.parametrize("length", [1, 20, 4096])
def test_a_png_with_zeroed_bytes_is_refused(length: int) -> None:
    data = encoded(photograph(), "PNG")
    with pytest.raises(HarnessError, match=r"^1\.png cannot be decoded: "):
        decode_picture(zeroed(data, length), "1.png")


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_of_a_png_never_changes_pixels_silently(place: float, bit: int) -> None:
    pixels = photograph(12, 16)
    data = bytearray(encoded(pixels, "PNG"))
    data[int(place * len(data))] ^= 1 << bit
    try:
        seen = np.asarray(decode_picture(bytes(data), "1.png"))
    except HarnessError:
        return
    assert np.array_equal(seen, pixels)


def test_a_png_of_two_sizes_is_refused() -> None:
    two = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    with pytest.raises(HarnessError, match=r"1\.png cannot be decoded: it has two headers"):
        decode_picture(png(photograph(12, 16), 2, two), "1.png")


def test_skip_broken_leaves_out_damaged_pictures(flickr30k_folder: Path) -> None:
    path = flickr30k_folder / "flickr30k-images" / "32.jpg"
    path.write_bytes(zeroed(encoded(photograph(), "JPEG", quality=95), 4096))
    whole = TASK.load(flickr30k_folder, "en", "test")
    with pytest.raises(HarnessError, match=rf"{path} cannot be decoded"):
        whole.images.open(1)
    left = without_undecodable_images(whole)
    assert left.images.ids == ("31", "33")
    assert left.notes[-1] == "1 of 3 images skipped, which cannot be decoded: 32"


def test_a_jpeg_of_twelve_bits_is_refused_with_the_reason() -> None:
    with pytest.raises(HarnessError, match=r"^1\.jpg cannot be decoded: .*precision 12.*download or save it again"):
        decode_picture(grey_jpeg([(1, 1)] * 3, precision=12), "1.jpg")


ODD: dict[str, dict[str, Any]] = {
    "baseline": {"subsampling": 1},
    "progressive": {"subsampling": 2, "progressive": True},
    "restarts": {"subsampling": 2, "restart_marker_rows": 1},
}


@pytest.mark.parametrize("kind", ODD)
def test_a_sampling_that_only_pillow_knows_is_read_and_refused_when_a_scan_is_cut_short(kind: str) -> None:
    """Of four colours, Pillow subsamples only the first, which simplejpeg has no name for."""
    data = encoded(photograph(), "JPEG", "CMYK", quality=95, **ODD[kind])
    assert np.array_equal(np.asarray(decode_picture(data, "1.jpg")), by_pillow(data))
    ends = [
        place
        for place in range(data.index(b"\xff\xda"), len(data))
        if data[place] == 255 and data[place + 1] in (0xC4, 0xDA, 0xD9, 0xD1)
    ]
    short = data[: ends[1] - 60] + data[ends[1] :]
    by_pillow(short)
    with pytest.raises(HarnessError, match=r"^1\.jpg cannot be decoded: premature end of data segment"):
        decode_picture(short, "1.jpg")


@pytest.mark.parametrize("luminance", [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (1, 4), (3, 1), (4, 2)])
def test_every_sampling_is_read(luminance: tuple[int, int]) -> None:
    assert np.asarray(decode_picture(grey_jpeg([luminance, (1, 1), (1, 1)]), "1.jpg")).tolist() == [[[128] * 3] * 64] * 64


@pytest.mark.real
def test_real_photographs_are_read_as_pillow_reads_them_and_damaged_ones_never(real_folder: Path) -> None:
    blobs = list(find_pictures(real_folder).blobs.values())
    assert len(blobs) == 1_500
    for blob in blobs:
        data = blob.read()
        assert np.array_equal(np.asarray(decode_picture(data, str(blob))), by_pillow(data)), blob
    for blob in blobs[:150]:
        with pytest.raises(HarnessError, match="cannot be decoded"):
            decode_picture(zeroed(blob.read(), 4096), str(blob))


# pixels


@pytest.mark.parametrize(("colours", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_sixteen_bits_are_reduced_to_their_high_eight(colours: int, channels: int) -> None:
    """Grey is converted like colours, of which Pillow takes the high bytes. Pillow itself turns grey values from 256 white."""
    deep = (np.arange(256 * channels).reshape(4, 64, channels) * 65_535 // (256 * channels - 1)).astype(">u2")
    expected = np.asarray(deep >> 8, dtype=np.uint8)[..., : 3 if channels > 2 else 1]
    read = np.asarray(decode_picture(png(deep if channels > 1 else deep[..., 0], colours), "1.png"))
    assert np.array_equal(read, np.broadcast_to(expected, read.shape))
    assert (read.min(), read.max()) in ((0, 255), (0, 254))


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA", "L"])
def test_transparency_is_dropped_without_a_background(mode: str, recwarn: pytest.WarningsRecorder) -> None:
    picture = Image.fromarray(photograph(4, 4)).convert(mode)
    options: dict[str, Any] = {"transparency": bytes(256)} if mode == "P" else {"transparency": 0} if mode == "L" else {}
    if mode in ("LA", "RGBA"):
        picture.putalpha(0)
    file = BytesIO()
    picture.save(file, "PNG", **options)
    seen = np.asarray(decode_picture(file.getvalue(), "1.png"))
    assert not recwarn.list
    assert np.array_equal(seen, np.asarray(picture.convert("RGB")))
    assert seen.any()


def test_an_orientation_tag_is_not_applied() -> None:
    """open_clip and CLIP_benchmark use the pixels as they are stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photograph(20, 40), "JPEG", exif=exif)
    assert decode_picture(data, "1.jpg").size == (40, 20)
    assert np.array_equal(np.asarray(decode_picture(data, "1.jpg")), by_pillow(data))


# costly pictures

LONG = photograph(1, 1).repeat(200_000, axis=0)
BOMBS = {
    "tall.png": (encoded(LONG, "PNG"), "1 x 200,000 pixels make one side more than 100 times as long as the other"),
    "tall.jpg": (encoded(LONG[:60_000], "JPEG"), "1 x 60,000 pixels make one side more than 100 times as long as the other"),
    "wide.jpg": (encoded(LONG[:60_000].swapaxes(0, 1), "JPEG"), "60,000 x 1 pixels make one side more than 100 times"),
    "scans.jpg": (
        with_scans(encoded(photograph(500, 500), "JPEG", progressive=True), 2_000),
        "2,010 scans of 500 x 500 pixels are more than 100",
    ),
    "large-scans.jpg": (
        with_scans(encoded(np.zeros((4_000, 4_000, 3), np.uint8), "JPEG", progressive=True), 60),
        "70 scans of 4,000 x 4,000 pixels are more than 40",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_picture_that_is_too_costly_is_refused_at_once(name: str, tmp_path: Path) -> None:
    data, problem = BOMBS[name]
    (tmp_path / name).write_bytes(data)
    started = time.process_time()
    with pytest.raises(HarnessError, match=rf"^[^\n]*/{name} is not decoded: its {problem}[^\n]*$"):
        Pictures(["1"], [Blob(str(tmp_path / name))]).open(0)
    assert time.process_time() - started < 1


def test_long_pictures_and_many_scans_are_read_up_to_the_limit() -> None:
    assert decode_picture(encoded(LONG[:MAX_RATIO], "PNG"), "1").size == (1, MAX_RATIO)
    data = encoded(photograph(), "JPEG", progressive=True)
    scans = data.count(b"\xff\xda")
    assert 5 < scans < MAX_SCANS
    assert np.array_equal(np.asarray(decode_picture(data, "1")), by_pillow(data))


def test_pixels_hidden_behind_the_picture_are_not_unpacked() -> None:
    """The file has 256 MiB of compressed zeros after a picture of 8 x 8."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    started = time.process_time()
    decode_picture(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b""), "1.png")
    assert time.process_time() - started < 1


def test_a_file_too_long_for_a_picture_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "1.jpg").open("wb") as file:
        file.truncate(MAX_PICTURE_BYTES + 1)  # sparse: it takes no room
    with pytest.raises(HarnessError, match=r"1\.jpg is too large: its 536,870,913 bytes are more than 536,870,912$"):
        Blob(str(tmp_path / "1.jpg")).read()


# several files of one id


def put_pictures(folder: Path, names: list[str], shards: bool) -> None:
    """Write files of these names with different contents, or members of a tar in that order."""
    folder.mkdir(parents=True)
    if not shards:
        for number, name in enumerate(names):
            (folder / name).write_bytes(f"{name} {number}".encode())
        return
    with tarfile.open(folder / "a.tar", "w") as tar:
        for number, name in enumerate(names):
            data = f"{name} {number}".encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))


def chosen(folder: Path, shards: bool) -> dict[str, str]:
    blobs = index_shards(folder) if shards else find_pictures(folder.parent).blobs
    return {name: blob.read().decode().partition(" ")[0] for name, blob in blobs.items()}


@pytest.mark.parametrize("shards", [False, True])
def test_another_file_of_the_same_id_is_never_the_picture(tmp_path: Path, shards: bool) -> None:
    beside = ["1.crop.jpg", "1.depth.png", "1_a.png", "1_b.png", "1#0.jpg", "2.depth.png", "._1.jpg", ".3.jpg", "_4.jpg"]
    longer = ["5_693b08cb0e.jpg", "COCO_val2014_000000000001.jpg", "6.JPEG", "7.txt", "png"]
    put_pictures(tmp_path / "images", [*beside, "1.jpg", *longer], shards)
    expected = {
        "1": "1.jpg",
        "5": "5_693b08cb0e.jpg",
        "6": "6.JPEG",
        "COCO_val2014_000000000001": "COCO_val2014_000000000001.jpg",
    }
    assert chosen(tmp_path / "images", shards) == expected


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("names", [["1.jpg", "1.png"], ["1.JPG", "1.jpg"], ["1_a.jpg", "1_b.jpg"]])
def test_two_pictures_of_one_id_are_refused(tmp_path: Path, names: list[str], shards: bool) -> None:
    put_pictures(tmp_path / "images", names, shards)
    first, second = (rf"[^ ]*a\.tar \({name}\)" if shards else rf"[^ ]*/{name}" for name in names)
    with pytest.raises(HarnessError, match=rf"^{first} and {second} are different pictures of 1: remove one of them$"):
        chosen(tmp_path / "images", shards)


def test_two_identical_files_are_one_picture(tmp_path: Path) -> None:
    for shard in ("a", "b"):
        put_pictures(tmp_path / shard, ["1.jpg"], shards=True)
        (tmp_path / shard / "a.tar").rename(tmp_path / f"{shard}.tar")
    assert {name: Path(blob.path).name for name, blob in index_shards(tmp_path).items()} == {"1": "a.tar"}


def test_a_pack_of_pictures_in_shards_keeps_their_suffix(tmp_path: Path) -> None:
    put_pictures(tmp_path / "images", ["1.png", "2.jpg"], shards=True)
    (tmp_path / "captions.jsonl").write_text(
        "".join(f'{{"image/key": "{name}", "en": {{"caption": ["A dog."]}}}}\n' for name in "12")
    )
    assert sorted(crossmodal3600().contents(tmp_path).pictures) == ["1.png", "2.jpg"]


# special files


@pytest.mark.parametrize(
    "name", ["flickr30k-images/31.jpg", "dataset_flickr30k.json", "sample.json", "multi30k/data/task1/raw/val.de"]
)
@pytest.mark.usefixtures("at_once")
def test_a_fifo_in_a_data_folder_is_refused_without_waiting(flickr30k_folder: Path, name: str) -> None:
    path = flickr30k_folder / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    if name.endswith(".de"):  # no file, as far as the folder goes
        assert len(TASK.load(flickr30k_folder, "de", "test").captions) == 3
        return
    with pytest.raises(HarnessError, match=rf"{path} is a FIFO|has no {name}"):
        TASK.load(flickr30k_folder, "en", "test").images.digest()


@pytest.mark.parametrize("kind", ["a FIFO", "a device", "a socket"])
@pytest.mark.parametrize(
    "reader", [read_text, read_photos, read_annotation, lambda path: Blob(str(path)).read(), check_plain_file]
)
@pytest.mark.usefixtures("at_once")
def test_every_reader_of_a_data_folder_requires_plain_files(tmp_path: Path, reader: Any, kind: str) -> None:
    path = tmp_path / "1"
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        os.mknod(path, 0o600 | 0o140000)
    with pytest.raises(HarnessError, match=rf"^{path} is {kind}: expected a plain file"):
        reader(path)


@pytest.mark.usefixtures("at_once")
def test_readers_of_shards_proposals_and_packs_do_not_wait_for_a_fifo(flickr30k_folder: Path, tmp_path: Path) -> None:
    write_pack(TASK.contents(flickr30k_folder), flickr30k_folder, "flickr30k", tmp_path / "pack", 10, lambda _: None)
    (shard,) = (tmp_path / "pack" / "shards").iterdir()
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(HarnessError, match=rf"{shard} is a FIFO"):
        open_pack(str(tmp_path / "pack"), Store(tmp_path / "store"))
    with pytest.raises(HarnessError, match=rf"{shard} is a FIFO"):
        index_shards(shard.parent)
    (flickr30k_folder / "proposals").mkdir()
    os.mkfifo(flickr30k_folder / "proposals" / "31.json")
    images = TASK.load(flickr30k_folder, "en", "test").images
    with pytest.raises(HarnessError, match="no regions"):
        read_regions(flickr30k_folder, images, "proposals")


def test_plain_files_links_to_them_and_what_is_missing_are_left_to_the_reader(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").symlink_to("a")
    for name in ("a", "b", "missing", ".", "x" * 300):
        check_plain_file(tmp_path / name)
