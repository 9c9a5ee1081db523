//! SentencePiece's table of normalisation: the longest start of a text that it knows becomes something else.
//!
//! The table is a double array (Kanda 2018): from a node, a byte leads to `node ^ byte`, which is a child if that byte is
//! written there. Bit 8 says that a word ends, bits 10 on where the children are, bit 9 that this is in units of 256.

/// The table as the file has it.
#[derive(Default)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    /// What words become, each ended by a zero byte.
    texts: Vec<u8>,
}

impl Charsmap {
    /// A blob: the bytes of the array as four bytes, the array, the texts.
    pub(super) fn new(blob: &[u8]) -> Result<Charsmap, String> {
        if blob.is_empty() {
            return Ok(Charsmap::default());
        }
        let (length, rest) =
            blob.split_first_chunk().ok_or("expected a table of normalisation, found less than four bytes")?;
        let length = u32::from_le_bytes(*length) as usize;
        if !length.is_multiple_of(4) || length > rest.len() {
            return Err(format!(
                "expected a table of normalisation whose array is within its {} bytes, found one of {length}",
                rest.len()
            ));
        }
        let (array, texts) = rest.split_at(length);
        let units =
            array.chunks_exact(4).map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]])).collect();
        std::str::from_utf8(texts).map_err(|_| "expected texts in UTF-8 in the table of normalisation".to_owned())?;
        Ok(Charsmap { units, texts: texts.to_vec() })
    }

    /// The longest start of a text that the table knows: how many bytes it has, and what it becomes.
    fn longest(&self, text: &[u8]) -> Option<(usize, &str)> {
        let mut node = base(*self.units.first()?) as usize;
        let mut longest = None;
        for (length, byte) in text.iter().enumerate() {
            node ^= usize::from(*byte);
            let unit = *self.units.get(node)?;
            if *byte == 0 || unit & (1 << 31 | 0xff) != u32::from(*byte) {
                break;
            }
            node ^= base(unit) as usize;
            if unit >> 8 & 1 == 1 {
                let value = self.units.get(node)? & !(1 << 31);
                longest = Some((length + 1, value as usize));
            }
        }
        let (length, start) = longest?;
        let text = self.texts.get(start..)?;
        let end = text.iter().position(|byte| *byte == 0)?;
        Some((length, std::str::from_utf8(&text[..end]).ok()?))
    }

    /// Whether no text leads outside of the table, however it is read.
    pub(super) fn is_sound(&self) -> bool {
        let Some(root) = self.units.first() else { return false };
        let mut seen = vec![false; self.units.len()];
        let mut nodes = vec![base(*root) as usize];
        while let Some(node) = nodes.pop() {
            match seen.get_mut(node) {
                None => return false,
                Some(seen) if *seen => continue,
                Some(seen) => *seen = true,
            }
            for byte in 1..=255u32 {
                let Some(unit) = self.units.get(node ^ byte as usize) else { return false };
                if unit & (1 << 31 | 0xff) != byte {
                    continue;
                }
                let child = node ^ byte as usize ^ base(*unit) as usize;
                if unit >> 8 & 1 == 1 {
                    let Some(value) = self.units.get(child) else { return false };
                    let start = (value & !(1 << 31)) as usize;
                    let text = self.texts.get(start..).and_then(|text| text.split(|byte| *byte == 0).next());
                    if text.is_none_or(|text| std::str::from_utf8(text).is_err()) {
                        return false;
                    }
                }
                nodes.push(child);
            }
        }
        true
    }

    /// A text with every part that the table knows replaced.
    pub(super) fn apply(&self, text: &str) -> String {
        if self.units.is_empty() {
            return text.to_owned();
        }
        let mut normalized = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            match self.longest(rest.as_bytes()) {
                Some((length, replaced)) if rest.is_char_boundary(length) => {
                    normalized.push_str(replaced);
                    rest = &rest[length..];
                }
                _ => {
                    normalized.push(c);
                    rest = &rest[c.len_utf8()..];
                }
            }
        }
        normalized
    }
}

fn base(unit: u32) -> u32 {
    (unit >> 10) << ((unit & 1 << 9) >> 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_tables_are_told_and_never_followed_outside() {
        assert!(Charsmap::new(&[1, 0]).is_err());
        assert!(Charsmap::new(&[8, 0, 0, 0, 1, 2, 3, 4]).is_err());
        assert!(Charsmap::new(&[3, 0, 0, 0, 1, 2, 3]).is_err());
        assert!(Charsmap::new(&[0, 0, 0, 0, 0xff]).is_err());
        assert_eq!(Charsmap::new(&[]).unwrap().apply("aé"), "aé");
        let mut state = 7u64;
        for _ in 0..2_000 {
            let mut blob = vec![64, 0, 0, 0];
            for _ in 0..16 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                // Half of the units look like children of small nodes.
                let unit = if state >> 60 & 1 == 0 { (state >> 20) as u32 } else { (state >> 20) as u32 & 0x3fff };
                blob.extend_from_slice(&unit.to_le_bytes());
            }
            blob.extend_from_slice(b"xy\0z");
            let text = "\u{1}\u{2}\u{3}\u{4}\u{5}\u{6}\u{7}\u{8}\u{9}\u{a}\u{b}\u{c}\u{d}\u{e}\u{f}é";
            Charsmap::new(&blob).unwrap().apply(text);
        }
    }
}
