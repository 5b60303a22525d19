"""Texts for the tests of deduplication and decontamination."""

import random

VOCABULARY = [f"{a}{b}{c}" for a in "bdfklmnprst" for b in "aeiou" for c in ("ler", "nt", "mo", "sk", "ra")]
UNSPACED = [
    (
        "小明有五个苹果，小红给了他七个苹果，然后他又吃掉了三个。请问小明现在有多少个？",
        "小明有三本书，小红有五本书。",
    ),
    (
        "太郎さんはりんごを五個持っています。花子さんから七個もらいました。全部でいくつ？",
        "りんごを三個買いました。",
    ),
    ("สมชายมีแอปเปิ้ลห้าผล และได้รับอีกเจ็ดผลจากเพื่อน แล้วกินไปสามผล รวมทั้งหมดกี่ผล", "สมชายมีส้มสามผล"),
]
"""Pairs of different problems in Chinese, Japanese and Thai, which write no spaces between words."""


def prose(dice: random.Random, words: int) -> str:
    """Return so many words at random."""
    return " ".join(dice.choice(VOCABULARY) for _ in range(words))
