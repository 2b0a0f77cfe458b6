"""Write a ``tokenizer.json`` of SentencePiece's kind as the ``tokenizer.model`` that llama.cpp reads.

llama.cpp's converter knows two kinds of tokenizers: a SentencePiece file, or a ``tokenizer.json`` that
it recognizes by a fingerprint. The embedded base model has neither: its vocabulary was trimmed by the
course (see ``training.embedded``), which changes the fingerprint. But it still is Gemma's byte-pair
encoding, and a SentencePiece file says the same in other words: each token carries a score, and the
pair of neighbours whose joint token has the highest score is merged first. The score of a token is
therefore minus the rank of the merge that makes it.
"""

import json
from pathlib import Path

_BPE = 2  # sentencepiece's TrainerSpec.ModelType


def is_expressible(tokenizer_json: dict) -> bool:
    """Say whether a tokenizer is SentencePiece-like: BPE that spells spaces as ▁ and falls back to bytes.

    >>> is_expressible({"model": {"type": "BPE", "byte_fallback": False}, "normalizer": None})
    False
    """
    model, normalizer = tokenizer_json["model"], tokenizer_json.get("normalizer") or {}
    return (
        model["type"] == "BPE"
        and bool(model.get("byte_fallback"))
        and normalizer.get("type") == "Replace"
        and (normalizer.get("pattern"), normalizer.get("content")) == ({"String": " "}, "▁")
    )


def write(tokenizer_file: str | Path, target: str | Path) -> bool:
    """Write the SentencePiece form of a ``tokenizer.json`` to ``target``; False if there is none."""
    from sentencepiece import sentencepiece_model_pb2 as protocol

    tokenizer = json.loads(Path(tokenizer_file).read_text(encoding="utf-8"))
    if not is_expressible(tokenizer):
        return False
    model = tokenizer["model"]
    added = {token["content"]: token["special"] for token in tokenizer["added_tokens"]}
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(model["merges"]):
        left, right = pair.split(" ") if isinstance(pair, str) else pair
        ranks.setdefault(left + right, rank)
    kinds = protocol.ModelProto.SentencePiece
    proto = protocol.ModelProto()
    for piece, _ in sorted(model["vocab"].items(), key=lambda item: item[1]):
        if piece == model["unk_token"]:
            kind = kinds.UNKNOWN
        elif piece in added:
            kind = kinds.CONTROL if added[piece] else kinds.USER_DEFINED
        elif len(piece) == 6 and piece.startswith("<0x"):
            kind = kinds.BYTE
        else:
            kind = kinds.NORMAL
        proto.pieces.add(piece=piece, score=-float(ranks.get(piece, len(ranks))), type=kind)
    proto.trainer_spec.model_type = _BPE
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = False
    proto.normalizer_spec.remove_extra_whitespaces = False
    Path(target).write_bytes(proto.SerializeToString())
    return True
