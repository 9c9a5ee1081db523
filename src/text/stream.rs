//! Tokens in, whole characters out: the concatenation of all pieces is the text decoded at once.
//!
//! A character may be spread over several tokens; its bytes wait until it is whole. `finish` gives what is left over.

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
    /// Vocabularies whose tokens are bytes: those of a character that is not yet whole, at most three, and how many spaces
    /// the text may still lose at its start.
    Bytes { pending: Vec<u8>, indent: usize },
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
            State::Bytes { pending: Vec::new(), indent: if ids.is_empty() { tokenizer.indent() } else { 0 } }
        } else {
            State::Window { context: 0, shown: ids.len(), ids }
        };
        TextStream { tokenizer, skip_special_tokens, state }
    }

    /// Puts text in front of the first token: what a healed token adds to the prompt.
    pub fn preload(&mut self, bytes: &[u8]) {
        if let State::Bytes { pending, .. } = &mut self.state {
            pending.extend_from_slice(bytes);
        }
    }

    /// The text that became whole with this token; often empty.
    pub fn push(&mut self, id: u32) -> String {
        if self.skip_special_tokens && self.tokenizer.is_special(id) {
            return String::new();
        }
        match &mut self.state {
            State::Bytes { pending, indent } => {
                self.tokenizer.append_bytes(id, pending);
                let mut text = take_whole_characters(pending, |count| self.tokenizer.in_place_of(count));
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
            State::Bytes { pending, .. } => self.tokenizer.in_place_of(std::mem::take(pending).len()),
            State::Window { ids, context, shown } => {
                let before = self.tokenizer.decode(&ids[*context..*shown], false);
                let now = self.tokenizer.decode(&ids[*context..], false);
                (*context, *shown) = (ids.len(), ids.len());
                now.get(before.len()..).unwrap_or_default().to_owned()
            }
        }
    }
}

/// Takes all but an unfinished character at the end, and `in_place_of(n)` for n bytes that can never be one.
pub(super) fn take_whole_characters(pending: &mut Vec<u8>, in_place_of: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    let mut taken = 0;
    loop {
        match std::str::from_utf8(&pending[taken..]) {
            Ok(rest) => {
                text.push_str(rest);
                taken = pending.len();
                break;
            }
            Err(error) => {
                let valid = &pending[taken..taken + error.valid_up_to()];
                text.push_str(&String::from_utf8_lossy(valid));
                taken += error.valid_up_to();
                let Some(wrong) = error.error_len() else { break };
                text.push_str(&in_place_of(wrong));
                taken += wrong;
            }
        }
    }
    pending.drain(..taken);
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
            text.push_str(&take_whole_characters(&mut pending, |_| "\u{fffd}".to_owned()));
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
