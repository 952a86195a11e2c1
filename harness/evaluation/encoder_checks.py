"""Check an encoder as a run uses it, and report problems with their remedies."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.core.builtins import load_encoder
from harness.core.data import Floats, Retrieval, TokenStates
from harness.core.error_messages import one_line_message
from harness.core.errors import HarnessError
from harness.core.plugins import PluginFingerprint, own_fingerprint
from harness.core.protocols import Encoder, KnownFeatures, LayerDonor, PatchEncoder, TokenEncoder, TokenLocator

if TYPE_CHECKING:
    from PIL import Image

_ITEMS = 32
_SLOW_FINGERPRINT = 10.0  # seconds
_SHORT_FINGERPRINT = 16  # characters, which are 64 bits in hexadecimal digits
# Relative distance of rows that should be equal. Batches differ by about 1e-6 in float32, and by 1e-3 in half precision.
_SAME, _OTHER = 1e-5, 1e-3
_ODD_TEXTS = ("", " ", "?", "dog " * 300, "犬が走る 🐕", "a dog\nruns")
_ODD_SIZES = ((1, 1), (640, 40), (40, 640))
_CLEAR = 3.0  # standard errors

CheckVerdict = Literal["ok", "note", "failed"]


@dataclass(frozen=True)
class EncoderCheck:
    """The result of one check. verdict: a failed check would stop a run or make its numbers wrong. A note only informs."""

    what: str
    verdict: CheckVerdict
    detail: str


class CheckFailedError(Exception):
    """A check that fails. The message says why."""


class CheckNoteError(Exception):
    """A check that passes with a note."""


def run_check(what: str, check: Callable[[], str]) -> EncoderCheck:
    """Run one check and return its result. Every exception of the encoder becomes a failed check."""
    try:
        return EncoderCheck(what, "ok", check())
    except CheckNoteError as end:
        return EncoderCheck(what, "note", str(end))
    except CheckFailedError as end:
        return EncoderCheck(what, "failed", str(end))
    except HarnessError as error:
        return EncoderCheck(what, "failed", str(error))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # anything that the encoder raises, including sys.exit() and panics of Rust
        return EncoderCheck(what, "failed", f"it raised {one_line_message(error)}")


@dataclass(frozen=True)
class TowerUnderTest:
    """A tower: the name of its inputs, n inputs, odd inputs that a data set may contain, and the function that encodes a list."""

    name: str
    inputs: Sequence[Any]
    odd: Sequence[Any]
    encode: Callable[[Sequence[Any]], Floats]


def check_encoder(spec: str, retrieval: Retrieval, device: str) -> Iterator[EncoderCheck]:
    """Yield the results of checking an encoder on pairs of a retrieval. Raises HarnessError if there is no such encoder."""
    encoder = load_encoder(spec, device)
    yield run_check("fingerprint", lambda: check_fingerprint(encoder, load_encoder(spec, device)))
    if isinstance(encoder, KnownFeatures):
        yield from check_known_features(encoder, retrieval)
        return
    images, texts = sample_pairs(retrieval)
    both: list[Floats] = []
    for side in towers_under_test(encoder, images, texts, retrieval.lang):
        started = len(both)
        yield run_check(side.name, partial(encode_and_check, side, both))
        if len(both) > started:
            rows = both[-1]
            yield run_check(f"{side.name}, again", partial(check_repetition, side, rows))
            yield run_check(f"{side.name}, batches", partial(check_batches, side, rows))
            yield run_check(f"{side.name}, odd ones", partial(check_odd_inputs, side))
            if side.name == "texts":
                yield run_check("texts, capitals", partial(check_capitals, side))
    if len(both) == 2:
        yield run_check("one space", partial(check_joint_space, both[0], both[1], np.arange(len(texts)), retrieval.lang))
        yield run_check("as a teacher", lambda: check_teaching(encoder, texts, retrieval.lang, both[1]))
        yield run_check("patches", lambda: check_patches(encoder, images, both[0]))
        yield EncoderCheck("memory", "ok", f"{peak_memory()} at most, everything included")


def check_known_features(encoder: KnownFeatures, retrieval: Retrieval) -> Iterator[EncoderCheck]:
    """Yield the results of checking embeddings without a model: whether they are complete, and whether they share one space."""
    both: list[Floats] = []
    by_id: tuple[TowerUnderTest, ...] = (
        TowerUnderTest("images", retrieval.images.ids, (), encoder.image_features),
        TowerUnderTest("texts", retrieval.caption_ids, (), lambda ids: encoder.caption_features(ids, retrieval.lang)),
    )
    for side in by_id:
        yield run_check(side.name, partial(encode_and_check, side, both))
    if len(both) == 2:
        yield run_check("one space", partial(check_joint_space, both[0], both[1], retrieval.caption_images, retrieval.lang))


def sample_pairs(retrieval: Retrieval) -> tuple[list[Image.Image], list[str]]:
    """Return up to 32 images, evenly spaced over the gallery, and the first caption of each."""
    count = len(retrieval.images.ids)
    chosen = np.unique(np.linspace(0, count - 1, min(count, _ITEMS)).astype(int)).tolist()
    first = {owner: row for row, owner in reversed(list(enumerate(retrieval.caption_images.tolist())))}
    return [retrieval.images.open(row) for row in chosen], [retrieval.captions[first[row]] for row in chosen]


def towers_under_test(
    encoder: Encoder, images: list[Image.Image], texts: list[str], lang: str
) -> tuple[TowerUnderTest, TowerUnderTest]:
    """Return both towers with their inputs."""
    odd = [images[0].resize(size) for size in _ODD_SIZES]
    return (
        TowerUnderTest("images", images, odd, encoder.encode_images),
        TowerUnderTest("texts", texts, _ODD_TEXTS, lambda batch: encoder.encode_texts(batch, lang)),
    )


def check_fingerprint(encoder: Encoder, twin: Encoder) -> str:
    """Check that the fingerprint is text, the same for every call and object, and fast."""
    began = time.perf_counter()
    first = own_fingerprint(encoder)
    seconds = time.perf_counter() - began
    if not isinstance(first, str) or not first:
        raise CheckFailedError(f"it is {first!r}; expected a text that names weights, preprocessing, tokenizer and precision")
    if not (first == own_fingerprint(encoder) == own_fingerprint(twin)):
        raise CheckFailedError("it changes between calls or objects, so the store would never find its embeddings again")
    if seconds > _SLOW_FINGERPRINT:
        raise CheckNoteError(f"took {seconds:.1f} s, and every run computes it: hash the files instead of loading the model")
    if isinstance(encoder.fingerprint, PluginFingerprint) and (
        lack := fingerprint_problem(encoder.fingerprint, first, encoder.name)
    ):
        raise CheckNoteError(f"{first[:40]!r} {lack}, so outdated embeddings may be reused: use harness.fingerprint")
    return f"{first[:12]}, equal in a second call and a second object; {seconds:.2f} s"


def fingerprint_problem(method: PluginFingerprint, given: str, name: str) -> str:
    """Return why a plug-in's fingerprint cannot depend on its weights and settings, an empty text if it may."""
    code = getattr(method.own, "__code__", None)
    if code is not None and not (code.co_names or code.co_freevars):
        return "is a constant"
    if given == name:
        return "is the encoder's name"
    if len(given) < _SHORT_FINGERPRINT:
        return f"has {len(given)} characters, too few for a digest"
    return ""


