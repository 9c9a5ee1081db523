//! How a text is cut into words before byte-pair encoding, by the name that GGUF files have for it.
//!
//! Most ways are those that the models' own tokenizer.json writes down, as regular expressions. They run in time linear in
//! the text: the one thing that needs a look ahead, "white space but for its last character unless the text ends there"
//! (`\s+(?!\S)|\s+`), is a match that gives back a character.

use regex_automata::meta::{Builder, Config, Regex};

macro_rules! contractions {
    () => {
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    };
}
macro_rules! upper {
    () => {
        r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
    };
}
macro_rules! lower {
    () => {
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    };
}
macro_rules! before {
    () => {
        r"[^\r\n\p{L}\p{N}]?"
    };
}
macro_rules! ascii_word {
    () => {
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##
    };
}

/// One pass over the pieces that are there: each match is a piece, and so is what lies between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Matches as they are.
    Plain(&'static str),
    /// The pattern, or else white space that gives back its last character.
    Spaced(&'static str),
}

use Step::{Plain, Spaced};

/// What a pattern of a tokenizer.json says of white space that gives back its last character.
const SPACES: &str = r"|\s+(?!\S)|\s+";

pub(super) const GPT2: Step = Spaced(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+");
pub(super) const DIGIT: Step = Plain(r"\p{N}");
const THREE_DIGITS: Step = Plain(r"\p{N}{1,3}");
const LLAMA3: Step =
    Spaced(concat!(contractions!(), "|", before!(), r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"));
pub(super) const QWEN2: Step =
    Spaced(concat!(contractions!(), "|", before!(), r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"));
const QWEN35: Step =
    Spaced(concat!(contractions!(), "|", before!(), r"[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+"));
const CASED: Step = Spaced(concat!(
    concat!(before!(), upper!(), "*", lower!(), "+", contractions!(), "?|"),
    concat!(before!(), upper!(), "+", lower!(), "*", contractions!(), "?|"),
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
));
const TEKKEN: Step = Spaced(concat!(
    concat!(before!(), upper!(), "*", lower!(), "+|"),
    concat!(before!(), upper!(), "+", lower!(), "*|"),
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
));
const NEWLINE: Step = Plain(r"[\r\n]");
const CJK: Step = Plain(r"[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+");
const CJK_KANA: Step = Plain(r"[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+");
const DEEPSEEK_V3: Step =
    Spaced(concat!(ascii_word!(), r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"));
/// Letters that have cases, as DeepSeek LLM's tokenizer lists them.
const CASED_LETTERS: Step = Plain(concat!(
    r"\s?[A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\u{2af}",
    r"\u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}\u{3a3}-\u{3f5}",
    r"\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\u{13f8}-\u{13fd}",
    r"\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}",
    r"\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}",
    r"\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}",
    r"\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}",
    r"\u{2124}\u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}",
    r"\u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}",
    r"\u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}",
    r"\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}",
    r"\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}]+"
));
const BLOOM: Step = Plain(r" ?[^(\s|.,!?\u{2026}\u{3002}\u{ff0c}\u{3001}\u{964}\u{6d4}\u{60c})]+");

/// What goes with a way to cut.
#[derive(Clone, Copy, Default)]
pub(super) struct Habits {
    /// Characters are composed first (NFC).
    pub(super) nfc: bool,
    /// A word that is a token is that token, whatever the merges say.
    pub(super) ignore_merges: bool,
    /// Texts begin with the begin-of-text token unless the file says otherwise.
    pub(super) add_bos: bool,
    /// Spaces are `▁` and all else is itself; otherwise names are spelled in GPT-2's table of bytes.
    pub(super) raw: bool,
    /// A space goes before text that begins with none.
    pub(super) prefix_space: bool,
}

const PLAIN: Habits = Habits { nfc: false, ignore_merges: false, add_bos: false, raw: false, prefix_space: false };
const COMPOSED: Habits = Habits { nfc: true, ..PLAIN };
const WHOLE: Habits = Habits { ignore_merges: true, ..PLAIN };
const LLAMA: Habits = Habits { add_bos: true, ..WHOLE };

/// Names in files, the passes, and what goes with them.
const ALL: [(&[&str], &[Step], Habits); 27] = [
    (
        &["gpt-2", "phi-2", "jais", "trillion", "granite-docling", "gigachat", "a.x-4.0", "mellum", "exaone4"],
        &[GPT2],
        PLAIN,
    ),
    (&["mpt", "olmo"], &[GPT2], COMPOSED),
    (&["starcoder", "refact", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"], &[DIGIT, GPT2], PLAIN),
    (&["command-r"], &[DIGIT, GPT2], COMPOSED),
    (&["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"], &[LLAMA3], LLAMA),
    (&["dbrx", "smaug-bpe", "chatglm-bpe"], &[LLAMA3], PLAIN),
    (&["glm4", "glm5"], &[LLAMA3], WHOLE),
    (&["qwen2", "megrez", "stablelm2"], &[QWEN2], COMPOSED),
    (&["deepseek-r1-qwen", "kormo", "hunyuan", "solar-open", "grok-2"], &[QWEN2], PLAIN),
    (&["qwen35"], &[QWEN35], PLAIN),
    (&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[CASED], PLAIN),
    (&["tekken"], &[TEKKEN], LLAMA),
    (
        &["deepseek-llm"],
        &[
            NEWLINE,
            CASED_LETTERS,
            Plain(r"\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+"),
            Plain(r"\s+$"),
            CJK,
            Plain(r"\p{N}+"),
        ],
        PLAIN,
    ),
    (&["deepseek-coder"], &[NEWLINE, Plain(r"\s?\p{L}+"), Plain(r"\s?\p{P}+"), CJK, DIGIT], PLAIN),
    (&["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], &[THREE_DIGITS, CJK_KANA, DEEPSEEK_V3], PLAIN),
    (
        &["falcon"],
        &[Plain(r"[[\p{P}&&\p{Age:8.0}]\u{166D}\u{111C9}\$\+<=>\^~\|`]+"), GPT2, Plain("[0-9][0-9][0-9]")],
        PLAIN,
    ),
    (&["default"], &[Plain(r"[\p{P}\$\+<=>\^~\|]+"), GPT2, Plain(r"\p{N}+"), Plain("[0-9][0-9][0-9]")], PLAIN),
    (&["bloom", "gpt3-finnish", "poro-chat"], &[BLOOM], PLAIN),
    (&["viking"], &[BLOOM, DIGIT], PLAIN),
    (
        &["chameleon"],
        &[
            Plain("<sentinel:[0-9]+>"),
            Plain("(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"),
            Plain(r"([\t\n]|    |  )"),
            DIGIT,
            Plain(r"[\p{P}!-/:-@\[-`{-~]"),
            GPT2,
        ],
        Habits { add_bos: true, ..PLAIN },
    ),
    (
        &["bailingmoe", "bailingmoe2", "llada-moe"],
        &[Spaced(concat!("'(?i:[sdmt]|ll|ve|re)|", before!(), r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]"))],
        PLAIN,
    ),
    (
        &["seed-coder"],
        &[Spaced(concat!(contractions!(), "|", before!(), r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+"))],
        PLAIN,
    ),
    (&["ufakzeka"], &[Spaced(concat!(before!(), r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"))], PLAIN),
    (&["laguna"], &[Plain(r"[^\n]+|[\n]+"), QWEN2], PLAIN),
    (
        &["exaone-moe"],
        &[Spaced(concat!(
            contractions!(),
            "|",
            before!(),
            r"(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]"
        ))],
        PLAIN,
    ),
    (
        &["minicpm5"],
        &[
            THREE_DIGITS,
            Spaced(concat!(contractions!(), "|", before!(), r"\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+")),
        ],
        WHOLE,
    ),
    (&["gemma4"], &[Plain(r"[^\n]+|[\n]+")], Habits { add_bos: true, raw: true, ..PLAIN }),
];

impl Step {
    /// The pass of this pattern, as a tokenizer.json writes it.
    pub(super) fn of(pattern: &str) -> Option<Step> {
        let mut all = ALL.iter().flat_map(|(_, steps, _)| steps.iter().copied());
        let spaced = pattern.strip_suffix(SPACES);
        all.find(|step| match step {
            Plain(known) => *known == pattern,
            Spaced(known) => Some(*known) == spaced,
        })
    }

    /// Whether nothing of any text lies between its matches.
    pub(super) fn matches_every_character(self) -> bool {
        matches!(self, GPT2 | LLAMA3 | QWEN2 | CASED | TEKKEN)
    }

    /// The pattern as a tokenizer.json writes it.
    pub(super) fn pattern(self) -> String {
        match self {
            Plain(pattern) => pattern.to_owned(),
            Spaced(pattern) => format!("{pattern}{SPACES}"),
        }
    }
}

/// Room for what the engine has seen: with less, text in many scripts makes it start over and over again.
fn builder() -> Builder {
    let mut builder = Regex::builder();
    builder.configure(Config::new().hybrid_cache_capacity(32 << 20));
    builder
}

/// A way to cut texts into words.
pub(super) struct Words {
    /// The expression of each pass, and whether its second pattern is white space that gives back a character.
    passes: Vec<Regex>,
    pub(super) habits: Habits,
}

impl Words {
    /// The way of this name.
    pub(super) fn named(name: &str) -> Option<Words> {
        let (_, steps, habits) = ALL.iter().find(|(names, _, _)| names.contains(&name))?;
        Some(Words::new(steps, *habits))
    }

    /// Passes, one after the other.
    pub(super) fn new(steps: &[Step], habits: Habits) -> Words {
        let passes = steps.iter().map(|step| {
            let built = match step {
                Plain(pattern) => builder().build(pattern),
                Spaced(pattern) => builder().build_many(&[*pattern, r"\s+"]),
            };
            built.expect("the pattern is ours")
        });
        Words { passes: passes.collect(), habits }
    }

    /// The passes of a name.
    pub(super) fn steps(name: &str) -> Option<&'static [Step]> {
        ALL.iter().find(|(names, _, _)| names.contains(&name)).map(|(_, steps, _)| *steps)
    }

    /// The names that are known, for messages.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        ALL.iter().flat_map(|(names, _, _)| names.iter().copied())
    }

    /// Calls `each` with the words of a text, one after the other.
    pub(super) fn cut<E>(&self, text: &str, each: &mut impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
        self.cut_from(0, text, each)
    }

    fn cut_from<E>(&self, pass: usize, text: &str, each: &mut impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
        let Some(regex) = self.passes.get(pass) else { return if text.is_empty() { Ok(()) } else { each(text) } };
        let mut start = 0;
        while start < text.len() {
            let Some(found) = regex.find(regex_automata::Input::new(text).range(start..)) else { break };
            let mut end = found.end();
            if found.pattern().as_usize() == 1 && end < text.len() {
                let last = text[..end].chars().next_back().map_or(0, char::len_utf8);
                end = if end - last > found.start() { end - last } else { end };
            }
            if found.start() == end {
                break; // an empty match: no pattern has one
            }
            self.cut_from(pass + 1, &text[start..found.start()], each)?;
            self.cut_from(pass + 1, &text[found.start()..end], each)?;
            start = end;
        }
        self.cut_from(pass + 1, &text[start..], each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(name: &str, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        let cut = Words::named(name).expect("a known name").cut(text, &mut |word| {
            words.push(word.to_owned());
            Ok::<(), ()>(())
        });
        cut.unwrap();
        words
    }

    #[track_caller]
    fn check(name: &str, text: &str, expected: &[&str]) {
        assert_eq!(cut(name, text), expected, "{name}: {text:?}");
    }

    #[test]
    fn every_name_is_there_once_and_its_patterns_are_sound() {
        let names: Vec<&str> = Words::names().collect();
        for (place, name) in names.iter().enumerate() {
            assert!(!names[..place].contains(name), "{name}");
            check(name, "", &[]);
            let text = "The 12345 cafe\u{301}s,\r\n\r\n don't STOP—ﬁ 世界ひ  \t x ";
            assert_eq!(cut(name, text).concat(), text, "{name}");
        }
        assert!(Words::named("gpt-3").is_none());
    }

    #[test]
    fn white_space_gives_its_last_character_to_what_follows() {
        check("gpt-2", "a   b", &["a", "  ", " b"]);
        check("gpt-2", "a \t\tb", &["a", " \t", "\t", "b"]);
        check("gpt-2", "a   ", &["a", "   "]);
        check("gpt-2", "\u{3000}\u{3000}a", &["\u{3000}", "\u{3000}", "a"]);
        check("llama-bpe", "a\n\n  b 1234", &["a", "\n\n", " ", " b", " ", "123", "4"]);
        check("smollm", "x 12", &["x", " ", "1", "2"]);
    }

    #[test]
    fn words_are_those_of_the_models_own_patterns() {
        check("gpt-2", "I'll DON'T 3½ €5", &["I", "'ll", " DON", "'", "T", " 3½", " €", "5"]);
        check("qwen2", "I'LL 12 #a", &["I", "'LL", " ", "1", "2", " #", "a"]);
        check("gpt-4o", "fooBar HTTPServer's", &["foo", "Bar", " HTTPServer's"]);
        check("tekken", "fooBar's 42", &["foo", "Bar", "'s", " ", "4", "2"]);
        check("deepseek-v3", "a世界b 1234", &["a", "世界", "b", " ", "123", "4"]);
        check("falcon", "a12345, b", &["a", "123", "45", ",", " b"]);
        check("gemma4", "a b\n\nc", &["a b", "\n\n", "c"]);
    }
}
