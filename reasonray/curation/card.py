"""The data-set card: a README.md on how the examples were made, for people, the Hugging Face hub and `datasets`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from reasonray import models
from reasonray.analysis.funnel import Funnel
from reasonray.analysis.metrics import ParaphraseMetrics
from reasonray.config import Config, Curation, FilesSource, HubSource, PromptedModel, Source
from reasonray.records import BEHAVIOURS, OVER_QUOTA

__all__ = ["CARD_COLUMNS", "card"]

CARD_COLUMNS = (
    "problem_id",
    "completion_tokens",
    "num_steps",
    *BEHAVIOURS,
    "failed_branch_fraction",
    "compression_ratio",
    "code_share",
    "foreign_share",
    "pass_rate",
    "checker",
)
"""Columns of the examples that the card is made from; no text."""
_QUANTIFIED = (
    ("completion_tokens", "completion tokens", ".0f"),
    ("num_steps", "reasoning steps", ".0f"),
    ("failed_branch_fraction", "share of sentences taken back", ".2f"),
    ("compression_ratio", "compression ratio", ".2f"),
    ("code_share", "share of code", ".2f"),
    ("foreign_share", "share of letters of another script", ".2f"),
)
_PREFERRED = {
    "shortest": ", the shortest first",
    "longest": ", the longest first",
    "diverse": ", each as unlike the others as can be",
    "random": ", at random",
    "score": ", the best by score first",
}


def card(
    config: Config,
    funnel: Funnel,
    exported: pa.Table,
    overlaps: pa.Table | None = None,
    paraphrases: ParaphraseMetrics | None = None,
    *,
    splits: Sequence[str] = ("train",),
    sets: Mapping[str, Sequence[str]] = MappingProxyType({}),
    set_lines: Sequence[str] = (),
) -> str:
    """Return the data-set card, a README.md that the Hugging Face hub and `datasets` read.

    Args:
        config: of the run; addresses of the run, of its files and of its servers are left out.
        funnel: of the run's rollouts, curated.
        exported: the examples, at least CARD_COLUMNS.
        overlaps: train problems that overlap with held-out ones (decontamination.CONTAMINATION_SCHEMA), None if they
            were not looked for.
        paraphrases: of held-out problems, None if they were not looked for.
        splits: those that have files; `datasets` loads nothing if a named split has none.
        sets: those made for other trainers (derived.py) → their splits.
        set_lines: a line about each of them.
    """
    sections = [
        _header(config, exported, splits, sets),
        _recipe(config),
        _teachers(config),
        _funnel(funnel),
        _drops(funnel),
        _checkers(exported),
        _contamination(overlaps, config),
        *_paraphrases(paraphrases, config),
        _pass_rates(exported),
        _measures(exported),
        *_sets(set_lines),
        _reproduce(config),
    ]
    return "\n\n".join(sections) + "\n"


def _header(config: Config, exported: pa.Table, splits: Sequence[str], sets: Mapping[str, Sequence[str]]) -> str:
    rows = exported.num_rows
    teachers = ", ".join(sorted({models.public_name(teacher.model) for teacher in config.teachers}))
    only_correct = "incorrect" in config.curation.rules
    verdicts = ", each with an answer that a checker found correct" if only_correct else ", right and wrong ones"
    return "\n".join(
        [
            "---",
            f"pretty_name: {json.dumps(config.name)}",
            f"license: {_license(config)}",
            "task_categories:",
            "- text-generation",
            "tags:",
            "- reasoning",
            "- distillation",
            "- rejection-sampling",
            "- synthetic",
            "- reasonray",
            "size_categories:",
            f"- {_size_category(rows)}",
            "configs:",
            "- config_name: default",
            "  data_files:",
            *_data_files("data", splits),
            *(line for name, parts in sets.items() for line in _set_config(name, parts)),
            "---",
            "",
            f"# {config.name}",
            "",
            f"{rows:,} reasoning traces by {teachers}{verdicts}. Made with reasonray by rejection sampling.",
            "",
            _licenses(config),
        ]
    )


def _data_files(folder: str, splits: Sequence[str]) -> list[str]:
    return [line for split in splits for line in (f"  - split: {split}", f"    path: {folder}/{split}-*.parquet")]


def _set_config(name: str, splits: Sequence[str]) -> list[str]:
    return [f"- config_name: {name}", "  data_files:", *_data_files(name, splits)] if splits else []


def _sets(lines: Sequence[str]) -> list[str]:
    """Return the section on what was made for other trainers, none if nothing was."""
    if not lines:
        return []
    return ["\n".join(["## For other trainers", "", *(f"- {' '.join(line.split())}" for line in lines)])]


def _license(config: Config) -> str:
    """Return the license of all sources and teachers; "other" if they differ, "unknown" if one is not stated."""
    named = set(_stated_licenses(config).values())
    return "unknown" if "" in named else named.pop() if len(named) == 1 else "other"


def _stated_licenses(config: Config) -> dict[str, str]:
    """Return the license of every teacher, and of every source that is not generated."""
    sources = [source for source in config.sources if isinstance(source, FilesSource | HubSource)]
    named = {f"the problems of {source.name or getattr(source, 'path', '')}": source.license for source in sources}
    return named | {f"the teacher {models.public_name(teacher.model)}": teacher.license for teacher in config.teachers}


_RESTRICTIONS = {
    "llama2": "its output must not be used to improve other large language models",
    "llama3": "its output must not be used to improve other large language models",
    "llama3.1": "the name of a model trained on its output must begin with Llama",
    "llama3.2": "the name of a model trained on its output must begin with Llama",
    "llama3.3": "the name of a model trained on its output must begin with Llama",
    "gemini": "its output must not be used to develop models that compete with it",
    "openai": "its output must not be used to develop models that compete with it",
    "anthropic": "its output must not be used to develop models that compete with it",
}
"""License, or provider whose terms of service take its place → what it demands of those who train on the output."""


def _licenses(config: Config) -> str:
    stated = _stated_licenses(config)
    licenses = "; ".join(f"{origin}: {name or 'not stated'}" for origin, name in stated.items())
    teachers = {teacher.license.casefold(): models.public_name(teacher.model) for teacher in config.teachers}
    limits = [
        f"Training on the text of {teacher} is restricted by its license {name}: {_RESTRICTIONS[name]}."
        for name, teacher in teachers.items()
        if name in _RESTRICTIONS
    ]
    return "\n\n".join([f"Licenses that it follows from: {licenses}.", *limits])


def _size_category(rows: int) -> str:
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M")
    return next((name for power, name in enumerate(names, 3) if rows < 10**power), "10M<n<100M")


def _recipe(config: Config) -> str:
    curation = config.curation
    parts = {
        "sources": [_source(source) for source in config.sources],
        "policy": config.policy.model_dump(mode="json"),
        "curation": _curation(curation),
        "prompt of the examples": config.student.prompt.model_dump(mode="json"),
    }
    return (
        "## Recipe\n\n"
        "The teachers sample completions of every problem, and a checker judges every completion. Rules drop rollouts "
        f"that are not worth learning from ({', '.join(curation.rules)}; the first that fires is the reason). Of the "
        f"others at most {curation.keep_per_problem} per problem are selected{_PREFERRED[curation.prefer]}.\n\n"
        + _json(parts)
    )


def _teachers(config: Config) -> str:
    sections = (f"### {teacher.name}\n\n{_json(_model(teacher))}" for teacher in config.teachers)
    return "## Teachers\n\n" + "\n\n".join(sections)


def _source(source: Source) -> dict[str, Any]:
    shown = source.model_dump(mode="json")
    if isinstance(source, FilesSource):
        shown |= {split: shown[split] and _file_name(shown[split]) for split in ("train", "test")}
    return shown


def _curation(curation: Curation) -> dict[str, Any]:
    models = {"labeller": curation.labeller, "paraphrase_judge": curation.paraphrase_judge}
    shown = {key: _model(model) for key, model in models.items() if model}
    benchmarks = {"benchmarks": [_file_name(pattern) for pattern in curation.benchmarks]}
    return curation.model_dump(mode="json") | benchmarks | shown


def _model(model: PromptedModel) -> dict[str, Any]:
    shown = model.model_dump(mode="json", include={"revision", "prompt", "sampling"})
    return {"model": models.public_name(model.model)} | shown


def _file_name(path: str) -> str:
    return path.rpartition("/")[2]


def _funnel(funnel: Funnel) -> str:
    rows: list[tuple[str, int, str]] = [("problems", funnel.problems, "")]
    for name in ("rollouts", "correct", "kept", "selected"):
        count = getattr(funnel, name)
        if count is not None:
            rows.append((name, count, f"{funnel.tokens[name]:,}"))
    table = _table(("", "count", "tokens"), ((name, f"{count:,}", tokens) for name, count, tokens in rows))
    each = f"{funnel.tokens['rollouts'] / funnel.selected:,.0f}" if funnel.selected else "none was accepted"
    return f"## Funnel\n\n{table}\n\nTokens sampled per accepted trace: {each}."


def _drops(funnel: Funnel) -> str:
    reasons = dict(funnel.dropped) | ({OVER_QUOTA: funnel.over_quota} if funnel.over_quota else {})
    rows = ((reason, f"{count:,}", f"{count / max(funnel.rollouts, 1):.1%}") for reason, count in reasons.items())
    return "## Dropped\n\n" + _table(("reason", "rollouts", "share"), rows)


def _checkers(exported: pa.Table) -> str:
    """Return which checkers found the answers correct: a majority vote is not a gold answer."""
    counts = sorted(exported["checker"].value_counts().to_pylist(), key=lambda row: -row["counts"])
    rows = ((row["values"], f"{row['counts']:,}") for row in counts)
    return "## Found correct by\n\n" + _table(("checker", "examples"), rows)


def _contamination(overlaps: pa.Table | None, config: Config) -> str:
    title = "## Contamination\n\n"
    if overlaps is None:
        return title + "Not looked for: no rule `contaminated`."
    sizes = " or ".join(map(str, config.curation.ngrams))
    searched = ", ".join(["the held-out problems", *map(_file_name, config.curation.benchmarks)])
    dropped = f"Problems that are one of, or share {sizes} words in a row with, {searched} were dropped: "
    counts = overlaps.group_by("benchmark").aggregate([("problem_id", "count_distinct")]).to_pylist()
    if not counts:
        return title + dropped + "there were none."
    rows = ((_file_name(row["benchmark"]), f"{row['problem_id_count_distinct']:,}") for row in counts)
    return title + dropped + "\n\n" + _table(("overlaps with", "problems"), rows)


def _paraphrases(found: ParaphraseMetrics | None, config: Config) -> list[str]:
    """Return the section on held-out problems in other words, none if they were not looked for."""
    if found is None:
        return []
    looked = (
        f"{models.public_name(found.model)} was asked about the {found.asked:,} of {found.sampled:,} train problems "
        f"that resemble one of {found.items:,} held-out problems and items of benchmarks; {found.read:,} replies could "
        "be read."
    )
    share = found.share
    interval = f" ({share.mean:.1%}, 95 % interval {share.low:.1%} to {share.high:.1%})" if share else ""
    what = f"{found.paraphrases:,} problems are one of them in other words{interval}."
    controls = found.controls
    known = [
        f"{rate.mean:.0%} [{rate.low:.0%}, {rate.high:.0%}] of {rate.count:,} pairs {kind}"
        for rate, kind in (
            (controls.accepts_same, "of a problem and itself, rewritten, it called the same"),
            (controls.refuses_others, "of two different problems it called different"),
            (controls.refuses_other_numbers, "of a problem and itself with another number it called different"),
        )
        if rate
    ]
    control_line = f"Of the control questions: {'; '.join(known)}." if known else ""
    if not controls.trusted:
        fate = "That is no better than chance, so none was dropped."
    else:
        fate = "They were dropped." if "contaminated" in config.curation.rules else "They were not dropped."
    return ["## Paraphrases\n\n" + " ".join(filter(None, [looked, what, control_line, fate]))]


def _pass_rates(exported: pa.Table) -> str:
    """Count problems, not examples: an easy problem's examples would count it several times."""
    per_problem = exported.group_by("problem_id").aggregate([("pass_rate", "min")])
    rates = per_problem["pass_rate_min"].drop_null().to_numpy()
    counts, edges = np.histogram(rates, bins=10, range=(0.0, 1.0))
    rows = (
        (f"{low:.1f}–{high:.1f}", f"{count:,}", "█" * round(20 * count / max(int(counts.max()), 1)))
        for low, high, count in zip(edges, edges[1:], counts.tolist(), strict=False)
    )
    return "## Pass rate of the problems\n\n" + _table(("pass rate", "problems", ""), rows)