def encode_and_check(side: TowerUnderTest, encoded: list[Floats]) -> str:
    """Encode all inputs in one batch, check the rows, and append them to `encoded`."""
    rows = validated_rows(side.encode(side.inputs), len(side.inputs), side.name)
    if len(rows) > 1 and (rows == rows[0]).all():
        raise CheckFailedError(f"all {len(rows)} {side.name} have the same embedding: the inputs do not reach the model")
    if zero := int((~rows.any(axis=1)).sum()):
        raise CheckFailedError(f"{zero} of {len(rows)} embeddings are zero: they have no direction and rank last")
    encoded.append(rows.astype(np.float32))
    if rows.dtype != np.float32:
        raise CheckNoteError(
            f"{rows.shape}, but {rows.dtype}: stored as float32; compute in float32 unless half precision is intended"
        )
    return f"{rows.shape}, float32, finite, none zero"


def validated_rows(rows: Any, count: int, name: str) -> Any:
    """Return an array of `count` finite rows. Raises CheckFailedError for anything else."""
    if not isinstance(rows, np.ndarray):
        way = ": return x.float().cpu().numpy()" if hasattr(rows, "numpy") else ""
        raise CheckFailedError(f"it returned {type(rows).__module__}.{type(rows).__qualname__}; expected a numpy array{way}")
    if rows.ndim != 2 or len(rows) != count:
        raise CheckFailedError(
            f"it returned shape {rows.shape} for {count} {name}; expected ({count}, d), one row for each in order"
        )
    if not np.issubdtype(rows.dtype, np.floating):
        raise CheckFailedError(f"it returned {rows.dtype}; expected float32")
    if broken := int((~np.isfinite(rows).all(axis=1)).sum()):
        raise CheckFailedError(f"{broken} of {count} rows have NaN or infinity: check the precision, and divisions by zero norms")
    return rows


