"""The page: every number is that of metrics.json, nothing is fetched, nothing hostile runs, any state renders."""

import base64
import copy
import json
import re
from hashlib import sha256
from html.parser import HTMLParser

import pytest

from reasonray.records import Annotation, Outcome, Span, Split
from reasonray.reporting.page import ReportInputs, render
from reasonray.reporting.rollouts import changes
from reasonray.store.schema import ROLLOUT_SCHEMA, rollouts_to_table
from tests.factories import a_problem, a_rollout
from tests.synthetic_run import VERSIONS, a_config, arm_table, metrics_json_of, problems, synthetic_run

HOSTILE = (
    "</script><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script> & \u2028 {{ 7*7 }}"
)
PROSE = {"h1", "dd", "li", "td"}
"""Elements in which every digit must belong to a number of metrics.json, except for the constants below."""
CONSTANTS = re.compile(r"95\u202f%|80\u202f%|step 0|that includes 0|pass@\d+|maj@\d+|\d+\.\d+\.\d+")


class Page(HTMLParser):
    """Collects the numbers with their sources, other text, and everything that could load or run."""

    def __init__(self, html):
        super().__init__()
        self.numbers, self.loose, self.loads, self.tags, self.open = [], [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.open.append((tag, dict(attributes)))
        self.loads += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]
        self.loads += [name for name, _ in attributes if name.startswith("on")]
        if tag in ("link", "meta", "input", "br", "img", "circle", "path", "use"):
            self.open.pop()

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, text):
        tags = [tag for tag, _ in self.open]
        if tags and tags[-1] == "data":
            self.numbers.append((self.open[-1][1]["data-from"], self.open[-1][1]["value"], text))
        elif PROSE & set(tags) and not {"q", "code"} & set(tags):  # quotations of rollouts, and names
            self.loose.append(text)


def resolve(document, pointer):
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        document = document[int(key)] if isinstance(document, list) else document[key]
    return document


def shown_value(text):
    """Return the value of a printed number, and the largest error of its rounding."""
    digits = text.replace("−", "-").replace(",", "").replace("\u202f%", "").replace("+", "")
    decimals = len(digits.partition(".")[2])
    return float(digits), 0.5 * 10**-decimals + 1e-9


@pytest.fixture(scope="module")
def run():
    return synthetic_run(train=30, test=24, steps=9)


def inputs_of(run, **other):
    values = {
        "metrics": json.loads(json.dumps(run.metrics)),
        "config": run.config.model_dump(mode="json"),
        "sampled": run.sampled,
        "arms": run.browsed,
        "changes": changes(run.arms),
    }
    return ReportInputs(**(values | other))


@pytest.fixture(scope="module")
def html(run):
    return render(inputs_of(run))


def test_every_number_on_the_page_equals_that_of_metrics_json(run, html):
    page = Page(html)
    assert len(page.numbers) > 300
    for pointer, value, text in page.numbers:
        stored = resolve(run.metrics, pointer)
        assert float(value) == stored
        if "min" in text or text.endswith("s") or "≤" in text:
            continue  # a duration, or a bound
        shown, error = shown_value(text)
        assert abs(shown - stored) <= error or abs(shown - 100 * stored) <= error


def test_no_number_in_tables_and_sentences_comes_from_elsewhere(html):
    digits = [text for text in Page(html).loose if re.search(r"\d", CONSTANTS.sub("", text))]
    assert digits == []


def test_a_number_from_elsewhere_would_be_found(html):
    assert any("7" in text for text in Page(html.replace("<td>", "<td>7 ", 1)).loose)


def test_all_important_numbers_are_shown(run, html):
    pointers = {pointer for pointer, _, _ in Page(html).numbers}
    for arm in ("base", "teacher", "student"):
        for difficulty in ("all", "easy", "medium", "hard"):
            assert {
                f"/evaluation/{arm}/{difficulty}/pass@{k}/{end}" for k in (1, 4) for end in ("mean", "low", "high")
            } <= pointers
            assert {f"/evaluation/{arm}/{difficulty}/{rate}" for rate in ("truncated", "no_answer")} <= pointers
    counts = ("problems", "rollouts", "correct", "kept", "selected", "trained_examples", "trained_tokens")
    assert {f"/funnel/{name}" for name in counts} <= pointers
    assert {f"/difference/student-base/all/{name}" for name in ("mean", "low", "high", "gained", "lost")} <= pointers


