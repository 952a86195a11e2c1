"""The task flickr30k: galleries, captions and English originals, pictures in files and shards, errors, and `check`."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from harness.core.data import Finding
from harness.core.errors import HarnessError
from harness.tasks.flickr30k import Flickr30k
from harness.tasks.readers.pictures import PICTURE_FOLDERS, Pictures
from harness.tasks.readers.shards import Blob
from tests.support.flickr30k_folders import MULTI30K, PHOTOS, captions_of, english_line, write_lines

TASK = Flickr30k()
TASK1 = Path("multi30k/data/task1")
TEST = ("31", "32", "33")


def move_to_shards(folder: Path, place: str, per_shard: int = 2) -> None:
    """Write shards as webdataset does: members `<id>.jpg` among others, not in the order of any split."""
    files = sorted((folder / "flickr30k-images").iterdir(), reverse=True)
    (folder / place).mkdir(parents=True, exist_ok=True)
    for start in range(0, len(files), per_shard):
        with tarfile.open(folder / place / f"flickr30k-{start:05}.tar", "w") as tar:
            for file in files[start : start + per_shard]:
                tar.add(__file__, arcname=f"./{file.stem}.txt")
                tar.add(file, arcname=f"./{file.name}")
    for file in files:
        file.unlink()


# loading


def test_english_has_every_caption_of_every_image(flickr30k_folder: Path) -> None:
    loaded = TASK.load(flickr30k_folder, "en", "test")
    assert loaded.images.ids == TEST
    assert captions_of(loaded) == [(name, f"Caption {k} of {name}.") for name in TEST for k in (0, 1)]
    assert loaded.caption_ids == ("31#0", "31#1", "32#0", "32#1", "33#0", "33#1")
    assert loaded.caption_images.dtype == np.int64
    assert (loaded.task, loaded.lang, loaded.split) == ("flickr30k", "en", "test")
    assert (loaded.source, loaded.kind, loaded.english, loaded.sample) == ("karpathy", "original", None, False)
    assert loaded.notes == ()


@pytest.mark.parametrize("text", ["de", "German", "deu_Latn"])
def test_translations_come_with_their_english(flickr30k_folder: Path, text: str) -> None:
    loaded = TASK.load(flickr30k_folder, text, "test")
    assert captions_of(loaded) == [(name, f"Bildtext von {name}.") for name in TEST]
    assert loaded.english == tuple(english_line(name) for name in TEST)
    assert (loaded.lang, loaded.source, loaded.kind) == ("de", "multi30k", "human translation")
    assert loaded.in_english().captions == loaded.english


def test_val_has_its_own_gallery(flickr30k_folder: Path) -> None:
    assert captions_of(TASK.load(flickr30k_folder, "de", "val")) == [("21", "Bildtext von 21.")]


def test_images_without_a_caption_leave_the_gallery(flickr30k_folder: Path) -> None:
    write_lines(flickr30k_folder / TASK1 / "raw" / "test_2016_flickr.de", ["", "Bildtext von 32."])
    loaded = TASK.load(flickr30k_folder, "de", "test")
    assert captions_of(loaded) == [("31", "Bildtext von 31."), ("32", "Bildtext von 32.")]
    assert loaded.notes == (
        "1 empty captions (or their English) of test_2016_flickr.de left out",
        "2 of 3 images have a caption in de",
    )


def test_the_first_source_with_captions_of_the_split_is_used(flickr30k_folder: Path) -> None:
    write_lines(flickr30k_folder / "captions" / "de.tsv", ["31\teigener Text", "99\tfremdes Bild"])
    assert TASK.load(flickr30k_folder, "de", "test").source == "multi30k"
    for split in ("train", "test_2016_flickr"):
        (flickr30k_folder / TASK1 / "raw" / f"{split}.de").unlink()
    loaded = TASK.load(flickr30k_folder, "de", "test")
    assert captions_of(loaded) == [("31", "eigener Text")]
    assert (loaded.source, loaded.kind, loaded.english) == ("own-captions", "unstated", None)
    assert loaded.notes == (
        "1 captions left out: dataset_flickr30k.json does not list their images",
        "1 of 3 images have a caption in de",
    )
    with pytest.raises(HarnessError, match="are not translations"):
        loaded.in_english()


def test_captions_are_unchanged(flickr30k_folder: Path) -> None:
    write_lines(flickr30k_folder / TASK1 / "raw" / "test_2016_flickr.de", ["Zwei  HUNDE , im Schnee .", " ÄRGER!"])
    assert dict(captions_of(TASK.load(flickr30k_folder, "de", "test")))["33"] == "Zwei  HUNDE , im Schnee ."


# bitext


def test_bitext_is_the_training_file(flickr30k_folder: Path) -> None:
    bitext = TASK.load_bitext(flickr30k_folder, "Quechua")
    names = MULTI30K["train"]
    assert bitext.image_ids == tuple(names)
    assert bitext.english == tuple(english_line(name) for name in names)
    assert bitext.foreign == tuple(f"{name} qillqa" for name in names)
    assert (bitext.lang, bitext.source, bitext.kind) == ("qu", "multiscript30k", "machine translation")


def test_empty_pairs_of_bitext_are_dropped_and_counted(flickr30k_folder: Path) -> None:
    write_lines(flickr30k_folder / TASK1 / "raw" / "train.de", ["a", " ", "c"])
    write_lines(flickr30k_folder / TASK1 / "raw" / "train.en", ["A", "B", ""])
    bitext = TASK.load_bitext(flickr30k_folder, "de")
    assert bitext.foreign == ("a",)
    assert bitext.notes == ("2 empty captions (or their English) of train.de left out",)


def test_bitext_needs_its_english_file(flickr30k_folder: Path) -> None:
    write_lines(flickr30k_folder / "captions" / "sw.tsv", ["31\tmaelezo"])
    with pytest.raises(HarnessError, match=r"Swahili \(sw\) captions for bitext: .*captions/sw\.tsv \(which has no training"):
        TASK.load_bitext(flickr30k_folder, "sw")
    with pytest.raises(HarnessError, match="name a language to distil into"):
        TASK.load_bitext(flickr30k_folder, "English")


def test_validation_and_test_images_are_held_out_with_their_captions(flickr30k_folder: Path) -> None:
    held_out = TASK.held_out(flickr30k_folder, "de")
    names = {name for name, split in PHOTOS.items() if split != "train"}
    assert held_out.image_ids == names
    assert held_out.english == {f"Caption {k} of {name}." for name in names for k in (0, 1)}


# pictures


def test_pictures_are_decoded_on_request(flickr30k_folder: Path) -> None:
    images = TASK.load(flickr30k_folder, "en", "test").images
    picture = images.open(1)
    assert (picture.size, picture.mode) == ((8, 8), "RGB")
    assert abs(picture.getpixel((4, 4))[0] - 30 * list(PHOTOS).index("32")) < 8  # type: ignore[index]


@pytest.mark.parametrize("place", PICTURE_FOLDERS)
def test_pictures_are_found_in_the_usual_folders(flickr30k_folder: Path, place: str) -> None:
    digest = TASK.load(flickr30k_folder, "en", "test").images.digest()
    old = (flickr30k_folder / "flickr30k-images").rename(flickr30k_folder / "old")
    (flickr30k_folder / place).parent.mkdir(exist_ok=True)
    old.rename(flickr30k_folder / place)
    images = TASK.load(flickr30k_folder, "en", "test").images
    assert images.digest() == digest
    assert images.open(0).size == (8, 8)


@pytest.mark.parametrize("place", ["shards", "images", "flickr30k-images"])
def test_shards_are_the_same_pictures(flickr30k_folder: Path, place: str) -> None:
    files = TASK.load(flickr30k_folder, "en", "test").images
    before = [files.open(i).tobytes() for i in range(3)]
    digest = files.digest()
    move_to_shards(flickr30k_folder, place)
    shards = TASK.load(flickr30k_folder, "en", "test").images
    assert shards.ids == TEST
    assert [shards.open(i).tobytes() for i in range(3)] == before
    assert shards.digest() == digest


def test_shards_of_webdataset_are_read(flickr30k_folder: Path) -> None:
    (flickr30k_folder / "shards").mkdir()
    with webdataset.TarWriter(str(flickr30k_folder / "shards" / "a.tar")) as writer:
        for file in (flickr30k_folder / "flickr30k-images").iterdir():
            writer.write({"__key__": file.stem, "jpg": file.read_bytes(), "json": {"id": file.stem}})
            file.unlink()
    assert TASK.load(flickr30k_folder, "de", "test").images.open(2).size == (8, 8)


def test_a_truncated_shard_is_named(flickr30k_folder: Path) -> None:
    move_to_shards(flickr30k_folder, "shards", per_shard=6)
    shard = flickr30k_folder / "shards" / "flickr30k-00000.tar"
    whole = shard.read_bytes()
    images = TASK.load(flickr30k_folder, "en", "test").images
    shard.write_bytes(whole[:1800])
    with pytest.raises(HarnessError, match=rf"{re.escape(str(shard))} \(\./3\d\.jpg\) is truncated: it has 0 of"):
        images.digest()
    with pytest.raises(HarnessError, match=rf"{re.escape(str(shard))} is not a complete tar file"):
        TASK.load(flickr30k_folder, "en", "test")
    shard.write_bytes(b"not a tar file at all" * 50)
    with pytest.raises(HarnessError, match=rf"{re.escape(str(shard))} is not a complete tar file"):
        TASK.load(flickr30k_folder, "en", "test")


def test_the_digest_covers_ids_and_bytes(flickr30k_folder: Path) -> None:
    images = TASK.load(flickr30k_folder, "en", "test").images
    expected = hashlib.sha256()
    for name in TEST:
        for part in (name.encode(), (flickr30k_folder / "flickr30k-images" / f"{name}.jpg").read_bytes()):
            expected.update(struct.pack("<Q", len(part)) + part)
    assert images.digest() == expected.hexdigest()
    assert pickle.loads(pickle.dumps(images)).digest() == expected.hexdigest()
    (flickr30k_folder / "flickr30k-images" / "32.jpg").write_bytes(b"other")
    assert images.digest() == expected.hexdigest(), "reckoned once"
    assert TASK.load(flickr30k_folder, "en", "test").images.digest() != expected.hexdigest()


def cut_jpeg(data: bytes) -> bytes:
    return data[: len(data) - 40]


def png(side: int) -> bytes:
    """Return a file whose header states side x side pixels and which has none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (cut_jpeg, "cannot be decoded: .*[Tt]runcated.*--skip-broken"),
        (lambda _: b"", "cannot be decoded: it is neither a JPEG nor a PNG file"),
        (lambda _: b"GIF89a but not really", "cannot be decoded"),
        (lambda _: png(60_000), "is not decoded: .*pixels"),
        (lambda _: png(8_001), "is not decoded: its 8,001 x 8,001 pixels are more than 64,000,000"),
        (lambda _: png(8), "cannot be decoded"),
    ],
)
def test_a_broken_picture_is_named(flickr30k_folder: Path, spoil: Callable[[bytes], bytes], complaint: str) -> None:
    path = flickr30k_folder / "flickr30k-images" / "31.jpg"
    path.write_bytes(spoil(path.read_bytes()))
    images = TASK.load(flickr30k_folder, "en", "test").images
    with pytest.raises(HarnessError, match=re.escape(str(path)) + " " + complaint):
        images.open(0)


