"""The task flickr30k-clir: text-to-text retrieval of the English captions of a foreign caption's image. No picture is read.

A query is never ranked against the English caption that it was translated from, since that is the same sentence. The English
queries of those captions exclude themselves, so both sides have the same candidates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path

from harness.core.data import Listed, Retrieval, TaskCard, TextRetrieval, Unseen
from harness.core.errors import HarnessError
from harness.tasks.entities.tags import caption_key
from harness.tasks.flickr30k import EVALUATION_SPLITS, FLICKR30K_CARD, Flickr30k

FLICKR30K_CLIR_CARD = replace(
    FLICKR30K_CARD,
    name="flickr30k-clir",
    title="Cross-lingual text retrieval on Flickr30k: the English captions of a foreign caption's image, Karpathy's splits",
    splits=EVALUATION_SPLITS,
    licence="captions: see `list sources`",
    data=FLICKR30K_CARD.name,
)
_MEASURES = ("MRR", "nDCG@10")
MIN_SIMILARITY = 0.9
"""The minimum similarity of two captions of an image that count as one. Copies of a caption differ in spelling (gray, grey)."""


class Flickr30kClir(Flickr30k):
    """`harness.core.protocols.Task` with the languages, captions, bitext and sample of flickr30k. It needs no pictures."""

    @property
    def card(self) -> TaskCard:
        """Return the card of the task."""
        return FLICKR30K_CLIR_CARD

    def load(self, data: Path, lang: str, split: str, source: str | None = None) -> TextRetrieval:
        """Read the captions of a language as queries, and all English captions of all images of the split as documents.

        The relevant documents are the captions of the query's image, except the query itself or the caption that it was
        translated from. Queries whose image has no other caption are left out and counted in the notes. Raises HarnessError as
        `Flickr30k.load`, except for pictures, and for a split whose images have one English caption each.
        """
        if split not in FLICKR30K_CLIR_CARD.splits:
            raise HarnessError(f"unknown split {split!r}: {FLICKR30K_CLIR_CARD.name} has {', '.join(FLICKR30K_CLIR_CARD.splits)}")
        english = self.load_captions(data, "en", split)
        return text_retrieval(self.load_captions(data, lang, split, source), english)


def text_retrieval(queries: Retrieval, english: Retrieval) -> TextRetrieval:
    """Return the retrieval of English captions by captions of the same images.

    Raises HarnessError if no query has a relevant caption.
    """
    places = defaultdict(list)
    for place, image in enumerate(english.caption_images.tolist()):
        places[english.images.ids[image]].append(place)
    owners = [queries.images.ids[image] for image in queries.caption_images.tolist()]
    twins = queries.captions if queries.lang == "en" else queries.english or (None,) * len(owners)
    barred = [matching_captions(twin, places[image], english.captions) for twin, image in zip(twins, owners, strict=True)]
    relevant = [dict.fromkeys(sorted({*places[image]} - {*own}), 1) for own, image in zip(barred, owners, strict=True)]
    rows = [row for row, of in enumerate(relevant) if of]
    if not rows:
        raise HarnessError(
            f"no {queries.lang} caption of {queries.split} has a relevant English caption other than the one it translates"
        )
    lost = len(relevant) - len(rows)
    unknown = sum(twin is not None and not own for twin, own in zip(twins, barred, strict=True))
    notes = {
        "have no English caption to find but the one they translate: left out": lost,
        "translate a caption that is not among the English ones": unknown,
    }
    counted = (f"{count:,} of {len(owners):,} queries ({queries.source}) {what}" for what, count in notes.items() if count)
    documents = Listed(english.caption_ids, english.captions)
    images = Unseen(queries.images.ids, documents.digest())
    whole = TextRetrieval(
        **{**vars(queries), "task": FLICKR30K_CLIR_CARD.name, "images": images, "notes": (*queries.notes, *counted)},
        documents=documents,
        relevant=tuple(relevant),
        barred=tuple(tuple(own) for own in barred),
        measures=_MEASURES,
    )
    return whole if len(rows) == len(owners) else whole.take(rows)


def matching_captions(text: str | None, places: Iterable[int], captions: tuple[str, ...]) -> list[int]:
    """Return the positions of the captions that equal a text except for case, punctuation and spelling.

    If several are similar, only the most similar ones are returned.
    """
    if text is None:
        return []
    wanted = caption_key(text)
    shares = {place: similarity(wanted, caption_key(captions[place])) for place in places}
    best = max(shares.values(), default=0.0)
    return [place for place, share in shares.items() if share == best] if best >= MIN_SIMILARITY else []


def similarity(one: str, other: str) -> float:
    """Return the share of letters that two texts have in common, in order (the ratio of `difflib.SequenceMatcher`).

    >>> similarity("agreybird", "agraybird") > 0.85, similarity("adog", "adog")
    (True, 1.0)
    """
    return 1.0 if one == other else SequenceMatcher(None, one, other, autojunk=False).ratio()
