"""The text of a completion, from the tokens that a model wrote. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def completion_text(
    tokenizer: Any, text: str, token_ids: Sequence[int], finish_reason: str | None, stop_reason: int | str | None
) -> str:
    """Return a completion verbatim: with the special tokens inside it, and without the token that ended it.

    Some models delimit reasoning and answer by special tokens (gpt-oss: `<|channel|>`, Magistral: `[THINK]`). The
    tokens that delimit whole texts (begin, end, padding) carry nothing, wherever a model writes them, and are left out.

    Args:
        tokenizer: of the model, from Hugging Face's library.
        text: as vLLM decoded it, with special tokens, without the token or string that ended it.
        token_ids: of the completion, the token that ended it included.
        finish_reason: of vLLM.
        stop_reason: the string or the token at which the completion stopped; None for the end-of-text token.
    """
    stop_string = stop_reason if isinstance(stop_reason, str) else ""
    written = token_ids[:-1] if finish_reason == "stop" and not stop_string else token_ids
    frame = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}
    if frame.isdisjoint(written):
        return text + stop_string
    kept = [token for token in written if token not in frame]
    decoded = str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))
    head, found, _ = decoded.rpartition(stop_string) if stop_string else (decoded, "", "")
    return head + found
