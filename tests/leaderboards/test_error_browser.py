"""The error browser and the transport viewer, over the embedded sample."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from harness.core.errors import HarnessError
from harness.leaderboards.browser.error_browser import TowerResults, result_payload, write_error_browser
from harness.leaderboards.browser.transport_viewer import write_transport_page
from harness.leaderboards.records.board_records import BoardRecord
from harness.leaderboards.records.loading import find_records
from harness.records.files import load_found_boxes, load_ranks
from harness.records.towers import load_card
from harness.retrieval.ranking import MISSED
from harness.runtime.console import Console
from harness.storage.store import Store
from tests.support.chromium import (
    chrome,  # noqa: F401 (chrome is a fixture)
    console_errors_and_requests,
    open_page,
)
from tests.support.command_line import SMALL_RUN, harness

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = pytest.mark.slow

HOSTILE = "</script><script>document.title='owned'</script>\u202e \"quoted\" '; rm x"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which two German towers were measured."""
    folder = tmp_path_factory.mktemp("store")
    done = harness("run", "--lang", "de", "--objectives", "kd-mse,ot-token", *SMALL_RUN, store=folder)
    assert done.returncode == 0, done.stderr
    return folder


def german(store: Path) -> list[BoardRecord]:
    """The English tower, a KD tower and an OT tower, measured on German."""
    found = [each for each in find_records([store / "records"]) if each.record.lang == "de"]
    found = [each for each in found if each.record.task == "flickr30k"]
    return sorted(found, key=lambda each: ["english", "kd-mse", "ot-token"].index(each.record.text_tower))


