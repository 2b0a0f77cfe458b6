"""InternLM2 without its repository's code: the architecture as XTuner ships it, the tokenizer on Llama's.

transformers does not know InternLM2; on the hubs, each model brings Python files that loading would run.
Whoever can change those files (a mirror, a moved branch, a stranger's archive) would run what they like, so
no model folder's code is ever run here. ``register`` tells transformers where the same classes are among the
packages that ``requirements-xtuner.txt`` pins.
"""

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationMixin,
    LlamaTokenizer,
    LlamaTokenizerFast,
)
from transformers.cache_utils import Cache
from transformers.convert_slow_tokenizer import SLOW_TO_FAST_CONVERTERS, LlamaConverter

MODEL_TYPE = "internlm2"
_PACKAGE = "tianji_internlm2"


def architecture() -> Path:
    """Return the folder of XTuner's files of the architecture; they need transformers and einops only."""
    return Path(find_spec("xtuner").origin).parent / "_lite" / "modelings" / "internlm2"


@cache
def forbid_code() -> None:
    """Make transformers, in this process, import no Python file of a model folder, whoever asks for it.

    ``trust_remote_code=False`` does not do it: ``from_pretrained`` runs ``custom_generate/generate.py`` of
    a local folder all the same (transformers 4.57, generation/utils.py), and XTuner says True wherever it
    loads by itself (0.2.0, xtuner/model/sft.py). So True counts as False, and the one function through
    which all such code comes refuses.
    """
    from transformers import dynamic_module_utils
    from transformers.generation import utils
    from transformers.models.auto import auto_factory, configuration_auto, tokenization_auto

    resolve = dynamic_module_utils.resolve_trust_remote_code

    def resolve_trust_remote_code(trust_remote_code, *args, **kwargs):
        return resolve(False, *args, **kwargs)

    def get_class_in_module(class_name, module_path, **_):
        raise RuntimeError(f"code of a model folder is never run: {module_path}")

    for module in (dynamic_module_utils, utils, auto_factory, configuration_auto, tokenization_auto):
        module.resolve_trust_remote_code = resolve_trust_remote_code
    dynamic_module_utils.get_class_in_module = utils.get_class_in_module = get_class_in_module


@cache
def register() -> None:
    """Let ``Auto…from_pretrained`` load InternLM2 folders, with ``trust_remote_code=False``.

    The two files are imported past their package, which does not import with transformers 4.57
    (xtuner/_lite/modelings of 0.2.0 wants ``LossKwargs``).
    """
    package = ModuleType(_PACKAGE)
    package.__path__ = [str(architecture())]
    sys.modules[_PACKAGE] = package
    config = import_module(f"{_PACKAGE}.configuration_internlm2").InternLM2Config
    config._auto_class = None  # else their files are saved beside each model
    AutoConfig.register(MODEL_TYPE, config)
    model = import_module(f"{_PACKAGE}.modeling_internlm2").InternLM2ForCausalLM
    # since 4.50 a model has no ``generate`` of itself; auto classes add it to a repository's code
    changed = {"prepare_inputs_for_generation": _from_embeddings(model), "_auto_class": None}
    generating = type(model.__name__, (model, GenerationMixin), {"__module__": model.__module__, **changed})
    AutoModelForCausalLM.register(config, generating)
    AutoTokenizer.register(config, InternLM2Tokenizer, InternLM2TokenizerFast)
    SLOW_TO_FAST_CONVERTERS[InternLM2Tokenizer.__name__] = _Converter
    _restore_cache_get_max_length()


def _from_embeddings(model: type):
    """Let ``generate`` begin with embeddings, as pictures need: an empty cache is none.

    Source: the architecture takes them only where there is no cache; since 4.36, transformers' ``generate``
    brings an empty one from the start.
    """

    def prepare(self, input_ids, past_key_values=None, inputs_embeds=None, **kwargs):
        if inputs_embeds is not None and isinstance(past_key_values, Cache):  # a filled one is a tuple
            past_key_values = None if not past_key_values.get_seq_length() else past_key_values
        return model.prepare_inputs_for_generation(
            self, input_ids, past_key_values=past_key_values, inputs_embeds=inputs_embeds, **kwargs
        )

    return prepare


class InternLM2Tokenizer(LlamaTokenizer):
    """Only what the fast one is made from: a SentencePiece file, with the settings beside it."""


class InternLM2TokenizerFast(LlamaTokenizerFast):
    """SentencePiece's byte-pair encoding, as Llama's."""

    slow_tokenizer_class = InternLM2Tokenizer

    def __init__(self, *args, legacy=True, **kwargs):
        super().__init__(*args, legacy=legacy, **kwargs)


class _Converter(LlamaConverter):
    """Llama's, but the file says whether a text begins with a space, and spare pieces get their names.

    The chat's markers (``<|im_start|>``, id 92543) stand in the file as ``[UNUSED_TOKEN_145]`` and so on;
    ``added_tokens_decoder`` in tokenizer_config.json names them.
    """

    def vocab(self, proto):
        names = self.original_tokenizer.added_tokens_decoder
        pieces = super().vocab(proto)
        return [(names[i].content if i in names else piece, score) for i, (piece, score) in enumerate(pieces)]

    def normalizer(self, proto):
        self.original_tokenizer.add_prefix_space = proto.normalizer_spec.add_dummy_prefix
        return super().normalizer(proto)


def _restore_cache_get_max_length() -> None:
    """Give transformers' ``Cache`` the method that the architecture calls in ``generate``.

    Source: transformers removed ``Cache.get_max_length`` in 4.50; it became ``get_max_cache_shape``, which
    answers a negative number or None where there is no limit.
    """
    if hasattr(Cache, "get_max_length"):
        return

    def get_max_length(self):
        limit = self.get_max_cache_shape()
        return None if limit is None or limit < 0 else limit

    Cache.get_max_length = get_max_length
