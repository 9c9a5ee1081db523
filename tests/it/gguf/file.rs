//! GGUF files made on the spot, sound or not: every count, length and offset can be set to a lie.

/// Kinds of values in the metadata, by their number in the file.
pub const U8: u32 = 0;
pub const I8: u32 = 1;
pub const U16: u32 = 2;
pub const I16: u32 = 3;
pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;
pub const U64: u32 = 10;
pub const I64: u32 = 11;
pub const F64: u32 = 12;

/// A file in the making.
#[derive(Clone)]
pub struct GgufFile {
    pub version: u32,
    /// What the header says of its tensors and keys, where that is not the truth.
    pub stated_tensors: Option<u64>,
    pub stated_keys: Option<u64>,
    pub alignment: usize,
    pub keys: Vec<(Vec<u8>, u32, Vec<u8>)>,
    pub tensors: Vec<GgufTensor>,
}

/// One tensor: dimensions in the order of the file, the innermost first.
#[derive(Clone)]
pub struct GgufTensor {
    pub name: Vec<u8>,
    pub dims: Vec<u64>,
    pub dtype: u32,
    pub data: Vec<u8>,
    /// What the table says of its place, where that is not the truth.
    pub stated_offset: Option<u64>,
}

pub fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

/// The bytes of an array: the kind and the number of its elements, then they themselves.
pub fn array(kind: u32, stated_length: u64, elements: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = [&kind.to_le_bytes()[..], &stated_length.to_le_bytes()].concat();
    elements.iter().for_each(|element| bytes.extend(element));
    bytes
}

impl Default for GgufFile {
    fn default() -> Self {
        GgufFile {
            version: 3,
            stated_tensors: None,
            stated_keys: None,
            alignment: 32,
            keys: Vec::new(),
            tensors: Vec::new(),
        }
    }
}

impl GgufFile {
    pub fn key(mut self, key: impl AsRef<[u8]>, kind: u32, value: impl AsRef<[u8]>) -> Self {
        self.keys.push((key.as_ref().to_vec(), kind, value.as_ref().to_vec()));
        self
    }

    pub fn text(self, key: &str, value: &str) -> Self {
        self.key(key, STRING, string(value))
    }

    pub fn number(self, key: &str, value: u32) -> Self {
        self.key(key, U32, value.to_le_bytes())
    }

    pub fn float(self, key: &str, value: f32) -> Self {
        self.key(key, F32, value.to_le_bytes())
    }

    pub fn flag(self, key: &str, value: bool) -> Self {
        self.key(key, BOOL, [u8::from(value)])
    }

    pub fn texts<T: AsRef<[u8]>>(self, key: &str, values: &[T]) -> Self {
        let elements: Vec<Vec<u8>> = values.iter().map(string).collect();
        self.key(key, ARRAY, array(STRING, values.len() as u64, &elements))
    }

    pub fn integers(self, key: &str, values: &[i32]) -> Self {
        let elements: Vec<Vec<u8>> = values.iter().map(|value| value.to_le_bytes().to_vec()).collect();
        self.key(key, ARRAY, array(I32, values.len() as u64, &elements))
    }

    pub fn floats(self, key: &str, values: &[f32]) -> Self {
        let elements: Vec<Vec<u8>> = values.iter().map(|value| value.to_le_bytes().to_vec()).collect();
        self.key(key, ARRAY, array(F32, values.len() as u64, &elements))
    }

    pub fn tensor(mut self, name: &str, dims: &[u64], dtype: u32, data: Vec<u8>) -> Self {
        let (name, dims) = (name.as_bytes().to_vec(), dims.to_vec());
        self.tensors.push(GgufTensor { name, dims, dtype, data, stated_offset: None });
        self
    }

    /// The bytes up to the end of the table of tensors, without padding.
    pub fn head(&self) -> Vec<u8> {
        let mut head = b"GGUF".to_vec();
        head.extend(self.version.to_le_bytes());
        head.extend(self.stated_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        head.extend(self.stated_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.keys {
            head.extend(string(key));
            head.extend(kind.to_le_bytes());
            head.extend(value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            head.extend(string(&tensor.name));
            head.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| head.extend(dim.to_le_bytes()));
            head.extend(tensor.dtype.to_le_bytes());
            head.extend(tensor.stated_offset.unwrap_or(offset).to_le_bytes());
            offset += tensor.data.len().next_multiple_of(self.alignment) as u64;
        }
        head
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head();
        for tensor in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
            bytes.extend(&tensor.data);
        }
        bytes
    }

    /// A sound file of this form taken apart again.
    pub fn parsed(bytes: &[u8]) -> GgufFile {
        let mut rest = bytes;
        assert_eq!(take(&mut rest, 8), b"GGUF\x03\0\0\0");
        let (tensors, keys) = (number(&mut rest), number(&mut rest));
        let mut file = GgufFile::default();
        for _ in 0..keys {
            let key = text(&mut rest);
            let kind = u32::from_le_bytes(take(&mut rest, 4).try_into().expect("four bytes"));
            let length = value_length(kind, rest);
            file.keys.push((key, kind, take(&mut rest, length).to_vec()));
        }
        let mut offsets = Vec::new();
        for _ in 0..tensors {
            let name = text(&mut rest);
            let dims = u32::from_le_bytes(take(&mut rest, 4).try_into().expect("four bytes"));
            let dims = (0..dims).map(|_| number(&mut rest)).collect();
            let dtype = u32::from_le_bytes(take(&mut rest, 4).try_into().expect("four bytes"));
            offsets.push(number(&mut rest) as usize);
            file.tensors.push(GgufTensor { name, dims, dtype, data: Vec::new(), stated_offset: None });
        }
        let data = &bytes[(bytes.len() - rest.len()).next_multiple_of(file.alignment)..];
        for (tensor, offset) in file.tensors.iter_mut().zip(offsets) {
            assert_eq!(tensor.dtype, 0, "a tensor of f32");
            let length = 4 * tensor.dims.iter().product::<u64>() as usize;
            tensor.data = data[offset..offset + length].to_vec();
        }
        file
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(length);
    *rest = left;
    taken
}

fn number(rest: &mut &[u8]) -> u64 {
    u64::from_le_bytes(take(rest, 8).try_into().expect("eight bytes"))
}

fn text(rest: &mut &[u8]) -> Vec<u8> {
    let length = number(rest) as usize;
    take(rest, length).to_vec()
}

/// How many of the bytes a value of this kind has.
fn value_length(kind: u32, bytes: &[u8]) -> usize {
    match kind {
        U8 | I8 | BOOL => 1,
        U16 | I16 => 2,
        U32 | I32 | F32 => 4,
        U64 | I64 | F64 => 8,
        STRING => 8 + number(&mut &bytes[..8]) as usize,
        ARRAY => {
            let of = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
            let count = number(&mut &bytes[4..12]);
            (0..count).fold(12, |length, _| length + value_length(of, &bytes[length..]))
        }
        other => panic!("a value of kind {other}"),
    }
}
