//! Tokens in, whole characters out: the concatenation of all pieces is the text decoded at once.
//!
//! A character may be spread over several tokens; its bytes wait until it is whole. `finish` gives what is left over.
//!
//! Bytes that are not UTF-8 become U+FFFD as they do in Python's `decode`. Where every token is a run of bytes, each wrong
//! sequence becomes one. Where bytes are tokens of their own, for characters that the vocabulary lacks, a run of such tokens
//! is text as a whole or not at all: one wrong byte makes U+FFFD of all of them, sound characters before it too. So such a
//! run waits for the token that ends it, unless it is known to be wrong; no other text ever waits.

use std::sync::Arc;

use super::Tokenizer;
use super::tokenizer::cut;

/// The text of a sequence, as its tokens come.
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    skip_special_tokens: bool,
    state: State,
}

enum State {
    /// Vocabularies whose tokens are bytes, and how many spaces the text may still lose at its start.
    Bytes { decoding: Decoding, indent: usize },
    /// Others, where the text of a token depends on its neighbours: tokens `shown..` are not yet text, and those from
    /// `context` on are decoded with them so that spaces come out as in the whole.
    Window { ids: Vec<u32>, context: usize, shown: usize },
}

impl TextStream {
    /// A stream before its first token.
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special_tokens: bool) -> TextStream {
        TextStream::after(&[], tokenizer, skip_special_tokens)
    }

    /// A stream of what follows other tokens, such as a prompt's: a space that a text would lose at its start stays.
    pub fn after(before: &[u32], tokenizer: Arc<Tokenizer>, skip_special_tokens: bool) -> TextStream {
        const NEIGHBOURS: usize = 8; // tokens; decoders look at one
        let shown = |id: &&u32| !(skip_special_tokens && tokenizer.is_special(**id));
        let mut ids: Vec<u32> = before.iter().rev().filter(shown).take(NEIGHBOURS).copied().collect();
        ids.reverse();
        let state = if tokenizer.is_exact() {
            State::Bytes { decoding: Decoding::default(), indent: if ids.is_empty() { tokenizer.indent() } else { 0 } }
        } else {
            State::Window { context: 0, shown: ids.len(), ids }
        };
        TextStream { tokenizer, skip_special_tokens, state }
    }

    /// Puts text in front of the first token: what a healed token adds to the prompt.
    pub fn preload(&mut self, bytes: &[u8]) {
        if let State::Bytes { decoding, .. } = &mut self.state {
            decoding.preload(bytes);
        }
    }

    /// The text that became whole with this token; often empty.
    pub fn push(&mut self, id: u32) -> String {
        if self.skip_special_tokens && self.tokenizer.is_special(id) {
            return String::new();
        }
        match &mut self.state {
            State::Bytes { decoding, indent } => {
                let mut text = String::new();
                decoding.push(&self.tokenizer, id, &mut text);
                text.split_off(cut(&text, indent))
            }
            State::Window { ids, context, shown } => {
                ids.push(id);
                let before = self.tokenizer.decode(&ids[*context..*shown], false);
                let now = self.tokenizer.decode(&ids[*context..], false);
                if now.ends_with(char::REPLACEMENT_CHARACTER)
                    || now.len() <= before.len()
                    || !now.is_char_boundary(before.len())
                {
                    return String::new();
                }
                (*context, *shown) = (*shown, ids.len());
                now[before.len()..].to_owned()
            }
        }
    }

    /// What no further token will complete.
    pub fn finish(&mut self) -> String {
        match &mut self.state {
            State::Bytes { decoding, indent } => {
                let mut text = String::new();
                decoding.finish(&mut text);
                text.split_off(cut(&text, indent))
            }
            State::Window { ids, context, shown } => {
                let before = self.tokenizer.decode(&ids[*context..*shown], false);
                let now = self.tokenizer.decode(&ids[*context..], false);
                (*context, *shown) = (ids.len(), ids.len());
                now.get(before.len()..).unwrap_or_default().to_owned()
            }
        }
    }
}

