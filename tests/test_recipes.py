"""The published recipes load, plan without a network, and run in miniature with scripted teachers."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reasonray import problems
from reasonray.checkers import check
from reasonray.cli.plan import forecast
from reasonray.config import Config, HubSource, load_config, parse, toml
from reasonray.curation.behaviours import annotate_table
from reasonray.curation.features import rollout_features
from reasonray.curation.measures import measure_table
from reasonray.curation.rules import check_names
from reasonray.curation.selection import select
from reasonray.engines.protocol import SampleRequest
from reasonray.engines.scripted import Scripted
from reasonray.records import Outcome, Problem, Rollout, Split, content_hash
from reasonray.sampling.policy import ProblemState, next_samples
from reasonray.sampling.pool import ReplicaPool
from reasonray.stages.curate import curate
from reasonray.stages.sample import sample
from reasonray.store.run import begin_or_resume
from reasonray.store.schema import rollouts_to_table
from reasonray.store.series import round_config
from reasonray.store.siblings import is_of_run
from tests.factories import a_rollout

FOLDER = Path(__file__).parent.parent / "jobs" / "configs" / "recipes"
RECIPES = sorted(FOLDER.glob("*.toml"))
LIMITS = {"target": 3, "pilot": 4, "max": 12}
RATES = {"limo": 0.06}
"""Recipe → the rate of correct answers that it needs, if not one half: LIMO wants problems that are rarely solved."""


def in_miniature(path: Path, root: Path) -> Config:
    """Return a recipe with its policy and curation, but few generated problems, few samples and scripted models."""
    raw: dict[str, Any] = toml.read(path, [])
    scripted = {"engine": {"kind": "scripted", "correct": RATES.get(path.stem, 0.5)}, "gpus": 0, "cpus": 0.1}
    raw["root"], raw["sources"] = str(root), [{"kind": "generated", "train": 9, "test": 3}]
    raw["teachers"] = [
        {key: teacher[key] for key in ("name", "sampling", "prompt") if key in teacher} | scripted | {"model": "m"}
        for teacher in raw["teachers"]
    ]
    for number, teacher in enumerate(raw["teachers"]):
        teacher["model"] = f"scripted-{number}"
    raw["student"] = {"model": "scripted"} | scripted
    raw.pop("checking", None)  # a judge would be a stage of its own
    raw["policy"] |= {key: min(raw["policy"][key], most) for key, most in LIMITS.items() if key in raw["policy"]}
    return parse(raw)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads_and_names_its_source_its_figures_and_its_cost(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    check_names(config.curation)
    head = path.read_text().split("name =")[0]
    assert all(line.startswith("# ") for line in head.splitlines())
    for label in ("Source:", "Published:", "Differs:", "Cost"):
        assert f"# {label}" in head
    assert re.search(r"arXiv \d{4}\.\d{5}|https://", head)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_planned_without_a_network(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    sources = load_config(path).sources
    assert all(isinstance(source, HubSource) for source in sources)
    few = [f"sources.{number}.limit_train=500" for number in range(len(sources)) if sources[number].train]
    text = forecast(load_config(path, few))
    assert int(text.split(maxsplit=2)[1].replace(",", "")) == 500 * len(few)
    assert "the hub cannot be reached" in text
    assert "tokens at most" in text


def test_a_source_without_a_limit_is_not_planned_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(problems.UserError, match="openai/gsm8k/main: cannot be loaded"):
        forecast(load_config(FOLDER.parent / "gsm8k.toml"))


def test_the_table_lists_every_recipe() -> None:
    listed = re.findall(r"^\| \[([^\]]+)\]\(\1\.toml\)", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == [path.stem for path in RECIPES]


async def _sampled(config: Config, problem: Problem) -> list[Rollout]:
    """Return what the recipe's policy asks of each teacher, by the scripted engine, judged."""
    rollouts = []
    for number, teacher in enumerate(config.teachers):
        engine, state = Scripted(teacher.engine), ProblemState()  # type: ignore[arg-type]
        while wanted := next_samples(config.policy, state):
            for index in wanted:
                seed = int(content_hash(number, problem.id, index)[:8], 16)
                request = SampleRequest(problem, index, seed, teacher.prompt, teacher.sampling)
                completion = await engine.complete(request)
                verdict = check(problem, completion.text, completion.finish)
                state.record(index, verdict.outcome)
                rollout = a_rollout(completion.text, sample=index, problem=problem, teacher=teacher.name)
                changes = {"finish": completion.finish, "verdict": verdict, "completion_tokens": 100 + index}
                identity = Rollout.identify(problem.id, teacher.name, index)
                rollouts.append(type(rollout)(**_fields(rollout) | changes | {"id": identity}))
    return rollouts


