"""Chat templates: programs that travel with a model, and are run where they can be stopped.

Jinja's sandbox keeps a template from the machine, not from looping for ever or filling the memory, perhaps
only for some words or after some turns.
"""

import multiprocessing
import resource
import signal
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection

import psutil

from tianji_helpers.errors import CourseError
from tianji_helpers.training.embedded import CHAT_TEMPLATE

_OURS = (CHAT_TEMPLATE, CHAT_TEMPLATE.removeprefix("{{ bos_token }}"))
_SECONDS, _MEMORY = 5, 1 << 30  # of the processor; bytes
_PATIENCE = 60  # seconds, on a busy machine
_TRIAL = [{"role": "system", "content": "你是大师"}, {"role": "user", "content": "祝" * 2000}]


class Refusal(CourseError):
    """A template does not take such a chat."""


def render(tokenizer, chats: Sequence[list[dict]], *, opening: bool = True) -> list[str]:
    """Return chats as the tokenizer's template writes them.

    opening: whether the answer's first tokens follow. A template that is not the course's runs in a child of
    this process. Raises Refusal if a template does not take a chat, and CourseError if it does not end, or
    makes a sentence many times longer.
    """
    if tokenizer.chat_template in _OURS:
        return [_render(tokenizer, chat, opening) for chat in chats]
    fork = multiprocessing.get_context("fork")  # it has the tokenizer already
    told, tell = fork.Pipe(duplex=False)
    child = fork.Process(target=_tell, args=(tell, tokenizer, chats, opening), daemon=True)
    child.start()
    tell.close()
    try:
        if not told.poll(_PATIENCE):
            raise _useless(f"等了 {_PATIENCE} 秒也没有结果")
        prompts, refused, reason = told.recv()
    except EOFError:
        raise _useless(f"算了 {_SECONDS} 秒还没有算完，或内存用得太多") from None
    finally:
        child.kill()
        child.join()
        told.close()
    if refused:
        raise Refusal(refused)
    if reason:
        raise _useless(reason)
    return prompts


def check(tokenizer) -> None:
    """Try the tokenizer's template at a chat, before weights are read. Raises CourseError as ``render``.

    One that does not take this chat may take others; what comes is tried when it comes.
    """
    with suppress(Refusal):
        render(tokenizer, [_TRIAL])


def _tell(tell: Connection, tokenizer, chats: Sequence[list[dict]], opening: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this
    room, most = psutil.Process().memory_info().vms + _MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]
    room = room if most == resource.RLIM_INFINITY else min(room, most)
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    try:
        prompts = [_render(tokenizer, chat, opening) for chat in chats]
    except Refusal as error:
        return tell.send(([], str(error), ""))
    except (MemoryError, RecursionError) as error:
        return tell.send(([], "", f"{type(error).__name__}，内存用得太多，或一层套一层"))
    for chat, prompt in zip(chats, prompts, strict=True):
        if len(prompt) > 20_000 + 4 * len(chat) * max(len(message["content"]) for message in chat):
            return tell.send(([], "", "它把一句话变成了很多倍"))
    tell.send((prompts, "", ""))


def _render(tokenizer, chat: list[dict], opening: bool) -> str:
    try:
        return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=opening)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # it is a program
        raise Refusal(f"模型的对话模板不接受这样的对话：{str(error)[:300]}") from error


def _useless(reason: str) -> CourseError:
    return CourseError(
        f"模型的对话模板（chat_template）用不了：{reason}。它是别人写的程序；请换成基座模型原来的模板。"
    )
