"""The rollout browser in a real Chromium: it unpacks, filters and follows permalinks, and hostile text stays text."""

import base64
import re
import shutil
import subprocess
from hashlib import sha256

import pytest

from reasonray.reporting.page import render
from reasonray.stages.compare import compare
from reasonray.stages.report import report
from tests.reporting.test_page import HOSTILE, hostile_run, inputs_of
from tests.stages.test_report import a_run
from tests.synthetic_run import synthetic_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--virtual-time-budget=5000"),
    "--dump-dom",
)


@pytest.fixture(scope="module")
def run():
    return synthetic_run(train=30, test=24, steps=9)


def opened(html, folder, fragment="", then="", size="1280,1000"):
    """Return the page's HTML after its script and then `then` have run; the policy is extended to allow `then`."""
    if then:
        script = f"setTimeout(() => {{ {then} }}, 1500)"
        allowed = base64.b64encode(sha256(script.encode()).digest()).decode()
        html = html.replace("script-src ", f"script-src 'sha256-{allowed}' ", 1)
        html = html.replace("</body>", f"<script>{script}</script></body>")
    page = folder / "report.html"
    page.write_text(html, encoding="utf-8")
    command = [
        CHROMIUM,
        *FLAGS,
        f"--window-size={size}",
        f"--user-data-dir={folder / 'profile'}",
        page.as_uri() + fragment,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


def matches(dom):
    return re.search(r'class="matches"[^>]*>([^<]*)<', dom).group(1)


def test_the_browser_opens_on_a_gained_problem_with_all_models_side_by_side(run, tmp_path):
    dom = opened(render(inputs_of(run)), tmp_path)
    assert "of 864 that match" in matches(dom)
    assert dom.count('<section class="column') in (3, 5)  # the models, and two checkpoints that have fewer samples
    assert "· gained</p>" in dom
    assert '<mark class="subgoals"' in dom


def test_filters_and_links_narrow_the_list(run, tmp_path):
    html = render(inputs_of(run))
    dropped = run.metrics["funnel"]["dropped"]["duplicate"]
    dom = opened(html, tmp_path, then="document.querySelector('[data-filter=\"rule=duplicate\"]').click()")
    assert matches(dom) == f"1 of {dropped} that match"
    typed = """
        const field = document.querySelector("[name=text]");
        field.value = "NO SUCH TEXT";
        field.dispatchEvent(new Event("input", {bubbles: true}));
    """
    assert matches(opened(html, tmp_path, then=typed)) == "No rollout on this page matches."


def test_every_number_that_links_to_rollouts_links_to_that_many(run, tmp_path):
    follow = """
        const wrong = [];
        for (const link of document.querySelectorAll("[data-filter]")) {
            link.click();
            const found = document.querySelector(".matches").textContent.replaceAll(",", "");
            const number = link.querySelector("data");
            const wanted = number.dataset.from.startsWith("/funnel/") ? `1 of ${number.value} that match` : "1 of ";
            if (!found.startsWith(wanted)) wrong.push(`${link.dataset.filter}: ${found}`);
        }
        document.body.dataset.wrong = `${document.querySelectorAll("[data-filter]").length} links, wrong: ${wrong}`;
    """
    found = re.search('data-wrong="([^"]*)"', opened(render(inputs_of(run)), tmp_path, then=follow)).group(1)
    assert re.fullmatch(r"[5-9]\d links, wrong: ", found)


def test_a_link_to_rollouts_that_the_page_does_not_carry_shows_none(run, tmp_path):
    follow = """
        const link = document.querySelector("[data-filter]");
        link.dataset.filter = "arm=student&outcome=failed";
        link.click();
    """
    dom = opened(render(inputs_of(run)), tmp_path, then=follow)
    assert matches(dom) == "No rollout on this page matches."
    assert ">failed (0)</option>" in dom


def test_keys_step_through_the_list_and_nothing_is_requested(run, tmp_path):
    count = "document.body.dataset.requests = performance.getEntriesByType('resource').length"
    assert 'data-requests="0"' in opened(render(inputs_of(run)), tmp_path, then=count), "the page requests nothing"
    press = "for (const key of 'jjk') document.dispatchEvent(new KeyboardEvent('keydown', {key}))"
    html = render(inputs_of(run))
    first, after = (int(matches(opened(html, tmp_path, then=then)).split()[0].replace(",", "")) for then in ("", press))
    assert after == first + 1


def test_a_permalink_opens_its_rollout(run, tmp_path):
    row = run.sampled["id"].to_pylist().index(max(run.sampled["id"].to_pylist()))
    wanted = run.sampled.slice(row, 1).to_pylist()[0]
    dom = opened(render(inputs_of(run)), tmp_path, fragment=f"#rollout={wanted['id']}")
    assert f'<h3 class="question">{wanted["problem_question"]}</h3>' in dom
    hide = "document.querySelector('[data-filter=\"rule=duplicate\"]').click();"
    dom = opened(render(inputs_of(run)), tmp_path, then=f"{hide} location.hash = '#rollout={wanted['id']}'")
    assert f'<h3 class="question">{wanted["problem_question"]}</h3>' in dom
    assert "of 864 that match" in matches(dom), "a filter that hides the rollout is reset"
    assert '<li aria-current="true">' in dom


def test_a_permalink_to_a_rollout_that_the_page_does_not_carry_is_reported(run, tmp_path):
    dom = opened(render(inputs_of(run)), tmp_path, fragment="#rollout=deadbeef")
    assert "Rollout deadbeef is not on this page." in dom
    assert '<section class="column' not in dom
    assert matches(dom) == "864 that match"


def test_on_a_phone_names_of_models_stay_next_to_the_scores_while_scrolling(run, tmp_path):
    scroll = """
        const box = document.querySelector("#scores .scroll");
        box.scrollLeft = 150;
        const left = (selector) => box.querySelector(selector).getBoundingClientRect().left;
        const wide = document.documentElement.scrollWidth > innerWidth;
        const places = [box.scrollLeft, left(".group span"), left("th[scope=row]"), left("td")].map(Math.round);
        document.body.dataset.places = `${wide} ${places}`;
    """
    dom = opened(render(inputs_of(run)), tmp_path, then=scroll, size="375,800")
    wide, places = re.search('data-places="([^"]*)"', dom).group(1).split()
    scrolled, group, arm, score = map(int, places.split(","))
    assert wide == "false", "only scrolling boxes are wider than the page"
    assert scrolled == 150
    assert group == arm >= 0 > score


def test_hostile_text_stays_text(tmp_path):
    dom = opened(render(hostile_run()), tmp_path)
    assert "<title>arithmetic · reasonray</title>" in dom
    assert "<img" not in dom
    shown = "".join(re.findall(r'<div class="completion">(.*?)</div>', dom, flags=re.DOTALL))
    assert HOSTILE[:20].replace("<", "&lt;").replace(">", "&gt;") in re.sub("</?mark[^>]*>", "", shown)


def test_students_of_two_runs_are_shown_side_by_side(tmp_path):
    runs = [a_run(tmp_path, "one", 0.3), a_run(tmp_path, "two", 1.5)]
    for run in runs:
        report(run)
    compare([str(run.place) for run in runs], str(tmp_path))
    dom = opened((tmp_path / "comparison.html").read_text(), tmp_path)
    assert "of 96 that match" in matches(dom)
    assert dom.count('<section class="column') == 2
