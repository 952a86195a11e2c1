"""The task flickr30k-clir: a foreign caption finds the English captions of its image, and no picture is looked at.

No query is ranked against the English caption that it was translated from: that would be asking for the sentence itself. So the
English tower on the captions that were translated, which must not find themselves, has the very same candidates.
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
"""Share of letters in common from which two captions of an image are one: copies of a caption differ in spelling (gray, grey)."""


class Flickr30kClir(Flickr30k):
    """`harness.core.protocols.Task`. Languages, captions, bitext and sample are flickr30k's; the pictures need not be there."""

    @property
    def card(self) -> TaskCard:
        """What the task is."""
        return FLICKR30K_CLIR_CARD

    def load(self, data: Path, lang: str, split: str, source: str | None = None) -> TextRetrieval:
        """Read a language's captions, and as documents all English captions of all images of the split.

        Relevant are the captions of the query's image, but the one that it was translated from, or is. Left out, and counted in
        the notes: queries whose image has no other. Raises HarnessError as `Flickr30k.load`, but for pictures, and for a split
        whose images have one English caption each.
        """
        if split not in FLICKR30K_CLIR_CARD.splits:
            raise HarnessError(f"unknown split {split!r}: {FLICKR30K_CLIR_CARD.name} has {', '.join(FLICKR30K_CLIR_CARD.splits)}")
        english = self.load_captions(data, "en", split)
        return text_retrieval(self.load_captions(data, lang, split, source), english)


def text_retrieval(queries: Retrieval, english: Retrieval) -> TextRetrieval:
    """Captions that look for the English captions of their images. Raises HarnessError if no image has one to find."""
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
            f"no {queries.lang} caption of {queries.split} has an English caption to find but the one it translates"
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
    """Of the captions at some places those that are a text but for case, punctuation and spelling: the most alike."""
    if text is None:
        return []
    wanted = caption_key(text)
    shares = {place: similarity(wanted, caption_key(captions[place])) for place in places}
    best = max(shares.values(), default=0.0)
    return [place for place, share in shares.items() if share == best] if best >= MIN_SIMILARITY else []


def similarity(one: str, other: str) -> float:
    """The share of letters that two texts have in common, in order.

    >>> similarity("agreybird", "agraybird") > 0.85, similarity("adog", "adog")
    (True, 1.0)
    """
    return 1.0 if one == other else SequenceMatcher(None, one, other, autojunk=False).ratio()
