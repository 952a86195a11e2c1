"""Plug-ins that fail in known ways."""

from __future__ import annotations

FRAGILE = """
    import os
    import numpy as np
    from harness import fingerprint

    class Fragile:
        name = "fragile"
        def __init__(self, argument, device):
            self.word = os.environ.get("FRAGILE", "nothing")
        def fingerprint(self):
            return fingerprint(Fragile)
        def encode_images(self, images):
            return np.stack([np.asarray(image, dtype=np.float32).mean((0, 1)) for image in images])
        def encode_texts(self, texts, lang):
            if any(self.word in text for text in texts):
                raise ZeroDivisionError("no such text for me")
            return np.array([[len(text), len(set(text)), 1] for text in texts], dtype=np.float32)
"""
