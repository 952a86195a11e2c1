"""Tests of the leaderboard's page in headless Chromium. They are skipped if it is not installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from harness.core.data import Ranks
from harness.leaderboards.board.publish import publish_boards
from harness.leaderboards.records.submission import merge_submission
from tests.support.chromium import CONTRAST, HOSTILE, console_errors_and_requests, open_page
from tests.support.synthetic_records import ARMS, Arm, gallery, retrieval, write_board, write_record

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine languages of several tiers by ten rows, one of them incomplete, and a second board in the other direction."""
    folder = tmp_path_factory.mktemp("board")
    write_board(folder / "records", ["de", "fr", "cs", "es", "ar", "cy", "qu", "gn", "ay"], ARMS, seeds=2, images=100)
    write_record(folder / "records", retrieval("de", gallery(100)), Arm("ot-unbalanced", 0.9))
    publish_boards([folder / "records"], [], folder / "out", resamples=300)
    return folder / "out" / "index.html"


@pytest.fixture
def opened(chrome: Chrome, page: Path) -> Iterator[Chrome]:
    open_page(chrome, page)
    yield chrome
    assert console_errors_and_requests(chrome) == []


def script(chrome: Chrome, code: str, *arguments: Any) -> Any:
    """Run a script with `board`, the visible section."""
    return chrome.execute_script(f"const board = document.querySelector('section.leaderboard:not([hidden])'); {code}", *arguments)


def seen(chrome: Chrome, selector: str) -> list[str]:
    """Return the text of every visible element of the board."""
    code = (
        "const all = [...board.querySelectorAll(arguments[0])].filter((e) => e.checkVisibility());"
        "return all.map((e) => (e.innerText ?? e.textContent).trim());"
    )
    return list(script(chrome, code, selector))


def choose(chrome: Chrome, name: str, value: str) -> None:
    code = (
        "const control = board.querySelector(`[data-filter=${arguments[0]}]`); control.value = arguments[1];"
        "control.dispatchEvent(new Event('input')); control.dispatchEvent(new Event('change'));"
    )
    script(chrome, code, name, value)


def press(chrome: Chrome, selector: str) -> None:
    script(chrome, "board.querySelector(arguments[0]).click();", selector)


METHODS = "table.board > tbody:first-of-type .more"


def test_all_rows_are_there_and_the_incomplete_one_comes_last(opened: Chrome) -> None:
    methods = seen(opened, METHODS)
    assert len(methods) == len(ARMS) + 1
    assert methods[-1] == "ot-unbalanced"
    assert "1 of 9 languages" in " ".join(seen(opened, "table.board tr"))
    assert {"English tower on English", "chance"} <= set(seen(opened, ".reference th"))


def test_columns_sort_both_ways_and_say_so(opened: Chrome) -> None:
    press(opened, "[data-key='mean'] .sort")
    first = [float(text.split()[0]) for text in seen(opened, "tbody:first-of-type td.mean[data-scope='']") if text[0] != "–"]
    assert first == sorted(first, reverse=True)
    assert script(opened, "return board.querySelector('[data-key=mean]').getAttribute('aria-sort')") == "descending"
    press(opened, "[data-key='mean'] .sort")
    again = [float(text.split()[0]) for text in seen(opened, "tbody:first-of-type td.mean[data-scope='']") if text[0] != "–"]
    assert again == sorted(first)
    assert script(opened, "return board.querySelectorAll('[aria-sort]').length") == 1
    press(opened, "[data-key='method'] .sort")
    assert seen(opened, METHODS) == sorted(seen(opened, METHODS), key=str.lower)


def test_filters_by_method_family_encoder_and_words(opened: Chrome) -> None:
    choose(opened, "family", "OT")
    assert all("ot-" in method for method in seen(opened, METHODS))
    choose(opened, "method", "ot-batch")
    assert seen(opened, METHODS) == ["ot-batch"]
    choose(opened, "family", "KD")
    assert seen(opened, METHODS) == []
    assert "No row matches the filters." in seen(opened, ".empty")
    choose(opened, "family", "")
    choose(opened, "method", "")
    choose(opened, "text", "contrastive 5,000")
    assert seen(opened, METHODS) == ["kd-contrastive"]
    assert seen(opened, "[data-part=status]") == ["1 of 11 rows"]
    choose(opened, "text", "")
    choose(opened, "encoder", "made-up")
    assert len(seen(opened, METHODS)) == 11


def test_a_language_shows_its_own_ranks_and_captions(opened: Chrome) -> None:
    choose(opened, "scope", "l:de")
    assert seen(opened, "thead th.num")[:2] == ["Rank", "German\ntier 5"]
    assert seen(opened, METHODS)[0] == "ot-unbalanced"
    assert seen(opened, "tbody:first-of-type td.rank")[0].startswith("1")
    assert set(seen(opened, "[data-part=kind]")) == {"human translation"}
    choose(opened, "scope", "l:qu")
    assert "ot-unbalanced" not in seen(opened, METHODS)
    choose(opened, "scope", "g:tier 5")
    assert seen(opened, "thead th.mean")[0].startswith("Tier 5")