@given(places=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8), kind=st.sampled_from(["JPEG", "PNG"]))
def test_damaged_bytes_give_a_picture_or_an_error_naming_the_file(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[int, int]], kind: str
) -> None:
    buffer = BytesIO()
    Image.new("RGB", (8, 8), (3, 90, 200)).save(buffer, kind)
    data = bytearray(buffer.getvalue())
    for place, value in places:
        data[place % len(data)] = value
    path = tmp_path_factory.mktemp("spoilt") / "31.jpg"
    path.write_bytes(data)
    try:
        outcome = Pictures(["31"], [Blob(str(path))]).open(0).mode
    except HarnessError as error:
        outcome = str(error)
    assert outcome == "RGB" or str(path) in outcome


def test_a_dangling_shard_is_named(flickr30k_folder: Path) -> None:
    move_to_shards(flickr30k_folder, "shards")
    link = flickr30k_folder / "shards" / "lost.tar"
    link.symlink_to("nowhere.tar")
    with pytest.raises(HarnessError, match=re.escape(str(link)) + " cannot be read"):
        TASK.load(flickr30k_folder, "en", "test")


def test_a_missing_picture_is_named(flickr30k_folder: Path) -> None:
    images = TASK.load(flickr30k_folder, "en", "test").images
    path = flickr30k_folder / "flickr30k-images" / "32.jpg"
    path.unlink()
    with pytest.raises(HarnessError, match=re.escape(str(path)) + " cannot be read"):
        images.open(1)


