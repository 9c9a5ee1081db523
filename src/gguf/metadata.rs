//! What a GGUF file says of its model: keys and values. Values stay in the mapped file; arrays are read from there one
//! element after the other, so that a vocabulary of 250,000 tokens costs no memory until somebody asks for it.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::reader::{Reader, damaged};
use super::write::Written;
use crate::error::{Error, Result, count, quote};
use crate::mapped::Bytes;

/// Keys of a file: real ones have about fifty.
const MOST_KEYS: u64 = 1 << 16;

/// Bytes of a key, as the format has it.
const LONGEST_KEY: usize = (1 << 16) - 1;

/// Arrays within arrays. No real file has any.
const DEEPEST: usize = 4;

/// The kinds of values, by their number in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl Kind {
    const ALL: [Kind; 13] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::F32,
        Kind::Bool,
        Kind::String,
        Kind::Array,
        Kind::U64,
        Kind::I64,
        Kind::F64,
    ];

    /// Bytes of a value; `None` where each has a length of its own.
    fn bytes(self) -> Option<usize> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::String | Kind::Array => None,
        }
    }

    /// Fewest bytes that a value takes in the file.
    fn least(self) -> usize {
        match self {
            Kind::String => 8,
            Kind::Array => 12,
            other => other.bytes().unwrap_or(1),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::U8 => "u8",
            Kind::I8 => "i8",
            Kind::U16 => "u16",
            Kind::I16 => "i16",
            Kind::U32 => "u32",
            Kind::I32 => "i32",
            Kind::F32 => "f32",
            Kind::Bool => "bool",
            Kind::String => "string",
            Kind::Array => "array",
            Kind::U64 => "u64",
            Kind::I64 => "i64",
            Kind::F64 => "f64",
        })
    }
}

/// Where a value lies.
#[derive(Clone, Debug)]
enum Value {
    /// Its bytes: a number's, or a string's without its length.
    One(Kind, Range<usize>),
    /// So many of one kind, one after the other.
    Many(Kind, usize, Range<usize>),
}

/// The metadata of one file. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Metadata(Arc<Inner>);

struct Inner {
    path: PathBuf,
    bytes: Arc<Bytes>,
    /// In the order of the file.
    keys: Vec<(Box<str>, Value)>,
    by_name: HashMap<Box<str>, usize>,
}

impl Metadata {
    /// Reads so many pairs of keys and values. Strings are measured here and looked at when they are asked for.
    pub(super) fn read(reader: &mut Reader, pairs: u64, path: &Path, bytes: &Arc<Bytes>) -> Result<Metadata> {
        const SHORTEST_PAIR: u64 = 8 + 1 + 4 + 1; // a key of one byte, its kind, a value of one byte
        if pairs > MOST_KEYS || pairs > reader.left() as u64 / SHORTEST_PAIR {
            return Err(reader.damaged(format!(
                "expected a number of keys that fits the file and is at most {MOST_KEYS}, found {pairs}"
            )));
        }
        let mut keys = Vec::with_capacity(pairs as usize);
        let mut by_name = HashMap::with_capacity(pairs as usize);
        for _ in 0..pairs {
            let key: Box<str> = reader.name("a key", LONGEST_KEY)?.into();
            let value = read_value(reader, &key, bytes.all())?;
            if by_name.insert(key.clone(), keys.len()).is_some() {
                return Err(reader.damaged(format!("the key {} is there twice", quote(&key))));
            }
            keys.push((key, value));
        }
        Ok(Metadata(Arc::new(Inner { path: path.to_owned(), bytes: Arc::clone(bytes), keys, by_name })))
    }