def test_each_language_has_a_column_when_asked_for(opened: Chrome) -> None:
    assert seen(opened, "thead th.language") == []
    press(opened, "[data-filter=wide]")
    assert len(seen(opened, "thead th.language")) == 9


def test_details_have_the_origin_of_a_row_and_its_command(opened: Chrome) -> None:
    choose(opened, "scope", "l:cy")
    button = "tbody:first-of-type tr:not([hidden]) .more"
    assert script(opened, f"return board.querySelector('{button}').getAttribute('aria-expanded')") == "false"
    press(opened, button)
    assert script(opened, f"return board.querySelector('{button}').getAttribute('aria-expanded')") == "true"
    (text,) = seen(opened, ".details")
    assert re.search(
        r"python -m harness run --task flickr30k --lang cy --split test --encoder made-up --arms \S+ .*--seed 0", text
    )
    assert "commit 0123456789ab" in text
    assert "python -m harness run --lang cy --pairs" in text
    assert "1,000 dropped by the leakage guard" in text
    press(opened, button)
    assert seen(opened, ".details") == []


def test_sorting_keeps_details_with_their_row(opened: Chrome) -> None:
    press(opened, "tbody:first-of-type tr .more")
    press(opened, "[data-key='mean'] .sort")
    press(opened, "[data-key='mean'] .sort")
    code = "return board.querySelector('.details').previousElementSibling.querySelector('.more').getAttribute('aria-expanded')"
    assert script(opened, code) == "true"


def test_charts_are_drawn_and_have_their_numbers_as_tables(opened: Chrome) -> None:
    assert len(seen(opened, ".heat tbody tr:not(.group)")) == 9
    assert len(seen(opened, "[data-part=size] svg")) >= 1
    labels = script(
        opened,
        "return [...board.querySelectorAll('figure svg, [data-part=forest] svg')].map((e) => e.getAttribute('aria-label'))",
    )
    assert all(label and "table below" in label for label in labels)
    rows = script(opened, "return board.querySelectorAll('[data-part=forest] table tbody tr').length")
    assert rows == 10
    assert script(
        opened, "return [...board.querySelectorAll('svg text')].every((e) => parseFloat(getComputedStyle(e).fontSize) >= 12)"
    )


def test_numbers_copy_as_numbers(opened: Chrome) -> None:
    code = (
        "const cell = board.querySelector('td.mean'); getSelection().selectAllChildren(cell);"
        "return [getSelection().toString(), cell.innerText];"
    )
    copied, whole = script(opened, code)
    assert float(copied) == float(whole.split()[0])
    assert "–" in whole


def test_everything_can_be_reached_by_keyboard_and_has_a_name(opened: Chrome) -> None:
    code = (
        "const all = [...board.querySelectorAll('button, select, input, a, [tabindex]')];"
        "return all.filter((e) => !(e.innerText.trim() || e.ariaLabel || e.labels?.length)).map((e) => e.outerHTML)"
    )
    assert script(opened, code) == []
    assert script(opened, "return [...board.querySelectorAll('table')].every((t) => t.tHead && t.querySelector('th[scope=row]'))")
    assert script(opened, "const b = board.querySelector('.sort'); b.focus(); return document.activeElement === b")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_are_readable_and_can_be_chosen(chrome: Chrome, page: Path, theme: str) -> None:
    open_page(chrome, page, theme=theme)
    assert (luminance(chrome) > 0.5) == (theme == "light")
    assert contrast_of_text(chrome) >= 4.5
    button = chrome.find_element("id", "theme")
    for expected in ("light", "dark"):
        button.click()
        assert button.text == f"Theme: {expected}"
        assert (luminance(chrome) > 0.5) == (expected == "light")
    button.click()
    assert button.text == "Theme: auto"
    assert console_errors_and_requests(chrome) == []


def luminance(chrome: Chrome) -> float:
    return float(script(chrome, CONTRAST + "return light(getComputedStyle(document.body).backgroundColor);"))


def contrast_of_text(chrome: Chrome) -> float:
    code = (
        "const all = [...board.querySelectorAll('p, td, th, small, label, a, .sort, .more')];"
        "return Math.min(...all.filter((e) => e.checkVisibility()).map(contrast));"
    )
    return float(script(chrome, CONTRAST + code))


def test_a_phone_scrolls_down_and_not_sideways(chrome: Chrome, page: Path) -> None:
    open_page(chrome, page, width=360)
    assert script(chrome, "return document.documentElement.scrollWidth") <= 360
    press(chrome, "[data-filter=wide]")
    press(chrome, "tbody .more")
    assert script(chrome, "return document.documentElement.scrollWidth") <= 360
    assert (
        script(chrome, "return Math.max(...[...board.querySelectorAll('svg')].map((e) => e.getBoundingClientRect().right))")
        <= 360
    )
    assert console_errors_and_requests(chrome) == []


