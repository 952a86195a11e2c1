"""Time and memory of reading a corpus as large as Flickr30k Entities: 31,783 images, 158,915 captions, about 276,000 boxes.

python -m benchmarks.entities

The files are made up, in its formats. Each reading is a process of its own that does nothing else, on one core.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from harness.tasks.entities.corpus import ANNOTATIONS, SENTENCES, open_entities_corpus

IMAGES, CAPTIONS = 31_783, 5
WORDS = ["man", "woman", "dog", "shirt", "street", "two", "young", "red", "large", "white", "running", "near", "with", "ball"]
TYPES = ("people", "clothing", "bodyparts", "animals", "vehicles", "instruments", "scene", "other", "people/other")
BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"


def sentence(draw: random.Random, chains: range) -> str:
    """Return a caption of twelve words on average, some of them tagged."""
    parts = []
    for _ in range(draw.randint(2, 4)):
        chain = draw.choice(chains) if draw.random() < 0.9 else 0
        kind = draw.choice(TYPES) if chain else "notvisual"
        parts += [f"[/EN#{chain}/{kind} {' '.join(draw.choices(WORDS, k=draw.randint(1, 3)))}]", *draw.choices(WORDS, k=2)]
    return " ".join([*parts, "."])


def annotation(draw: random.Random, name: str, chains: range) -> Iterator[str]:
    """Return the lines of an image's boxes: chains with several boxes or none, boxes with several chains, and scenes."""
    yield "<annotation>"
    yield f"\t<filename>{name}.jpg</filename>"
    yield "\t<size><width>500</width><height>375</height><depth>3</depth></size>"
    for chain in chains:
        if draw.random() < 0.15:
            yield f"\t<object>\n\t\t<name>{chain}</name>\n\t\t<scene>1</scene>\n\t\t<nobndbox>1</nobndbox>\n\t</object>"
        for _ in range(draw.choices((1, 2, 0), (70, 30, 4))[0]):
            left, top = draw.randint(1, 300), draw.randint(1, 200)
            names = f"<name>{chain}</name>" + (f"\n\t\t<name>{chains[0]}</name>" if draw.random() < 0.05 else "")
            box = BOX.format(left, top, left + draw.randint(1, 200), top + draw.randint(1, 175))
            yield f"\t<object>\n\t\t{names}\n\t\t{box}\n\t</object>"
    yield "</annotation>"


def make(folder: Path) -> None:
    """Write the whole corpus."""
    draw, first = random.Random(0), 1
    for part in (SENTENCES, ANNOTATIONS):
        (folder / part).mkdir()
    for number in range(IMAGES):
        name, chains = str(1_000_092_795 + number), range(first, first + draw.randint(5, 9))
        first = chains.stop
        lines = [sentence(draw, chains) for _ in range(CAPTIONS)]
        (folder / SENTENCES / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / ANNOTATIONS / f"{name}.xml").write_text("\n".join(annotation(draw, name, chains)) + "\n", encoding="utf-8")


def measure(folder: Path, cache: Path) -> None:
    """Open the corpus, read one image in a thousand, and print time and memory."""
    begun, busy = time.perf_counter(), time.process_time()
    corpus = open_entities_corpus(folder, cache)
    phrases = sum(len(sentence.phrases) for name in corpus.images[::1000] for sentence in corpus.sentences(name))
    took, worked = time.perf_counter() - begun, time.process_time() - busy
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{took:5.1f} s, {worked:.1f} s of processor time, {megabytes:.0f} MiB at the most ({phrases} phrases looked at)")
    print(", ".join(f"{count:,} {what}" for what, count in list(corpus.counts().items())[:5]), flush=True)


def main() -> None:
    """Write the files, then read them twice."""
    if len(sys.argv) == 3:
        measure(Path(sys.argv[1]), Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder, cache = Path(temporary, "flickr30k"), Path(temporary, "cache")
        folder.mkdir()
        make(folder)
        for what in ("from its files", "from its index"):
            print(what, end=": ", flush=True)
            subprocess.run([sys.executable, "-m", "benchmarks.entities", str(folder), str(cache)], check=True)


if __name__ == "__main__":
    main()
