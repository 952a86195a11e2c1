"""A plug-in package: installed beside the harness, its encoder, task, objective and chunker are there by name."""

from dataclasses import replace

import numpy as np

from harness import fingerprint
from harness.tasks.flickr30k import Flickr30k

DARK = {"dark", "night", "black", "shadow"}
BRIGHT = {"bright", "sun", "snow", "white", "beach"}


class Brightness:
    """`brightness`: how bright a picture is, against words of light and darkness."""

    name = "brightness"

    def __init__(self, argument, device):
        pass

    def fingerprint(self):
        return fingerprint(Brightness)

    def encode_images(self, images):
        light = [np.asarray(image.convert("L"), dtype=np.float32).mean() / 255 for image in images]
        return np.array([(value, 1 - value) for value in light], dtype=np.float32)

    def encode_texts(self, texts, lang):
        words = [set(text.lower().split()) for text in texts]
        return np.array([(1 + len(w & BRIGHT), 1 + len(w & DARK)) for w in words], dtype=np.float32)


class FirstCaption(Flickr30k):
    """Flickr30k with one caption an image, the first, in every language."""

    @property
    def card(self):
        return replace(super().card, name="flickr30k-first", title="Flickr30k, the first caption of each image")

    def load(self, data, lang, split, source=None):
        every = super().load(data, lang, split, source)
        rows = np.unique(every.caption_images, return_index=True)[1]
        return replace(every.take(rows.tolist()), task="flickr30k-first")
