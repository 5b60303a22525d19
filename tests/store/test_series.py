"""Rounds: each is an ordinary run whose configuration follows from that of the series."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray.config import Config, ConfigError, RecordedEngine, Rounds, UserError, parse
from reasonray.pipeline import distill_rounds
from reasonray.stages.rounds import refuse_broken, weights_of
from reasonray.store.run import begin_or_resume
from reasonray.store.series import HINTED, Series, round_config
from reasonray.store.siblings import referenced_run, student_of

SCRIPTED = {"engine": {"kind": "scripted"}, "gpus": 0}
HINT = "{question} (It is {gold_answer}.)"


def config(root: Path | str = "runs", rounds: dict[str, Any] | None = None, **changes: Any) -> Config:
    raw = {
        "name": "demo",
        "root": str(root),
        "sources": [{"kind": "generated"}],
        "teachers": [{"model": "m", "sampling": {"temperature": 0.9}} | SCRIPTED],
        "student": {"model": "base", "prompt": {"system": "Solve."}, "sampling": {"temperature": 0.1}} | SCRIPTED,
        "rounds": {"count": 3} if rounds is None else rounds,
    }
    return parse(raw | changes)


ROUNDS = st.fixed_dictionaries(
    {
        "count": st.integers(1, 4),
        "teacher": st.sampled_from(["student", "fixed", "both"]),
        "start": st.sampled_from(["base", "previous"]),
        "data": st.sampled_from(["union", "newest"]),
        "problems": st.sampled_from(["all", "unsolved", "band"]),
        "rationalise": st.sampled_from([None, HINT]),
    }
)
POLICIES = st.sampled_from([{"samples": 4}, {"kind": "until_correct"}, {"kind": "proportional"}, {"kind": "band"}])


@given(ROUNDS, POLICIES, st.sampled_from(["demo", "demo-r1"]))
def test_every_round_is_an_ordinary_run_that_refers_to_earlier_ones_only(
    rounds: dict[str, Any], policy: dict[str, Any], first: str
) -> None:
    series = config(rounds=rounds, policy=policy)
    names = [round_config(series, number, first).name for number in range(1, rounds["count"] + 1)]
    assert names == [first, "demo-r2", "demo-r3", "demo-r4"][: rounds["count"]]
    for number in range(1, rounds["count"] + 1):
        one = round_config(series, number, first)
        assert one.rounds is None
        assert parse(one.model_dump(mode="json")) == one, "as a stored run is read again"
        recorded = {t.engine.run for t in one.teachers if isinstance(t.engine, RecordedEngine)}
        referred = {referenced_run(model) for model in (*one.teachers, one.student)} - {None} | recorded
        assert referred <= set(names[: number - 1])
        assert recorded in (set(), set(names[: number - 1])), "all earlier rounds count, or none does"
        assert any(not isinstance(t.engine, RecordedEngine) and not t.sees_gold for t in one.teachers)
        assert any(t.sees_gold for t in one.teachers) == (rounds["rationalise"] is not None)
        assert all(t.name.endswith(HINTED) == t.sees_gold for t in one.teachers)
        assert not any("gold_answer" in model.prompt.template for model in (one.student, *one.evaluation.arms))
        assert (one.student.model == "base") == (number == 1 or rounds["start"] == "base")
        assert one.student.prompt == series.student.prompt


def test_the_first_round_is_the_configuration_as_it_is() -> None:
    series = config()
    assert round_config(series, 1, "demo-r1") == series.model_copy(update={"rounds": None, "name": "demo-r1"})
    assert round_config(series, 1, "demo") == series.model_copy(update={"rounds": None})


def test_a_student_teaches_under_its_own_prompt_with_the_first_teachers_sampling() -> None:
    second = round_config(config(), 2, "demo-r1")
    recorded, student = second.teachers
    assert (recorded.name, student.name) == ("r1-teacher", "student-r1")
    assert isinstance(recorded.engine, RecordedEngine)
    assert (recorded.engine.run, recorded.engine.teacher) == ("demo-r1", "teacher")
    assert (student.model, student.prompt.system, student.sampling.temperature) == ("run:demo-r1", "Solve.", 0.9)
    assert [teacher.name for teacher in round_config(config(), 3, "demo-r1").teachers] == [
        "r1-teacher",
        "r2-student-r1",
        "student-r2",
    ]


@pytest.mark.parametrize(
    ("rounds", "policy", "share", "recorded"),
    [
        ({}, {"samples": 4}, 1.0, True),
        ({"data": "newest"}, {"samples": 4}, 1.0, False),
        ({}, {"kind": "until_correct"}, "unmet", True),
        ({"data": "newest"}, {"kind": "until_correct"}, 1.0, False),
        ({"problems": "unsolved"}, {"samples": 4}, "unsolved", True),
        ({"problems": "band", "data": "newest"}, {"samples": 4}, "frontier", True),
    ],
)
def test_what_earlier_rounds_have_decides_what_is_sampled(
    rounds: dict[str, Any], policy: dict[str, Any], share: Any, recorded: bool
) -> None:
    second = round_config(config(rounds={"count": 2} | rounds, policy=policy), 2, "demo-r1")
    assert second.teachers[-1].share == share
    assert isinstance(second.teachers[0].engine, RecordedEngine) == recorded
    learns_from_newest_only = recorded and rounds.get("data") == "newest"
    assert ("other_teacher" in second.curation.rules) == learns_from_newest_only
    assert second.curation.teachers == (("student-r1",) if learns_from_newest_only else ())


def test_fixed_teachers_sample_anew_and_students_keep_the_engine() -> None:
    assert round_config(config(rounds={"count": 2, "teacher": "both"}), 2, "x").seed == config().seed + 1
    assert round_config(config(rounds={"count": 2}), 2, "x").seed == config().seed


def test_hints_are_for_unsolved_problems_and_what_mentions_them_is_not_learnt() -> None:
    first = round_config(config(rounds={"rationalise": HINT}), 1, "demo-r1")
    assert [(t.name, t.share) for t in first.teachers] == [("teacher", 1.0), ("teacher-hinted", "unsolved")]
    assert "leaked_answer" in first.curation.rules
    second = round_config(config(rounds={"count": 2, "rationalise": HINT}), 2, "demo-r1")
    assert [t.name for t in second.teachers] == ["r1-teacher", "student-r1", "student-r1-hinted"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": {"count": 0}}, r"rounds\.count: "),
        ({"rounds": {"teacher": "me"}}, r"rounds\.teacher: "),
        ({"rounds": {"problems": "band", "band": [0.9, 0.1]}}, r"rounds\.band: the lowest \(0\.9\) must be below"),
        ({"rounds": {"band": [0.2, 0.8]}}, 'band does nothing without problems = "band"'),
        ({"rounds": {"rationalise": "{question}"}}, "rationalise must contain"),
        ({"teachers": []}, "the first round has no teacher"),
        (
            {"student": {"model": "s", "engine": {"kind": "endpoint", "base_url": "http://h/v1"}}},
            "does not serve what is trained here",
        ),
        (
            {"student": {"model": "s", "engine": {"max_model_len": 1024}}},
            r"raise student\.engine\.max_model_len = 1024",
        ),
        (
            {
                "rounds": {"teacher": "fixed"},
                "teachers": [{"model": "w", "engine": {"kind": "recorded", "files": "x"}}],
            },
            "recorded teachers have nothing new",
        ),
        ({"student": {"model": "s", "prompt": {"template": HINT}} | SCRIPTED}, "only a teacher may see"),
        ({"teachers": [{"model": "t", "prompt": {"template": HINT}} | SCRIPTED]}, 'add the rule "leaked_answer"'),
    ],
)
def test_what_cannot_be_run_is_one_line_before_anything_starts(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        config(**changes)
    assert "\n" not in str(refused.value)


def test_hints_do_not_go_with_policy_gradients() -> None:
    sampled = {"model": "m", "sampling": {"logprobs": True}} | SCRIPTED
    series = config(rounds={"rationalise": HINT}, teachers=[sampled], training={"objective": "policy_gradient"})
    with pytest.raises(ConfigError, match="are those of another prompt than the student's"):
        round_config(series, 1, "demo-r1")


def finished(config: Config, weights: str) -> Path:
    run = begin_or_resume(config)
    student = student_of(run.place)
    (student / "config.json").write(b"{}")
    (student / "model.safetensors").write(weights.encode())
    (student / "manifest.json").write(b"{}")
    return Path(run.place.path)


def two_rounds(root: Path) -> Series:
    """Return a series whose second round has begun."""
    series = Series.of(config(root))
    finished(series.round_config(1), "one")
    begun = begin_or_resume(series.round_config(2))
    before = series.run_of(1)
    assert before is not None
    (begun.place / "round.json").write(f'{{"weights": "{weights_of(before)}"}}'.encode())
    refuse_broken(series)
    return series


def test_a_round_whose_parent_is_missing_or_changed_is_one_line(tmp_path: Path) -> None:
    series = two_rounds(tmp_path)
    (tmp_path / "demo-r1" / "student" / "final" / "model.safetensors").write_text("two")
    with pytest.raises(UserError, match=r"round 2 was taught by the student of run demo-r1, which has other weights"):
        refuse_broken(series)
    (tmp_path / "demo-r1" / "config.json").unlink()
    with pytest.raises(UserError, match=r"round 2 was taught by run demo-r1, which is missing; restore it, or remove"):
        refuse_broken(series)
    with pytest.raises(UserError, match="demo-r1, which is missing"):
        distill_rounds(series.config)


def test_a_round_that_others_are_built_on_is_not_extended_but_rounds_may_be_added(tmp_path: Path) -> None:
    series = two_rounds(tmp_path)
    more = Series.of(config(tmp_path, rounds={"count": 5}))
    refuse_broken(more)
    with pytest.raises(UserError, match="round 1 would be extended, and round 2 is built on it"):
        refuse_broken(Series.of(config(tmp_path, policy={"samples": 99})))
    assert series.first == "demo-r1"


def test_a_run_that_began_without_rounds_becomes_the_first(tmp_path: Path) -> None:
    begin_or_resume(config(tmp_path, rounds=None).model_copy(update={"rounds": None}))
    series = Series.of(config(tmp_path))
    assert [series.name(number) for number in (1, 2)] == ["demo", "demo-r2"]
    assert begin_or_resume(series.round_config(1)).name == "demo"
    assert round_config(series.config, 2, series.first).teachers[-1].model == "run:demo"
    assert Series.of(config(tmp_path / "elsewhere")).first == "demo-r1"


def test_a_configuration_without_rounds_is_no_series() -> None:
    with pytest.raises(UserError, match=r"demo has no rounds; add a section \[rounds\]"):
        Series.of(config().model_copy(update={"rounds": None}))
    assert Rounds().own_student_teaches
