"""open_clip's tokenizers in the form that a student keeps: the same ids for the same text."""

from __future__ import annotations

import ftfy
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from harness.core.builtins import load_encoder
from harness.encoders.open_clip.tokenization import as_fast_tokenizer

TOKENIZERS = {clean: SimpleTokenizer(clean=clean) for clean in ("lower", "whitespace", "canonicalize")}
# Letters of several scripts, marks of their languages, digits and punctuation.
TEXTS = st.text(st.sampled_from("abcxyzABC ñáẽʼ’‘“”'\"ßÅéи中犬كلب0123 .,;:!?_-()\t"), max_size=40)


@pytest.mark.parametrize("clean", list(TOKENIZERS))
@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
@example(text="Mbaʼéichapa, che ra’y! It's  a DOG’s ball… 12 3/4")
@example(text="qhawan ¿imata? “ñuqa”")
def test_clip_s_tokenizer_gives_the_same_ids(clean: str, text: str) -> None:
    # Broken encodings, which open_clip repairs, are the exception that the conversion states.
    assume(ftfy.fix_encoding(text) == text)
    own = TOKENIZERS[clean]
    fast = as_fast_tokenizer(own)
    assert fast is not None
    assert fast.encode(text).ids == [own.sot_token_id, *own.encode(text), own.eot_token_id]


def test_the_sample_s_tokenizer_is_its_own_file() -> None:
    encoder = load_encoder("sample", "cpu")
    donated = encoder.donate_layers()  # type: ignore[attr-defined]
    texts = ["A dog runs .", "", "Ñuqa犬"]
    assert [donated.tokenizer.encode(text).ids for text in texts] == donated.tokenize(texts)