# errors


def test_missing_pictures_are_counted(flickr30k_folder: Path) -> None:
    for name in ("32", "33"):
        (flickr30k_folder / "flickr30k-images" / f"{name}.jpg").unlink()
    with pytest.raises(HarnessError, match=r"flickr30k-images/32\.jpg is missing, and so are 1 more of the 3 pictures of test"):
        TASK.load(flickr30k_folder, "de", "test")


def test_a_split_without_pictures_is_named(flickr30k_folder: Path) -> None:
    for name in ("11", "12"):
        (flickr30k_folder / "flickr30k-images" / f"{name}.jpg").unlink()
    with pytest.raises(
        HarnessError, match=r"the split train has no pictures here: none of its 2 images is in .*flickr30k-images"
    ):
        TASK.load(flickr30k_folder, "de", "train")


def test_without_pictures_the_error_names_the_searched_folders(flickr30k_folder: Path) -> None:
    (flickr30k_folder / "flickr30k-images").rename(flickr30k_folder / "photos")
    with pytest.raises(
        HarnessError, match=r"has no pictures: looked for \.jpg in flickr30k-images/, flickr30k_images/, .*shards/"
    ):
        TASK.load(flickr30k_folder, "de", "test")


def test_unknown_names_are_refused(flickr30k_folder: Path) -> None:
    with pytest.raises(HarnessError, match="unknown split 'dev': flickr30k has train, val, test, test_2017_flickr, test_2018"):
        TASK.load(flickr30k_folder, "de", "dev")
    with pytest.raises(HarnessError, match=r"did you mean German \(de\)"):
        TASK.load(flickr30k_folder, "germann", "test")
    with pytest.raises(HarnessError, match="unknown language"):
        TASK.load_bitext(flickr30k_folder, "klingon")


