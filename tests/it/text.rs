//! Tokens against Python's tokenizers, and streams that add up.

use std::sync::Arc;

use fireside::{Engine, Sampling, Specials, TextStream, Tokenizer};
use serde_json::json as value;

use crate::support::{cases, copy_of, fixture, ids, json, model, name_of, time_of_thread};

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

/// The tiny tokenizers that are built like those of published models, with what Python's tokenizers makes of texts.
fn built_like_published_ones() -> Vec<(Arc<Tokenizer>, serde_json::Value)> {
    let load = |case: &serde_json::Value| {
        let folder = copy_of(&fixture("tale"));
        let file = format!("tokenizers/{}.json", case["name"].as_str().expect("a name"));
        std::fs::copy(fixture(&file), folder.path().join("tokenizer.json")).unwrap();
        (Arc::new(Tokenizer::load(&name_of(folder.path())).expect("the tokenizer loads")), case.clone())
    };
    let all: Vec<_> = cases(&json("tokenizers.json")).iter().map(load).collect();
    assert_eq!(all.len(), 9);
    all
}

#[test]
fn tokenizers_of_other_models_give_the_ids_and_texts_of_pythons() {
    for (tokenizer, fixture) in built_like_published_ones() {
        let name = &fixture["name"];
        assert_eq!(tokenizer.vocab_size(), fixture["vocab_size"].as_u64().expect("a number") as usize, "{name}");
        for case in cases(&fixture) {
            let text = case["text"].as_str().expect("a text");
            assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{name}: {text:?}");
        }
        for case in cases(&fixture).iter().chain(fixture["random_ids"].as_array().expect("a list")) {
            let found = ids(&case["ids"]);
            for (skip, decoded) in [(false, &case["decoded"]), (true, &case["decoded_without_special"])] {
                assert_eq!(&tokenizer.decode(&found, skip), decoded, "{name}: {found:?}");
                assert_eq!(&streamed(&tokenizer, &found, skip), decoded, "{name}: {found:?}");
            }
        }
    }
}

#[test]
fn what_is_written_in_a_text_never_becomes_a_special_token_unless_asked() {
    for (tokenizer, fixture) in built_like_published_ones() {
        let special: Vec<String> = (0..tokenizer.id_limit() as u32)
            .filter(|id| tokenizer.is_special(*id))
            .map(|id| tokenizer.name(id).expect("it has a name"))
            .collect();
        assert!(special.len() >= 3, "{}", fixture["name"]);
        let is_special = |id: &u32| tokenizer.is_special(*id) && tokenizer.name(*id).as_deref() != Some("<unk>");
        for name in &special {
            let text = format!("the {name} king{name}{name}");
            let all = tokenizer.encode_text(&text, Specials::AsText).unwrap();
            assert!(!all.iter().any(is_special), "{}: {text:?} gives {all:?}", fixture["name"]);
            let unknown = all.iter().any(|id| tokenizer.name(*id).as_deref() == Some("<unk>"));
            assert!(unknown || tokenizer.decode(&all, false) == text, "{}: {text:?}", fixture["name"]);
            if name == "<unk>" {
                continue; // also what a text becomes that no token fits
            }
            let first = 4..4 + name.len();
            let some = tokenizer.encode_text(&text, Specials::AsTextWithin(&[first])).unwrap();
            let special = |ids: &[u32]| ids.iter().filter(|id| tokenizer.is_special(**id)).count();
            let parsed = special(&tokenizer.encode_plain(&text).unwrap());
            assert!(parsed > 0, "{}: {text:?}", fixture["name"]);
            assert_eq!(special(&some), parsed - 1, "{}: {text:?}", fixture["name"]);
            assert_eq!(tokenizer.encode_text(&text, Specials::Parsed).unwrap(), tokenizer.encode_plain(&text).unwrap());
        }
        for case in cases(&fixture) {
            let text = case["text"].as_str().expect("a text");
            if special.iter().all(|name| !text.contains(name)) {
                assert_eq!(
                    tokenizer.encode_text(text, Specials::AsText).unwrap(),
                    tokenizer.encode_plain(text).unwrap(),
                    "{}: {text:?}",
                    fixture["name"]
                );
            }
        }
    }
}

#[test]
fn a_text_and_what_follows_it_are_the_text_decoded_at_once() {
    for (tokenizer, fixture) in built_like_published_ones() {
        for case in cases(&fixture) {
            let all = ids(&case["ids"]);
            for skip in [false, true] {
                for split in 0..=all.len() {
                    let (before, after) = all.split_at(split);
                    let text = tokenizer.decode(before, skip);
                    if text.ends_with(char::REPLACEMENT_CHARACTER) {
                        continue; // inside a character
                    }
                    let mut stream = TextStream::after(before, Arc::clone(&tokenizer), skip);
                    let mut joined = text + &after.iter().map(|id| stream.push(*id)).collect::<String>();
                    joined.push_str(&stream.finish());
                    assert_eq!(joined, tokenizer.decode(&all, skip), "{}: {before:?} and {after:?}", fixture["name"]);
                }
            }
        }
    }
}

