"""How different a model's answers are from each other.

A model that says one sentence to everybody can pass every rule; these numbers show it. All look at
characters, since Chinese has no spaces between words.
"""

from collections.abc import Sequence

MOST = 200  # answers; every one is compared with all others


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Return the share of all character n-grams that are different ones, between 0 and 1.

    Fewer or longer texts repeat less by nature: compare only sets of the same requests.
    Source: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models".

    >>> distinct_n(["祝你好", "祝你好"], 2)
    0.5
    """
    grams = [text[i : i + n] for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(texts: Sequence[str]) -> float:
    """Return the mean BLEU (0 to 100) of each text with all others as references: 100 is all the same.

    Only the first ``MOST`` texts are compared; fewer than two give 0.
    Source: Zhu et al. 2018, "Texygen"; BLEU on characters by sacrebleu.

    >>> round(self_bleu(["姐姐生日快乐", "姐姐生日快乐"]))
    100
    """
    from sacrebleu import BLEU

    texts = [text for text in texts if text][:MOST]
    if len(texts) < 2:
        return 0.0
    bleu = BLEU(tokenize="char", effective_order=True)
    scores = [
        bleu.sentence_score(text, [*texts[:place], *texts[place + 1 :]]).score
        for place, text in enumerate(texts)
    ]
    return sum(scores) / len(scores)
