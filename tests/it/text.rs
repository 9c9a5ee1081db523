//! Tokens against Python's tokenizers, and streams that add up.

use std::sync::Arc;

use fireside::{TextStream, Tokenizer};

use crate::support::{cases, copy_of, fixture, ids, json, model, name_of};

fn tale() -> Tokenizer {
    Tokenizer::load(&model("tale")).expect("the fixture loads")
}

#[test]
fn ids_and_texts_are_those_of_pythons_tokenizers_from_both_kinds_of_files() {
    let pair = copy_of(&fixture("tale"));
    std::fs::remove_file(pair.path().join("tokenizer.json")).unwrap();
    let fixture = json("tokens.json");
    for tokenizer in [tale(), Tokenizer::load(&name_of(pair.path())).unwrap()] {
        for case in cases(&fixture) {
            let text = case["text"].as_str().expect("a text");
            let found = tokenizer.encode(text).unwrap();
            assert_eq!(found, ids(&case["ids"]), "{text:?}");
            assert_eq!(tokenizer.decode(&found, false), case["decoded"].as_str().expect("a text"));
            assert_eq!(tokenizer.decode(&found, true), case["decoded_without_special"].as_str().expect("a text"));
        }
        for case in fixture["random_ids"].as_array().expect("a list") {
            assert_eq!(tokenizer.decode(&ids(&case["ids"]), false), case["decoded"].as_str().expect("a text"));
            assert_eq!(
                tokenizer.decode(&ids(&case["ids"]), true),
                case["decoded_without_special"].as_str().expect("a text")
            );
        }
    }
}

/// GPT-2's real vocabulary, which is not ours to commit. `tests/oracle/gpt2_vocab.sh DIR` fetches it; `.ci/run` does.
#[test]
fn gpt2_vocabulary_gives_the_ids_of_an_independent_encoder() {
    let Some(folder) = std::env::var_os("FIRESIDE_GPT2_VOCAB") else {
        eprintln!("SKIPPED: set FIRESIDE_GPT2_VOCAB to a folder made by tests/oracle/gpt2_vocab.sh");
        return;
    };
    let model = copy_of(std::path::Path::new(&folder));
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("tale").join(file), model.path().join(file)).unwrap();
    }
    let tokenizer = Tokenizer::load(&name_of(model.path())).unwrap();
    assert_eq!(tokenizer.vocab_size(), 50257);
    for case in cases(&json("gpt2_vocab.json")) {
        let text = case["text"].as_str().expect("a text");
        assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{text:?}");
        assert_eq!(tokenizer.decode(&ids(&case["ids"]), false), text);
    }
}

/// A small generator of pseudo-random numbers, for texts that are the same in every run.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % u64::from(n)) as u32
    }

    /// Latin, CJK, emoji, combining marks, control characters, anything.
    fn character(&mut self) -> char {
        let ranges = [
            (0x20, 0x7F),
            (0xA0, 0x250),
            (0x4E00, 0x9FFF),
            (0x1F300, 0x1FAFF),
            (0x300, 0x36F),
            (0, 0x20),
            (0, 0x11_0000),
        ];
        loop {
            let (low, high) = ranges[self.below(ranges.len() as u32) as usize];
            if let Some(c) = char::from_u32(low + self.below(high - low)) {
                return c;
            }
        }
    }
}

fn streamed(tokenizer: &Arc<Tokenizer>, ids: &[u32], skip_special_tokens: bool) -> String {
    let mut stream = TextStream::new(Arc::clone(tokenizer), skip_special_tokens);
    let mut text = String::new();
    for id in ids {
        let piece = stream.push(*id);
        text.push_str(&piece);
    }
    text + &stream.finish()
}

#[test]
fn streamed_text_is_the_text_decoded_at_once_on_10000_random_strings() {
    let tokenizer = Arc::new(tale());
    let mut random = SplitMix(42);
    for _ in 0..10_000 {
        let text: String = (0..random.below(40)).map(|_| random.character()).collect();
        let ids = tokenizer.encode(&text).unwrap();
        assert_eq!(streamed(&tokenizer, &ids, false), text);
    }
}

#[test]
fn streamed_text_is_the_text_decoded_at_once_for_tokens_that_are_no_text() {
    let tokenizer = Arc::new(tale());
    let mut random = SplitMix(7);
    for _ in 0..10_000 {
        let ids: Vec<u32> = (0..random.below(30)).map(|_| random.below(513)).collect();
        for skip in [false, true] {
            assert_eq!(streamed(&tokenizer, &ids, skip), tokenizer.decode(&ids, skip), "{ids:?}");
        }
    }
}

#[test]
fn a_piece_never_ends_inside_a_character() {
    let tokenizer = Arc::new(tale());
    let text = "naïve 世界 🔥👩‍👩‍👧‍👦 e\u{301}";
    let mut stream = TextStream::new(Arc::clone(&tokenizer), true);
    let pieces: Vec<String> = tokenizer.encode(text).unwrap().into_iter().map(|id| stream.push(id)).collect();
    assert!(pieces.iter().any(String::is_empty), "some characters are spread over tokens");
    assert!(pieces.iter().all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER)), "{pieces:?}");
    assert_eq!(pieces.concat(), text);
}