    /// The file that it came from, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    /// The keys, in the order of the file.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys.iter().map(|(key, _)| &**key)
    }

    /// Whether there is such a key.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.by_name.contains_key(key)
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.0.by_name.get(key).map(|index| &self.0.keys[*index].1)
    }

    fn bytes_of(&self, range: &Range<usize>) -> &[u8] {
        &self.0.bytes.all()[range.clone()]
    }

    /// A string; `None` where the key is not there.
    pub(crate) fn string(&self, key: &str) -> Result<Option<&str>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::One(Kind::String, range)) => std::str::from_utf8(self.bytes_of(range))
                .map(Some)
                .map_err(|_| self.wrong(key, "a string in UTF-8", "other bytes".to_owned())),
            Some(other) => Err(self.wrong(key, "a string", described(other))),
        }
    }

    /// A whole number from 0 on, of whatever kind of integer the file has.
    pub(crate) fn unsigned(&self, key: &str) -> Result<Option<u64>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let number = match value {
            Value::One(kind, range) => integer(*kind, self.bytes_of(range)),
            Value::Many(..) => None,
        };
        let Some(number) = number else { return Err(self.wrong(key, "a whole number", described(value))) };
        u64::try_from(number).map(Some).map_err(|_| self.wrong(key, "a number from 0 on", number.to_string()))
    }

    /// The same as a count or a size.
    pub(crate) fn size(&self, key: &str) -> Result<Option<usize>> {
        let Some(number) = self.unsigned(key)? else { return Ok(None) };
        usize::try_from(number).map(Some).map_err(|_| self.wrong(key, "a size", number.to_string()))
    }

    /// A token's number.
    pub(crate) fn token(&self, key: &str) -> Result<Option<u32>> {
        // -1 stands for none, as in files of older tools; in 32 bits without a sign that is the largest number.
        let none = match self.value(key) {
            Some(Value::One(kind, range)) => {
                matches!(integer(*kind, self.bytes_of(range)), Some(-1)) || self.bytes_of(range) == [0xff; 4]
            }
            _ => false,
        };
        if none {
            return Ok(None);
        }
        let Some(number) = self.unsigned(key)? else { return Ok(None) };
        u32::try_from(number).map(Some).map_err(|_| self.wrong(key, "a token", number.to_string()))
    }

    /// A finite number, of whatever kind the file has.
    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let number = match value {
            Value::One(kind, range) => real(*kind, self.bytes_of(range)),
            Value::Many(..) => None,
        };
        match number {
            Some(number) if number.is_finite() => Ok(Some(number)),
            Some(number) => Err(self.wrong(key, "a finite number", number.to_string())),
            None => Err(self.wrong(key, "a number", described(value))),
        }
    }

    /// True or false.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::One(Kind::Bool, range)) => Ok(Some(self.bytes_of(range) == [1])),
            Some(other) => Err(self.wrong(key, "a bool", described(other))),
        }
    }

    /// A value as another file may have it.
    pub(crate) fn raw(&self, key: &str) -> Option<Written> {
        Some(match self.value(key)? {
            Value::One(Kind::String, range) => {
                let length = (range.len() as u64).to_le_bytes();
                Written::Raw(Kind::String as u32, [&length, self.bytes_of(range)].concat())
            }
            Value::One(kind, range) => Written::Raw(*kind as u32, self.bytes_of(range).to_vec()),
            Value::Many(kind, length, range) => {
                let (kind, length) = ((*kind as u32).to_le_bytes(), (*length as u64).to_le_bytes());
                Written::Raw(Kind::Array as u32, [&kind[..], &length, self.bytes_of(range)].concat())
            }
        })
    }

    /// How many elements an array has; `None` where the key is not there or is no array.
    pub(crate) fn array_len(&self, key: &str) -> Option<usize> {
        match self.value(key) {
            Some(Value::Many(_, length, _)) => Some(*length),
            _ => None,
        }
    }

    /// The strings of an array, as the bytes that they are in the file.
    pub(crate) fn strings(&self, key: &str) -> Result<Option<Strings<'_>>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Many(Kind::String, length, range)) => {
                Ok(Some(Strings { bytes: self.bytes_of(range), left: *length }))
            }
            Some(Value::Many(_, 0, _)) => Ok(Some(Strings { bytes: &[], left: 0 })),
            Some(other) => Err(self.wrong(key, "an array of strings", described(other))),
        }
    }

    /// The numbers of an array, such as tokens' scores.
    pub(crate) fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.numbers(key, "an array of numbers", |kind, bytes| match kind {
            Kind::F32 | Kind::F64 => real(kind, bytes).map(|number| number as f32),
            _ => None,
        })
    }

    /// The whole numbers of an array, such as tokens' types.
    pub(crate) fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.numbers(key, "an array of whole numbers", |kind, bytes| {
            integer(kind, bytes).and_then(|number| i64::try_from(number).ok())
        })
    }

    /// The values of an array of bools.
    pub(crate) fn flags(&self, key: &str) -> Result<Option<Vec<bool>>> {
        self.numbers(key, "an array of bools", |kind, bytes| (kind == Kind::Bool).then_some(bytes == [1]))
    }

    fn numbers<T>(&self, key: &str, expected: &str, read: impl Fn(Kind, &[u8]) -> Option<T>) -> Result<Option<Vec<T>>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let wrong = || self.wrong(key, expected, described(value));
        let Value::Many(kind, length, range) = value else { return Err(wrong()) };
        if *length == 0 {
            return Ok(Some(Vec::new()));
        }
        let bytes = kind.bytes().ok_or_else(wrong)?;
        let elements = self.bytes_of(range).chunks_exact(bytes).map(|element| read(*kind, element).ok_or_else(wrong));
        elements.collect::<Result<Vec<T>>>().map(Some)
    }

    /// A value that is not there and must be.
    pub(crate) fn missing(&self, key: &str) -> Error {
        damaged(&self.0.path, format!("expected the key {}, found none among {}", quote(key), self.0.keys.len()))
    }

    /// A value that cannot be used.
    pub(crate) fn wrong(&self, key: &str, expected: &str, found: String) -> Error {
        damaged(&self.0.path, format!("{}: expected {expected}, found {found}", quote(key)))
    }

    /// A value that this version has no use for.
    pub(crate) fn unsupported(&self, problem: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::unsupported(&self.0.path, problem, hint)
    }
}

