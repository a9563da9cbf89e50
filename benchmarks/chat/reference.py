"""What transformers renders, at a fixed time."""

import datetime

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

NOW = {"year": 2024, "month": 7, "day": 4, "hour": 13, "minute": 5, "second": 9}


class Clock(datetime.datetime):
    """The fixed time."""

    @classmethod
    def now(cls, tz=None):
        return cls(*NOW.values(), tzinfo=tz)


chat_template_utils.datetime = Clock


def render(template, tokens, case):
    """The text of a conversation, or the error of the template."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({}, unk_token="")), **tokens)
    tokenizer.chat_template = template
    arguments = dict(case)
    messages = arguments.pop("messages")
    try:
        return {"text": tokenizer.apply_chat_template(messages, tokenize=False, **arguments)}
    except Exception as error:  # whatever a template does to Python
        return {"error": f"{type(error).__name__}: {error}"}
