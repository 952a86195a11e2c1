"""Aligners and initializers against the packages of their authors: F1 of links, and the largest difference of embeddings.

python -m benchmarks.aligners ENCODER DATA LANG PAIRS

Needs the packages systran-align, eflomal, simalign, entmax, wechsel and deepfocus. A package that is missing is named and left
out, and so is the authors' fast_align unless `fast_align` and `atools` are on the PATH. A minute for 1,000 pairs.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from harness.core.builtins import load_encoder
from harness.core.config import RunConfig
from harness.core.data import Bitext
from harness.core.languages import ENGLISH
from harness.core.protocols import TokenEncoder
from harness.distill.alignment.fast_align import DiagonalFit, fast_align_links
from harness.distill.alignment.links import Link, grow_diag_final_and
from harness.distill.alignment.simalign import LINK_RULES, state_similarities
from harness.distill.data.bitext import subset
from harness.distill.initializers.focus import focus_weights, sparsemax
from harness.distill.initializers.wechsel import neighbour_weights
from harness.evaluation.guarded_bitext import load_guarded_bitext
from harness.tasks.flickr30k import Flickr30k

Sentences = list[list[str]]
Links = Sequence[set[Link]]


def f1(one: Links, other: Links) -> str:
    """Return the F1 of the links of all pairs."""
    shared = sum(len(a & b) for a, b in zip(one, other, strict=True))
    return f"F1 {2 * shared / (sum(map(len, one)) + sum(map(len, other))):.4f}"


def numbered(texts: Sentences) -> list[tuple[int, ...]]:
    """Return the words of texts as numbers."""
    numbers = {word: number for number, word in enumerate(sorted({word for text in texts for word in text}))}
    return [tuple(numbers[word] for word in text) for text in texts]


def own_links(foreign: Sentences, english: Sentences, fitted: bool = True) -> Links:
    """Return the harness's links. fitted: whether lambda is fitted, or stays 4."""
    pairs = list(zip(numbered(foreign), numbered(english), strict=True))
    if fitted:
        return fast_align_links(pairs)
    with patch.object(DiagonalFit, "refit", lambda _, tension, __: tension):
        return fast_align_links(pairs)


def parallel_file(foreign: Sentences, english: Sentences, folder: str) -> Path:
    """Write the pairs as fast_align reads them, English first."""
    path = Path(folder, "pairs")
    lines = (f"{' '.join(e)} ||| {' '.join(f)}\n" for f, e in zip(foreign, english, strict=True))
    path.write_text("".join(lines), encoding="utf-8")
    return path


def read_links(lines: Sequence[str]) -> Links:
    """Read links of English and foreign places, as `0-1 2-2`."""
    return [{(int(j), int(i)) for i, j in (link.split("-") for link in line.split())} for line in lines]


def authors_links(foreign: Sentences, english: Sentences) -> Links:
    """Return the links of the authors' programs."""
    if not (shutil.which("fast_align") and shutil.which("atools")):
        raise ImportError("fast_align and atools are not on the PATH")
    with tempfile.TemporaryDirectory() as folder:
        path, ways = parallel_file(foreign, english, folder), []
        for way, options in (("forward", []), ("backward", ["-r"])):
            ways.append(Path(folder, way))
            ways[-1].write_text(run_program("fast_align", "-i", str(path), "-d", "-o", "-v", *options))
        return read_links(run_program("atools", "-i", str(ways[0]), "-j", str(ways[1]), "-c", "grow-diag-final-and").splitlines())


def run_program(*command: str) -> str:
    """Return the output of a program."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def systran_links(foreign: Sentences, english: Sentences) -> Links:
    """Return the links of systran-align. Its aligner has the tension 4 whatever was fitted, so nothing is fitted."""
    import systran_align

    with tempfile.TemporaryDirectory() as folder:
        tables = str(Path(folder, "forward")), str(Path(folder, "backward"))
        path = str(parallel_file(foreign, english, folder))
        systran_align.generate_alignment_probabilities(
            path, *tables, favor_diagonal=True, variational_bayes=True, beam_threshold=-1e9
        )
        found = systran_align.Aligner(*tables).align_batch(english, foreign)
    return [{(j, i) for i, j in pair["alignments"]} for pair in found]


def eflomal_links(foreign: Sentences, english: Sentences) -> Links:
    """Return the links of eflomal in both directions, symmetrised."""
    import eflomal

    with tempfile.TemporaryDirectory() as folder:
        ways = Path(folder, "forward"), Path(folder, "backward")
        texts = ([" ".join(text) + "\n" for text in side] for side in (english, foreign))
        eflomal.Aligner().align(*texts, links_filename_fwd=str(ways[0]), links_filename_rev=str(ways[1]))
        both = [read_links(way.read_text().splitlines()) for way in ways]
    turned = [[{(i, j) for j, i in links} for links in way] for way in both]
    return [{(j, i) for i, j in grow_diag_final_and(*pair)} for pair in zip(*turned, strict=True)]


def similarities(encoder: TokenEncoder, bitext: Bitext) -> list[Any]:
    """Return the similarities of the tokens of each pair, as the encoder reads them."""
    sides = []
    for texts in (bitext.foreign, bitext.english):
        encoded = encoder.encode_tokens(texts, ENGLISH)
        sides.append(np.split(encoded.tokens, np.cumsum(encoded.lengths)[:-1]))
    return [state_similarities(x[1:-1], y[1:-1]) for x, y in zip(*sides, strict=True) if len(x) > 2 < len(y)]


def simalign_rows(matrices: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Yield the F1 of each rule's links on the same similarities."""
    from simalign import SentenceAligner

    def mutual(matrix: Any) -> Any:
        forward, backward = SentenceAligner.get_alignment_matrix(matrix)
        return forward * backward

    theirs = {"argmax": mutual, "itermax": SentenceAligner.iter_max, "match": SentenceAligner.get_max_weight_match}
    for name, rule in theirs.items():
        found = [{(int(i), int(j)) for i, j in np.argwhere(rule(matrix))} for matrix in matrices]
        yield f"simalign, {name}", f1([LINK_RULES[name](matrix) for matrix in matrices], found)


