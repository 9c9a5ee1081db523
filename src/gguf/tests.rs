//! Heads that are sound and heads that lie.

use std::path::Path;
use std::sync::Arc;

use super::{Header, ReadAs};
use crate::error::Result;
use crate::mapped::Bytes;
use crate::source::Location;

#[path = "../../tests/it/gguf/file.rs"]
#[allow(dead_code)]
mod file;
use file::{ARRAY, BOOL, F64, GgufFile, I8, I16, I32, I64, STRING, U8, U16, U64, array, string};

fn read(bytes: Vec<u8>) -> Result<Header> {
    let location = Location::Embedded("m.gguf", bytes.leak());
    Ok(Header::open(&location)?.0)
}

fn refused(bytes: Vec<u8>, words: &[&str]) {
    match read(bytes) {
        Ok(_) => panic!("not refused: {words:?}"),
        Err(error) => {
            let message = error.to_string();
            assert!(words.iter().all(|word| message.contains(word)), "{words:?}: {message}");
            assert!(error.hint().is_some() && message.len() < 1000, "{message}");
        }
    }
}

fn tensors() -> GgufFile {
    GgufFile::default().tensor("a", &[4, 2], 0, vec![1; 32]).tensor("b", &[32], 2, vec![2; 18]).tensor(
        "c",
        &[5, 3, 2],
        1,
        vec![3; 60],
    )
}

#[test]
fn values_of_every_kind_are_read_back() {
    let made = GgufFile::default()
        .key("u8", U8, [200])
        .key("i8", I8, [255])
        .key("u16", U16, 60_000_u16.to_le_bytes())
        .key("i16", I16, (-5_i16).to_le_bytes())
        .number("u32", u32::MAX)
        .key("i32", I32, (-1_i32).to_le_bytes())
        .float("f32", 1.5)
        .flag("yes", true)
        .text("text", "a é 🦊")
        .key("u64", U64, (1_u64 << 40).to_le_bytes())
        .key("i64", I64, 7_i64.to_le_bytes())
        .key("f64", F64, 2.25_f64.to_le_bytes())
        .texts("texts", &["", "b", "long enough"])
        .integers("integers", &[1, -2, 3])
        .floats("floats", &[0.5, f32::NEG_INFINITY])
        .key("flags", ARRAY, array(BOOL, 2, &[vec![1], vec![0]]))
        .key("nothing", ARRAY, array(I32, 0, &[]))
        .key("nested", ARRAY, array(ARRAY, 2, &[array(U8, 2, &[vec![1, 2]]), array(STRING, 1, &[string("x")])]))
        .text("last", "end");
    for version in [2, 3] {
        let header = read(GgufFile { version, ..made.clone() }.bytes()).unwrap();
        let m = &header.metadata;
        assert_eq!(m.keys().count(), 19, "version {version}");
        let unsigned = |key: &str| m.unsigned(key).unwrap();
        assert_eq!([unsigned("u8"), unsigned("u16"), unsigned("u32")], [Some(200), Some(60_000), Some(0xffff_ffff)]);
        assert_eq!([unsigned("u64"), unsigned("i64"), unsigned("none")], [Some(1 << 40), Some(7), None]);
        assert_eq!(
            (m.size("u8").unwrap(), m.token("u16").unwrap(), m.token("i32").unwrap()),
            (Some(200), Some(60_000), None)
        );
        assert_eq!(
            (m.float("f32").unwrap(), m.float("f64").unwrap(), m.float("i16").unwrap()),
            (Some(1.5), Some(2.25), Some(-5.0))
        );
        assert_eq!(
            (m.flag("yes").unwrap(), m.string("text").unwrap(), m.string("last").unwrap()),
            (Some(true), Some("a é 🦊"), Some("end"))
        );
        let texts: Vec<&[u8]> = m.strings("texts").unwrap().unwrap().collect();
        assert_eq!(texts, [&b""[..], b"b", b"long enough"]);
        assert_eq!(m.integers("integers").unwrap().unwrap(), [1, -2, 3]);
        assert_eq!(m.floats("floats").unwrap().unwrap(), [0.5, f32::NEG_INFINITY]);
        assert_eq!(m.flags("flags").unwrap().unwrap(), [true, false]);
        assert_eq!((m.array_len("texts"), m.array_len("text"), m.array_len("nothing")), (Some(3), None, Some(0)));
        assert!(m.integers("nothing").unwrap().unwrap().is_empty());
        assert_eq!(m.strings("nothing").unwrap().unwrap().count(), 0);
        assert!(m.has("nested") && !m.has("other"));
    }
}

