import asyncio
from collections import Counter

from reasonray.config import Prompt, Sampling, ScriptedEngine
from reasonray.engines.protocol import Completion, SampleRequest
from reasonray.engines.scripted import Scripted
from reasonray.records import Finish
from tests.factories import a_problem


def draw(config: ScriptedEngine, count: int) -> list[Completion]:
    async def all_of_them() -> list[Completion]:
        engine = Scripted(config)
        attempts = [SampleRequest(a_problem(), seed, seed, Prompt(), Sampling()) for seed in range(count)]
        return list(await asyncio.gather(*(engine.complete(attempt) for attempt in attempts)))

    return asyncio.run(all_of_them())


def test_the_same_seed_writes_the_same_text() -> None:
    config = ScriptedEngine(kind="scripted")
    assert draw(config, 50) == draw(config, 50)


def test_rates_are_met() -> None:
    config = ScriptedEngine(kind="scripted", correct=0.3, endless=0.2, unparseable=0.1, error=0.1)
    completions = draw(config, 4000)
    finishes = Counter(it.finish for it in completions)
    assert abs(finishes[Finish.LENGTH] / 4000 - 0.2) < 0.03
    assert abs(finishes[Finish.ERROR] / 4000 - 0.1) < 0.02
    right = sum(it.text.endswith("The answer is 42.") for it in completions)
    assert abs(right / 4000 - 0.3) < 0.03
