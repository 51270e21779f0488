"""Chats as text: a model's own template, and where in it the words of each role stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from thoughtlens.core import ConfigError, DataError

KEYS = {"role": ("role", "from"), "content": ("content", "value")}
"""What data sets call the two parts of a message."""
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}
MARK = "\ue000\ue001"
"""A text that no message holds, put in a message's place to see where it stands."""
Messages = list[dict[str, str]]


def is_chat(value: object) -> bool:
    """Whether a cell is a list of messages."""
    return isinstance(value, list) and bool(value) and all(_message(one) is not None for one in value)


def chat_text(tokenizer: Any, value: object, roles: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """A chat by the tokenizer's own template, and from where to where these roles speak in it.

    Raises:
        ConfigError: the tokenizer has no chat template, or roles that nothing separates.
        DataError: not a list of messages, or one that the template refuses.
    """
    if not is_chat(value):
        raise DataError(
            f"expected a list of messages with role and content, got {type(value).__name__}; "
            f"set problems.column to the column of chats, or problems.chat=false"
        )
    assert isinstance(value, list)
    messages = [one for one in map(_message, value) if one is not None]
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            "problems.chat: the model's tokenizer has no chat template; take an instruct model, or write the "
            "chats out as text"
        )
    text = _rendered(tokenizer, messages)
    return text, list(_spans(tokenizer, text, messages, roles))


def _spans(tokenizer: Any, text: str, messages: Messages, roles: Sequence[str]) -> Iterator[tuple[int, int]]:
    for i, message in enumerate(messages):
        if message["role"] not in roles or not message["content"].strip():
            continue
        marked = [*messages[:i], message | {"content": MARK}, *messages[i + 1 :]]
        start, content = _rendered(tokenizer, marked).find(MARK), message["content"]
        for said in (content, content.strip()):
            if start >= 0 and text.startswith(said, start):
                yield start, start + len(said)
                break
        else:
            raise ConfigError(
                f"problems.roles: the chat template changes message {i + 1} ({message['role']}), so that its "
                f"tokens cannot be told from the rest; leave problems.roles empty"
            )


def _rendered(tokenizer: Any, messages: Messages) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception as error:  # a template is a program of the model's, and raises what it likes
        raise DataError(
            f"the model's chat template refuses it: {' '.join(str(error).split())[:160]}"
        ) from None


def _message(value: object) -> dict[str, str] | None:
    """Role and content of a message, whatever the data set calls them."""
    if not isinstance(value, dict):
        return None
    found = {
        ours: next((value[name] for name in names if value.get(name) is not None), None)
        for ours, names in KEYS.items()
    }
    if not all(isinstance(one, str) for one in found.values()):
        return None
    role, content = str(found["role"]), str(found["content"])
    return {"role": ROLES.get(role, role), "content": content}
