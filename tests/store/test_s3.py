"""A run in an object store: a real S3 HTTP server on loopback, the AWS client of pyarrow on this side."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from reasonray.config import Config, UserError
from reasonray.records import Split
from reasonray.store.lease import Claim, Lease, exclusive
from reasonray.store.ledger import Ledger
from reasonray.store.run import begin_or_resume, find_run
from reasonray.store.storage import place
from tests.factories import a_problem, a_rollout, a_scripted_config
from tests.s3_server import account, make_bucket, s3_server
from tests.store.rollouts import stored_samples

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(autouse=True)
def _account(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in account(endpoint).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(endpoint: str, request: pytest.FixtureRequest) -> str:
    return make_bucket(endpoint, request.node.name.replace("_", "-")[:40].strip("-"))


def on_s3(bucket: str, tmp_path: Path) -> Config:
    return a_scripted_config(tmp_path).model_copy(update={"root": f"s3://{bucket}/some/runs"})


def test_a_run_is_opened_committed_to_and_resumed(bucket: str, tmp_path: Path) -> None:
    run = begin_or_resume(on_s3(bucket, tmp_path))
    assert str(run.place) == f"s3://{bucket}/some/runs/a-run"
    run.store_problems([a_problem(), a_problem("2 + 2?", "4", split=Split.TEST)])
    run.ledger.append([a_rollout(sample=0), a_rollout(sample=1)])
    run.events.emit("sample", rollouts=2)
    run.events.emit("sample", rollouts=3)
    again = find_run(f"s3://{bucket}/some/runs/a-run")
    assert again.problems(Split.TRAIN) == [a_problem()]
    assert stored_samples(again.ledger)[a_problem().id, "fingerprint"].samples == {0, 1}
    assert [event["rollouts"] for event in again.events.read("sample")] == [2, 3]
    assert len((again.place / "events").names()) == 1, "both events are in one file"
    assert not list(tmp_path.rglob("*.parquet")), "no rollout is on the local disk"


def test_a_segment_without_a_manifest_is_not_read(bucket: str) -> None:
    ledger = Ledger(place(f"s3://{bucket}/ledger"))
    ledger.append([a_rollout(sample=0)])
    (ledger.place / "segments" / "torn.parquet").write(b"half of a segment")
    dying = (
        "import os, sys; from reasonray.store.storage import place; ledger = place(sys.argv[1])\n"
        "stream = ledger.filesystem.open_output_stream(ledger.path + '/manifest/never-closed.json')\n"
        "stream.write(b'{' * (20 << 20)); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", dying, f"s3://{bucket}/ledger"]).returncode == 9
    assert ledger.read().num_rows == 1
    assert len(stored_samples(ledger)) == 1


def test_a_second_driver_is_refused_and_a_dead_one_is_replaced(bucket: str, tmp_path: Path) -> None:
    run = begin_or_resume(on_s3(bucket, tmp_path))
    claim = replace(Claim.of_this_process("raysubmit_1"), host="node-7", machine="another", is_held=True)
    refusal = pytest.raises(UserError, match=f"worked on by process {os.getpid()} on host")
    with exclusive(run), refusal, exclusive(run):
        pass
    (run.place / "lease" / "0.json").write(json.dumps(asdict(claim)).encode())
    with pytest.raises(UserError, match=r"host node-7 \(job raysubmit_1\), last heard of 0:0\d ago"), exclusive(run):
        pass
    time.sleep(2.2)  # the store's times are whole seconds
    lease = Lease(run.place / "lease", Claim.of_this_process(""), dead_seconds=1.0)
    lease.acquire(run.name)
    assert len((run.place / "lease").names()) == 1
    lease.release()
    assert (run.place / "lease").names() == []


def test_compaction_works_as_on_a_local_disk(bucket: str) -> None:
    ledger = Ledger(place(f"s3://{bucket}/ledger"))
    for sample in range(40):
        ledger.append([a_rollout(sample=sample)])
    assert ledger.compact() == 40
    assert len(ledger.segments()) == len((ledger.place / "segments").list()) == 1
    assert sorted(ledger.read(["sample"])["sample"].to_pylist()) == list(range(40))


def test_a_missing_bucket_is_one_line_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no bucket 'nobodys'.*create it, or correct root"):
        begin_or_resume(on_s3("nobodys", tmp_path))


def test_refused_credentials_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(INITIAL_NO_AUTH_ACTION_COUNT="0") as strict:
        monkeypatch.setenv("AWS_ENDPOINT_URL", strict)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        with pytest.raises(UserError, match=r"refuses \(.*\); check the credentials \(\$AWS_ACCESS_KEY_ID"):
            begin_or_resume(on_s3("any", tmp_path))


def test_no_server_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(UserError, match=r"check the address \(\$AWS_ENDPOINT_URL\) and the network"):
        begin_or_resume(on_s3("any", tmp_path))
    assert os.environ["AWS_ENDPOINT_URL"]