def test_the_printed_funnel_balances(html):
    rows = re.findall(
        r'<tr( class="removal")?><th scope="row">(?:−&nbsp;)?([^<]*?) ?<.*?<td>.*?<data value="(\d+)"',
        funnel_of(html),
        re.S,
    )
    remaining, removals = 0, 0
    for is_removal, name, count in rows:
        if name == "Sampled":
            remaining = int(count)
        elif is_removal:
            remaining, removals = remaining - int(count), removals + 1
        elif name != "Correct":
            assert int(count) == remaining, name
    assert (removals, name) == (6, "Trained")


def funnel_of(html):
    return html.split('<table class="funnel">')[1].split("</table>")[0]


def test_the_page_loads_nothing(html):
    loads = [value for value in Page(html).loads if not value.startswith("#")]
    assert loads == ["data:,"]
    assert not re.search(r"https?:|@import|url\((?!#)", html)
    assert "default-src 'none'" in html


def test_the_dark_scheme_does_not_apply_to_print(html):
    dark = re.findall(r"@media([^{]*)\{\s*:root \{[^}]*--paper: #1", html)
    assert [condition.strip() for condition in dark] == ["screen and (prefers-color-scheme: dark)"]


def test_the_same_run_gives_the_same_page(run, html):
    assert render(inputs_of(run)) == html


def hostile_run():
    problem = a_problem(HOSTILE, HOSTILE, difficulty=HOSTILE, split=Split.TEST)
    annotation = Annotation(verification=1, num_steps=1, spans=(Span("verification", 3, 20),))
    table = rollouts_to_table(
        a_rollout(HOSTILE, outcome, problem=problem, sample=sample, annotation=annotation, id=f"{sample}")
        for sample, outcome in enumerate((Outcome.CORRECT, Outcome.WRONG, Outcome.WRONG, Outcome.WRONG))
    )
    config = a_config(teachers=[{"model": HOSTILE}])
    arms = {"base": table, HOSTILE: table, "student": table}
    metrics = metrics_json_of(config=config, versions={HOSTILE: HOSTILE}, problems=1, sampled=table, arms=arms)
    return ReportInputs(metrics=metrics, config=config.model_dump(mode="json"), sampled=table, arms=arms)


def test_hostile_text_is_inert():
    html = render(hostile_run())
    page = Page(html)
    assert "img" not in page.tags
    assert page.tags.count("script") == 2
    assert "</script><img" not in html
    assert "49" not in re.findall(r"<th[^>]*>([^<]*)", html)


def test_the_only_script_is_the_one_that_the_content_security_policy_allows(html):
    scripts = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html


def partial_run(**changes):
    config = a_config()
    values = {"config": config, "versions": VERSIONS, "problems": 5, "sampled": ROLLOUT_SCHEMA.empty_table()} | changes
    metrics = json.loads(json.dumps(metrics_json_of(**values), allow_nan=False))
    return ReportInputs(
        metrics=metrics,
        config=config.model_dump(mode="json"),
        sampled=values["sampled"],
        arms=values.get("arms", {}),
    )


def one_problem(arm):
    return arm_table(arm, problems(1, Split.TEST), 4)


def all_of(outcome: Outcome):
    return rollouts_to_table(
        a_rollout(problem=problem, sample=i, outcome=outcome, id=f"{problem.id}{i}")
        for problem in problems(30, Split.TEST)
        for i in range(4)
    )


