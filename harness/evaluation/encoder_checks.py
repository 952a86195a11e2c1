"""Trying an encoder as a run will use it, and saying in plain words what is wrong and what to do about it."""

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
from harness.core.error_messages import gist
from harness.core.errors import HarnessError
from harness.core.plugins import Fingerprint, own_fingerprint
from harness.core.protocols import Encoder, KnownFeatures, PatchEncoder, TokenEncoder, TokenLocator

if TYPE_CHECKING:
    from PIL import Image

_ITEMS = 32
_SLOW_FINGERPRINT = 10.0  # seconds
_SHORT_FINGERPRINT = 16  # characters: as hexadecimal digits they are 64 bits
# Relative distance of rows that should be equal: float32 towers differ by some 1e-6 from batch to batch, half precision by 1e-3.
_SAME, _OTHER = 1e-5, 1e-3
_ODD_TEXTS = ("", " ", "?", "dog " * 300, "犬が走る 🐕", "a dog\nruns")
_ODD_SIZES = ((1, 1), (640, 40), (40, 640))
_CLEAR = 3.0  # standard errors

CheckVerdict = Literal["ok", "note", "failed"]


@dataclass(frozen=True)
class EncoderCheck:
    """One thing that was tried. verdict: a `note` is worth knowing; what `failed` would stop a run or make its numbers wrong."""

    what: str
    verdict: CheckVerdict
    detail: str


class CheckFailedError(Exception):
    """A trial's bad end, in plain words."""


class CheckNoteError(Exception):
    """A trial's end that is worth knowing."""


def run_check(what: str, trial: Callable[[], str]) -> EncoderCheck:
    """Run one trial. What it raises, it says."""
    try:
        return EncoderCheck(what, "ok", trial())
    except CheckNoteError as end:
        return EncoderCheck(what, "note", str(end))
    except CheckFailedError as end:
        return EncoderCheck(what, "failed", str(end))
    except HarnessError as error:
        return EncoderCheck(what, "failed", str(error))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the encoder raises, sys.exit() and panics of Rust among it
        return EncoderCheck(what, "failed", f"it raised {gist(error)}")


@dataclass(frozen=True)
class TowerUnderTest:
    """A tower: its name in the plural, n inputs, odd inputs that a data set may hold, and how it encodes a list of them."""

    name: str
    inputs: Sequence[Any]
    odd: Sequence[Any]
    encode: Callable[[Sequence[Any]], Floats]


def check_encoder(spec: str, retrieval: Retrieval, device: str) -> Iterator[EncoderCheck]:
    """Try an encoder on pairs of a retrieval, one trial at a time. Raises HarnessError if there is no such encoder."""
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
    """What can be tried of embeddings without a model: that every image and caption has one, and that they fit together."""
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
    """Up to 32 images, evenly spread over the gallery, and the first caption of each."""
    count = len(retrieval.images.ids)
    chosen = np.unique(np.linspace(0, count - 1, min(count, _ITEMS)).astype(int)).tolist()
    first = {owner: row for row, owner in reversed(list(enumerate(retrieval.caption_images.tolist())))}
    return [retrieval.images.open(row) for row in chosen], [retrieval.captions[first[row]] for row in chosen]


def towers_under_test(
    encoder: Encoder, images: list[Image.Image], texts: list[str], lang: str
) -> tuple[TowerUnderTest, TowerUnderTest]:
    """Both towers, with their inputs."""
    odd = [images[0].resize(size) for size in _ODD_SIZES]
    return (
        TowerUnderTest("images", images, odd, encoder.encode_images),
        TowerUnderTest("texts", texts, _ODD_TEXTS, lambda batch: encoder.encode_texts(batch, lang)),
    )


def check_fingerprint(encoder: Encoder, twin: Encoder) -> str:
    """The name of a set of embeddings: text, always the same for the same encoder, and soon told."""
    began = time.perf_counter()
    first = own_fingerprint(encoder)
    seconds = time.perf_counter() - began
    if not isinstance(first, str) or not first:
        raise CheckFailedError(f"it is {first!r}; expected a text that names weights, preprocessing, tokenizer and precision")
    if not (first == own_fingerprint(encoder) == own_fingerprint(twin)):
        raise CheckFailedError("it changes from call to call or from object to object, so nothing would be found again")
    if seconds > _SLOW_FINGERPRINT:
        raise CheckNoteError(f"took {seconds:.1f} s, and every run asks for it: hash the files, do not load the model")
    if isinstance(encoder.fingerprint, Fingerprint) and (lack := fingerprint_problem(encoder.fingerprint, first, encoder.name)):
        raise CheckNoteError(f"{first[:40]!r} {lack}, so old embeddings may be taken for new ones: use harness.fingerprint")
    return f"{first[:12]}, the same again and in a second object; {seconds:.2f} s"


def fingerprint_problem(method: Fingerprint, given: str, name: str) -> str:
    """Why what a plug-in gives as its fingerprint does not follow its weights and settings; nothing if it may."""
    code = getattr(method.own, "__code__", None)
    if code is not None and not (code.co_names or code.co_freevars):
        return "is a constant"
    if given == name:
        return "is the encoder's name"
    if len(given) < _SHORT_FINGERPRINT:
        return f"has {len(given)} characters, too few for a digest"
    return ""