def test_a_split_that_the_list_of_images_lacks_is_refused(flickr30k_folder: Path) -> None:
    path = flickr30k_folder / "dataset_flickr30k.json"
    path.write_text(path.read_text().replace('"val"', '"restval"'))
    with pytest.raises(HarnessError, match=r"no image of the split val: it has train \(2\), restval \(1\), test \(3\)"):
        TASK.load(flickr30k_folder, "de", "val")


def test_without_captions_the_error_names_the_searched_files(flickr30k_folder: Path) -> None:
    with pytest.raises(HarnessError) as caught:
        TASK.load(flickr30k_folder, "es", "test")
    message = str(caught.value)
    assert f"{flickr30k_folder} has no Spanish (es) captions for the test split: looked for" in message
    assert "multiscript30k/multi30k-dataset-en-es/{train,val,test_2016_flickr}.es (https://" in message
    assert "captions/es.tsv" in message
    assert "\n" not in message


def test_a_path_that_is_no_folder_is_refused(flickr30k_folder: Path) -> None:
    json_file = flickr30k_folder / "dataset_flickr30k.json"
    for call in (lambda p: TASK.load(p, "de", "test"), lambda p: TASK.load_bitext(p, "de"), TASK.check):
        with pytest.raises(
            HarnessError, match=r"nowhere does not exist: give .* --data DIR or FLICKR30K_ROOT, or leave both out"
        ):
            call(flickr30k_folder / "nowhere")
        with pytest.raises(HarnessError, match="is not a folder"):
            call(json_file)
    json_file.unlink()
    with pytest.raises(HarnessError, match=r"has no dataset_flickr30k\.json: .* \(https://"):
        TASK.load(flickr30k_folder, "de", "test")


