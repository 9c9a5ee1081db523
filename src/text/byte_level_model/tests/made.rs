//! Random texts, vocabularies, and what published files say of tokens and words.

use serde_json::{Value, json};

use crate::text::byte_level::character_of;
use crate::text::words::Words;

/// A small generator of pseudo-random numbers, for texts that are the same in every run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    pub(super) fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    fn character(&mut self) -> char {
        const RANGES: [(u32, u32); 20] = [
            (0x20, 0x7F),
            (0x61, 0x7B),
            (0x30, 0x3A),
            (0xA0, 0x250),
            (0x300, 0x370),     // combining marks
            (0x370, 0x530),     // Greek and Cyrillic
            (0x590, 0x700),     // Hebrew and Arabic
            (0x900, 0xE00),     // India
            (0x1100, 0x1200),   // Hangul's letters
            (0x1E00, 0x2000),   // letters with marks
            (0x2000, 0x2070),   // punctuation, odd spaces
            (0x2070, 0x2200),   // digits and letterlike signs
            (0x3000, 0x3100),   // kana
            (0x4E00, 0x9FFF),   // CJK
            (0xAC00, 0xD7A4),   // Hangul
            (0xF900, 0xFFFE),   // compatibility, private use, what stands for wrong bytes
            (0x1D100, 0x1D800), // signs that are never composed, mathematics
            (0x1F300, 0x1FAFF), // emoji
            (0, 0x20),
            (0, 0x11_0000),
        ];
        loop {
            let (low, high) = RANGES[self.below(RANGES.len())];
            if let Some(c) = char::from_u32(low + self.below((high - low) as usize) as u32) {
                return c;
            }
        }
    }

    /// Words, white space, names of tokens and anything at all.
    pub(super) fn text(&mut self, names: &[&str]) -> String {
        const WORDS: &[&str] = &[
            "the",
            "The",
            "THE",
            "king",
            "I'm",
            "DON'T",
            "'S",
            "'\u{17f}",
            "it's",
            "they've",
            "fooBar",
            "HTTPServer's",
            "world",
            "naïve",
            "cafe\u{301}",
            "A\u{30a}",
            "e\u{301}\u{323}",
            "\u{1100}\u{1161}\u{11a8}",
            "ﬁre",
            "क्षि",
            "Привет",
            "你好",
            "世界ひカ",
            "สวัสดี",
            "1",
            "12",
            "1234",
            "12345",
            "3.14",
            "2²½",
            "٣٤",
            "0x1F",
            "foo_bar",
            "==",
            "->",
            "...",
            "—",
            "«»",
            "###",
            "🔥",
            "👩\u{200d}👩",
            "🇩🇪",
            "Ġ",
            "Ċ",
            "<0x0A>",
            "\u{fffd}",
            "\u{feff}",
            "\0",
            "'",
            "''ll",
            "/\n",
            "!\r\n\r\n",
        ];
        const SPACES: &[&str] = &[
            "",
            "",
            " ",
            " ",
            " ",
            "  ",
            "   ",
            "\t",
            "\n",
            "\n\n",
            "\r\n",
            "\r",
            " \n ",
            "\u{a0}",
            "\u{3000}",
            "\u{2028}",
            "\u{85}",
            "        ",
            " \t \u{2003}",
            "\u{b}\u{c}",
        ];
        let mut text = String::new();
        for _ in 0..self.below(14) {
            match self.below(10) {
                0..=3 => text += self.one(WORDS),
                4..=5 if !names.is_empty() => text += self.one(names),
                6 => {
                    let (c, count) = (self.character(), self.below(4));
                    text.extend((0..count).map(|_| c));
                }
                7 if self.below(8) == 0 => text += &self.one(WORDS).repeat(60),
                7 if self.below(8) == 0 => text += &self.one(SPACES).repeat(40),
                _ => {
                    let count = self.below(6);
                    text.extend((0..count).map(|_| self.character()));
                }
            }
            text += self.one(SPACES);
        }
        text
    }

    /// Ranges of bytes of a text of this length, ascending.
    pub(super) fn ranges(&mut self, length: usize) -> Vec<std::ops::Range<usize>> {
        let mut ends: Vec<usize> = (0..2 * self.below(3)).map(|_| self.below(length + 1)).collect();
        ends.sort_unstable();
        ends.chunks(2).map(|range| range[0]..range[1]).collect()
    }
}

