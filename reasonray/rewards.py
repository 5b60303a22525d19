"""The checkers as reward functions of other projects' trainers.

    from reasonray import rewards

    trl.GRPOTrainer(model, reward_funcs=rewards.correctness, …)     # data set: prompt, answer
    verifiers.Rubric(funcs=[rewards.correct])                       # also prime-rl
    custom_reward_function.path=…/reasonray/rewards.py custom_reward_function.name=compute_score      # verl

These three use `math_answer`. Another checker, other columns, other limits: the methods of the same names of

    rewards.Rewards("choice", columns={"answer": "label", "metadata": {"options": "choices"}}, gold="index")

A completion that answers correctly earns `correct`; one that is wrong, cut or without an answer `wrong`; and one that
could not be judged (the gold answer cannot be read, the check was killed) `unjudged`, because that is not the model's
fault. Checks run in processes that are killed at a limit, or in this process. No completion makes them raise.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import cache
from typing import Any

import numpy as np

from reasonray.checkers import CheckResult, PendingCheck, begin, complete, find_checker
from reasonray.checkers.pool import CheckerPool
from reasonray.config import Checking, FilesSource
from reasonray.errors import UserError
from reasonray.problems.columns import mapped_columns, problem_of
from reasonray.problems.notes import Notes
from reasonray.problems.values import without_surrogates
from reasonray.prompts import REASONING_OPEN
from reasonray.records import JUDGED, Finish, Outcome, Problem, Split

_log = logging.getLogger(__name__)
_QUESTION = "question"


class Rewards:
    """Reward functions of one checker. The processes start with the first check that needs one."""

    def __init__(
        self,
        checker: str = "math_answer",
        *,
        columns: Mapping[str, Any] | None = None,
        gold: str = "verbatim",
        checker_args: Mapping[str, Any] | None = None,
        correct: float = 1.0,
        wrong: float = 0.0,
        unjudged: float | None = None,
        in_process: bool = False,
        checking: Checking | None = None,
    ) -> None:
        """Choose a checker.

        Args:
            checker: its name, of every row that names no other.
            columns: `columns` of a source of files (config/sources.py): where a row has its gold answer, its checker,
                and what the checker reads. For verl they are keys of `extra_info`, for verifiers of `info`.
            gold: `gold` of such a source: how the column holds the gold answer.
            checker_args: `checker_args` of such a source.
            correct: the reward of a correct answer.
            wrong: the reward of a wrong answer, of none, and of one that was cut.
            unjudged: the reward where nothing was judged. None leaves the completion out in TRL, and is `wrong` for
                trainers that need a number.
            in_process: whether checks run in the calling process: nothing is started, and nothing can be killed.
            checking: number of processes, limits on time and memory.

        Raises:
            UserError: there is no such checker.
            pydantic.ValidationError: an argument is not one that a source has.
        """
        find_checker(checker)
        self._source = FilesSource.model_validate(
            {
                "kind": "files",
                "name": "rewards",
                "columns": {**(columns or {}), "question": _QUESTION},
                "gold": gold,
                "checker": checker,
                "checker_args": dict(checker_args or {}),
                "unanswered": True,
            }
        )
        mapped = mapped_columns(self._source)
        self._names = {*mapped, *(name.partition(".")[0] for name in mapped)}
        self._correct, self._wrong, self._unjudged = correct, wrong, unjudged
        self._in_process, self._checking = in_process, checking or Checking()
        self._pool: CheckerPool | None = None
        self._lock = threading.Lock()

    def correctness(self, completions: Sequence[Any], prompts: Any = None, **columns: Any) -> list[float | None]:
        """Return the rewards of a batch, as TRL's trainers ask for them.

        Args:
            completions: texts, or chats whose last message is the answer.
            prompts: as many texts or chats.
            **columns: column of the data set → as many values; other arguments are ignored.

        Raises:
            UserError: the data set has no column of the gold answers.
        """
        if self._source.columns.answer.partition(".")[0] not in columns:
            self._refuse_without_answers(columns)
        names = self._names & set(columns)
        checks = []
        for number, completion in enumerate(completions):
            prompt = prompts[number] if prompts is not None else ""
            row = {name: columns[name][number] for name in names}
            checks.append(self._begin(row, completion, prompt))
        return [self._reward(check) for check in checks]

    def compute_score(
        self, data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None, **_: Any
    ) -> float:
        """Return the reward of one completion, as verl asks for it.

        Args:
            data_source: the name of the data set; not used.
            solution_str: the completion.
            ground_truth: the gold answer.
            extra_info: the columns that the checker reads, by name.
        """
        row = {**(extra_info if isinstance(extra_info, Mapping) else {}), self._source.columns.answer: ground_truth}
        return self._number(self._reward(self._begin(row, solution_str, "")))

    async def correct(
        self, completion: Any, answer: Any = None, prompt: Any = None, info: Any = None, **_: Any
    ) -> float:
        """Return the reward of one completion, as a rubric of verifiers asks for it.

        Args:
            completion: a text, or a chat whose last message is the answer.
            answer: the gold answer.
            prompt: a text or a chat.
            info: the columns that the checker reads, by name.
        """
        row = {**(info if isinstance(info, Mapping) else {}), self._source.columns.answer: answer}
        check = self._begin(row, completion, prompt)
        if isinstance(check, Future):
            await asyncio.wait([asyncio.wrap_future(check)])
        return self._number(self._reward(check))

    def close(self) -> None:
        """Stop the processes."""
        if self._pool:
            self._pool.close()
            self._pool = None

    def _begin(self, row: Mapping[str, Any], completion: Any, prompt: Any) -> Future[CheckResult] | CheckResult | None:
        """Begin to judge a completion; None if the row's gold answer cannot be read."""
        problem = self._problem(row, prompt)
        if problem is None:
            return None
        text = without_surrogates(text_of_message(completion))
        if isinstance(prompt, str) and prompt.rstrip().endswith(REASONING_OPEN):
            text = REASONING_OPEN + text
        if self._in_process:
            result = begin(problem, text, Finish.STOP)
            return complete(result) if isinstance(result, PendingCheck) else result
        with self._lock:  # verl calls from several threads
            self._pool = self._pool or CheckerPool(self._checking)
        return self._pool.submit(problem, text)

    def _problem(self, row: Mapping[str, Any], prompt: Any) -> Problem | None:
        plain = {name: _plain(row[name]) for name in row if name in self._names}
        plain[_QUESTION] = without_surrogates(text_of_message(prompt)) or "?"
        try:
            return problem_of(plain, "a row", self._source, self._source.name, Split.TRAIN, Notes())
        except UserError as error:
            _log.warning("not judged: %s", error)
            return None

    def _reward(self, check: Future[CheckResult] | CheckResult | None) -> float | None:
        if check is None:
            return self._unjudged
        outcome = (check.result() if isinstance(check, Future) else check).verdict.outcome
        if outcome is Outcome.CORRECT:
            return self._correct
        return self._wrong if outcome in JUDGED else self._unjudged

    def _number(self, reward: float | None) -> float:
        return self._wrong if reward is None else reward

    def _refuse_without_answers(self, columns: Mapping[str, Any]) -> None:
        checker = find_checker(self._source.checker)
        if checker.needs_answer or self._source.columns.checker:
            there_are = ", ".join(name for name in columns if isinstance(columns[name], Sequence))
            raise UserError(
                f"no column {self._source.columns.answer!r} for the gold answer; there are {there_are or 'none'}: "
                'name it in Rewards(columns={"answer": …})'
            )


