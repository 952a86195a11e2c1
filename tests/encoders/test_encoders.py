"""The built-in encoders without a network: random, pixels, and features computed elsewhere."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import save_file

from harness.core.builtins import load_encoder
from harness.core.config import RunConfig
from harness.core.errors import HarnessError
from harness.core.protocols import KnownFeatures
from harness.evaluation.encoder_checks import check_encoder
from harness.evaluation.planning import make_plans
from harness.evaluation.runner import measure_plan
from harness.retrieval.ranking import rank
from harness.runtime.console import Console
from harness.storage.store import Store
from harness.tasks.flickr30k import Flickr30k

PICTURES = [Image.new("RGB", (8, 6), (shade, 90, 200)) for shade in (0, 80, 160, 240)]


def test_random_knows_only_what_is_the_same() -> None:
    encoder = load_encoder("random", "cpu")
    images, texts = encoder.encode_images([*PICTURES, PICTURES[0]]), encoder.encode_texts(["a", "b", "a"], "en")
    assert np.array_equal(images[0], images[4])
    assert np.array_equal(texts[0], texts[2])
    assert len(np.unique(images, axis=0)) == 4
    assert not np.array_equal(texts[0], texts[1])
    assert np.array_equal(encoder.encode_texts(["a"], "de"), load_encoder("random:0", "cpu").encode_texts(["a"], "en"))
    assert not np.array_equal(load_encoder("random:1", "cpu").encode_texts(["a"], "en"), texts[:1])
    assert load_encoder("random:1", "cpu").fingerprint() != encoder.fingerprint()
    assert encoder.encode_texts([], "en").shape == (0, 256)
    with pytest.raises(HarnessError, match="whole number"):
        load_encoder("random:x", "cpu")


def test_random_ranks_as_chance_does() -> None:
    encoder = load_encoder("random", "cpu")
    noise = np.random.default_rng(0).integers(0, 255, (400, 4, 4, 3), dtype=np.uint8)
    images = encoder.encode_images([Image.fromarray(pixels) for pixels in noise])
    ranks = rank(images, encoder.encode_texts([f"caption {n}" for n in range(400)], "en"), np.arange(400))
    assert abs(ranks.t2i.mean() - 200.5) < 3 * 115.5 / 20  # three standard errors of a uniform rank's mean


def colour_folder(folder: Path, photos: int = 60) -> Path:
    """Pictures of one colour each, captions that name it among other words."""
    colours = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}
    (folder / "flickr30k-images").mkdir(parents=True)
    images = []
    for number in range(photos):
        name = list(colours)[number % 3]
        shade = tuple(max(0, value - number % 7) for value in colours[name])
        Image.new("RGB", (12, 12), shade).save(folder / "flickr30k-images" / f"{number}.jpg")
        sentences = [{"raw": f"a {name} square number {number}"}, {"raw": f"this is {name}"}]
        images.append({"filename": f"{number}.jpg", "split": "test" if number >= photos - 6 else "train", "sentences": sentences})
    (folder / "dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    return folder


def test_pixels_learns_words_from_the_train_split(tmp_path: Path) -> None:
    folder = colour_folder(tmp_path / "colours")
    encoder = load_encoder(f"pixels:{folder}", "cpu")
    assert {len(encoder._rows)} == {54}  # type: ignore[attr-defined]
    pictures = [Image.new("RGB", (40, 30), colour) for colour in ((210, 40, 40), (40, 190, 50), (40, 50, 210))]
    images, texts = encoder.encode_images(pictures), encoder.encode_texts(["Something red", "all green", "blue!"], "en")
    assert images.dtype == texts.dtype == np.float32
    assert images.shape == texts.shape
    assert rank(images, texts, np.arange(3)).t2i.tolist() == [1, 1, 1]
    again = load_encoder(f"pixels:{folder}", "cpu")
    assert again.fingerprint() == encoder.fingerprint()
    assert np.array_equal(again.encode_texts(["red"], "en"), encoder.encode_texts(["red"], "en"))
    Image.new("RGB", (12, 12)).save(folder / "flickr30k-images" / "0.jpg")
    assert load_encoder(f"pixels:{folder}", "cpu").fingerprint() != encoder.fingerprint()
    Image.new("RGB", (12, 12)).save(folder / "flickr30k-images" / "59.jpg")
    assert load_encoder(f"pixels:{folder}", "cpu").fingerprint() == load_encoder(f"pixels:{folder}", "cpu").fingerprint()
    (folder / "flickr30k-images" / "1.jpg").unlink()
    with pytest.raises(HarnessError, match=r"1.jpg is missing.*pixels:.*@val would learn from val, to be measured on test only"):
        load_encoder(f"pixels:{folder}", "cpu").fingerprint()
    with pytest.raises(HarnessError, match="has no image of the split val"):
        load_encoder(f"pixels:{folder}@val", "cpu").fingerprint()
    with pytest.raises(HarnessError, match="write pixels:FOLDER"):
        load_encoder("pixels", "cpu")


def write_parquet(path: Path, columns: tuple[list[str], list[str], list[str]], matrix: np.ndarray) -> Path:
    kind, name, lang = columns
    pq.write_table(pa.table({"kind": kind, "id": name, "lang": lang, "embedding": list(matrix)}), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def write_npz(path: Path, columns: tuple[list[str], list[str], list[str]], matrix: np.ndarray) -> Path:
    np.savez(path.with_suffix(".npz"), **dict(zip(("kind", "id", "lang"), columns, strict=True)), embedding=matrix)
    return path.with_suffix(".npz")


def write_safetensors(path: Path, columns: tuple[list[str], list[str], list[str]], matrix: np.ndarray) -> Path:
    lists = {key: json.dumps(words) for key, words in zip(("kind", "id", "lang"), columns, strict=True)}
    save_file({"embedding": matrix}, path.with_suffix(".safetensors"), metadata=lists)
    return path.with_suffix(".safetensors")


def write_npy(path: Path, columns: tuple[list[str], list[str], list[str]], matrix: np.ndarray) -> Path:
    np.save(path.with_suffix(".npy"), matrix)
    path.with_suffix(".tsv").write_text("".join("\t".join(row).rstrip("\t") + "\n" for row in zip(*columns, strict=True)))
    return path.with_suffix(".npy")


Writer = Callable[[Path, tuple[list[str], list[str], list[str]], np.ndarray], Path]
WRITERS: tuple[Writer, ...] = (write_parquet, write_npz, write_safetensors, write_npy)


def embedded(folder: Path, lang: str = "de") -> tuple[tuple[list[str], list[str], list[str]], np.ndarray]:
    """A table for the test split of a folder: each caption near its image, in shuffled rows."""
    retrieval = Flickr30k().load(folder, lang, "test")
    rng = np.random.default_rng(0)
    images = rng.standard_normal((len(retrieval.images.ids), 16), dtype=np.float32)
    texts = images[retrieval.caption_images] + 0.1 * rng.standard_normal((len(retrieval.captions), 16), dtype=np.float32)
    rows = [("image", f"{name}.jpg", "") for name in retrieval.images.ids]
    rows += [("text", name, retrieval.lang) for name in retrieval.caption_ids]
    order = rng.permutation(len(rows))
    kind, name, lang_ = (list(column) for column in zip(*(rows[row] for row in order), strict=True))
    return (kind, name, lang_), np.concatenate([images, texts])[order]


@pytest.mark.parametrize("write", WRITERS)
def test_features_are_found_by_id_in_every_form(write: Writer, flickr30k_folder: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "features", *embedded(flickr30k_folder))
    encoder = load_encoder(f"features:{path}", "cpu")
    assert isinstance(encoder, KnownFeatures)
    config = RunConfig(lang="de", data=str(flickr30k_folder), encoder=f"features:{path}", device="cpu")
    store = Store(tmp_path / "store")
    ((plan,), _) = make_plans(config, store)
    (record,) = measure_plan(plan, store, Console())
    assert plan.cells[0].label == "features on German"
    assert (record.scores["t2i_r1"], record.scores["i2t_r1"]) == (100.0, 100.0)
    trials = list(check_encoder(f"features:{path}", Flickr30k().load(flickr30k_folder, "de", "test"), "cpu"))
    assert [trial.verdict for trial in trials] == ["ok"] * 4, trials


def test_features_that_will_not_do(flickr30k_folder: Path, tmp_path: Path) -> None:
    columns, matrix = embedded(flickr30k_folder)
    retrieval = Flickr30k().load(flickr30k_folder, "de", "test")

    def known(write: Writer = write_npz, rows: np.ndarray = matrix, **changed: list[str]) -> KnownFeatures:
        kind, name, lang = (changed.get(key, words) for key, words in zip(("kind", "id", "lang"), columns, strict=True))
        encoder = load_encoder(f"features:{write(tmp_path / 'x', (kind, name, lang), rows)}", "cpu")
        assert isinstance(encoder, KnownFeatures)
        return encoder

    with pytest.raises(HarnessError, match=r"lacks 1 of 4 images, first '99': its image ids look like '\d\d'"):
        known().image_features([*retrieval.images.ids, "99"])
    with pytest.raises(HarnessError, match=r"lacks 3 of 3 texts, .*it has no text of language 'fr'"):
        known().caption_features(retrieval.caption_ids, "fr")
    with pytest.raises(HarnessError, match="neither image nor text"):
        known(kind=["picture"] * 6).image_features([])
    with pytest.raises(HarnessError, match="occurs twice, in rows"):
        known(kind=["text"] * 6, id=["33"] * 6, lang=["de"] * 6).image_features([])
    with pytest.raises(HarnessError, match=r"embedding is \(5, 16\) for 6 ids"):
        known(rows=matrix[:5]).image_features([])
    np.savez(tmp_path / "x.npz", embedding=matrix)
    with pytest.raises(HarnessError, match=r"x.npz: KeyError.*expected kind, id, lang and embedding"):
        load_encoder(f"features:{tmp_path / 'x.npz'}", "cpu").image_features([])  # type: ignore[attr-defined]
    with pytest.raises(HarnessError, match="cannot encode 1 texts: distillation needs a model"):
        load_encoder(f"features:{tmp_path / 'x.npz'}", "cpu").encode_texts(["a"], "de")
    np.save(tmp_path / "x.npy", matrix)
    (tmp_path / "x.tsv").unlink(missing_ok=True)
    with pytest.raises(HarnessError, match=r"x.tsv is not there"):
        load_encoder(f"features:{tmp_path / 'x.npy'}", "cpu")
    with pytest.raises(HarnessError, match=r"expected a file in \.npy, \.npz"):
        load_encoder("features:x.pt", "cpu")


def constant(path: Path, count: int, wide: int, word: str = "1") -> Path:
    """Rows that are all alike, which Parquet writes once."""
    columns = {"kind": ["image"] * count, "id": [word] * count, "lang": [""] * count}
    matrix = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(count * wide, dtype=np.float32)), wide)
    pq.write_table(pa.table({**columns, "embedding": matrix}), path)
    return path


@pytest.mark.parametrize(("count", "wide", "word"), [(10_000, 1_000, "1"), (500, 2, "x" * 100_000)])
def test_features_that_unpack_to_far_more_than_their_size_are_not_read(count: int, wide: int, word: str, tmp_path: Path) -> None:
    path = constant(tmp_path / "bomb.parquet", count, wide, word)
    assert path.stat().st_size < 200_000
    before = time.perf_counter()
    with pytest.raises(HarnessError, match=r"bomb.parquet is not unpacked: it holds [\d,]+ bytes.* an implausible ratio"):
        load_encoder(f"features:{path}", "cpu").image_features(["1"])  # type: ignore[attr-defined]
    assert time.perf_counter() - before < 1


def test_the_numbers_of_a_parquet_file_are_refused_before_any_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = constant(tmp_path / "bomb.parquet", 10_000, 1_000)
    monkeypatch.setattr(pq, "read_table", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(HarnessError, match="is not unpacked"):
        load_encoder(f"features:{path}", "cpu").image_features(["1"])  # type: ignore[attr-defined]


def test_parquet_s_other_ways_to_write_words_are_read(tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float16)
    for name, ids, langs in (
        ("numbers", pa.array([1, 2, 3]), pa.nulls(3)),
        ("large", pa.array(["1", "2", "3"], pa.large_string()), pa.array([""] * 3).dictionary_encode()),
    ):
        table = pa.table({"kind": ["image"] * 3, "id": ids, "lang": langs, "embedding": list(matrix)})
        pq.write_table(table, tmp_path / f"{name}.parquet")
        got = load_encoder(f"features:{tmp_path / name}.parquet", "cpu").image_features(["3", "1"])  # type: ignore[attr-defined]
        assert np.array_equal(got, matrix[[2, 0]].astype(np.float32))


def test_features_in_half_precision_are_read_as_what_they_are(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_tensors

    exact = torch.tensor([[1.0, -2.5], [0.15625, 3e38]])
    names = {"kind": '["image", "image"]', "id": '["1", "2"]', "lang": '["", ""]'}
    save_tensors({"embedding": exact.bfloat16()}, tmp_path / "b.safetensors", metadata=names)
    save_tensors({"embedding": exact[:, :1].half()}, tmp_path / "h.safetensors", metadata=names)
    bits = exact.bfloat16().view(torch.uint16).numpy()
    columns = {key: json.loads(words) for key, words in names.items()}
    np.savez(tmp_path / "b.npz", embedding=bits.view("V2"), **columns)
    np.savez(tmp_path / "bits.npz", embedding=bits, **columns)
    for file, expected in (("b.safetensors", exact.bfloat16()), ("b.npz", exact.bfloat16()), ("h.safetensors", exact[:, :1])):
        got = load_encoder(f"features:{tmp_path / file}", "cpu").image_features(["1", "2"])  # type: ignore[attr-defined]
        assert got.dtype == np.float32
        assert np.array_equal(got, expected.float().numpy())
    with pytest.raises(HarnessError, match="embedding is uint16, which may be the bits of half precision: write it as float32"):
        load_encoder(f"features:{tmp_path / 'bits.npz'}", "cpu").image_features(["1"])  # type: ignore[attr-defined]


def test_features_are_measured_in_a_folder_without_pictures(flickr30k_folder: Path, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "features", *embedded(flickr30k_folder))
    shutil.rmtree(flickr30k_folder / "flickr30k-images")
    config = RunConfig(lang="de", data=str(flickr30k_folder), encoder=f"features:{path}", device="cpu")
    store = Store(tmp_path / "store")
    ((plan,), _) = make_plans(config, store)
    (record,) = measure_plan(plan, store, Console())
    assert (record.scores["t2i_r1"], record.scores["i2t_r1"]) == (100.0, 100.0)
    with pytest.raises(HarnessError, match="has no pictures: looked for"):
        make_plans(config.model_copy(update={"encoder": "random"}), store)


def test_pickled_features_are_not_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", kind=np.array(["image"], dtype=object), id=["1"], lang=[""], embedding=np.ones((1, 2)))
    with pytest.raises(HarnessError, match="allow_pickle=False"):
        load_encoder(f"features:{tmp_path / 'x.npz'}", "cpu").image_features(["1"])  # type: ignore[attr-defined]