/// Bytes on their way to text.
#[derive(Default)]
pub(super) struct Decoding {
    /// Those of a character that is not yet whole, at most three; or those of a run of byte tokens.
    pending: Vec<u8>,
    /// Pending are the bytes of byte tokens.
    is_run: bool,
    /// The run of byte tokens is wrong, and its bytes so far were shown.
    is_wrong: bool,
}

impl Decoding {
    fn preload(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Takes a token and gives what became text with it.
    pub(super) fn push(&mut self, tokenizer: &Tokenizer, id: u32, text: &mut String) {
        let Some(byte) = tokenizer.byte_token(id) else {
            self.end_run(text);
            tokenizer.append_bytes(id, &mut self.pending);
            text.push_str(&take_whole_characters(&mut self.pending));
            return;
        };
        if !self.is_run {
            text.push_str(&take_whole_characters(&mut self.pending));
            self.is_run = true;
        }
        if self.is_wrong {
            text.push(char::REPLACEMENT_CHARACTER);
            return;
        }
        self.pending.push(byte);
        // Bytes before the last four were looked at when they came; no character is longer.
        let from = self.pending.len().saturating_sub(4);
        let start = (from..self.pending.len()).find(|at| self.pending[*at] & 0xc0 != 0x80);
        let last = &self.pending[start.unwrap_or(from)..];
        let wrong = std::str::from_utf8(last).is_err_and(|error| error.error_len().is_some());
        if wrong || start.is_none() {
            self.is_wrong = true;
            text.extend(self.pending.drain(..).map(|_| char::REPLACEMENT_CHARACTER));
        }
    }

    fn end_run(&mut self, text: &mut String) {
        if std::mem::take(&mut self.is_run) {
            self.is_wrong = false;
            let run = std::mem::take(&mut self.pending);
            match String::from_utf8(run) {
                Ok(run) => text.push_str(&run),
                Err(error) => text.extend(error.as_bytes().iter().map(|_| char::REPLACEMENT_CHARACTER)),
            }
        }
    }

    /// What no further token will complete.
    pub(super) fn finish(&mut self, text: &mut String) {
        self.end_run(text);
        text.push_str(&String::from_utf8_lossy(&std::mem::take(&mut self.pending)));
    }
}

/// Takes all but an unfinished character at the end, with U+FFFD for what can never be one.
fn take_whole_characters(pending: &mut Vec<u8>) -> String {
    let mut end = pending.len();
    if let Some(last) = pending.utf8_chunks().last()
        && std::str::from_utf8(last.invalid()).is_err_and(|error| error.error_len().is_none())
    {
        end -= last.invalid().len();
    }
    let rest = pending.split_off(end);
    let text = String::from_utf8_lossy(pending).into_owned();
    *pending = rest;
    text
}

#[cfg(test)]
mod tests {
    use super::take_whole_characters;

    #[track_caller]
    fn check(pieces: &[&[u8]]) {
        let whole = pieces.concat();
        let mut pending = Vec::new();
        let mut text = String::new();
        for piece in pieces {
            pending.extend_from_slice(piece);
            text.push_str(&take_whole_characters(&mut pending));
            assert!(pending.len() <= 3, "no character has more than three unfinished bytes: {pending:?}");
        }
        text.push_str(&String::from_utf8_lossy(&pending));
        assert_eq!(text, String::from_utf8_lossy(&whole));
    }

    #[test]
    fn pieces_of_characters_add_up_to_the_text() {
        check(&[b"Hello", b" World"]);
        check(&["🔥".as_bytes()[..1].as_ref(), &"🔥".as_bytes()[1..3], &"🔥".as_bytes()[3..]]);
        check(&[&"世界".as_bytes()[..4], &"世界".as_bytes()[4..]]);
    }

    #[test]
    fn bytes_that_are_never_text_become_the_replacement_character_once_each() {
        check(&[b"a\xff", b"b\xf0\x9f", b"c", b"\xe4\xb8"]);
        check(&[b"\x80", b"\x80", b"\xc2", b"\xc2", b"\xa9"]);
        for byte in 0..=255u8 {
            check(&[&[0xf0], &[byte], &[0x9f, byte]]);
        }
    }
}