NAN = float("nan")
DEGENERATE = {
    "nothing": ({}, "Nothing has been sampled yet"),
    "sampled": ({"sampled": one_problem("teacher")}, "has not been evaluated yet"),
    "student only": ({"arms": {"student": one_problem("student")}}, "nothing to compare it with"),
    "one problem": (
        {"arms": {"base": one_problem("base"), "student": one_problem("student")}},
        "measure on more",
    ),
    "all correct": (
        {"arms": {"base": all_of(Outcome.CORRECT), "student": all_of(Outcome.CORRECT)}},
        "Every sample of both models is correct: problems this easy cannot show a difference.",
    ),
    "none correct": (
        {"arms": {"base": all_of(Outcome.WRONG), "student": all_of(Outcome.WRONG)}},
        "No sample of either model is correct: problems this hard cannot show a difference.",
    ),
    "one step": (
        {"training": [{"step": 1, "loss": 2.0, "learning_rate": 1e-4, "gradient_norm": 1.0, "tokens_per_second": 9.0}]},
        "1</data> step;",
    ),
    "NaN loss": (
        {
            "training": [
                {"step": step, "loss": NAN, "learning_rate": 1e-4, "gradient_norm": NAN, "tokens_per_second": 9.0}
                for step in (1, 2)
            ]
        },
        "The loss was not finite at step",
    ),
    "one checkpoint": ({"checkpoints": {9: one_problem("student")}}, "has been measured, so there is no curve"),
    "models alone": ({"arms": {"base": one_problem("base"), "peer": one_problem("teacher")}}, "Scores on held-out"),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole():
    return render(inputs_of(synthetic_run(train=12, test=30, steps=9)))


@pytest.mark.parametrize(("changes", "sentence"), DEGENERATE.values(), ids=DEGENERATE)
def test_a_degenerate_run_renders_and_names_its_state(changes, sentence, whole):
    html = render(partial_run(**changes))
    assert sentence in html
    assert sentence not in whole, "the page of a complete run does not"
    assert ">nan<" not in html.lower()
    assert ">None<" not in html


def test_without_variation_no_power_is_claimed():
    before, after = all_of(Outcome.WRONG), all_of(Outcome.CORRECT)
    for arms in ({"base": after, "student": after}, {"base": before, "student": after}):
        html = render(partial_run(arms=arms))
        assert "detects a true difference" not in html
        assert ("Measure on harder problems" in html) == (arms["base"] is after)
        assert ("The test set is large enough for this difference." in html) == (arms["base"] is before)
    few = {name: table.slice(0, 4 * 4) for name, table in (("base", before), ("student", after))}
    html = render(partial_run(arms=few))
    assert "No measurable difference" in html
    assert "measure on more test problems.</li>" in html


def test_models_measured_without_a_student_are_compared_with_each_other():
    html = render(partial_run(**DEGENERATE["models alone"][0]))
    assert "Before and after" not in html
    assert re.search(r"<details open><summary>All pairs of models</summary>.*peer − base", html, re.S)
    assert "Needs two evaluated models" not in html
    assert "Needs two evaluated models" in render(partial_run(arms={"base": one_problem("base")}))


def test_gold_answers_are_called_sound_only_if_some_were_examined(run):
    assert "No gold answer is in doubt: no problem has enough answers" in render(partial_run())
    metrics = copy.deepcopy(run.metrics)
    metrics["verdicts"]["gold_audit"]["looked_at"] = 1
    html = render(inputs_of(run, metrics=metrics))
    assert ">1</data> problem that no rollout solves. In none of them do samples agree" in html


def test_details_that_are_closed_on_the_screen_are_open_in_print(html):
    style, print_style = html.split("</style>")[0].split("@media print")
    assert "details::details-content { content-visibility: visible; }" in print_style
    assert "details-content" not in style
    assert html.count("<details") == 7


def test_the_loss_on_held_out_examples_has_a_curve_if_it_was_measured():
    step = {"loss": 2.0, "learning_rate": 1e-4, "gradient_norm": 1.0, "tokens_per_second": 9.0}
    rows = [{"step": 1, "validation_loss_before": 2.5} | step, {"step": 2, "validation_loss": 1.5} | step]
    assert "Loss on held-out examples at each checkpoint" in render(partial_run(training=rows))
    assert "held-out examples at each" not in render(partial_run(training=[{"step": 1} | step]))


def test_figures_are_plotted_from_metrics_json_alone(run, html):
    assert run.metrics["training"]["curve"] == run.training
    untrained = copy.deepcopy(run.metrics)
    untrained["training"]["curve"] = []
    assert "Loss at each step" in html
    assert "The student has not been trained yet" in render(inputs_of(run, metrics=untrained))


def test_a_sentence_takes_the_place_of_each_absent_part():
    html = render(partial_run())
    assert html.count('class="absent"') >= 8
    assert "<svg" not in html


def test_rollouts_beyond_the_budget_are_left_out_by_a_printed_rule(run):
    html = render(inputs_of(run, budget=100_000))
    assert re.search(r"data-shown>\d+ of 864<", html)
    assert "the order is that of the ids" in html


def test_a_number_links_to_rollouts_unless_it_counts_none(run, html):
    lost = run.metrics["difference"]["student-base"]["all"]["lost"]
    assert lost == 0
    assert 'data-filter="change=gained"' in html
    assert "change=lost" not in html


def test_a_student_that_is_worse_is_reported_as_worse(run):
    metrics = copy.deepcopy(run.metrics)
    pair = metrics["difference"]["student-base"]["all"]
    pair |= {"mean": -pair["mean"], "low": -pair["high"], "high": -pair["low"]}
    assert "Distillation <em>lowers</em>" in render(inputs_of(run, metrics=metrics))
