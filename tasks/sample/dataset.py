"""Writer of the sample in the layouts of Flickr30k, Flickr30k Entities, Karpathy's splits and Multi30k.

`python -m harness.tasks.sample.dataset FOLDER` writes it to a folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

from PIL import Image

from harness.tasks.sample.brush import PICTURE_HEIGHT, PICTURE_WIDTH, DrawnBox
from harness.tasks.sample.caption_plans import CaptionPlan, full_plan, mentions_by_role, sample_plan
from harness.tasks.sample.grammar import REALISERS, TRANSLATIONS
from harness.tasks.sample.grammar.sentences import Sentence, detokenized_text, tagged_text, tokenized_text
from harness.tasks.sample.scene_drawing import draw_scene
from harness.tasks.sample.scenes import Scene, choose, sample_scene

SAMPLE_VERSION = "2"
SAMPLE_SEED = 30_000
IMAGES_BY_SPLIT = {"test": 400, "val": 150, "train": 4500}
JPEG_QUALITY = 88
# The names of the splits in Multi30k.
MULTI30K_SPLITS = {"train": "train", "val": "val", "test": "test_2016_flickr"}
# The levels of the translated captions. Detailed captions are more frequent, as in Multi30k.
TRANSLATED_LEVELS = (0, 0, 1, 1, 2, 2, 3, 4)
# Image ids outside the range of Flickr30k, scattered by a prime so that their order carries no information.
FIRST_ID, ID_STEP, ID_RANGE = 9_000_000_000, 61_803_399, 99_999_989
FIRST_CHAIN = 900_001

README = """This is not Flickr30k.

It is a small drawn world, made by the harness so that it can be tried without any data: no photograph, no person,
no caption in it is from Flickr30k. The files only have the layout of Flickr30k, Flickr30k Entities, Karpathy's splits
and Multi30k, so that the same code reads them. Numbers measured on it say nothing about Flickr30k.

