"""tokens.json: texts to ids and back with `tale`'s tokenizer, by Python's tokenizers.

`cases` have `text`, `ids`, `decoded` and `decoded_without_special` (special tokens skipped). `random_ids` are ids that no
text gives, with the same two decodings: broken UTF-8 shows as U+FFFD.
"""

import numpy as np
from common import TALE, write_json
from story import OTHER, story
from tokenizers import Tokenizer

END = "<|endoftext|>"

TEXTS = [
    "",
    " ",
    "  ",
    "   ",
    " " * 17,
    "\n",
    "\n\n",
    "\n\n\n\n",
    "\r\n",
    "\r",
    "\t",
    "\t\t\tindented",
    " \n \n ",
    "a \n b",
    "ends in space ",
    "ends in spaces   ",
    "ends in a line\n",
    " starts with space",
    "   starts with spaces",
    "two  spaces",
    "many      spaces and\t\ttabs",
    "a\u00a0b no-break",
    "thin\u2009space, ideographic\u3000space, zero\u200bwidth",
    "\u2028line separator\u2029paragraph separator",
    "\ufeffbyte order mark",
    "a",
    "A",
    "Hello",
    "Hello World",
    "Hello, World!",
    "hello world",
    "HELLO WORLD",
    "Anna carried a small lantern near the mill.",
    "it's don't we'll they've I'm he'd you're",
    "IT'S DON'T WE'LL",
    "it’s a curly apostrophe",
    "''''s 's 't",
    "x=1;y=2;",
    "foo_bar-baz.qux",
    "https://example.org/a?b=c&d=e#f",
    "name@example.org",
    "C:\\path\\to\\file",
    "{\"key\": [1, 2.5, -3e10, null]}",
    "fn main() {\n    println!(\"{}\", 1);\n}\n",
    "1 12 123 1234 12345 1234567890",
    "3.14159 1,000,000 50% $20 €12.50",
    "½ ² ³ ٣ Ⅻ ①",
    "...",
    "!!!???",
    "—–-‐‑",
    "\"quoted\" 'single' “double” ‘curly’ «guillemets»",
    "naïve façade coöperate Ångström",
    "na\u0069\u0308ve cafe\u0301 decomposed",
    "e\u0301\u0302\u0303\u0304 many marks",
    "\u0301starts with a mark",
    "Zalgo t̵̡e̸͝x̷͠t̴",
    "Łódź, Kraków, Gdańsk",
    "Größe straße ẞ",
    "İstanbul ıi",
    "ﬁ ligature ﬀ",
    "Ελληνικά ήταν",
    "Русский текст",
    "Українська їжак",
    "עברית שלום",
    "العربية مرحبا",
    "हिन्दी नमस्ते",
    "ไทย สวัสดี",
    "தமிழ் வணக்கம்",
    "日本語の文章は短いです。",
    "今天天气很好,我们去公园。",
    "한국어 문장도 있습니다.",
    "한글 decomposed jamo",
    "全角ＡＢＣ１２３",
    "混ぜたmixedテキストtext",
    "😀",
    "😀😂🎉",
    "They laughed 😀😂 and waved 👋🏽",
    "👩‍👩‍👧‍👦 family",
    "🇩🇪🇯🇵 flags",
    "⛵️ ⛵ with and without selector",
    "❤️‍🔥",
    "𝕳𝖊𝖑𝖑𝖔 𝒲",
    "𠮷野家 beyond the basic plane",
    "\U0010ffff last code point",
    "\ue000 private use",
    "\ufffd replacement",
    "\x00",
    "nul\x00inside",
    "\x01\x02\x03\x1b[31mred\x1b[0m",
    "\x7f delete \x80\x9f C1",
    "soft\u00adhyphen",
    "\u202eright to left override",
    END,
    f"{END}{END}",
    f"Once{END}upon",
    f"Once {END} upon",
    f"{END}Once upon a time",
    f"Once upon a time{END}",
    f"{END}\n\n{END}",
    "<|endoftext",
    "<|endoftext|",
    "endoftext|>",
    "< |endoftext| >",
    "<|ENDOFTEXT|>",
    "<|im_start|>user",
    "<s></s><unk><pad>",
    "Ġ Ċ ĉ are letters here",
    "a" * 100,
    "ab" * 60,
    "ha" * 31 + "!",
    "the the the the the the",
    "antidisestablishmentarianism",
    "qzxjkvbp",
    "Vera Vera's Vera, Vera.",
]


def make() -> None:
    tokenizer = Tokenizer.from_file(str(TALE / "tokenizer.json"))

    def decoded(ids: list[int]) -> dict:
        return {
            "decoded": tokenizer.decode(ids, skip_special_tokens=False),
            "decoded_without_special": tokenizer.decode(ids, skip_special_tokens=True),
        }

    texts = list(dict.fromkeys(TEXTS + OTHER + [story(seed, 90) for seed in range(50, 54)]))
    cases = []
    for text in texts:
        ids = tokenizer.encode(text).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text, text
        cases.append(dict(text=text, ids=ids) | decoded(ids))
    rng = np.random.Generator(np.random.PCG64(3))
    rows = [rng.integers(0, 513, length).tolist() for length in range(1, 25)]
    rows += [rng.integers(120, 256, length).tolist() for length in range(1, 17)]  # mostly bytes of split characters
    write_json("tokens.json", {"model": "tale", "random_ids": [dict(ids=ids) | decoded(ids) for ids in rows]}, cases)
    print(f"  {len(cases)} texts, {len(rows)} rows of random ids")