/// The strings of an array, one after the other. What is not UTF-8 is for the caller to judge.
#[derive(Clone)]
pub(crate) struct Strings<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        // Lengths were checked when the file was opened; a file that changed since ends the iteration.
        let (length, rest) = self.bytes.split_first_chunk::<8>()?;
        let (string, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        self.bytes = rest;
        Some(string)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

fn read_value(reader: &mut Reader, key: &str, bytes: &[u8]) -> Result<Value> {
    let what = || format!("the value of {}", quote(key));
    match read_kind(reader, key)? {
        Kind::String => Ok(Value::One(Kind::String, reader.string(&what())?)),
        Kind::Array => read_array(reader, key, bytes, 1),
        kind => {
            let range = reader.skip(kind.least() as u64, &what())?;
            check_bools(reader, key, kind, &bytes[range.clone()])?;
            Ok(Value::One(kind, range))
        }
    }
}

fn read_array(reader: &mut Reader, key: &str, bytes: &[u8], depth: usize) -> Result<Value> {
    let kind = read_kind(reader, key)?;
    let what = format!("elements of {}", quote(key));
    let length = reader.u64(&what)?;
    // Before anything runs as often as the file says.
    if length > (reader.left() / kind.least()) as u64 {
        let left = reader.left();
        return Err(reader.damaged(format!("expected {length} {what}, of {kind}, found {left} bytes to the end")));
    }
    if depth > DEEPEST {
        return Err(reader.damaged(format!("{}: expected arrays at most {DEEPEST} deep, found more", quote(key))));
    }
    let start = reader.at();
    match kind {
        Kind::String => {
            for _ in 0..length {
                reader.string(&what)?;
            }
        }
        Kind::Array => {
            for _ in 0..length {
                read_array(reader, key, bytes, depth + 1)?;
            }
        }
        kind => {
            let range = reader.skip(length * kind.least() as u64, &what)?;
            check_bools(reader, key, kind, &bytes[range])?;
        }
    }
    Ok(Value::Many(kind, length as usize, start..reader.at()))
}

fn read_kind(reader: &mut Reader, key: &str) -> Result<Kind> {
    let number = reader.u32(&format!("the kind of {}", quote(key)))?;
    let kind = Kind::ALL.iter().find(|kind| **kind as u32 == number);
    kind.copied()
        .ok_or_else(|| reader.damaged(format!("{}: expected a kind of value from 0 to 12, found {number}", quote(key))))
}

fn check_bools(reader: &Reader, key: &str, kind: Kind, bytes: &[u8]) -> Result<()> {
    match bytes.iter().find(|byte| kind == Kind::Bool && **byte > 1) {
        Some(byte) => Err(reader.damaged(format!("{}: expected a bool of 0 or 1, found {byte}", quote(key)))),
        None => Ok(()),
    }
}

fn integer(kind: Kind, bytes: &[u8]) -> Option<i128> {
    Some(match (kind, bytes) {
        (Kind::U8, &[a]) => a.into(),
        (Kind::I8, &[a]) => i8::from_le_bytes([a]).into(),
        (Kind::U16, &[a, b]) => u16::from_le_bytes([a, b]).into(),
        (Kind::I16, &[a, b]) => i16::from_le_bytes([a, b]).into(),
        (Kind::U32, _) => u32::from_le_bytes(bytes.try_into().ok()?).into(),
        (Kind::I32, _) => i32::from_le_bytes(bytes.try_into().ok()?).into(),
        (Kind::U64, _) => u64::from_le_bytes(bytes.try_into().ok()?).into(),
        (Kind::I64, _) => i64::from_le_bytes(bytes.try_into().ok()?).into(),
        _ => return None,
    })
}

fn real(kind: Kind, bytes: &[u8]) -> Option<f64> {
    match kind {
        Kind::F32 => Some(f32::from_le_bytes(bytes.try_into().ok()?).into()),
        Kind::F64 => Some(f64::from_le_bytes(bytes.try_into().ok()?)),
        _ => integer(kind, bytes).map(|number| number as f64),
    }
}

fn described(value: &Value) -> String {
    match value {
        Value::One(kind, _) => format!("a value of kind {kind}"),
        Value::Many(kind, length, _) => format!("an array of {}", count(*length, &kind.to_string())),
    }
}
