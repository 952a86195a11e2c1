# ruff: noqa: F811 (chrome is a fixture)
"""Tests of a study's page in headless Chromium. They are skipped if it is not installed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.leaderboards.study.page import publish_study
from tests.support.chromium import (
    CONTRAST,
    HOSTILE,
    chrome,  # noqa: F401 (chrome is a fixture)
    console_errors_and_requests,
    open_page,
)
from tests.support.synthetic_study import ARMS, SKILLS, findings, study, study_records

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

CHARTS = ["curves", "forest", "facets", "ablations"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unfinished study with facets and a replication."""
    folder = tmp_path_factory.mktemp("study")
    config = study(replicate=True, seeds=[0, 1], resamples=300)
    made = study_records(
        folder / "records",
        config,
        lambda place: None if (place.lang, place.seed) == ("de", 3) else SKILLS[place.arm] * (1.4 if place.pairs is None else 1),
        facets={"entity-type": ("people", "animals", "vehicles")},
    )
    publish_study(findings(made), folder / "out")
    return folder / "out" / "index.html"


def visible(chrome: Chrome, selector: str) -> list[str]:
    code = (
        "return [...document.querySelectorAll(arguments[0])].filter((e) => e.checkVisibility()).map((e) => e.textContent.trim())"
    )
    return list(chrome.execute_script(code, selector))


def options(chrome: Chrome, chart: str) -> list[str]:
    code = "return [...document.querySelectorAll(`[data-chart=${arguments[0]}] option`)].map((e) => e.textContent)"
    return list(chrome.execute_script(code, chart))


def titles(chrome: Chrome) -> list[str]:
    return list(chrome.execute_script("return [...document.querySelectorAll('figure title')].map((e) => e.textContent)"))


def choose(chrome: Chrome, chart: str, text: str) -> None:
    code = (
        "const select = document.querySelector(`[data-chart=${arguments[0]}] select`);"
        "select.value = [...select.options].find((option) => option.textContent === arguments[1]).value;"
        "select.dispatchEvent(new Event('change'));"
    )
    chrome.execute_script(code, chart, text)


def test_every_section_and_every_chart_is_present(chrome: Chrome, page: Path) -> None:
    open_page(chrome, page)
    headings = visible(chrome, "h2")
    assert headings[:4] == ["The question", "The answer", "The design", "Score and bitext size"]
    assert {"Ablations", "Replication with other seeds", "Inconclusive comparisons", "Threats to validity"} <= set(headings)
    for chart in CHARTS:
        assert len(visible(chrome, f"[data-chart={chart}] svg[role=img]")) == 1
        assert len(visible(chrome, f"[data-chart={chart}] details.plain")) == (0 if chart == "curves" else 1)
    assert visible(chrome, ".warning") == [
        "Not finished: 12 of 144 cells are missing. The report covers the other cells. The missing cells are listed below."
    ]
    assert len(visible(chrome, ".answer")) == 1
    links = chrome.execute_script(
        "return [...document.querySelectorAll('nav a')].map((a) => document.querySelector(a.hash) !== null)"
    )
    assert len(links) == len(headings)
    assert all(links)
    assert console_errors_and_requests(chrome) == []


def test_curves_are_chosen_by_language(chrome: Chrome, page: Path) -> None:
    open_page(chrome, page)
    assert options(chrome, "curves") == ["Mean of 3 languages", "Quechua", "Guarani", "German"]
    assert visible(chrome, "[data-chart=curves] .legend li") == list(SKILLS)
    before = titles(chrome)
    assert len(before) == len(ARMS) * 2
    choose(chrome, "curves", "Guarani")
    after = titles(chrome)
    assert len(after) == len(before)
    assert after != before
    assert console_errors_and_requests(chrome) == []


