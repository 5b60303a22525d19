"""A change of what the detectors find needs a new DETECTORS_VERSION, because stored annotations are used by version.

detectors.json holds a hash of the findings in every labelled sentence and every example of a rule. After a new version,
or new sentences and examples, write it again:

    python tests/curation/test_detectors_version.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reasonray.curation.behaviours import DETECTORS_VERSION, annotate
from reasonray.curation.rules import GOOD, RULES
from reasonray.records import content_hash

LABELLED, STORED = (Path(__file__).with_name(name) for name in ("behaviours.jsonl", "detectors.json"))


def cases() -> Iterator[tuple[str, str]]:
    """Yield completions and their questions."""
    for line in LABELLED.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        yield entry["text"], entry.get("question", "")
    for rule in RULES.values():
        for example in (*rule.dropped, *rule.kept):
            row = {**GOOD, **example}
            yield row["completion"], row["problem_question"]


def findings() -> dict[str, str]:
    """Return a hash of what the detectors find, by a hash of the case."""
    hashes = {}
    for completion, question in cases():
        annotation = annotate(completion, question)
        spans = [(span.behaviour, span.start, span.end) for span in annotation.spans]
        hashes[content_hash(completion, question)] = content_hash(json.dumps([annotation.num_steps, spans]))
    return hashes


def stored() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(STORED.read_text())
    return document


def changed(document: dict[str, Any], current: dict[str, str]) -> set[str]:
    """Return the stored cases in which the detectors find something else."""
    return {case for case, finding in document["findings"].items() if current.get(case, finding) != finding}


def test_the_detectors_find_what_their_version_found() -> None:
    document, current = stored(), findings()
    assert document["version"] == DETECTORS_VERSION, "write detectors.json again, as above"
    assert not changed(document, current), "the detectors find something else: raise DETECTORS_VERSION"
    assert document["findings"].keys() == current.keys(), "there are other cases: write detectors.json again, as above"


def test_a_change_of_the_findings_is_noticed() -> None:
    document, current = stored(), findings()
    case = next(iter(current))
    assert changed(document, current | {case: "other"}) == {case}


def write() -> None:
    """Write detectors.json, unless the detectors find something else under the version that it holds."""
    document, current = stored() if STORED.exists() else {"version": "", "findings": {}}, findings()
    if document["version"] == DETECTORS_VERSION and changed(document, current):
        raise SystemExit("the detectors find something else: raise DETECTORS_VERSION")
    new = {"version": DETECTORS_VERSION, "findings": dict(sorted(current.items()))}
    STORED.write_text(json.dumps(new, indent=1) + "\n")


if __name__ == "__main__":
    write()
