"""The scripted engine: deterministic in the seed, and true to the configured rates."""

import asyncio
from collections import Counter

from reasonray.config import Prompt, Sampling, ScriptedEngine
from reasonray.engines.protocol import Completion, SampleRequest
from reasonray.engines.scripted import Scripted
from reasonray.records import Finish
from tests.factories import a_problem


def sample(config: ScriptedEngine, count: int) -> list[Completion]:
    async def all_samples() -> list[Completion]:
        engine = Scripted(config)
        requests = [SampleRequest(a_problem(), seed, seed, Prompt(), Sampling()) for seed in range(count)]
        return list(await asyncio.gather(*(engine.complete(request) for request in requests)))

    return asyncio.run(all_samples())


def test_the_same_seed_writes_the_same_text() -> None:
    config = ScriptedEngine(kind="scripted")
    assert sample(config, 50) == sample(config, 50)


def test_answers_occur_at_the_configured_rates() -> None:
    config = ScriptedEngine(kind="scripted", correct=0.3, endless=0.2, unparseable=0.1, error=0.1)
    completions = sample(config, 4000)
    finishes = Counter(completion.finish for completion in completions)
    assert abs(finishes[Finish.LENGTH] / 4000 - 0.2) < 0.03
    assert abs(finishes[Finish.ERROR] / 4000 - 0.1) < 0.02
    correct = sum(completion.text.endswith("The answer is 42.") for completion in completions)
    assert abs(correct / 4000 - 0.3) < 0.03