/// All bytes, or but the last 20 of them, and merges of what is there already, some of which make a token that others make too.
pub(super) fn vocabulary(random: &mut Random, all_bytes: bool) -> (Value, Vec<(String, String)>) {
    let mut names: Vec<String> = (0..=255).map(|byte| character_of(byte).to_string()).collect();
    if !all_bytes {
        names.retain(|name| {
            !('Ā'..'Ĕ').contains(&name.chars().next().unwrap_or_default()) || name == "Ċ" || name == "č"
        });
    }
    let mut merges: Vec<(String, String)> = Vec::new();
    let words = [
        "Ġthe", "Ġking", "Ġworld", "ing", "The", "ĠĠ", "ĠĠĠĠ", "ĊĊ", "Ã©", "ä¸ĸ", "...", "12", "123", "'ll", "Ġa", "<|",
    ];
    let mut merge = |left: String, right: String| {
        if !merges.contains(&(left.clone(), right.clone())) {
            let whole = format!("{left}{right}");
            if !names.contains(&whole) {
                names.push(whole);
            }
            merges.push((left, right));
        }
        names.len()
    };
    for word in words {
        let mut left = String::new();
        for c in word.chars() {
            if !left.is_empty() {
                merge(left.clone(), c.to_string());
            }
            left.push(c);
        }
    }
    let letters = ["t", "h", "e", "Ġ", "i", "n", "g", "a", "Ã", "©", "th", "in", "he", "1", "2", "Ċ", "ÌĢ", "Ì", "ģ"];
    let mut known: Vec<String> =
        letters.iter().filter(|name| name.chars().count() == 1).map(|name| (*name).to_owned()).collect();
    for _ in 0..150 {
        let (left, right) = (known[random.below(known.len())].clone(), known[random.below(known.len())].clone());
        if (left.clone() + &right).chars().count() <= 8 {
            merge(left.clone(), right.clone());
            known.push(left + &right);
        }
    }
    // A word that no merge makes.
    names.push("Ġwhole".to_owned());
    names.push("wholly".to_owned());
    let names = names.into_iter().enumerate().map(|(id, name)| (name, json!(id))).collect();
    (Value::Object(names), merges)
}

pub(super) fn byte_level(prefix: bool, regex: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex })
}

pub(super) fn split(pattern: &str, behavior: &str, invert: bool) -> Value {
    json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": behavior, "invert": invert })
}

pub(super) fn sequence(members: &[Value]) -> Value {
    json!({ "type": "Sequence", "pretokenizers": members })
}

/// The ways to cut texts that are recognised, as published files write them.
pub(super) fn pre_tokenizers() -> Vec<(&'static str, Value)> {
    const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let digits = json!({ "type": "Digits", "individual_digits": true });
    let words = |pattern: &str| sequence(&[split(pattern, "Isolated", false), byte_level(false, false)]);
    let mut all = vec![
        ("gpt2", byte_level(false, true)),
        ("a space in front", byte_level(true, true)),
        ("no words", byte_level(false, false)),
        ("no words but a space in front", byte_level(true, false)),
        ("smollm2", sequence(&[digits.clone(), byte_level(false, true)])),
        ("digits alone", sequence(&[digits, byte_level(false, false)])),
        ("llama3", words(LLAMA3)),
        ("qwen2", words(QWEN2)),
        ("tekken", words(TEKKEN)),
        ("gpt-4o", words(GPT_4O)),
        ("gpt-4o by what is kept", sequence(&[split(GPT_4O, "Removed", true), byte_level(false, false)])),
        ("llama3 and gpt2", sequence(&[split(LLAMA3, "Isolated", true), byte_level(false, true)])),
    ];
    // All others that GGUF files have a name for, whether or not a file has them.
    for name in Words::names().filter(|name| *name != "gemma4") {
        let steps = Words::steps(name).expect("a known name");
        let splits = steps.iter().map(|step| split(&step.pattern(), "Isolated", false));
        let members: Vec<Value> = splits.chain([byte_level(false, false)]).collect();
        if !all.iter().any(|(_, value)| *value == sequence(&members)) {
            all.push((name, sequence(&members)));
        }
    }
    all
}

pub(super) fn token(id: usize, content: &str, flags: &[&str]) -> Value {
    let mut token = json!({ "id": id, "content": content });
    for flag in ["special", "lstrip", "rstrip", "single_word", "normalized"] {
        token[flag] = json!(flags.contains(&flag));
    }
    token
}

/// Kinds of added tokens (none of white space beside those that take it: the crate finds one inside the other), behind a vocabulary of this size.
pub(super) fn added(size: usize) -> Vec<(&'static str, Vec<Value>)> {
    let number = |tokens: &[(&str, &[&str])]| {
        tokens.iter().enumerate().map(|(place, (name, flags))| token(size + place, name, flags)).collect::<Vec<Value>>()
    };
    let special: &[&str] = &["special"];
    vec![
        ("none", vec![]),
        ("special", number(&[("<|endoftext|>", special), ("<|im_start|>", special), ("<|im", special)])),
        ("normalized", number(&[("<|endoftext|>", &["special", "normalized"]), ("<a> b", &["normalized"])])),
        (
            "white space",
            number(&[("   ", &["normalized"]), ("\n\n", &[]), ("\t", &["normalized"]), ("  ", &["special"])]),
        ),
        (
            "all kinds",
            number(&[
                ("<|l|>", &["special", "lstrip"]),
                ("<|r|>", &["special", "rstrip", "normalized"]),
                ("<|lr|>", &["lstrip", "rstrip"]),
                ("king's", &["single_word", "normalized"]),
                ("cat", &["single_word"]),
                ("caf\u{e9}", &["normalized"]),
                ("\u{1fb}", &["special", "normalized"]),
                ("e\u{301}", &[]),
                ("Ġspelled", &["special"]),
                ("12 34", &["single_word", "normalized"]),
                ("<|l", &["normalized"]),
                ("the Ki", &["normalized", "lstrip"]),
            ]),
        ),
    ]
}