def largest_distance(rows: Floats, others: Floats) -> float:
    """Return the largest relative distance between rows that should be equal."""
    scale = np.maximum(np.linalg.norm(others, axis=1), np.finfo(np.float32).tiny)
    return float((np.linalg.norm(rows - others, axis=1) / scale).max())


def judge_distance(distance: float, same: str, cause: str) -> str:
    """Describe a distance between rows that should be equal. Raises CheckFailedError or CheckNoteError if it is large."""
    if distance > _OTHER:
        raise CheckFailedError(f"rows differ by {distance:.1e} of their length: {cause}")
    if distance > _SAME:
        raise CheckNoteError(
            f"rows differ by {distance:.1e} of their length, which can swap close neighbours: compute in float32"
        )
    return f"{same}, {f'to {distance:.0e} of their length' if distance else 'to the bit'}"


def check_repetition(side: TowerUnderTest, rows: Floats) -> str:
    """Encode the same inputs again, and measure the speed of the loaded model."""
    began = time.perf_counter()
    again = validated_rows(side.encode(side.inputs), len(rows), side.name)
    rate = len(rows) / (time.perf_counter() - began)
    cause = "dropout or another source of randomness is on (call model.eval()), or the encoder has a state between calls"
    return f"{judge_distance(largest_distance(again, rows), 'the same rows', cause)}; {rate:,.0f} {side.name} a second"


def check_batches(side: TowerUnderTest, rows: Floats) -> str:
    """Encode the inputs in reverse order, one by one, and twice in one batch. Each must keep its row."""
    count = len(rows)
    backwards = largest_distance(validated_rows(side.encode(side.inputs[::-1]), count, side.name)[::-1], rows)
    if backwards > _OTHER:
        raise CheckFailedError(
            f"in reverse order rows differ by {backwards:.1e} of their length: rows must be in the order of the inputs, "
            "and an input must not depend on its batch (batch normalisation, padding without a mask)"
        )
    alone = max(
        largest_distance(validated_rows(side.encode([side.inputs[row]]), 1, side.name), rows[row : row + 1])
        for row in range(min(count, 4))
    )
    double = largest_distance(validated_rows(side.encode([side.inputs[0]] * 2), 2, side.name), rows[[0, 0]])
    cause = "a single input has another embedding than in a batch (batch normalisation, padding without a mask)"
    return judge_distance(max(backwards, alone, double), "the same rows in any order and batch", cause)


def check_odd_inputs(side: TowerUnderTest) -> str:
    """Encode odd inputs that occur in data sets."""
    validated_rows(side.encode(side.odd), len(side.odd), f"odd {side.name}")
    return "empty, long and foreign texts pass" if side.name == "texts" else "a single pixel and narrow images pass"


def check_capitals(side: TowerUnderTest) -> str:
    """Check that capitals do not matter, since models such as CLIP are trained on lower case alone."""
    small = [text.lower() for text in side.inputs]
    large = [to_capitals(text) for text in small]
    if large == small:
        return "the texts have no letters in two cases"
    rows = [validated_rows(side.encode(texts), len(texts), side.name) for texts in (large, small)]
    distance = largest_distance(*rows)
    if distance > _SAME:
        raise CheckNoteError(
            f"rows differ by {distance:.1e} of their length between capitals and lower case: right for a model that was "
            "trained on both, wrong for CLIP and SigLIP, which were trained in lower case"
        )
    return "capitals and lower case give the same rows"


def to_capitals(text: str) -> str:
    """Return a text in capitals, except for letters that share their capital with another letter.

    >>> to_capitals("a straße")
    'A STRAßE'
    """
    return "".join(char.upper() if char.upper().lower() == char else char for char in text)


def check_joint_space(images: Floats, texts: Floats, owner: Any, lang: str) -> str:
    """Check that both towers have one width, and that captions are closer to their own image than to others."""
    if images.shape[1] != texts.shape[1]:
        raise CheckFailedError(f"images have {images.shape[1]} dimensions and texts {texts.shape[1]}: not one space")
    if len(images) < 3:
        raise CheckNoteError(f"both have {images.shape[1]} dimensions; {len(images)} images are too few for more")
    unit = [rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30) for rows in (images, texts)]
    cosines = unit[1] @ unit[0].T
    matched = cosines[np.arange(len(texts)), owner]
    lead = matched - (cosines.sum(1) - matched) / (len(images) - 1)
    of_images = np.array([lead[owner == image].mean() for image in np.unique(owner)])
    error = of_images.std(ddof=1) / np.sqrt(len(of_images))
    figures = (
        f"cosine of pairs {matched.mean():.3f}, of others {(matched - lead).mean():.3f}, over {len(texts)} captions in {lang}"
    )
    if of_images.mean() < _CLEAR * error:
        raise CheckNoteError(
            f"pairs do not score clearly higher than others ({figures}): expected of a model without {lang} or such images; "
            "otherwise the towers are of two models, or rows are out of order"
        )
    return f"both have {images.shape[1]} dimensions; {figures}"