def encode_and_check(side: TowerUnderTest, kept: list[Floats]) -> str:
    """Encode all inputs at once and keep the rows."""
    rows = validated_rows(side.encode(side.inputs), len(side.inputs), side.name)
    if len(rows) > 1 and (rows == rows[0]).all():
        raise CheckFailedError(f"all {len(rows)} {side.name} have the same embedding: the inputs do not reach the model")
    if zero := int((~rows.any(axis=1)).sum()):
        raise CheckFailedError(f"{zero} of {len(rows)} embeddings are zero: they have no direction, and rank last")
    kept.append(rows.astype(np.float32))
    if rows.dtype != np.float32:
        raise CheckNoteError(
            f"{rows.shape}, but {rows.dtype}: kept as float32; compute in float32 unless you mean half precision"
        )
    return f"{rows.shape}, float32, finite, none zero"


def validated_rows(rows: Any, count: int, name: str) -> Any:
    """An array of `count` finite rows, or a failure in words."""
    if not isinstance(rows, np.ndarray):
        way = ": return x.float().cpu().numpy()" if hasattr(rows, "numpy") else ""
        raise CheckFailedError(f"{type(rows).__module__}.{type(rows).__qualname__} came back; expected a numpy array{way}")
    if rows.ndim != 2 or len(rows) != count:
        raise CheckFailedError(
            f"shape {rows.shape} came back for {count} {name}; expected ({count}, d), a row for each in its order"
        )
    if not np.issubdtype(rows.dtype, np.floating):
        raise CheckFailedError(f"{rows.dtype} came back; expected float32")
    if broken := int((~np.isfinite(rows).all(axis=1)).sum()):
        raise CheckFailedError(f"{broken} of {count} rows hold NaN or infinity: look at the precision, and at norms of zero")
    return rows


def largest_distance(rows: Floats, others: Floats) -> float:
    """The largest distance of two rows that should be equal, relative to their length."""
    scale = np.maximum(np.linalg.norm(others, axis=1), np.finfo(np.float32).tiny)
    return float((np.linalg.norm(rows - others, axis=1) / scale).max())


def judge_distance(distance: float, same: str, cause: str) -> str:
    """What a distance between rows that should be equal means."""
    if distance > _OTHER:
        raise CheckFailedError(f"rows differ by {distance:.1e} of their length: {cause}")
    if distance > _SAME:
        raise CheckNoteError(f"rows differ by {distance:.1e} of their length, which can swap near neighbours: compute in float32")
    return f"{same}, {f'to {distance:.0e} of their length' if distance else 'to the bit'}"


def check_repetition(side: TowerUnderTest, rows: Floats) -> str:
    """The same inputs a second time; how fast, now that the model is there."""
    began = time.perf_counter()
    again = validated_rows(side.encode(side.inputs), len(rows), side.name)
    rate = len(rows) / (time.perf_counter() - began)
    cause = "dropout or another draw of chance is on (call model.eval()), or a state is kept between calls"
    return f"{judge_distance(largest_distance(again, rows), 'the same rows', cause)}; {rate:,.0f} {side.name} a second"


def check_batches(side: TowerUnderTest, rows: Floats) -> str:
    """The same inputs backwards, alone, and in a batch with a double: each must keep its row."""
    count = len(rows)
    backwards = largest_distance(validated_rows(side.encode(side.inputs[::-1]), count, side.name)[::-1], rows)
    if backwards > _OTHER:
        raise CheckFailedError(
            f"in reversed order rows differ by {backwards:.1e} of their length: rows must come back in the order of the inputs, "
            "and an input must not depend on its batch (batch normalisation, padding without a mask)"
        )
    alone = max(
        largest_distance(validated_rows(side.encode([side.inputs[row]]), 1, side.name), rows[row : row + 1])
        for row in range(min(count, 4))
    )
    double = largest_distance(validated_rows(side.encode([side.inputs[0]] * 2), 2, side.name), rows[[0, 0]])
    cause = "alone an input gets another embedding than in a batch (batch normalisation, padding without a mask)"
    return judge_distance(max(backwards, alone, double), "the same rows in any order and company", cause)


def check_odd_inputs(side: TowerUnderTest) -> str:
    """What data sets hold now and then must not stop a run."""
    validated_rows(side.encode(side.odd), len(side.odd), f"odd {side.name}")
    return "empty, long and foreign texts pass" if side.name == "texts" else "a single pixel and narrow pictures pass"


def check_capitals(side: TowerUnderTest) -> str:
    """Whether the model tells capitals from small letters, which models that were trained in lower case alone must not."""
    small = [text.lower() for text in side.inputs]
    large = [to_capitals(text) for text in small]
    if large == small:
        return "the texts have no letters in two cases"
    rows = [validated_rows(side.encode(texts), len(texts), side.name) for texts in (large, small)]
    distance = largest_distance(*rows)
    if distance > _SAME:
        raise CheckNoteError(
            f"rows differ by {distance:.1e} of their length between capitals and small letters: right for a model that was "
            "trained on both, wrong for CLIP and SigLIP, which were trained in lower case"
        )
    return "capitals and small letters give the same rows"


