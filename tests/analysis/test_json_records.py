"""Records to JSON and back, field by field."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf, isnan, nan

import jsonschema
import pytest

from reasonray.analysis.json_records import OMITTED_IF_NONE, from_json, json_schema, keyed, named, to_json


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part."""

    count: int = field(metadata=named("of"))
    """How many
    there are."""


@dataclass(frozen=True, kw_only=True)
class Whole(Part):
    """All kinds of fields."""

    text: str = ""
    real: float = 0.5
    flag: bool = False
    colour: Colour = Colour.RED
    unknown: float | None = None
    omitted: Part | None = field(default=None, metadata=OMITTED_IF_NONE)
    parts: tuple[Part, ...] = ()
    by_name: Mapping[str, Part] = field(default_factory=dict)
    at: Mapping[int, float] = field(default_factory=dict, metadata=keyed("at@"))


DOCUMENT = {
    "of": 3,
    "text": "x",
    "real": 1,
    "flag": True,
    "colour": "red",
    "unknown": None,
    "parts": [{"of": 1}, {"of": 2}],
    "by_name": {"a": {"of": 4}},
    "at@1": 0.5,
    "at@16": 0.25,
}


def test_a_document_is_read_into_a_record_and_written_back():
    record = from_json(Whole, DOCUMENT)
    assert record == Whole(
        count=3,
        text="x",
        real=1,
        flag=True,
        parts=(Part(count=1), Part(count=2)),
        by_name={"a": Part(count=4)},
        at={1: 0.5, 16: 0.25},
    )
    assert to_json(record) == DOCUMENT
    assert to_json(from_json(Whole, DOCUMENT | {"omitted": {"of": 1}}))["omitted"] == {"of": 1}


@pytest.mark.parametrize("number", [nan, inf, -inf])
def test_a_number_that_is_not_finite_is_null_and_null_is_nan(number):
    document = to_json(Whole(count=1, real=number, unknown=number))
    assert (document["real"], document["unknown"]) == (None, None)
    record = from_json(Whole, document)
    assert isnan(record.real)
    assert record.unknown is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"of": 1.5}, "/of: a value of type float is not expected here"),
        ({"of": True}, "/of: a value of type bool is not expected here"),
        ({"flag": 1}, "/flag: a value of type int"),
        ({"text": None}, "/text: a value of type NoneType"),
        ({"parts": [{"of": 1}, {}]}, "/parts/1: the key 'of' is missing"),
        ({"by_name": {"a": {"of": 4, "more": 1}}}, "/by_name/a: the key 'more' is unknown"),
        ({"at@": 1}, "/: the key 'at@' is unknown"),
    ],
)
def test_a_document_that_does_not_fit_is_refused_with_its_place(change, message):
    with pytest.raises(ValueError, match=message):
        from_json(Whole, DOCUMENT | change)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(DOCUMENT | change, json_schema(Whole))


def test_the_schema_accepts_the_document_and_describes_its_fields():
    schema = json_schema(Whole)
    jsonschema.validate(DOCUMENT, schema)
    whole = schema["$defs"]["Whole"]
    assert whole["description"] == "All kinds of fields."
    assert whole["properties"]["of"] == {"type": "integer", "description": "How many there are."}
    assert "omitted" not in whole["required"]
