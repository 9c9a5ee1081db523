"""Random texts, the same for the same seed: what tokenizers get wrong, if they get anything wrong."""

import random

# Ranges of characters; each is as likely as the others. Unassigned ones are left out, since tables of different ages disagree.
RANGES = [
    (0x20, 0x7E),  # ASCII
    (0x61, 0x7A),
    (0xA0, 0x24F),  # Latin
    (0x300, 0x36F),  # combining marks
    (0x370, 0x3FF),  # Greek
    (0x400, 0x4FF),  # Cyrillic
    (0x5D0, 0x5EA),  # Hebrew
    (0x600, 0x6FF),  # Arabic
    (0x900, 0x97F),  # Devanagari
    (0xE00, 0xE5B),  # Thai
    (0x1780, 0x17FF),  # Khmer
    (0x1E00, 0x1FFF),  # Latin and Greek with marks
    (0x2000, 0x206F),  # punctuation, odd spaces
    (0x2070, 0x209C),  # digits above and below
    (0x20A0, 0x20BF),  # currencies
    (0x2100, 0x218B),  # letterlike, numbers
    (0x2190, 0x23FF),  # arrows, signs
    (0x3000, 0x303F),  # CJK punctuation
    (0x3040, 0x30FF),  # kana
    (0x4E00, 0x9FFF),  # CJK
    (0xAC00, 0xD7A3),  # Hangul
    (0xF900, 0xFAD9),  # CJK compatibility
    (0xFB00, 0xFB06),  # ligatures
    (0xFF01, 0xFFEE),  # full and half width
    (0x10400, 0x1044F),  # beyond the first plane
    (0x1D400, 0x1D7FF),
    (0x1F300, 0x1F64F),  # emoji
    (0x20000, 0x2A6DF),
    (0, 0x1F),  # control
    (0, 0x10FFFF),  # anything
]
WORDS = """the The THE I'm I'll don't DON'T we're 'S 'ſ 'T it's they've you'd x's Hello World über naïve Straße
ﬁre coöperate e\u0301 A\u030a \u1100\u1161 क्षि สวัสดี Привет мир в во нещо ελληνικά שלום مرحبا 你好 世界 こんにちは カタカナ 안녕하세요 Cửa Việt
0 1 12 123 1234 12345 3.14 1,000,000 2² ½ ٣ ௧ 0x1F 1e-5 http://a.b/c?d=e foo_bar fooBar HTTPServer __init__ == != => -> ++ ... … — – “ ” « » # ## ###
<s> </s> <unk> <|endoftext|> <|im_start|> <0x0A> ▁ ▁▁ [INST] Ġ Ċ 🔥 👩‍👩‍👧‍👦 🇩🇪 ❤️ ½cup \t \r\n \n\n {} () [] `` '' "" \\\\ // %% @@ &&""".split(" ")
SPACES = ["", "", " ", " ", " ", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "\u00a0", "\u3000", "\u2028", "\x85", "        "]


def is_assigned(c: str) -> bool:
    import unicodedata

    return unicodedata.category(c) not in ("Cn", "Cs", "Co")


def texts(count: int, seed: int) -> list[str]:
    """So many texts of up to some forty characters or words."""
    rng = random.Random(seed)
    found = []
    while len(found) < count:
        kind = rng.random()
        pieces = []
        for _ in range(rng.randrange(1, 24)):
            if rng.random() < 0.45:
                pieces.append(rng.choice(WORDS))
            else:
                low, high = rng.choice(RANGES)
                length = rng.randrange(1, 6)
                run = [chr(rng.randint(low, high)) for _ in range(length)]
                pieces.append("".join(c for c in run if is_assigned(c)))
            pieces.append(rng.choice(SPACES) if kind < 0.8 else "")
            if rng.random() < 0.02:
                pieces.append(rng.choice([" ", "a", "\n", "=", "1", "é", "🔥", "世"]) * rng.randrange(1, 70))
        found.append("".join(pieces))
    return found