def test_differences_are_chosen_by_arm_and_grouped_by_size(chrome: Chrome, page: Path) -> None:
    open_page(chrome, page)
    assert options(chrome, "forest") == [
        "ot-token − the best arm without transport",
        "kd-mse@ot-vocabulary − the best arm without transport",
        "none@ot-vocabulary − the best arm without transport",
    ]
    labels = [text for text in visible(chrome, "[data-chart=forest] svg text") if not re.match(r"[+−-]?[\d.]+$", text)]
    languages = ["Quechua", "Guarani", "German", "3 languages"]
    assert labels[:10] == ["100 pairs", *languages, "all pairs", *languages]
    choose(chrome, "forest", "kd-mse@ot-vocabulary − the best arm without transport")
    assert len(visible(chrome, "[data-chart=forest] .OT")) > len(visible(chrome, "[data-chart=forest] .KD"))
    choose(chrome, "facets", "by entity-type: ot-token − kd-mse")
    assert {"people", "animals", "vehicles"} <= set(visible(chrome, "[data-chart=facets] svg text"))
    assert "by tier: ot-token − the best arm without transport" in options(chrome, "facets")
    assert "kd-mse@ot-vocabulary − kd-mse@association (start)" in options(chrome, "ablations")
    assert console_errors_and_requests(chrome) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_are_readable(chrome: Chrome, page: Path, theme: str) -> None:
    open_page(chrome, page, theme=theme)
    dark = chrome.execute_script(CONTRAST + "return light(getComputedStyle(document.body).backgroundColor);") < 0.5
    assert dark == (theme == "dark")
    code = (
        "const all = [...document.querySelectorAll('p, td, th, small, label, a, li, summary, pre')];"
        "return Math.min(...all.filter((e) => e.checkVisibility()).map(contrast));"
    )
    assert chrome.execute_script(CONTRAST + code) >= 4.5
    assert console_errors_and_requests(chrome) == []


def test_a_phone_scrolls_down_and_not_sideways(chrome: Chrome, page: Path) -> None:
    open_page(chrome, page, width=360)
    chrome.execute_script("for (const each of document.querySelectorAll('details')) each.open = true;")
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= 360
    right = "return Math.max(...[...document.querySelectorAll('svg')].map((e) => e.getBoundingClientRect().right))"
    assert chrome.execute_script(right) <= 360
    assert console_errors_and_requests(chrome) == []


def test_it_prints_with_nothing_cut_off(chrome: Chrome, page: Path) -> None:
    open_page(chrome, page)
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert visible(chrome, ".controls") == []
        assert chrome.execute_script("return getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    finally:
        chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_hostile_names_stay_text(chrome: Chrome, tmp_path: Path) -> None:
    arms: list[dict[str, Any]] = [{**arm, "name": (str(place) + HOSTILE)[:60]} for place, arm in enumerate(ARMS)]
    config = study(title=HOSTILE[:120], question=HOSTILE, pairs=[100], seeds=[0, 1], arms=arms, encoder=HOSTILE, resamples=200)
    made = study_records(tmp_path / "records", config, lambda _: 0.3, facets={"entity-type": (HOSTILE, "z" * 500_000 + HOSTILE)})
    shown = {
        code: each.model_copy(update={"name": HOSTILE + code, "source": HOSTILE, "kind": HOSTILE})
        for code, each in made.languages.items()
    }
    made.languages.update(shown)  # type: ignore[attr-defined]
    left = dict.fromkeys(list(made.done)[:1], HOSTILE)
    for place in left:
        made.done.pop(place)  # type: ignore[attr-defined]
    publish_study(findings(made, left), tmp_path / "out")
    page = tmp_path / "out" / "index.html"
    assert page.stat().st_size < 300_000
    open_page(chrome, page, width=360)
    for chart in CHARTS:
        chrome.execute_script(
            "document.querySelector(`[data-chart=${arguments[0]}] select`)?.dispatchEvent(new Event('change'))", chart
        )
    assert chrome.title != "owned"
    assert chrome.execute_script("return document.querySelectorAll('img, iframe, script[src]').length") == 0
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= 360
    assert any(text.startswith('0"><img src=x onerror=alert(1)></script>') for text in visible(chrome, "th"))
    assert console_errors_and_requests(chrome) == []
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "<img" not in text.replace(r"\<img", "")
    assert "\u202e" not in text


def test_nothing_but_the_page_s_own_script_may_run_or_load(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert "unsafe" not in policy[1]
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text)
    names = re.findall(r'href="([^"#]+)" download', text)
    assert names == ["report.md", "findings.json"]
    assert all((page.parent / name).is_file() for name in names)