def made_up_vectors(rows: int, seed: int) -> Any:
    """Return vectors (rows, 20) of length 1."""
    vectors = np.random.default_rng(seed).normal(size=(rows, 20))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class FakeTokenizer:
    """As much of a tokenizer as WECHSEL's function uses: its tokens are named by their number."""

    def __init__(self, size: int) -> None:
        self.vocab = {str(number): number for number in range(size)}
        self.special_tokens_map: dict[str, str] = {}

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.vocab)

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """Return the names of ids."""
        return [str(number) for number in ids] if np.ndim(ids) else str(ids)


def wechsel_difference() -> str:
    """Return the largest difference of embeddings, given the same vectors in one space."""
    from wechsel import create_target_embeddings

    english, foreign, known = made_up_vectors(80, 0), made_up_vectors(50, 1), made_up_vectors(80, 2)
    theirs, *_ = create_target_embeddings(english, foreign, FakeTokenizer(80), FakeTokenizer(50), known, verbose=False)
    return f"{np.abs(neighbour_weights(foreign, english) @ known - theirs).max():.1e}"


def focus_difference() -> str:
    """Return the largest difference of embeddings, given the same vectors and shared tokens."""
    from deepfocus.focus import focus_additional_token_initialization

    vectors, known, shared = made_up_vectors(50, 0), made_up_vectors(80, 1), {f: f + 7 for f in range(20)}
    source = torch.from_numpy(known).float()
    old = {f: SimpleNamespace(auxiliary_embedding=vectors[f], source_embedding=source[e]) for f, e in shared.items()}
    new = {f: SimpleNamespace(auxiliary_embedding=vectors[f], target=SimpleNamespace(id=f)) for f in range(20, 50)}
    theirs = focus_additional_token_initialization(old, new, torch.zeros(50, 20)).numpy()[20:]
    return f"{np.abs((focus_weights(vectors, shared, (50, 80)) @ known)[20:] - theirs).max():.1e}"


def sparsemax_difference() -> str:
    """Return the largest difference of sparsemax on 1,000 rows."""
    import entmax

    scores = np.random.default_rng(0).normal(size=(1000, 200))
    return f"{np.abs(sparsemax(scores) - entmax.sparsemax(torch.from_numpy(scores), dim=1).numpy()).max():.1e}"


def main() -> None:
    """Print a row for each comparison."""
    spec, data, lang, pairs = sys.argv[1:5]
    task = Flickr30k()
    (guarded,) = load_guarded_bitext(task, Path(data), [task.language(lang)], RunConfig(lang=lang))
    bitext = subset(guarded.bitext, int(pairs), 0)
    foreign, english = ([text.lower().split() for text in side] for side in (bitext.foreign, bitext.english))
    encoder = load_encoder(spec, "cpu")
    rows: list[tuple[str, Callable[[], str]]] = [
        ("fast_align, the authors'", lambda: f1(own_links(foreign, english), authors_links(foreign, english))),
        ("systran-align, lambda 4", lambda: f1(own_links(foreign, english, fitted=False), systran_links(foreign, english))),
        ("eflomal, another model", lambda: f1(own_links(foreign, english), eflomal_links(foreign, english))),
        ("entmax, sparsemax", sparsemax_difference),
        ("wechsel, weights", wechsel_difference),
        ("deepfocus, weights", focus_difference),
    ]
    print(f"\n{int(pairs):,} pairs, {lang}\n\n| package | ours against it |\n| --- | --- |")
    for name, work in rows:
        try:
            print(f"| {name} | {work()} |", flush=True)
        except ImportError as error:
            print(f"| {name} | left out: {error} |", flush=True)
    assert isinstance(encoder, TokenEncoder)
    for name, agreement in simalign_rows(similarities(encoder, bitext)):
        print(f"| {name} | {agreement} |", flush=True)


if __name__ == "__main__":
    main()