def _measures(exported: pa.Table) -> str:
    quantiles = (0.05, 0.25, 0.5, 0.75, 0.95)
    if not exported.num_rows:
        return "## Lengths and behaviours\n\nNo examples."
    lengths = [
        (title, *(f"{value:,{form}}" for value in np.quantile(exported[name].drop_null().to_numpy(), quantiles)))
        for name, title, form in _QUANTIFIED
        if exported[name].null_count < exported.num_rows
    ]
    counts = {name: exported[name].to_numpy() for name in BEHAVIOURS}
    thousands = max(int(exported["completion_tokens"].to_numpy().sum()), 1) / 1000
    behaviours = (
        (name, f"{np.mean(count > 0):.1%}", f"{count.sum() / thousands:.2f}") for name, count in counts.items()
    )
    return (
        "## Lengths and behaviours\n\n"
        + _table(("quantile", *(f"{quantile:.0%}" for quantile in quantiles)), lengths)
        + "\n\n"
        + _table(("behaviour", "share of examples", "per 1,000 tokens"), behaviours)
    )


def _reproduce(config: Config) -> str:
    return (
        "## How to reproduce\n\n"
        f"The run's `config.json` holds every knob (sha256 `{config.sha256()}`) and the versions of what decides "
        "results. With the same configuration as TOML:\n\n"
        "```sh\npython jobs/sample.py CONFIG.toml\npython jobs/curate.py CONFIG.toml\n```\n\n"
        "Sampling on other hardware or with another version of the engine gives other completions; curation of the "
        "same rollouts gives the same examples.\n\n"
        "```python\nfrom datasets import load_dataset\n\n"
        'examples = load_dataset("path/to/this/folder", split="train")\n```'
    )


def _json(value: Mapping[str, Any]) -> str:
    return "```json\n" + json.dumps(value, indent=2, ensure_ascii=False) + "\n```"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