def check_teaching(encoder: Encoder, texts: Sequence[str], lang: str, pooled: Floats) -> str:
    """Check the token states, which distillation needs, and the layers that a student can be initialized from."""
    if not isinstance(encoder, TokenEncoder):
        raise CheckNoteError("has no token states (encode_tokens): it can be measured, but nothing can be distilled from it")
    states = encoder.encode_tokens(texts, lang)
    check_states(states, pooled, "encode_tokens", "encode_texts")
    lengths = np.asarray(states.lengths)
    found = f"token states, {lengths.mean():.1f} a text, {describe_token_positions(encoder, texts, lang, lengths.tolist())}"
    if not isinstance(encoder, LayerDonor):
        raise CheckNoteError(f"{found}; no layers (donate_layers): initialize students with --init scratch")
    try:
        encoder.donate_layers()
    except HarnessError as error:
        raise CheckNoteError(f"{found}; no layers ({error}): initialize students with --init scratch") from None
    return f"{found}; layers for students"


def describe_token_positions(encoder: TokenEncoder, texts: Sequence[str], lang: str, lengths: list[int]) -> str:
    """Return a line about the positions of tokens, which only `ot-entity` needs."""
    if not isinstance(encoder, TokenLocator):
        return "no positions (locate_tokens), which ot-entity needs"
    try:
        spans = encoder.locate_tokens(texts, lang)
    except HarnessError as error:
        return f"no positions ({error}), which ot-entity needs"
    if [len(tokens) for tokens in spans] != lengths:
        raise CheckFailedError("locate_tokens and encode_tokens return different numbers of tokens")
    for text, tokens in zip(texts, spans, strict=True):
        if any(not 0 <= start <= end <= len(text) for start, end in tokens):
            raise CheckFailedError(
                f"locate_tokens returned a span outside the text {text!r}: characters count from 0 to {len(text)}"
            )
    return "with their positions"


def check_patches(encoder: Encoder, images: Sequence[Image.Image], pooled: Floats) -> str:
    """Check the patch states, which late interaction compares."""
    if not isinstance(encoder, PatchEncoder):
        raise CheckNoteError("has no patch states (encode_patches), which --scorer maxsim needs")
    try:
        states = encoder.encode_patches(images)
    except HarnessError as error:
        raise CheckNoteError(str(error)) from None
    check_states(states, pooled, "encode_patches", "encode_images")
    return f"patch states, {np.mean(states.lengths):.1f} a picture"


def check_states(states: TokenStates, pooled: Floats, method: str, plain: str) -> None:
    """Raise CheckFailedError unless states fit the embeddings (n, d) that the method `plain` returned for the inputs."""
    lengths = np.asarray(states.lengths)
    if lengths.shape != (len(pooled),) or lengths.min() < 1:
        raise CheckFailedError(f"{method} returned lengths {lengths.tolist()[:5]}...; expected 1 or more for each input")
    tokens = validated_rows(states.tokens, int(lengths.sum()), "states")
    if tokens.shape[1] != pooled.shape[1]:
        raise CheckFailedError(
            f"states have {tokens.shape[1]} dimensions and embeddings {pooled.shape[1]}: project both into one space"
        )
    distance = largest_distance(validated_rows(states.pooled, len(pooled), "inputs"), pooled)
    if distance > _OTHER:
        raise CheckFailedError(f"`pooled` of {method} differs from {plain} by {distance:.1e} of its length")


def peak_memory() -> str:
    """Return the peak memory of this process, and its peak on a GPU."""
    try:
        import resource
    except ImportError:  # Windows
        return "not measured on this system"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    torch = sys.modules.get("torch")
    on_gpu = torch.cuda.max_memory_allocated() if torch is not None and torch.cuda.is_initialized() else 0
    return f"{peak / 1e6:,.0f} MB" + (f" and {on_gpu / 1e6:,.0f} MB of the GPU" if on_gpu else "")