#[test]
fn values_of_another_kind_are_refused_with_both_kinds() {
    let made = GgufFile::default().text("text", "x").float("f32", f32::NAN).integers("numbers", &[1, 2]);
    let made = made.key("i8", I8, [0x80]).key("bytes", STRING, string([0xff, 0xfe]));
    let header = read(made.bytes()).unwrap();
    let m = &header.metadata;
    let check = |error: crate::error::Error, words: &[&str]| {
        let message = error.to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{words:?}: {message}");
    };
    check(m.unsigned("text").unwrap_err(), &["`text`", "a whole number", "string"]);
    check(m.unsigned("i8").unwrap_err(), &["`i8`", "from 0 on", "-128"]);
    check(m.float("f32").unwrap_err(), &["`f32`", "finite", "NaN"]);
    check(m.string("numbers").unwrap_err(), &["`numbers`", "a string", "2 i32s"]);
    check(m.string("bytes").unwrap_err(), &["`bytes`", "UTF-8"]);
    check(m.strings("numbers").err().unwrap(), &["`numbers`", "strings", "2 i32s"]);
    check(m.floats("numbers").unwrap_err(), &["`numbers`", "numbers", "2 i32s"]);
    check(m.integers("text").unwrap_err(), &["`text`", "whole numbers", "string"]);
    check(m.flag("text").unwrap_err(), &["`text`", "bool", "string"]);
    check(m.missing("absent"), &["`absent`", "m.gguf"]);
}

#[test]
fn tensors_lie_where_the_table_says() {
    let made = tensors().tensor("scalar", &[], 0, vec![9; 4]).tensor("empty", &[0, 7], 1, Vec::new());
    let bytes = made.bytes();
    let header = read(bytes.clone()).unwrap();
    let found: Vec<_> =
        header.tensors.iter().map(|t| (&*t.name, &t.shape[..], t.dtype.name, &bytes[t.range.clone()])).collect();
    assert_eq!(
        found,
        [
            ("a", &[2, 4][..], "F32", &[1; 32][..]),
            ("b", &[32], "Q4_0", &[2; 18]),
            ("c", &[2, 3, 5], "F16", &[3; 60]),
            ("scalar", &[], "F32", &[9; 4]),
            ("empty", &[7, 0], "F16", &[]),
        ]
    );
    assert_eq!(header.tensors[0].dtype.read_as, Some(ReadAs::F32));
    let coarse = GgufFile { alignment: 4096, ..tensors() }.number("general.alignment", 4096);
    let bytes = coarse.bytes();
    let header = read(bytes.clone()).unwrap();
    let starts = |header: &Header| header.tensors.iter().map(|tensor| tensor.range.start).take(3).collect::<Vec<_>>();
    assert_eq!(starts(&header), [4096, 2 * 4096, 3 * 4096]);
    assert_eq!(&bytes[header.tensors[2].range.clone()], &[3; 60]);
    let starts = starts(&read(GgufFile { alignment: 1, ..tensors() }.number("general.alignment", 1).bytes()).unwrap());
    assert_eq!((starts[1] - starts[0], starts[2] - starts[1]), (32, 18), "one behind the other");
}

#[test]
fn the_first_bytes_of_a_file_are_enough_once_they_hold_its_head() {
    let made = tensors().text("a.key", "value").texts("array", &["x", "yz"]);
    let (bytes, head) = (made.bytes(), made.head().len());
    for length in 0..bytes.len() {
        let first = Arc::new(Bytes::Read(bytes[..length].to_vec()));
        let found = Header::of_first(Path::new("m.gguf"), &first, bytes.len() as u64).unwrap();
        assert_eq!(found.map(|header| header.tensors.len()), (length >= head).then_some(3), "{length} bytes");
        let cut = Header::of_first(Path::new("m.gguf"), &first, length as u64);
        assert!(cut.is_err(), "all of the {length} bytes that there are");
    }
    let damaged = Arc::new(Bytes::Read(b"GGUF\x07\0\0\0".to_vec()));
    assert!(Header::of_first(Path::new("m.gguf"), &damaged, 1 << 30).is_err());
}

#[test]
fn every_cut_of_a_file_is_refused() {
    let bytes = tensors().text("a.key", "value").texts("array", &["x", "yz"]).bytes();
    assert!(read(bytes.clone()).is_ok());
    for length in 0..bytes.len() {
        assert!(read(bytes[..length].to_vec()).is_err(), "cut to {length} bytes");
    }
}