@pytest.fixture(scope="module")
def page(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("browser") / "errors"
    done = harness("browse", *(each.record.cell[:16] for each in german(store)), "--out", str(out), store=store)
    assert done.returncode == 0, done.stderr
    assert "do not publish it" in done.stdout
    return out / "index.html"


def data_of(page: Path) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_ranks_are_the_record_s_and_the_first_pictures_agree_with_them(page: Path, store: Path) -> None:
    (part,) = data_of(page)["parts"]
    names = [name for name, _ in data_of(page)["towers"]]
    assert names == ["English tower", "kd-mse", "ot-token"]
    for place, each in enumerate(german(store)):
        ranks = load_ranks(each.folder)[0].t2i
        finds = [query["finds"][place] for query in part["queries"]]
        assert [find[0] for find in finds] == ranks.tolist()
        for query, (rank, first, scores) in zip(part["queries"], finds, strict=True):
            assert scores == sorted(scores, reverse=True)
            # Ties count against the tower: what is ranked first stands first, and what is shown may have been tied with others.
            assert rank > 1 or first[0] == query["image"]
            assert query["image"] in first or rank > 5 or len(set(scores)) < 5


def test_the_page_has_captions_their_english_and_thumbnails(page: Path) -> None:
    (part,) = data_of(page)["parts"]
    assert all(query["text"] and query["english"] for query in part["queries"])
    assert len(part["thumbnails"]) == len(part["images"])
    assert all((page.parent / name).is_file() for name in part["thumbnails"])
    assert "base64" not in page.read_text(encoding="utf-8").replace("sha256", "")


def test_filters_and_order_in_a_real_browser(chrome: Chrome, page: Path) -> None:  # noqa: F811
    open_page(chrome, page)
    (part,) = data_of(page)["parts"]
    right = np.array([[find[0] == 1 for find in query["finds"]] for query in part["queries"]])
    status: Callable[[], str] = lambda: chrome.execute_script("return document.getElementById('status').innerText")  # noqa: E731
    assert status().startswith(f"{len(right)} of {len(right)}")
    for wanted, expected in (("2>1", right[:, 2] & ~right[:, 1]), ("all", right.all(axis=1)), ("none", ~right.any(axis=1))):
        choose(chrome, "Outcome", wanted)
        assert status().startswith(f"{expected.sum()} of ")
    choose(chrome, "Outcome", "")
    choose(chrome, "Order", "w2")
    worst = max(query["finds"][2][0] for query in part["queries"])
    assert f"rank {worst}" in chrome.execute_script("return document.querySelector('.query').innerText")
    code = (
        "const all = [...document.images]; all.forEach((image) => image.loading = 'eager');"
        "return Promise.all(all.map((image) => image.decode())).then(() => all.length)"
    )
    assert chrome.execute_script(code) > 0
    assert console_errors_and_requests(chrome) == []


def choose(chrome: Chrome, label: str, value: str) -> None:  # noqa: F811
    code = (
        "const all = [...document.querySelectorAll('label')];"
        "const s = all.find((e) => e.innerText.startsWith(arguments[0])).lastChild;"
        "s.value = arguments[1]; s.dispatchEvent(new Event('change'));"
    )
    chrome.execute_script(code, label, value)


def test_the_right_picture_shows_where_the_phrases_of_the_caption_are(chrome: Chrome, page: Path) -> None:  # noqa: F811
    open_page(chrome, page)
    (part,) = data_of(page)["parts"]
    for query in part["queries"]:
        assert query["places"]
        for words, types, boxes in query["places"]:
            assert words in query["text"]
            assert (types == ["scene"]) == (boxes == []), "in the sample, the place alone has no box"
            assert all(0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1 for box in boxes)
    code = (
        "return [...document.querySelectorAll('.query')].map((query) => ["
        "query.querySelectorAll('.drawn rect:not(.halo)').length, query.querySelector('.places').innerText])"
    )
    for query, (drawn, said) in zip(part["queries"], chrome.execute_script(code), strict=False):
        assert drawn == sum(len(boxes) for _, _, boxes in query["places"])
        assert [line.strip() for line in said.splitlines()] == [
            f"{words} {', '.join(types)}{'' if boxes else ', no box'}" for words, types, boxes in query["places"]
        ]
    assert console_errors_and_requests(chrome) == []


def test_a_grounding_record_shows_the_true_box_and_the_box_of_each_tower(
    chrome: Chrome,  # noqa: F811
    store: Path,
    tmp_path: Path,
) -> None:
    words = ("run", "--task", "flickr30k-entities", "--lang", "de", "--split", "val", "--objectives", "kd-mse", *SMALL_RUN)
    done = harness(*words, store=store)
    assert done.returncode == 0, done.stderr
    found = {each.record.text_tower: each for each in find_records([store / "records"]) if of_grounding(each)}
    english, distilled = found["english"], found["kd-mse"]
    out = tmp_path / "grounding"
    browsed = harness("browse", english.record.cell, distilled.record.cell, "--out", str(out), store=store)
    assert browsed.returncode == 0, browsed.stderr
    (part,) = data_of(out / "index.html")["parts"]
    for place, each in enumerate((english, distilled)):
        ranks, boxes = load_ranks(each.folder)[0].t2i, load_found_boxes(each.folder)
        finds = [query["finds"][place] for query in part["queries"]]
        assert [find[0] for find in finds] == ranks.tolist()
        with Image.open(store / "samples" / "flickr30k-2" / "flickr30k-images" / f"{part['images'][0]}.jpg") as picture:
            shares = boxes / np.array([*picture.size, *picture.size])
        assert np.array([find[3] for find in finds]) == pytest.approx(shares, abs=6e-4)
        for query, find in zip(part["queries"], finds, strict=True):
            ((words, _, true),) = query["places"]
            assert words == query["text"]
            assert (find[0] == 1) <= any(overlap(find[3], box) > 0.49 for box in true)
    open_page(chrome, out / "index.html")
    text = chrome.execute_script("return document.body.innerText")
    assert f"{len(part['queries'])} of {len(part['queries'])} phrases" in text
    assert "true box" in text
    assert console_errors_and_requests(chrome) == []


def of_grounding(found: BoardRecord) -> bool:
    """Return whether a record is of German phrases."""
    return (found.record.task, found.record.lang) == ("flickr30k-entities", "de")


def overlap(a: list[float], b: list[float]) -> float:
    """Return the intersection over union of two boxes."""
    sides = [min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1)]
    common = max(sides[0], 0) * max(sides[1], 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return common / (sum(areas) - common)


def test_a_phrase_that_no_candidate_covers_has_no_rank() -> None:
    finds = TowerResults(np.array([MISSED, 2]), np.zeros((2, 0), int), np.zeros((2, 0), np.float32), np.zeros((2, 4), np.float32))
    assert [result_payload(finds, number)[0] for number in (0, 1)] == [0, 2]


def test_the_browser_fits_a_phone(chrome: Chrome, page: Path) -> None:  # noqa: F811
    open_page(chrome, page, width=360)
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= 360
    assert console_errors_and_requests(chrome) == []


def browse_here(cell: str, data: str | None, out: Path, store: Path, embed: bool = False) -> str:
    return write_error_browser([cell], data, out, embed, "cpu", Store.at(store), Console())


def test_thumbnails_are_embedded_only_on_request(store: Path, tmp_path: Path) -> None:
    browse_here(german(store)[0].record.cell, None, tmp_path / "x", store, embed=True)
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["index.html"]
    addresses = data_of(tmp_path / "x" / "index.html")["parts"][0]["thumbnails"]
    assert all(address.startswith("data:image/jpeg;base64,") for address in addresses)


def test_records_that_cannot_be_shown_are_refused_without_leftovers(store: Path, flickr30k_folder: Path, tmp_path: Path) -> None:
    cell = german(store)[0].record.cell
    records = find_records([store / "records"])
    english = next(each for each in records if each.record.is_english_side)
    scored = harness("run", "--lang", "en", "--split", "val", *SMALL_RUN, "--scorer", "entities", store=store)
    assert scored.returncode == 0, scored.stderr
    composed = next(each for each in find_records([store / "records"]) if each.record.scorer != "plain")
    out = tmp_path / "x"
    for name, data, where, message in (
        ("zzzz", None, out, "no record begins with 'zzzz'"),
        (cell, None, tmp_path, "exists already: name a new folder"),
        (cell, str(flickr30k_folder), out, "does not hold the de captions and pictures"),
        (english.record.cell, None, out, "is a record of the English captions behind translations"),
        (composed.record.cell, None, out, "ranked by the scorer entities, first 10 sorted anew, whose order the browser cannot"),
    ):
        with pytest.raises(HarnessError, match=message):
            browse_here(name, data, where, store)
    assert not out.exists()


def test_the_plan_of_a_pair_has_a_row_for_each_english_token(chrome: Chrome, store: Path, tmp_path: Path) -> None:  # noqa: F811
    card = german(store)[2].record.tower
    assert card is not None
    out = tmp_path / "plan.html"
    words = ("transport", "--tower", card.digest[:10], "--english", f"A dog {HOSTILE}", "--foreign", f"Ein Hund {HOSTILE}")
    done = harness(*words, "--out", str(out), store=store)
    assert done.returncode == 0, done.stderr
    assert re.search(r"transport cost \d\.\d{3} \(sinkhorn\)", done.stdout)
    open_page(chrome, out)
    assert chrome.title.startswith("Transport")
    code = (
        "const numbers = (row) => [...row.cells].slice(1).map((cell) => Number(cell.innerText));"
        "return [...document.querySelectorAll('table.plan')].map((table) => [...table.tBodies[0].rows].map(numbers))"
    )
    plan, cost = (np.array(table) for table in chrome.execute_script(code))
    assert plan.shape == cost.shape
    # Numbers are shown to 0.05 percent, and the solver stops when its sums are within 1e-3 of all mass.
    assert plan.sum(axis=0) == pytest.approx(np.full(plan.shape[1], 100), abs=0.05 * len(plan) + 0.1 * plan.shape[1])
    value = float(re.findall(r"cost (\d\.\d+)", done.stdout)[0])
    assert (plan * cost).sum() / 100 / plan.shape[1] == pytest.approx(value, abs=0.01)
    names = chrome.execute_script(
        "return [...document.querySelector('table.plan').tBodies[0].rows].map((r) => r.cells[0].innerText)"
    )
    assert {"<start>", "▁dog", "<end>"} <= set(names)
    assert console_errors_and_requests(chrome) == []


def test_the_plan_of_a_tower_that_weighs_entities_gives_them_their_mass(
    chrome: Chrome,  # noqa: F811
    store: Path,
    tmp_path: Path,
) -> None:
    words = ("--lang", "de", "--objective", "ot-entity", "--entity-weight", "9", "--pairs", "80", "--steps", "2", "--batch", "8")
    made = harness("distill", *words, store=store)
    assert made.returncode == 0, made.stderr
    (card,) = (card for card in map(load_card, Store.at(store).towers()) if card.config.objective == "ot-entity")
    out = tmp_path / "plan.html"
    done = write_transport_page(
        card.digest, "A dog runs in the snow.", "Ein Hund rennt im Schnee.", "simple", out, "cpu", Store.at(store)
    )
    assert "(sinkhorn)" in done
    open_page(chrome, out)
    said = chrome.execute_script("return document.body.innerText")
    assert "Entity tokens have 9.0 times the mass of other tokens: ▁dog ▁runs ▁snow" in said
    assert console_errors_and_requests(chrome) == []


def test_an_empty_sentence_is_refused(store: Path, tmp_path: Path) -> None:
    card = german(store)[2].record.tower
    assert card is not None
    with pytest.raises(HarnessError, match="--english is empty: give a sentence"):
        write_transport_page(card.digest, " ", "x", "simple", tmp_path / "x", "cpu", Store.at(store))


def test_the_store_s_records_can_stand_on_a_board_and_be_submitted(store: Path, tmp_path: Path) -> None:
    done = harness("leaderboard", "--out", str(tmp_path / "board"), "--board", "sample", "--mine", store=store)
    assert done.returncode == 0, done.stderr
    assert "3 rows (3 complete) x 1 languages" in done.stdout
    merged = harness("leaderboard", "--add", str(store / "records"), "--records", str(tmp_path / "all"), store=store)
    count = len(find_records([store / "records"]))
    assert merged.stdout.startswith(f"{count} records merged into"), merged.stderr
    assert count > 5, "those of grounding among them"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "neither --out nor --add is given"),
        (("--out", "x", "--board", "flikr30k"), "there is no board 'flikr30k': did you mean flickr30k"),
        (("--out", "x", "--records", "/nowhere"), "/nowhere is not a folder of records"),
        (("--out", "x", "--board", "sample"), "records fits a board of sample"),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], line: str, tmp_path: Path) -> None:
    done = harness("leaderboard", *words, store=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(f"error: .*{re.escape(line)}.*\n", done.stderr), done.stderr
