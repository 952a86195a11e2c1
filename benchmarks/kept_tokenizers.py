"""The teacher's tokenizer on other languages: ids against the teacher's own, words that fall back to characters, and new pieces.

python -m benchmarks.kept_tokenizers local-dir:../shared/flickr8k-real/teacher ../shared/flickr8k-real ar,ay,gn,qu,es
"""

from __future__ import annotations

import sys
from pathlib import Path

from harness.core.builtins import load_encoder
from harness.core.config import RunConfig
from harness.distill.data.bitext import subset
from harness.distill.data.pieces import fallback_words, with_new_pieces
from harness.distill.data.subwords import tokenize
from harness.distill.initializers.interface import layers_of
from harness.evaluation.guarded_bitext import load_guarded_bitext
from harness.tasks.flickr30k import Flickr30k

PAIRS, LIMIT = 1000, 8000


def main(encoder: str, data: str, langs: str) -> None:
    """Print a row for each language: the first pairs of the bitext that a tower of seed 0 is distilled from."""
    task, donated = Flickr30k(), layers_of(load_encoder(encoder, "cpu"))
    assert donated.tokenizer, "the teacher's tokenizer has no form of the tokenizers library"
    print(f"{'':6}{'texts with other ids':>22}{'words that fall back':>22}{'new pieces':>12}{'tokens':>10}{'with pieces':>13}")
    for lang in langs.split(","):
        (guarded,) = load_guarded_bitext(task, Path(data), [task.language(lang)], RunConfig(lang=lang))
        texts = subset(guarded.bitext, PAIRS, 0).foreign
        longest, first = donated.config.max_length, len(donated.weights["token_embedding.weight"])
        kept, own = tokenize(donated.tokenizer, texts, longest), donated.tokenize(texts)
        extended = with_new_pieces(donated.tokenizer, texts, LIMIT, first)
        lengths = [sum(map(len, tokenize(each, texts, sys.maxsize))) for each in (donated.tokenizer, extended.tokenizer)]
        different = sum(one != other for one, other in zip(kept, own, strict=True))
        words = len(fallback_words(donated.tokenizer, texts))
        print(f"{lang:6}{different:>22,}{words:>22,}{len(extended.parts):>12,}{lengths[0]:>10,}{lengths[1]:>13,}")


if __name__ == "__main__":
    main(*sys.argv[1:])