#[test]
fn heads_that_lie_are_refused_by_what_they_lie_about() {
    let base = tensors();
    refused(b"GGUF".to_vec(), &["the version", "found 0"]);
    refused(b"PK\x03\x04............".to_vec(), &["`GGUF`", "PK"]);
    refused(b"tjgg\x03\0\0\0".to_vec(), &["forerunners"]);
    refused([&b"GGUF"[..], &3_u32.to_be_bytes(), &[0; 16]].concat(), &["big endian, version 3"]);
    for version in [0, 1, 4, 99] {
        refused(GgufFile { version, ..base.clone() }.bytes(), &["version 2 or 3", &format!("version {version}")]);
    }
    for lie in [u64::MAX, 1 << 63, 1 << 40, 1 << 17, 100] {
        refused(GgufFile { stated_tensors: Some(lie), ..base.clone() }.bytes(), &["m.gguf"]);
        refused(GgufFile { stated_keys: Some(lie), ..base.clone() }.bytes(), &["m.gguf"]);
        let long = [&lie.to_le_bytes()[..], b"x"].concat();
        refused(GgufFile::default().key("k", STRING, &long).bytes(), &["the value of `k`", &lie.to_string()]);
        for kind in [U8, F64, STRING, ARRAY] {
            let lying = GgufFile::default().key("k", ARRAY, array(kind, lie, &[vec![0; 12]]));
            refused(lying.bytes(), &["elements of `k`", &lie.to_string()]);
        }
    }
    refused(GgufFile::default().key("", U64, [1; 8]).bytes(), &["a key of 1 to 65535 bytes", "found 0"]);
    refused(GgufFile::default().key("x".repeat(65_536), U8, [1]).bytes(), &["found 65536"]);
    refused(GgufFile::default().key([0xc3, 0x28], U8, [1]).bytes(), &["a key in UTF-8"]);
    refused(GgufFile::default().key("k", 13, [1]).bytes(), &["`k`", "found 13"]);
    refused(GgufFile::default().key("k", BOOL, [2]).bytes(), &["`k`", "bool", "found 2"]);
    refused(GgufFile::default().key("k", ARRAY, array(BOOL, 2, &[vec![1, 3]])).bytes(), &["`k`", "found 3"]);
    refused(GgufFile::default().number("k", 1).number("k", 1).bytes(), &["`k`", "twice"]);
    let nested = (0..40).fold(array(U8, 1, &[vec![0]]), |inner, _| array(ARRAY, 1, &[inner]));
    refused(GgufFile::default().key("k", ARRAY, nested).bytes(), &["`k`", "4 deep"]);

    for alignment in [0_u32, 3, 48, 1 << 21, u32::MAX] {
        refused(base.clone().number("general.alignment", alignment).bytes(), &["general.alignment", "power of two"]);
    }
    refused(base.clone().text("general.alignment", "32").bytes(), &["general.alignment", "string"]);
    refused(base.clone().key("general.alignment", I32, (-32_i32).to_le_bytes()).bytes(), &["general.alignment", "-32"]);
}

#[test]
fn tables_that_lie_are_refused_by_the_tensor() {
    let base = tensors();
    let with = |change: fn(&mut file::GgufTensor)| {
        let mut made = tensors();
        change(&mut made.tensors[1]);
        made.bytes()
    };
    refused(base.clone().tensor("a", &[8], 0, vec![0; 32]).bytes(), &["`a`", "twice"]);
    refused(base.clone().tensor("", &[8], 0, vec![0; 32]).bytes(), &["a tensor's name", "found 0"]);
    refused(with(|t| t.dims = vec![32, 1, 1, 1, 1]), &["`b`", "4 dimensions", "found 5"]);
    refused(with(|t| t.dims = vec![31]), &["`b`", "blocks of 32", "rows of 31"]);
    refused(with(|t| t.dims = vec![u64::MAX]), &["`b`", "2^63"]);
    refused(with(|t| t.dims = vec![1 << 32, 1 << 32]), &["`b`", "2^63"]);
    refused(with(|t| t.dims = vec![1 << 40, 1 << 40, 0]), &["`b`", "2^63"]);
    refused(with(|t| t.dims = vec![1 << 62]), &["`b`", "bytes"]);
    refused(with(|t| t.dims = vec![64]), &["`b` and `c`", "overlap"]);
    refused(with(|t| t.dims = vec![1 << 30]), &["`b`", "found a file of"]);
    for unknown in [4, 5, 31, 36, 43, 1000, u32::MAX] {
        let mut made = tensors();
        made.tensors[1].dtype = unknown;
        refused(made.bytes(), &["`b`", &format!("number {unknown}")]);
    }
    refused(with(|t| t.stated_offset = Some(33)), &["`b`", "multiple of 32", "found 33"]);
    refused(with(|t| t.stated_offset = Some(0)), &["`a` and `b`", "overlap"]);
    refused(with(|t| t.stated_offset = Some(u64::MAX - 31)), &["`b`", "18446744073709551584"]);
    refused(with(|t| t.stated_offset = Some(1 << 20)), &["`b`", "found a file of"]);
}