#[test]
fn bytes_of_a_sentencepiece_token_are_exact() {
    for (tokenizer, fixture) in built_like_published_ones().into_iter().take(2) {
        let check = |name: &str, expected: &[u8]| {
            let mut bytes = b"before".to_vec();
            tokenizer.append_bytes(tokenizer.id(name).unwrap_or_else(|| panic!("{name}")), &mut bytes);
            assert_eq!(bytes.strip_prefix(b"before").expect("what was there stays"), expected, "{name}");
        };
        check("<0x00>", b"\0");
        check("<0xE4>", b"\xe4");
        check("▁", b" ");
        check("▁the", b" the");
        check("</s>", b"</s>");
        assert!(!tokenizer.is_byte_level(), "{}", fixture["name"]);
        assert_eq!(tokenizer.kind(), "SentencePiece BPE");
    }
}

/// A tiny Llama whose every id has a name, each second one with a space in front.
fn words_with_spaces() -> tempfile::TempDir {
    let folder = copy_of(&fixture("llama/base"));
    let mut tokenizer: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture("tokenizers/llama2.json")).unwrap()).unwrap();
    let name = |id: u32| if id.is_multiple_of(2) { format!("▁w{id}") } else { format!("w{id}") };
    let mut vocab: serde_json::Map<String, serde_json::Value> = (3..101).map(|id| (name(id), value!(id))).collect();
    vocab.extend([("<unk>", 0), ("<s>", 1), ("</s>", 2)].map(|(name, id)| (name.to_owned(), value!(id))));
    tokenizer["model"]["vocab"] = value!(vocab);
    tokenizer["model"]["merges"] = value!([]);
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    folder
}

#[test]
fn the_space_between_a_prompt_and_its_text_is_kept() {
    let folder = words_with_spaces();
    let mut engine = Engine::load(&name_of(folder.path())).unwrap();
    let sampling = Sampling { max_new_tokens: Some(6), ignore_eos: Some(true), ..Sampling::greedy() };
    let mut spaces = 0;
    for start in 3..60u32 {
        let prompt = [1, start, 2 * start % 97 + 3];
        for prompt in [&prompt[..], &prompt[..1], &prompt[1..]] {
            let text = engine.generate(prompt, sampling.clone()).unwrap().completions().unwrap().remove(0);
            let tokenizer = engine.tokenizer();
            let all = tokenizer.decode(&[prompt, &text.tokens].concat(), true);
            assert_eq!(text.generated_text, all, "{prompt:?}");
            let new = &text.generated_text[tokenizer.decode(prompt, true).len()..];
            spaces += usize::from(prompt.len() > 1 && new.starts_with(' '));
        }
    }
    assert!(spaces > 20, "{spaces} texts begin with a space");
    let whole = engine.generate(vec![1, 5], sampling.clone()).unwrap().completions().unwrap().remove(0).generated_text;
    let stop = &whole[whole.rfind(' ').expect("a word")..][..3];
    let stopped = Sampling { stop_strings: Some(vec![stop.to_owned()]), ..sampling };
    let cut = engine.generate(vec![1, 5], stopped).unwrap().completions().unwrap().remove(0).generated_text;
    assert!(whole.starts_with(&cut) && cut.contains(stop), "{cut:?} of {whole:?} ends at {stop:?}");
}

/// What takes the square of a text's length takes hours for these; reading them takes less than a second.
#[test]
fn long_texts_of_one_kind_are_read_in_a_moment() {
    let long = 1 << 20;
    let mut state = 7u64;
    let letters: String = (0..long)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b"ABCDEFGHabcdefgh01234567+/"[(state >> 33) as usize % 26])
        })
        .collect();
    let texts = ["a", " ", "\n", "=", "ab", "'", "1", "🦊", "世", "e\u{301}", " \t"];
    let mut texts: Vec<String> = texts.iter().map(|unit| unit.repeat(long / unit.len())).collect();
    texts.push(letters);
    texts.push("e".to_owned() + &"\u{301}".repeat(long / 2));
    let folder = copy_of(&fixture("tale"));
    for file in ["tokenizer.json", "vocab.json", "merges.txt"] {
        std::fs::remove_file(folder.path().join(file)).unwrap();
    }
    std::fs::copy(fixture("sentencepiece/tokenizer.model"), folder.path().join("tokenizer.model")).unwrap();
    std::fs::copy(fixture("sentencepiece/llama.json"), folder.path().join("tokenizer_config.json")).unwrap();
    let sentencepiece = Arc::new(Tokenizer::load(&name_of(folder.path())).expect("a tokenizer"));
    let built = built_like_published_ones();
    let of =
        |name: &str| built.iter().find(|(_, case)| case["name"] == name).map(|(tokenizer, _)| Arc::clone(tokenizer));
    let kinds = [Some(sentencepiece), of("llama3"), of("gemma"), of("unigram")];
    for tokenizer in kinds.into_iter().map(|tokenizer| tokenizer.expect("a tokenizer")) {
        for text in texts.iter().filter(|_| !cfg!(debug_assertions)) {
            let before = time_of_thread();
            let ids = tokenizer.encode_plain(text).unwrap();
            assert!(!ids.is_empty());
            let took = (time_of_thread() - before).as_secs_f64();
            assert!(took < 30.0, "{} {:?}…: {took} s", tokenizer.kind(), &text[..4]);
        }
    }
}
