"""The records of metrics.json: the stored schema, reading back what was written, and files of earlier versions."""

import json
import tarfile
from pathlib import Path

import jsonschema
import pytest

import reasonray.analysis
from reasonray.analysis.json_records import to_json
from reasonray.analysis.metrics import SCHEMA, Metrics, schema_text
from reasonray.analysis.metrics_json import MetricsInputs, summarise
from reasonray.store.schema import ROLLOUT_SCHEMA
from tests.synthetic_run import a_config, synthetic_run

STORED_SCHEMA = Path(reasonray.analysis.__path__[0]) / "metrics.schema.json"
ARCHIVE = Path(__file__).parent.parent / "store" / "archives" / "schema-2.tar.gz"
UPDATE = (
    "python -c 'from reasonray.analysis import metrics; print(metrics.schema_text(), end=\"\")' > reasonray/analysis/"
)


@pytest.fixture(scope="module")
def of_a_run():
    return synthetic_run(train=30, test=24, steps=9).metrics


@pytest.fixture(scope="module")
def of_version_1():
    """The metrics.json of a run that was judged, labelled, trained and evaluated by a version without "schema"."""
    with tarfile.open(ARCHIVE) as archive:
        return json.load(archive.extractfile("./runs/stored/metrics.json"))


@pytest.fixture(scope="module")
def schema():
    return json.loads(STORED_SCHEMA.read_text())


def test_the_schema_in_the_package_is_that_of_the_records():
    assert STORED_SCHEMA.read_text() == schema_text(), f"run {UPDATE}{STORED_SCHEMA.name}"


def test_what_is_written_satisfies_the_schema(of_a_run, of_version_1, schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    begun = summarise(MetricsInputs(config=a_config(), versions={}, problems=3, sampled=ROLLOUT_SCHEMA.empty_table()))
    for document in (of_a_run, begun.to_json(), Metrics.from_json(of_version_1).to_json()):
        jsonschema.validate(document, schema)
        assert document["schema"] == SCHEMA


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.pop("funnel"),
        lambda document: document.update(more=1),
        lambda document: document["funnel"].update(rollouts="many"),
        lambda document: document["difference"]["student-base"]["all"].update(advice="none"),
        lambda document: document["evaluation"]["base"]["all"].update({"pass@few": {"mean": 0, "low": 0, "high": 0}}),
    ],
    ids=["missing", "unknown", "type", "enum", "pattern"],
)
def test_the_schema_and_the_reader_refuse_the_same_documents(of_a_run, schema, change):
    document = json.loads(json.dumps(of_a_run))
    change(document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)
    with pytest.raises(ValueError, match=r"missing|unknown|not expected|not a valid"):
        Metrics.from_json(document)


def test_what_was_written_is_read_back_unchanged(of_a_run):
    metrics = Metrics.from_json(json.loads(json.dumps(of_a_run, allow_nan=False)))
    assert metrics.to_json() == of_a_run
    assert to_json(metrics) == of_a_run
    assert metrics.evaluation["student"]["all"].pass_at.keys() == {1, 4}
    assert metrics.funnel.rollouts == 30 * 16


def test_a_number_that_is_not_finite_is_null_in_the_file_and_can_be_read(of_a_run):
    broken = json.loads(json.dumps(of_a_run))
    broken["training"]["curve"][0]["loss"] = None
    broken["behaviours"]["base"]["num_steps"]["low"] = None
    assert Metrics.from_json(broken).to_json() == broken


def test_a_file_of_an_earlier_version_is_read_under_the_names_of_this_one(of_version_1):
    assert "schema" not in of_version_1
    metrics = Metrics.from_json(of_version_1)
    assert metrics.funnel.over_quota == of_version_1["funnel"]["surplus"] == 32
    pair = metrics.behaviour_difference["student-base"]["num_steps"]
    assert to_json(pair) == of_version_1["behaviour_difference"]["student-base"]["depth"]
    for section in ("sampling", "behaviours", "checkpoints", "by_pass_rate", "behaviour_difference"):
        before, after = (json.dumps(document[section]) for document in (of_version_1, metrics.to_json()))
        assert '"depth"' in before
        assert '"depth"' not in after
        assert after.count('"num_steps"') == before.count('"depth"')
    for section in ("evaluation", "difference", "sets", "training", "k_curve", "labels", "verdicts", "provenance"):
        assert metrics.to_json()[section] == of_version_1[section]


def test_an_arm_that_has_the_former_name_of_a_figure_keeps_its_name(of_version_1):
    document = json.loads(json.dumps(of_version_1))
    for section in ("evaluation", "behaviours"):
        document[section]["depth"] = document[section]["base"]
    document["difference"]["student-base"]["depth"] = document["difference"]["student-base"]["easy"]
    metrics = Metrics.from_json(document)
    assert "depth" in metrics.evaluation.keys() & metrics.behaviours.keys()
    assert "depth" in metrics.difference["student-base"]


def test_a_file_of_a_later_version_is_refused(of_a_run):
    with pytest.raises(ValueError, match=f"schema {SCHEMA + 1}, and this version of reasonray reads up to {SCHEMA}"):
        Metrics.from_json(of_a_run | {"schema": SCHEMA + 1})