The captions and their translations are put together by small grammars. The pictures of the training split are not
drawn: distillation reads its sentences only, of which the English ones are tagged.
"""


@dataclass(frozen=True)
class SampleImage:
    """An image of the sample: id, split, scene, the plans of its five captions, and the number of the translated one."""

    id: int
    split: str
    scene: Scene
    plans: tuple[CaptionPlan, ...]
    translated: int

    @property
    def filename(self) -> str:
        """The name of the picture file."""
        return f"{self.id}.jpg"

    @cached_property
    def captions(self) -> tuple[Sentence, ...]:
        """The five English captions, in order of decreasing detail."""
        return tuple(REALISERS["en"](plan) for plan in self.plans)

    def translation(self, lang: str) -> Sentence:
        """Return the translated caption in a language."""
        return self.captions[self.translated] if lang == "en" else REALISERS[lang](self.plans[self.translated])

    def draw(self) -> tuple[Image.Image, dict[str, DrawnBox]]:
        """Return the picture and the box of each thing by role."""
        return draw_scene(self.scene, Random(SAMPLE_SEED * ID_RANGE + self.id))


def five_plans(rng: Random, scene: Scene) -> tuple[CaptionPlan, ...]:
    """Return the plans of five different captions of a scene."""
    whole = full_plan(scene)
    plans: list[CaptionPlan] = []
    said: set[str] = set()
    for level in range(5):
        plan = sample_plan(rng, whole, level)
        while (text := tokenized_text(REALISERS["en"](plan))) in said:
            plan = sample_plan(rng, whole, level)
        said.add(text)
        plans.append(plan)
    return tuple(plans)


def compose_sample() -> list[SampleImage]:
    """Return every image of the sample by id. No scene repeats, and no bitext sentence is an evaluation caption."""
    rng = Random(SAMPLE_SEED)
    items: list[SampleImage] = []
    seen: set[str] = set()
    guarded: set[str] = set()
    for split, count in IMAGES_BY_SPLIT.items():
        wanted = len(items) + count
        while len(items) < wanted:
            scene = sample_scene(rng)
            number = FIRST_ID + (len(items) + 1) * ID_STEP % ID_RANGE
            item = SampleImage(number, split, scene, five_plans(rng, scene), choose(rng, TRANSLATED_LEVELS))
            if scene.key() in seen or (split == "train" and detokenized_text(item.translation("en")) in guarded):
                continue
            seen.add(scene.key())
            items.append(item)
            if split != "train":
                guarded.update(detokenized_text(caption) for caption in item.captions)
    return sorted(items, key=lambda item: item.id)


def write_sample(folder: Path) -> None:
    """Write the sample into an empty folder, with the same bytes on every machine."""
    items = compose_sample()
    drawn = [item for item in items if item.split != "train"]
    _write(folder / "README.txt", README)
    _write(folder / "sample.json", json.dumps({"sample": True, "version": SAMPLE_VERSION, "seed": SAMPLE_SEED}) + "\n")
    _write(folder / "dataset_flickr30k.json", json.dumps(_karpathy(items)) + "\n")
    _write(folder / "results_20130124.token", _lines(_token_lines(items)))
    _write_multi30k(folder / "multi30k" / "data" / "task1", items)
    first_chain = FIRST_CHAIN
    for item in [*drawn, *(item for item in items if item.split == "train")]:
        chains = {role: first_chain + number for number, role in enumerate(mentions_by_role(item.scene))}
        first_chain += len(chains)
        # As in Flickr30k Entities, English captions of training images are tagged too. Low-resource languages have no such tags.
        _write_sentences(folder, item, chains, () if item.split == "train" else TRANSLATIONS)
        if item.split != "train":
            _write_picture(folder, item, chains)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())  # bytes, to avoid the line ends of the platform


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _karpathy(items: list[SampleImage]) -> dict[str, object]:
    images = []
    for imgid, item in enumerate(items):
        sentids = list(range(imgid * 5, imgid * 5 + 5))
        sentences = [
            {"tokens": _tokens(caption), "raw": detokenized_text(caption), "imgid": imgid, "sentid": sentid}
            for sentid, caption in zip(sentids, item.captions, strict=True)
        ]
        images.append(
            {"sentids": sentids, "imgid": imgid, "sentences": sentences, "split": item.split, "filename": item.filename}
        )
    return {"images": images, "dataset": "flickr30k"}


def _tokens(caption: Sentence) -> list[str]:
    return [token for token in tokenized_text(caption).lower().split() if token not in {",", "."}]


def _token_lines(items: list[SampleImage]) -> Iterator[str]:
    for item in items:
        for number, caption in enumerate(item.captions):
            yield f"{item.filename}#{number}\t{tokenized_text(caption)}"


def _write_multi30k(folder: Path, items: list[SampleImage]) -> None:
    for split, name in MULTI30K_SPLITS.items():
        chosen = [item for item in items if item.split == split]
        _write(folder / "image_splits" / f"{name}.txt", _lines(item.filename for item in chosen))
        for lang in ("en", *TRANSLATIONS):
            _write(folder / "raw" / f"{name}.{lang}", _lines(detokenized_text(item.translation(lang)) for item in chosen))


def _write_picture(folder: Path, item: SampleImage, chains: dict[str, int]) -> None:
    picture, boxes = item.draw()
    path = folder / "flickr30k-images" / item.filename
    path.parent.mkdir(exist_ok=True)
    picture.save(path, quality=JPEG_QUALITY)
    _write(folder / "Annotations" / f"{item.id}.xml", _annotation(item, chains, boxes))


def _annotation(item: SampleImage, chains: dict[str, int], boxes: dict[str, DrawnBox]) -> str:
    size = f"<size><width>{PICTURE_WIDTH}</width><height>{PICTURE_HEIGHT}</height><depth>3</depth></size>"
    objects = [_object(chain, boxes.get(role)) for role, chain in chains.items()]
    return _lines(["<annotation>", f"\t<filename>{item.filename}</filename>", f"\t{size}", *objects, "</annotation>"])


def _object(chain: int, box: DrawnBox | None) -> str:
    if box is None:
        return f"\t<object><name>{chain}</name><scene>1</scene><nobndbox>1</nobndbox></object>"
    corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    sides = "".join(f"<{side}>{value + 1}</{side}>" for side, value in corners)  # the format counts from 1
    return f"\t<object><name>{chain}</name><bndbox>{sides}</bndbox></object>"


def _write_sentences(folder: Path, item: SampleImage, chains: dict[str, int], translations: Iterable[str]) -> None:
    _write(folder / "Sentences" / f"{item.id}.txt", _lines(tagged_text(caption, chains) for caption in item.captions))
    for lang in translations:
        _write(folder / f"Sentences_{lang}" / f"{item.id}.txt", tagged_text(item.translation(lang), chains) + "\n")


def main(arguments: list[str], show: Callable[[str], object] = print) -> None:
    """Write the sample into the folder named on the command line."""
    if len(arguments) != 1:
        raise SystemExit("usage: python -m harness.tasks.sample.dataset FOLDER")
    folder = Path(arguments[0])
    write_sample(folder)
    show(f"{folder}: {', '.join(f'{count} {split}' for split, count in IMAGES_BY_SPLIT.items())}, version {SAMPLE_VERSION}")


if __name__ == "__main__":
    main(sys.argv[1:])
