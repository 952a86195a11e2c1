"""Large galleries: images are prefetched, decoded to the same bits as by Pillow, encoded in parts, and skipped with a note."""

from __future__ import annotations

import io
import json
import pickle
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from harness.core.builtins import load_encoder
from harness.core.data import Floats
from harness.core.errors import HarnessError
from harness.encoders.open_clip.models import OpenClip
from harness.encoders.open_clip.preprocessing import torch_preprocessing
from harness.evaluation.image_screening import without_undecodable_images
from harness.runtime.prefetch import prefetch
from harness.storage.embeddings import IMAGES_PER_CALL, IMAGES_PER_PART, TEXTS_PER_CALL, TEXTS_PER_PART, embed_images
from harness.storage.store import Store
from harness.tasks.flickr30k import Flickr30k
from harness.tasks.readers.picture_decoding import DecodedPicture
from harness.tasks.readers.pictures import Pictures
from harness.tasks.readers.shards import Blob
from tests.support.failing_plugins import FRAGILE
from tests.support.open_clip_models import write_model
from tests.support.plugin_files import harness, write


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return an image with smooth colours and sharp edges, as photographs have."""
    small = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    picture.paste((250, 10, 30), (width // 3, height // 4, width // 2, height // 2))
    return picture


# prefetching


def test_items_are_prefetched_in_order_and_in_bounded_numbers() -> None:
    begun, taken, most = [], 0, []
    lock = threading.Lock()

    def work(item: int) -> int:
        with lock:
            begun.append(item)
            most.append(len(begun) - taken)
        return item * item

    for number, result in enumerate(prefetch(work, range(100), 7)):
        assert result == number * number
        taken += 1
    assert max(most) <= 9


def test_the_error_of_an_item_is_raised_in_order() -> None:
    results = prefetch(lambda item: 6 // item, [1, 2, 3, 0, 1], 4)
    assert [next(results) for _ in range(3)] == [6, 3, 2]
    with pytest.raises(ZeroDivisionError):
        next(results)


# decoding


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_pixels_equal_those_of_pillow(mode: str, progressive: bool, subsampling: int, tmp_path: Path) -> None:
    path = tmp_path / "1.jpg"
    photograph(83, 61).convert(mode).save(path, progressive=progressive, subsampling=subsampling, quality=85)
    opened = Pictures(["1"], [Blob(str(path))]).open(0)
    assert opened.mode == "RGB"
    assert np.array_equal(np.asarray(opened), np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.real
def test_real_pixels_equal_those_of_pillow(real_folder: Path) -> None:
    for path in sorted((real_folder / "flickr30k-images").glob("*.jpg"))[:100]:
        assert np.array_equal(np.asarray(Pictures(["1"], [Blob(str(path))]).open(0)), np.asarray(Image.open(path).convert("RGB")))


def test_a_decoded_image_behaves_like_one_of_pillow(tmp_path: Path) -> None:
    """This holds for every operation, before and after Pillow takes over the pixels, and between processes."""
    pixels = np.array(photograph(40, 30))
    plain = Image.fromarray(pixels)
    for change in (
        lambda picture: picture.resize((7, 9)),
        lambda picture: picture.convert("L"),
        lambda picture: picture.crop((3, 4, 20, 25)),
        lambda picture: picture.copy(),
        lambda picture: picture.transpose(Image.Transpose.ROTATE_90),
        lambda picture: pickle.loads(pickle.dumps(picture)),
    ):
        assert np.array_equal(np.asarray(change(DecodedPicture(pixels))), np.asarray(change(plain)))
    picture = DecodedPicture(pixels.copy())
    assert (picture.mode, picture.size, picture.width, picture.height) == ("RGB", (40, 30), 40, 30)
    before = np.asarray(picture)
    assert not before.flags.writeable
    picture.putpixel((0, 0), (1, 2, 3))
    assert np.asarray(picture)[0, 0].tolist() == [1, 2, 3]
    assert np.array_equal(before, pixels), "an earlier array is unchanged"
    picture.save(tmp_path / "1.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "1.png")), np.asarray(picture))


# preprocessing


@pytest.mark.parametrize("size", [(500, 375), (333, 500), (224, 224), (1600, 1200), (100, 90), (499, 77)])
@pytest.mark.parametrize("ways", [{}, {"resize_mode": "squash", "interpolation": "bilinear"}])
def test_fast_preprocessing_is_within_two_of_255_of_open_clip(size: tuple[int, int], ways: dict[str, str]) -> None:
    config = PreprocessCfg(size=224, **ways)
    theirs, ours = image_transform_v2(config, is_train=False), torch_preprocessing(vars(config))
    std = torch.tensor(config.std)[:, None, None]
    for seed in range(3):
        picture = photograph(*size, seed=seed)
        difference = (theirs(picture) - ours(picture)) * std * 255
        assert difference.shape == (3, 224, 224)
        assert difference.abs().max() <= 2.01
        assert difference.abs().mean() < 0.05


def test_unknown_resizing_methods_are_refused() -> None:
    for changes in ({"resize_mode": "longest"}, {"size": (224, 160)}, {"interpolation": "random"}):
        with pytest.raises(HarnessError, match="leave fast: out"):
            torch_preprocessing(vars(PreprocessCfg(**changes)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = write_model(tmp_path_factory.mktemp("model") / "clip", "clip")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"] = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


def cosines(first: Floats, second: Floats) -> Floats:
    return (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)


def test_variants_are_other_encoders_with_close_embeddings(model: str) -> None:
    pictures = [photograph(90 + 7 * seed, 80, seed) for seed in range(20)]
    plain, fast, half, both = (load_encoder(f"{way}{model}", "cpu") for way in ("", "fast:", "bfloat16:", "bfloat16:fast:"))
    assert [fast.name, both.name] == [f"fast:{model}", f"bfloat16:fast:{model}"]
    assert len({encoder.fingerprint() for encoder in (plain, fast, half, both)}) == 4
    assert plain.fingerprint() == OpenClip("x", plain._find, "cpu").files.digest()  # type: ignore[attr-defined]
    expected = plain.encode_images(pictures)
    for encoder, least in ((fast, 0.9999), (half, 0.99), (both, 0.99)):
        found = encoder.encode_images(pictures)
        assert found.dtype == np.float32
        assert cosines(found, expected).min() > least
    assert np.array_equal(fast.encode_texts(["a dog"], "en"), plain.encode_texts(["a dog"], "en"))
    assert cosines(half.encode_texts(["a dog"], "en"), plain.encode_texts(["a dog"], "en"))[0] > 0.99
    with pytest.raises(HarnessError, match="expected fast: and an open_clip model"):
        load_encoder("fast:random", "cpu")


def test_batches_shrink_until_they_fit_the_memory(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder(model, "cpu")
    assert isinstance(encoder, OpenClip)
    pictures = [photograph(64, 64, seed) for seed in range(11)]
    expected, sizes = encoder.encode_images(pictures), []
    real = encoder.loaded.model.encode_image

    def narrow(pixels: torch.Tensor, normalize: bool) -> torch.Tensor:
        sizes.append(len(pixels))
        if len(pixels) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(pixels, normalize=normalize)

    monkeypatch.setattr(encoder.loaded.model, "encode_image", narrow)
    most = 2
    assert np.abs(encoder.encode_images(pictures) - expected).max() < 1e-5
    assert sizes == [8, 4, 2, 2, 4, 2, 2, 3, 2, 1]
    most = 0
    with pytest.raises(HarnessError, match="has too little memory to encode one image"):
        encoder.encode_images(pictures[:2])


# parts


def test_parts_have_the_batches_of_the_matrix() -> None:
    assert IMAGES_PER_PART % IMAGES_PER_CALL == 0
    assert TEXTS_PER_PART % TEXTS_PER_CALL == 0


class Counting:
    """Many small images, of which only a few may be open at a time."""

    def __init__(self, count: int) -> None:
        self.ids = tuple(map(str, range(count)))
        self.opened = self.encoded = self.most = 0

    def open(self, index: int) -> Image.Image:
        self.opened += 1
        self.most = max(self.most, self.opened - self.encoded)
        return Image.new("RGB", (2, 2), (index % 256, index // 256, 0))

    def digest(self) -> str:
        return "many"

    def fingerprint(self) -> str:
        return "counting"

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        self.encoded += len(images)
        return np.array([image.getpixel((0, 0)) for image in images], dtype=np.float32)


def test_the_number_of_images_in_memory_is_bounded(tmp_path: Path) -> None:
    many, told = Counting(2 * IMAGES_PER_PART + 100), []
    found = embed_images(many, many, Store(tmp_path), told.append)  # type: ignore[arg-type]
    assert found[:, 0].astype(int).tolist() == [row % 256 for row in range(len(many.ids))]
    assert sum(told) == many.encoded == len(many.ids)
    assert many.most <= 2 * IMAGES_PER_CALL + 8


# images that cannot be decoded


def test_broken_images_are_dropped_with_a_note(flickr30k_folder: Path) -> None:
    (flickr30k_folder / "flickr30k-images" / "32.jpg").write_bytes(b"no picture")
    whole = Flickr30k().load(flickr30k_folder, "en", "test")
    left = without_undecodable_images(whole)
    assert left.images.ids == ("31", "33")
    assert left.captions == tuple(text for text in whole.captions if "32" not in text)
    assert left.notes[-1] == "1 of 3 images skipped, which cannot be decoded: 32"
    assert left.images.digest() != whole.images.digest()
    assert left.images.open(1).size == (8, 8)
    for name in ("31", "33"):
        (flickr30k_folder / "flickr30k-images" / f"{name}.jpg").write_bytes(b"no picture")
    with pytest.raises(HarnessError, match=r"none of the 3 images can be decoded, the first: .*31\.jpg"):
        without_undecodable_images(whole)


def test_a_run_skips_broken_images_only_on_request_and_records_it(flickr30k_folder: Path, tmp_path: Path) -> None:
    encoder = f"{write(tmp_path / 'fragile.py', FRAGILE)}:Fragile:none"
    (flickr30k_folder / "flickr30k-images" / "32.jpg").write_bytes(b"no picture")
    words = (
        "run",
        "--lang",
        "de",
        "--data",
        str(flickr30k_folder),
        "--objectives",
        "",
        "--encoder",
        encoder,
        "--resamples",
        "100",
    )
    refused = harness(*words, store=tmp_path)
    assert refused.returncode == 1
    assert "32.jpg cannot be decoded" in refused.stderr
    done = harness(*words, "--skip-broken", store=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 of 3 images skipped, which cannot be decoded: 32" in done.stdout
    assert "2 images, 2 captions" not in done.stderr
    records = [json.loads(path.read_text()) for path in tmp_path.glob("records/*/record.json")]
    assert {record["images"] for record in records} == {2}
    scored = harness(*words, "--skip-broken", "--scorer", "csls:transductive", store=tmp_path)
    assert scored.returncode == 0, scored.stderr
    regions = harness(*words, "--skip-broken", "--scorer", "entities", store=tmp_path)
    assert "--skip-broken is for retrieval of whole images" in regions.stderr


def test_broken_images_are_named(tmp_path: Path) -> None:
    file = io.BytesIO()
    photograph(60, 40).save(file, "JPEG")
    (tmp_path / "1.jpg").write_bytes(file.getvalue()[:300])
    with pytest.raises(HarnessError, match=r"1\.jpg cannot be decoded: "):
        Pictures(["1"], [Blob(str(tmp_path / "1.jpg"))]).open(0)