# the mark of the sample


def test_a_marked_folder_is_the_sample(flickr30k_folder: Path) -> None:
    (flickr30k_folder / "sample.json").write_text(json.dumps({"sample": True, "version": "x"}))
    german = TASK.load(flickr30k_folder, "de", "test")
    english = TASK.load(flickr30k_folder, "en", "test")
    assert german.sample
    assert (german.source, german.kind) == ("sample-translations", "sample grammar")
    assert english.sample
    assert (english.source, english.kind) == ("sample-captions", "sample grammar")
    assert TASK.load_bitext(flickr30k_folder, "de").kind == "sample grammar"
    with pytest.raises(HarnessError, match="no Quechua"):
        TASK.load(flickr30k_folder, "qu", "test")


@pytest.mark.parametrize("content", ["{", "[]", '{"sample": "yes"}', "{}"])
def test_a_damaged_mark_is_refused(flickr30k_folder: Path, content: str) -> None:
    (flickr30k_folder / "sample.json").write_text(content)
    with pytest.raises(HarnessError, match=r"sample\.json"):
        TASK.load(flickr30k_folder, "de", "test")


# check


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    assert len({finding.what for finding in findings}) == len(findings)
    return {finding.what: finding for finding in findings}


def test_check_lists_what_is_present_and_where_to_get_the_rest(flickr30k_folder: Path) -> None:
    for name in ("33", "11", "12"):
        (flickr30k_folder / "flickr30k-images" / f"{name}.jpg").unlink()
    write_lines(flickr30k_folder / TASK1 / "raw" / "val.de", ["eins", "zwei"])
    (flickr30k_folder / "multiscript30k" / "multi30k-dataset-en-qu" / "val.qu").unlink()
    found = by_name(TASK.check(flickr30k_folder))
    assert found["dataset_flickr30k.json"] == Finding("dataset_flickr30k.json", True, "6 images: train 2, val 1, test 3")
    assert found["pictures, val"] == Finding("pictures, val", True, "1 of 1 in flickr30k-images")
    assert found["pictures, train"].detail == "0 of 2 in flickr30k-images; not needed to evaluate on val or test"
    assert not found["pictures, test"].found
    assert found["pictures, test"].detail.startswith("2 of 3 in flickr30k-images; get them from https://")
    assert found["karpathy: English (en)"].detail == "12 captions (original) on 1 of 1 val images, 3 of 3 test images"
    assert not found["multi30k: German (de)"].found
    assert "val.de has 2 lines, expected 1" in found["multi30k: German (de)"].detail
    assert found["multiscript30k: Quechua (qu)"] == Finding(
        "multiscript30k: Quechua (qu)",
        True,
        "5 captions (machine translation) on 0 of 1 val images, 3 of 3 test images; multiscript30k has no val.qu here",
    )
    assert not found["multi30k: cs, fr"].found
    assert "get it from https://github.com/multi30k/dataset" in found["multi30k: cs, fr"].detail
    assert not any(what.startswith(("own-", "sample-")) for what in found)


def test_check_reports_a_damaged_folder_as_a_finding(flickr30k_folder: Path) -> None:
    path = flickr30k_folder / "dataset_flickr30k.json"
    path.write_text("{")
    assert [finding.found for finding in TASK.check(flickr30k_folder)] == [False]
    path.unlink()
    assert "Karpathy" in TASK.check(flickr30k_folder)[0].detail