def text_of_message(message: Any) -> str:
    """Return the text of a completion or a prompt: a text, or the last message of a chat; "" for anything else.

    The last message of the assistant counts, if there is one: results of tools may follow it.
    """
    if isinstance(message, Sequence) and not isinstance(message, str | bytes):
        turns = [turn for turn in message if isinstance(turn, Mapping)]
        of_assistant = [turn for turn in turns if turn.get("role") == "assistant"]
        message = (of_assistant or turns or [{}])[-1]
    content = message.get("content") if isinstance(message, Mapping) else message
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) and not isinstance(content, bytes) else ()
    texts = (part.get("text") for part in parts if isinstance(part, Mapping))
    return "".join(text for text in texts if isinstance(text, str))


def _plain(value: Any) -> Any:
    """Return a cell's value without NumPy's types, in which verl holds lists."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


@cache
def _default() -> Rewards:
    return Rewards()


def correctness(completions: Sequence[Any], prompts: Any = None, **columns: Any) -> list[float | None]:
    """Return the rewards of a batch for TRL's trainers; see `Rewards.correctness`."""
    return _default().correctness(completions, prompts, **columns)


def compute_score(data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None, **_: Any) -> float:
    """Return the reward of a completion for verl; see `Rewards.compute_score`."""
    return _default().compute_score(data_source, solution_str, ground_truth, extra_info)


async def correct(completion: Any, answer: Any = None, prompt: Any = None, info: Any = None, **_: Any) -> float:
    """Return the reward of a completion for verifiers; see `Rewards.correct`."""
    return await _default().correct(completion, answer, prompt, info)
