//! GPT-2's table of bytes, in which names of byte-level vocabularies are spelled: printable Latin-1 is itself, the other 68
//! bytes are U+0100 and on, in order.

use std::sync::OnceLock;

/// Whether a byte is spelled as itself.
fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

fn characters() -> &'static [char; 256] {
    static TABLE: OnceLock<[char; 256]> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut next = '\u{100}'..;
        let mut table = ['\0'; 256];
        for (byte, c) in (0..=255u8).zip(&mut table) {
            *c = if is_printable(byte) { char::from(byte) } else { next.next().expect("the range has no end") };
        }
        table
    })
}

/// The character that spells a byte.
pub(super) fn character_of(byte: u8) -> char {
    characters()[byte as usize]
}

/// The byte that a character spells.
pub(super) fn byte_of(c: char) -> Option<u8> {
    static TABLE: OnceLock<[Option<u8>; 0x144]> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut table = [None; 0x144];
        for (byte, c) in (0..=255u8).zip(characters()) {
            table[*c as usize] = Some(byte);
        }
        table
    });
    table.get(c as usize).copied().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character_as_in_the_tokenizers_crate() {
        let mut bytes: Vec<u8> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
            .into_iter()
            .map(|c| byte_of(c).unwrap())
            .collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert!((0..=255).all(|byte| byte_of(character_of(byte)) == Some(byte)));
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_of(' '), None);
        assert_eq!(byte_of('世'), None);
    }
}