def _fields(rollout: Rollout) -> dict[str, Any]:
    return {name: getattr(rollout, name) for name in Rollout.__dataclass_fields__}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_selects_what_it_says(path: Path, tmp_path: Path) -> None:
    config = in_miniature(path, tmp_path)
    train = [problem for problem in problems.load(config.sources).problems if problem.split is Split.TRAIN]
    rollouts = [rollout for problem in train for rollout in asyncio.run(_sampled(config, problem))]
    table = measure_table(annotate_table(rollouts_to_table(rollouts)), config.curation.repetition_ngram)
    selection = select(rollout_features(table, config.curation), config.curation)
    chosen = {row["id"] for row in selection.to_pylist() if row["selected"]}
    outcomes = {rollout.verdict.outcome for rollout in rollouts if rollout.id in chosen}
    assert chosen
    if "incorrect" in config.curation.rules:
        assert outcomes == {Outcome.CORRECT}
    elif config.curation.keep_per_problem >= 16:
        assert len(chosen) == len(rollouts), "keeps all"
    else:
        assert Outcome.WRONG in outcomes
    per_problem = [sum(r.id in chosen for r in rollouts if r.problem.id == problem.id) for problem in train]
    assert max(per_problem) <= config.curation.keep_per_problem


@pytest.mark.parametrize("name", ["rest-em", "star", "expert-iteration"])
def test_a_recipe_of_rounds_learns_in_each_from_what_it_says(name: str, tmp_path: Path) -> None:
    series = in_miniature(FOLDER / f"{name}.toml", tmp_path)
    assert series.rounds is not None
    train = [problem for problem in problems.load(series.sources).problems if problem.split is Split.TRAIN]
    before: list[Rollout] = []
    for number in range(1, series.rounds.count + 1):
        config = round_config(series, number, f"{name}-r1")
        live = [teacher for teacher in config.teachers if not is_of_run(teacher)]
        alone = config.model_copy(update={"teachers": tuple(live)})
        own = [rollout for problem in train for rollout in asyncio.run(_sampled(alone, problem))]
        recorded = {teacher.name for teacher in config.teachers} - {teacher.name for teacher in live}
        table = measure_table(annotate_table(rollouts_to_table([r for r in before if r.teacher in recorded] + own)))
        selection = select(rollout_features(table, config.curation), config.curation).to_pylist()
        teachers = {rollout.id: rollout.teacher for rollout in (*before, *own)}
        learnt = {teachers[row["id"]] for row in selection if row["selected"]}
        assert learnt & {teacher.name for teacher in live}
        assert (learnt - {teacher.name for teacher in live} != set()) == (number > 1 and name == "expert-iteration")
        before += [replace(rollout, teacher=f"r{number}-{rollout.teacher}") for rollout in own]


@pytest.mark.ray
def test_a_recipe_runs_through_the_stages(ray_cluster: None, tmp_path: Path) -> None:
    run = begin_or_resume(in_miniature(FOLDER / "openthoughts3.toml", tmp_path))
    with ReplicaPool(run) as pool:
        sample(run, pool)
    assert run.ledger.count() == 9 * 16
    assert curate(run).selected == 9 * 16, "keeps all"
    assert (run.curated / "README.md").exists()