def test_one_board_is_seen_at_a_time(opened: Chrome) -> None:
    names = script(opened, "return [...document.querySelectorAll('nav a')].map((a) => a.getAttribute('href'))")
    assert len(names) == 2
    opened.execute_script("document.querySelectorAll('nav a')[1].click()")
    opened.execute_async_script("setTimeout(arguments[0], 50)")
    assert opened.execute_script("return document.querySelectorAll('section.leaderboard:not([hidden])').length") == 1
    assert script(opened, "return `#${board.id}`") == names[1]
    assert len(seen(opened, METHODS)) == 11


def test_it_prints_with_nothing_cut_off(opened: Chrome) -> None:
    pdf = opened.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]
    assert len(pdf) > 10_000
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert seen(opened, ".controls") == []
        assert script(opened, "return getComputedStyle(board.querySelector('.scroll')).overflowX") == "visible"
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_hostile_names_stay_text(chrome: Chrome, tmp_path: Path) -> None:
    of = retrieval("de", gallery(30), source=HOSTILE, kind=HOSTILE)
    for objective in ("kd-mse", "ot-token", HOSTILE):
        write_record(tmp_path / "records", of, Arm(objective, 0.3, encoder=HOSTILE), notes=(HOSTILE,))
    write_record(tmp_path / "records", of, Arm("kd-cosine", 0.3, encoder="z" * 100_000 + HOSTILE))
    publish_boards([tmp_path / "records"], ["flickr30k"], tmp_path / "out", resamples=200)
    page = tmp_path / "out" / "index.html"
    assert page.stat().st_size < 200_000
    open_page(chrome, page, width=360)
    press(chrome, "tbody .more")
    assert "Leaderboard" in chrome.title
    assert script(chrome, "return document.querySelectorAll('img, iframe, script[src]').length") == 0
    assert script(chrome, "return document.documentElement.scrollWidth") <= 360
    assert any(method.startswith('"><img src=x onerror=alert(1)></script>') for method in seen(chrome, METHODS))
    assert console_errors_and_requests(chrome) == []


@pytest.fixture(scope="module")
def disputed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board with a submitted row that disagrees with an own row, and a damaged record."""
    folder = tmp_path_factory.mktemp("disputed")
    write_board(folder / "records", ["de", "qu", "cy"], ARMS[:5], seeds=1, images=100)
    ones = Ranks(*[np.ones(100, np.int64)] * 2)
    for lang in ("de", "qu", "cy"):
        write_record(folder / "theirs", retrieval(lang, gallery(100)), ARMS[1], ranks=ones, cell=lang.encode().hex() * 16)
    merge_submission(folder / "theirs", folder / "records")
    bad = write_record(folder / "records", retrieval("de", gallery(100)), Arm("kd-cosine", 0.9))
    (bad / "queries.parquet").write_bytes(b"PAR1")
    publish_boards([folder / "records"], ["flickr30k"], folder / "out", resamples=300)
    return folder / "out" / "index.html"


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_a_conflict_and_a_damaged_record_are_reported(chrome: Chrome, disputed: Path, width: int, theme: str) -> None:
    open_page(chrome, disputed, width, theme)
    (problem,) = chrome.execute_script("return [...document.querySelectorAll('.problems')].map((e) => e.innerText)")
    assert problem.startswith("1 record was left out:")
    assert "queries.parquet is damaged" in problem
    (conflict,) = seen(chrome, ".conflicts")
    assert conflict.startswith("1 row disagrees with another row of the same recipe and seeds.")
    methods = seen(chrome, METHODS)
    place = methods.index("kd-mse (submitted by theirs, disputed)")
    assert methods[place - 1] == "kd-mse"
    assert seen(chrome, "tbody:first-of-type td.rank")[place] == "–"
    choose(chrome, "scope", "l:qu")
    methods = seen(chrome, METHODS)
    assert methods[methods.index("kd-mse (submitted by theirs, disputed)") - 1] == "kd-mse"
    choose(chrome, "scope", "")
    press(chrome, "tr.disputed .more")
    assert script(chrome, "return document.documentElement.scrollWidth") <= width
    assert contrast_of_text(chrome) >= 4.5
    assert console_errors_and_requests(chrome) == []


def test_nothing_but_the_page_s_own_script_may_run_or_load(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert "unsafe" not in policy[1]
    assert "connect-src" not in policy[1]
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text)


def test_every_file_of_a_board_lies_beside_the_page_and_can_be_read_by_a_server(page: Path) -> None:
    names = re.findall(r'href="([^"#]+)" download', page.read_text(encoding="utf-8"))
    assert len(names) == 6
    assert all((page.parent / name).stat().st_mode & 0o444 == 0o444 for name in [*names, "index.html"])