def to_capitals(text: str) -> str:
    """A text in capitals, but for letters whose capital is another letter's too.

    >>> to_capitals("a straße")
    'A STRAßE'
    """
    return "".join(char.upper() if char.upper().lower() == char else char for char in text)


def check_joint_space(images: Floats, texts: Floats, owner: Any, lang: str) -> str:
    """Whether both towers have one width, and whether a caption is nearer to its own image than to the others."""
    if images.shape[1] != texts.shape[1]:
        raise CheckFailedError(f"images have {images.shape[1]} dimensions and texts {texts.shape[1]}: not one space")
    if len(images) < 3:
        raise CheckNoteError(f"both have {images.shape[1]} dimensions; {len(images)} images are too few to say more")
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
            f"pairs score no clearly higher than others ({figures}): expected of a model that does not read {lang} or such "
            "pictures; else the towers are of two models, or rows are out of order"
        )
    return f"both have {images.shape[1]} dimensions; {figures}"


def check_teaching(encoder: Encoder, texts: Sequence[str], lang: str, pooled: Floats) -> str:
    """Token states, which distillation needs, and layers that a student can start from."""
    from harness.distill.model.tower import LayerDonor

    if not isinstance(encoder, TokenEncoder):
        raise CheckNoteError("gives no token states (encode_tokens): it can be measured, but nothing can be distilled from it")
    states = encoder.encode_tokens(texts, lang)
    check_states(states, pooled, "encode_tokens", "encode_texts")
    lengths = np.asarray(states.lengths)
    found = f"token states, {lengths.mean():.1f} a text, {describe_token_positions(encoder, texts, lang, lengths.tolist())}"
    if not isinstance(encoder, LayerDonor):
        raise CheckNoteError(f"{found}; lends no layers (donate_layers): students start with --init scratch")
    try:
        encoder.donate_layers()
    except HarnessError as error:
        raise CheckNoteError(f"{found}; lends no layers ({error}): students start with --init scratch") from None
    return f"{found}; lends its layers"


def describe_token_positions(encoder: TokenEncoder, texts: Sequence[str], lang: str, lengths: list[int]) -> str:
    """Where the tokens stand, which `ot-entity` needs and nothing else."""
    if not isinstance(encoder, TokenLocator):
        return "without their places (locate_tokens), so not for ot-entity"
    try:
        spans = encoder.locate_tokens(texts, lang)
    except HarnessError as error:
        return f"without their places ({error}), so not for ot-entity"
    if [len(tokens) for tokens in spans] != lengths:
        raise CheckFailedError("locate_tokens gave places of other tokens than encode_tokens gave states of")
    for text, tokens in zip(texts, spans, strict=True):
        if any(not 0 <= start <= end <= len(text) for start, end in tokens):
            raise CheckFailedError(
                f"locate_tokens gave a place outside the text {text!r}: characters count from 0 to {len(text)}"
            )
    return "with their places"


def check_patches(encoder: Encoder, images: Sequence[Image.Image], pooled: Floats) -> str:
    """Patch states, which late interaction compares."""
    if not isinstance(encoder, PatchEncoder):
        raise CheckNoteError("gives no patch states (encode_patches): --scorer maxsim cannot look at its pictures")
    try:
        states = encoder.encode_patches(images)
    except HarnessError as error:
        raise CheckNoteError(str(error)) from None
    check_states(states, pooled, "encode_patches", "encode_images")
    return f"patch states, {np.mean(states.lengths):.1f} a picture"


def check_states(states: TokenStates, pooled: Floats, method: str, plain: str) -> None:
    """Raise FailedError unless states fit the embeddings (n, d) that `plain` gave of the same inputs."""
    lengths = np.asarray(states.lengths)
    if lengths.shape != (len(pooled),) or lengths.min() < 1:
        raise CheckFailedError(f"{method} gave lengths {lengths.tolist()[:5]}...; expected one of 1 or more for each input")
    tokens = validated_rows(states.tokens, int(lengths.sum()), "states")
    if tokens.shape[1] != pooled.shape[1]:
        raise CheckFailedError(f"states have {tokens.shape[1]} dimensions and embeddings {pooled.shape[1]}: project them alike")
    distance = largest_distance(validated_rows(states.pooled, len(pooled), "inputs"), pooled)
    if distance > _OTHER:
        raise CheckFailedError(f"`pooled` of {method} differs from {plain} by {distance:.1e} of its length")


def peak_memory() -> str:
    """The most memory that this process has had, and its part of a GPU."""
    try:
        import resource
    except ImportError:  # Windows
        return "not measured on this system"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    torch = sys.modules.get("torch")
    on_gpu = torch.cuda.max_memory_allocated() if torch is not None and torch.cuda.is_initialized() else 0
    return f"{peak / 1e6:,.0f} MB" + (f" and {on_gpu / 1e6:,.0f} MB of the GPU" if on_gpu else "")
