"""Readers of text files that users name or data folders hold: sentence pairs, monolingual text, captions and translations."""
