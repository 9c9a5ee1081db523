//! The names of a vocabulary, by number and back, in one piece of memory: about twice the length of the names.

use std::hash::{BuildHasher, RandomState};

use crate::error::{count, quote};

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text.
    Normal,
    /// What the vocabulary has no word for.
    Unknown,
    /// Structure, such as the end of a text.
    Control,
    /// Text that is found before all other text.
    UserDefined,
    /// A number that no text has.
    Unused,
    /// One byte, as `<0x0A>`.
    Byte,
}

/// Names and kinds of all tokens.
pub(super) struct Vocabulary {
    /// All names, one after the other.
    bytes: Vec<u8>,
    /// Where each begins, and where the last ends.
    starts: Vec<u32>,
    kinds: Vec<Kind>,
    /// Numbers by the hash of their name, plus one; 0 is a free place. A power of two, at most half full.
    table: Vec<u32>,
    /// Seeded at random, so that no file can make all names collide.
    hasher: RandomState,
}

impl Vocabulary {
    /// Each name once; an empty one is never found.
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a [u8]>, kinds: Vec<Kind>) -> Result<Vocabulary, String> {
        let mut bytes = Vec::new();
        let mut starts = Vec::with_capacity(kinds.len() + 1);
        starts.push(0);
        for name in names {
            bytes.extend_from_slice(name);
            let end = u32::try_from(bytes.len()).map_err(|_| "expected names of at most 4 GB in all, found more")?;
            starts.push(end);
        }
        bytes.shrink_to_fit();
        let size = starts.len() - 1;
        if size != kinds.len() {
            return Err(format!("expected {}, as there are types, found {size}", count(kinds.len(), "token")));
        }
        if size == 0 || size > 1 << 30 {
            return Err(format!("expected a vocabulary, found {}", count(size, "token")));
        }
        let table = vec![0; (2 * size).next_power_of_two()];
        let mut vocabulary = Vocabulary { bytes, starts, kinds, table, hasher: RandomState::new() };
        for id in 0..size as u32 {
            let name = vocabulary.name(id);
            if name.is_empty() {
                continue;
            }
            match vocabulary.find(name) {
                Ok(other) => {
                    let name = quote(&String::from_utf8_lossy(name));
                    return Err(format!("expected every token once, found {name} as token {other} and as token {id}"));
                }
                Err(place) => vocabulary.table[place] = id + 1,
            }
        }
        Ok(vocabulary)
    }

    /// Tokens.
    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// What a token is called; the number must be one of the vocabulary.
    pub(super) fn name(&self, id: u32) -> &[u8] {
        let id = id as usize;
        &self.bytes[self.starts[id] as usize..self.starts[id + 1] as usize]
    }

    /// A name for messages.
    pub(super) fn quoted(&self, id: u32) -> String {
        quote(&String::from_utf8_lossy(self.name(id)))
    }

    pub(super) fn kind(&self, id: u32) -> Kind {
        self.kinds[id as usize]
    }

    pub(super) fn set_kind(&mut self, id: u32, kind: Kind) {
        self.kinds[id as usize] = kind;
    }

    /// The token of this name.
    pub(super) fn id(&self, name: &[u8]) -> Option<u32> {
        if name.is_empty() { None } else { self.find(name).ok() }
    }

    /// The token of this name, or the place in the table where it would be.
    fn find(&self, name: &[u8]) -> Result<u32, usize> {
        let mask = self.table.len() - 1;
        let mut place = self.hasher.hash_one(name) as usize & mask;
        loop {
            match self.table[place] {
                0 => return Err(place),
                found if self.name(found - 1) == name => return Ok(found - 1),
                _ => place = (place + 1) & mask,
            }
        }
    }

    /// The tokens that stand for single bytes, `<0x0A>` and its like.
    pub(super) fn bytes(&self) -> Box<[Option<u32>; 256]> {
        let mut tokens = Box::new([None; 256]);
        for (byte, token) in tokens.iter_mut().enumerate() {
            *token = self.id(format!("<0x{byte:02X}>").as_bytes());
        }
        tokens
    }
}

/// The byte that `<0x0A>` and its like stand for.
pub(super) fn named_byte(name: &[u8]) -> Option<u8> {
    let digits = name.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.len() == 2 && !digits.starts_with('+'))?;
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(names: &[&str]) -> Result<Vocabulary, String> {
        Vocabulary::new(names.iter().map(|name| name.as_bytes()), vec![Kind::Normal; names.len()])
    }

    #[test]
    fn names_and_numbers_belong_together() {
        let names: Vec<String> = (0..5_000).map(|n| format!("token {n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).chain(["", "é", ""]).collect();
        let vocabulary = build(&names).unwrap();
        assert_eq!(vocabulary.len(), 5_003);
        for (id, name) in names.iter().enumerate() {
            assert_eq!(vocabulary.name(id as u32), name.as_bytes());
            assert_eq!(vocabulary.id(name.as_bytes()), (!name.is_empty()).then_some(id as u32));
        }
        assert_eq!(vocabulary.id(b"token 5000"), None);
    }

    #[test]
    fn a_vocabulary_that_contradicts_itself_is_told() {
        assert_eq!(
            build(&["a", "b", "a"]).err().unwrap(),
            "expected every token once, found `a` as token 0 and as token 2"
        );
        assert_eq!(build(&[]).err().unwrap(), "expected a vocabulary, found 0 tokens");
        let short = Vocabulary::new([&b"a"[..]].into_iter(), vec![Kind::Normal; 2]);
        assert_eq!(short.err().unwrap(), "expected 2 tokens, as there are types, found 1");
    }

    #[test]
    fn only_two_hexadecimal_digits_name_a_byte() {
        assert_eq!(named_byte(b"<0x0A>"), Some(10));
        assert_eq!(named_byte(b"<0xff>"), Some(255));
        for name in ["<0x0>", "<0x+1>", "<0x100>", "<0x0G>", "0x0A", "<0x0A", ""] {
            assert_eq!(named_byte(name.as_bytes()), None, "{name}");
        }
    }
}