def test_check_names_a_broken_shard_and_the_sample(flickr30k_folder: Path) -> None:
    move_to_shards(flickr30k_folder, "shards", per_shard=6)
    (flickr30k_folder / "shards" / "flickr30k-00000.tar").write_bytes(b"x" * 700)
    (flickr30k_folder / "sample.json").write_text('{"sample": true}')
    found = by_name(TASK.check(flickr30k_folder))
    assert "not a complete tar file" in found["pictures"].detail
    assert found["dataset_flickr30k.json (the embedded sample)"].found
    assert found["sample-translations: German (de)"].found


# cost


def test_importing_the_task_imports_nothing_heavy() -> None:
    heavy = "{'PIL', 'torch', 'pyarrow', 'webdataset'}"
    code = f"import sys, harness.tasks.flickr30k as f; f.Flickr30k().languages(); print({heavy} & set(sys.modules) or 'light')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "light"


# the real folder


@pytest.mark.real
def test_real_english(real_folder: Path) -> None:
    loaded = TASK.load(real_folder, "en", "test")
    ties = "4 of 5,000 captions are shared by several images: they tie, and at most one of these images can rank first"
    assert (len(loaded.images.ids), len(loaded.captions), loaded.notes) == (1_000, 5_000, (ties,))
    assert np.bincount(loaded.caption_images).tolist() == [5] * 1_000
    assert len(set(loaded.caption_ids)) == 5_000
    assert loaded.images.open(0).size == (224, 224)


@pytest.mark.real
@pytest.mark.parametrize("lang", ["de", "fr", "cs", "es", "ar", "qu", "gn", "ay"])
def test_real_translations(real_folder: Path, lang: str) -> None:
    """The English line without a translation belongs to image 6338542128, which the splits of this subset do not list."""
    loaded = TASK.load(real_folder, lang, "test")
    english = TASK.load(real_folder, "en", "test")
    assert (len(loaded.images.ids), len(loaded.captions), len(loaded.english or ())) == (1_000, 1_000, 1_000)
    assert loaded.images.ids == english.images.ids
    assert [note for note in loaded.notes if "images have a caption" in note] == []
    assert len([note for note in loaded.notes if "line 904" in note]) == (lang in ("qu", "gn", "ay"))
    assert len(TASK.load(real_folder, lang, "val").captions) == 500
    # Multi30k's English lines are captions of the same images: the join is right if most stand among the five as they are.
    own: dict[str, set[str]] = {}
    for name, text in captions_of(english):
        own.setdefault(name, set()).add(re.sub(r"\W", "", text.lower()))
    twins = zip(loaded.images.ids, loaded.in_english().captions, strict=True)
    assert sum(re.sub(r"\W", "", text.lower()) in own[name] for name, text in twins) > 900


@pytest.mark.real
@pytest.mark.parametrize("lang", ["de", "fr", "cs", "es", "ar", "qu", "gn", "ay"])
def test_real_bitext_and_what_the_guard_must_drop(real_folder: Path, lang: str) -> None:
    bitext, held_out = TASK.load_bitext(real_folder, lang), TASK.held_out(real_folder, lang)
    assert len(bitext) == len(set(bitext.image_ids)) == 29_000
    assert len(set(bitext.image_ids) - held_out.image_ids) == 27_985
    assert len(set(TASK.load(real_folder, lang, "test").images.ids) & set(bitext.image_ids)) == 757


@pytest.mark.real
def test_real_folder_without_train_pictures(real_folder: Path) -> None:
    with pytest.raises(HarnessError, match="the split train has no pictures here: none of its 6,591 images"):
        TASK.load(real_folder, "en", "train")


@pytest.mark.real
def test_real_loading_is_quick(real_folder: Path) -> None:
    start = time.perf_counter()
    TASK.load(real_folder, "qu", "test").images.digest()
    assert time.perf_counter() - start < 3, "about 0.3 s when nothing else runs and nothing is cached"
