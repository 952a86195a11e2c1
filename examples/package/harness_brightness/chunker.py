import re


def capitals(argument):
    """`capitals`: words with a capital letter, which in German are the nouns."""

    def chunk(texts, language):
        return [[word.span() for word in re.finditer(r"\w+", text) if word[0][0].isupper()] for text in texts]

    return chunk
