"""Known errors of evaluation harnesses. Each test covers one of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.core.builtins import load_encoder
from harness.core.config import RunConfig
from harness.core.data import Floats, Retrieval
from harness.core.errors import HarnessError
from harness.evaluation.planning import Plan, make_plans
from harness.retrieval.ranking import rank
from harness.storage.embeddings import embed_captions, embed_images, embed_texts
from harness.storage.store import Store
from harness.tasks.flickr30k import Flickr30k
from tests.support.plugin_files import harness, install, squeezed, write

WEIGHTED = """
    from pathlib import Path
    import numpy as np
    from harness import fingerprint

    class Mine:
        name = "mine"
        def __init__(self, argument, device):
            self.weights = Path(argument)
        def fingerprint(self):
            return fingerprint(Mine, self.weights)
        def encode_images(self, images):
            return np.array([np.load(self.weights)] * len(images), dtype=np.float32)
        def encode_texts(self, texts, lang):
            return np.array([np.load(self.weights)] * len(texts), dtype=np.float32)
"""


def only_plan(config: RunConfig, store: Store) -> Plan:
    ((plan,), _) = make_plans(config, store)
    return plan


def test_the_same_name_with_new_weights_does_not_hit_the_old_cache(flickr30k_folder: Path, tmp_path: Path) -> None:
    code, weights, store = write(tmp_path / "mine.py", WEIGHTED), tmp_path / "w.npy", Store(tmp_path / "store")
    retrieval = Flickr30k().load(flickr30k_folder, "en", "test")
    config = RunConfig(lang="en", data=str(flickr30k_folder), encoder=f"{code}:Mine:{weights}", device="cpu")
    seen, cells = [], set()
    for value in (1.0, 2.0):
        np.save(weights, np.full(4, value))
        encoder = load_encoder(config.encoder, "cpu")
        seen.append((embed_images(encoder, retrieval.images, store, lambda _: None), embed_captions(encoder, retrieval, store)))
        cells.add(only_plan(config, store).cells[0].key)
    assert [float(side.mean()) for pair in seen for side in pair] == [1.0, 1.0, 2.0, 2.0]
    assert len(cells) == 2


class OneFingerprint:
    """An encoder whose roles and languages share a fingerprint but differ in everything else."""

    def fingerprint(self) -> str:
        return "one"

    def encode_texts(self, texts: Sequence[str], lang: str) -> Floats:
        return np.array([[len(text), sum(map(ord, lang))] for text in texts], dtype=np.float32)


def test_the_language_of_a_text_is_part_of_the_key(tmp_path: Path) -> None:
    store, encoder = Store(tmp_path), OneFingerprint()
    german, english = (embed_texts(encoder, ["Hand"], lang, store) for lang in ("de", "en"))
    assert not np.array_equal(german, english)
    assert np.array_equal(embed_texts(encoder, ["Hand"], "de", store), german)
    assert len(list((tmp_path / "embeddings").iterdir())) == 2


def test_the_role_is_part_of_the_key(tmp_path: Path) -> None:
    """The keys of an image and a text differ even if all their other parts agree."""

    class Pictures:
        ids = ("Hand",)

        def open(self, index: int) -> str:
            return "x"

        def digest(self) -> str:
            return "Hand"

    class Both(OneFingerprint):
        def encode_images(self, images: Sequence[object]) -> Floats:
            return np.full((len(images), 2), 7, dtype=np.float32)

    images = embed_images(Both(), Pictures(), Store(tmp_path), lambda _: None)  # type: ignore[arg-type]
    assert not np.array_equal(images, embed_texts(Both(), [""], "Hand", Store(tmp_path)))
    assert len(list((tmp_path / "embeddings").iterdir())) == 2


def test_texts_do_not_run_into_each_other(tmp_path: Path) -> None:
    store, encoder = Store(tmp_path), OneFingerprint()
    assert embed_texts(encoder, ["ab", "c"], "en", store)[:, 0].tolist() == [2, 1]
    assert embed_texts(encoder, ["a", "bc"], "en", store)[:, 0].tolist() == [1, 2]


def test_a_task_file_with_a_typo_does_not_vanish_from_the_list(tmp_path: Path) -> None:
    code = """
        from harness import register_task
        from harness.tasks.flickr30k import Flickr30k

        class Mine(Flickr30k)
            pass

        register_task("mine", Mine)
    """
    path = write(tmp_path / "mytask.py", code)
    site = install(tmp_path / "site", "my-tasks", {"harness.tasks": {"theirs": "harness_no_such_module:Task"}})
    listed = harness("list", "tasks", "--plugin", str(path), store=tmp_path, path=(site,))
    assert listed.returncode == 0, listed.stderr
    table = squeezed(listed.stdout)
    assert listed.stdout.count("BROKEN, see below") == 2
    assert "mytask.py cannot be loaded: SyntaxError: expected ':' (line 5)" in table
    assert "theirs: the task theirs of package my-tasks 1.0 (harness_no_such_module:Task) cannot be loaded" in table
    assert "flickr30k Flickr30k image-text retrieval" in table
    asked = harness("run", "--lang", "en", "--task", "mine", "--plugin", str(path), store=tmp_path)
    assert asked.returncode == 1
    assert "no task is called 'mine'" in asked.stderr
    assert "SyntaxError: expected ':' (line 5)" in asked.stderr


def test_a_card_that_raises_is_listed_too(tmp_path: Path) -> None:
    code = """
        from harness import register_task

        class Mine:
            @property
            def card(self):
                return self.crad

        register_task("mine", Mine)
    """
    listed = harness("list", "tasks", "--plugin", str(write(tmp_path / "mytask.py", code)), store=tmp_path)
    assert "mine: AttributeError: 'Mine' object has no attribute 'crad'" in squeezed(listed.stdout)


def test_negative_cosines_are_ranked_like_others() -> None:
    """The best score of a row may be negative, so no search for a maximum starts from 0."""
    images = np.eye(4, dtype=np.float32)
    texts = np.eye(4, dtype=np.float32) - 2
    assert (texts @ images.T < 0).all()
    ranks = rank(images, texts, np.arange(4))
    assert ranks.t2i.tolist() == ranks.i2t.tolist() == [1, 1, 1, 1]
    worst = rank(images, -texts, np.arange(4))
    assert worst.t2i.tolist() == worst.i2t.tolist() == [4, 4, 4, 4]


def with_captions(folder: Path, sentences: dict[str, list[str]]) -> Retrieval:
    path = folder / "dataset_flickr30k.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        name = image["filename"].removesuffix(".jpg")
        image["sentences"] = [{"raw": text} for text in sentences.get(name, ["unused"])]
    path.write_text(json.dumps(content))
    return Flickr30k().load(folder, "en", "test")


def test_duplicate_captions_keep_their_rows_and_their_images(flickr30k_folder: Path) -> None:
    """The shared caption of two photographs remains two queries, each with its own image."""
    same = "A dog runs."
    retrieval = with_captions(flickr30k_folder, {"31": [same, "One."], "32": [same, "Two."], "33": [same, same]})
    assert retrieval.captions.count(same) == 4
    assert len(set(retrieval.caption_ids)) == len(retrieval.captions) == 6
    assert retrieval.caption_images.tolist() == [0, 0, 1, 1, 2, 2]
    unit = {same: [1, 1, 1], "One.": [1, 0, 0], "Two.": [0, 1, 0]}
    texts = np.array([unit[text] for text in retrieval.captions], dtype=np.float32)
    ranks = rank(np.eye(3, dtype=np.float32), texts, retrieval.caption_images)
    # One text has the same score for all three images. Two of them tie with the correct one, and ties count against the encoder.
    assert ranks.t2i.tolist() == [3, 1, 3, 1, 3, 3]
    # Captions of the third image do not count against each other, but captions of other images do.
    assert ranks.i2t.tolist() == [1, 1, 3]


def test_the_whole_set_is_not_taken_for_the_test_split(flickr30k_folder: Path, tmp_path: Path) -> None:
    task, store = Flickr30k(), Store(tmp_path)
    test, train = (task.load(flickr30k_folder, "en", split) for split in ("test", "train"))
    assert test.images.ids == ("31", "32", "33")
    assert not set(test.images.ids) & set(train.images.ids)
    german = task.load(flickr30k_folder, "de", "test")
    assert set(german.images.ids) == {"31", "32", "33"}  # the other lines of Multi30k exist and are excluded
    assert len(german.captions) == 3
    with pytest.raises(HarnessError, match="unknown split 'all'"):
        task.load(flickr30k_folder, "en", "all")
    config = RunConfig(lang="en", data=str(flickr30k_folder), encoder="random", device="cpu")
    keys = {only_plan(config.model_copy(update={"split": split}), store).cells[0].key for split in ("test", "val")}
    assert len(keys) == 2


def test_a_gallery_of_other_images_is_another_cell(flickr30k_folder: Path, tmp_path: Path) -> None:
    """A record holds the numbers of its images and captions, and its key changes with them."""
    config = RunConfig(lang="en", data=str(flickr30k_folder), encoder="random", device="cpu")
    plan = only_plan(config, Store(tmp_path))
    fewer = replace(plan.cells[0].retrieval, captions=(*plan.cells[0].retrieval.captions[:-1], "Another."))
    assert fewer.texts_digest() != plan.cells[0].retrieval.texts_digest()
    (flickr30k_folder / "flickr30k-images" / "33.jpg").write_bytes(
        (flickr30k_folder / "flickr30k-images" / "31.jpg").read_bytes()
    )
    assert only_plan(config, Store(tmp_path)).cells[0].key != plan.cells[0].key
