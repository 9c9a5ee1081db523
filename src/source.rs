//! A model's name → the files that make it: `ember` inside the binary, a folder, a GGUF file, or a weight file with its siblings.
//!
//! It reads nothing but names and small text files; what is in them is for `weights`, `text` and `models` to judge. Names
//! of models on the Hub are for `hub`, which ends here too, with a folder of its cache.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, quote};

/// The short name of the embedded model, and the default of every command.
pub const EMBEDDED: &str = "ember";

/// Longest text file that is read whole: vocabularies are a few megabytes, and a tokenizer.json of 150,000 tokens is 17.
const TEXT_LIMIT: u64 = 256 << 20;

/// Where one file of a model is.
#[derive(Clone, Debug)]
pub enum Location {
    /// On disk.
    Disk(PathBuf),
    /// Inside the binary: the name that messages use, and the bytes.
    #[cfg_attr(not(feature = "ember"), allow(dead_code))]
    Embedded(&'static str, &'static [u8]),
}

impl Location {
    /// The path on disk, or the name of an embedded file.
    pub fn path(&self) -> &Path {
        match self {
            Location::Disk(path) => path,
            Location::Embedded(name, _) => Path::new(name),
        }
    }

    /// The whole file as text.
    pub fn read_text(&self) -> Result<Cow<'static, str>> {
        match self {
            Location::Embedded(name, bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Cow::Borrowed(text)),
                Err(error) => Err(Error::file(Path::new(name), format!("expected UTF-8 text: {error}"), "")),
            },
            Location::Disk(path) => read_text(path).map(Cow::Owned),
        }
    }

    /// The whole file.
    pub fn read_bytes(&self) -> Result<Cow<'static, [u8]>> {
        match self {
            Location::Embedded(_, bytes) => Ok(Cow::Borrowed(bytes)),
            Location::Disk(path) => read_bytes(path).map(Cow::Owned),
        }
    }
}

/// The files of one model.
#[derive(Clone, Debug)]
pub struct Source {
    /// How the user named it.
    pub name: String,
    /// `config.json`, or the GGUF file, which says the same.
    pub config: Location,
    /// `generation_config.json`, if there is one.
    pub generation_config: Option<Location>,
    /// Where the tokenizer comes from.
    pub tokenizer: TokenizerFiles,
    /// The weight files, or the index that names them.
    pub weights: WeightFiles,
    /// `README.md`, the model's card, if there is one.
    pub card: Option<Location>,
}

/// The ways in which a tokenizer is published.
#[derive(Clone, Debug)]
pub enum TokenizerFiles {
    /// `tokenizer.json`: everything in one file.
    Json(Location),
    /// `vocab.json` and `merges.txt`: GPT-2's original pair.
    VocabAndMerges(Location, Location),
    /// `tokenizer.model`: SentencePiece's own file.
    SentencePiece(Location),
    /// A GGUF file's metadata.
    Gguf(Location),
}

/// The ways in which weights are published.
#[derive(Clone, Debug)]
pub enum WeightFiles {
    /// One file.
    Single(Location),
    /// `model.safetensors.index.json`, which names the shards beside it.
    Sharded(Location),
    /// A GGUF file, or the first part of one, which the others lie beside.
    Gguf(Location),
}

impl TokenizerFiles {
    /// The tokenizer in a folder.
    pub fn in_folder(folder: &Path) -> Result<TokenizerFiles> {
        TokenizerFiles::find(folder).map_err(|missing| {
            let hint = "copy the tokenizer's files from where the model came from";
            Error::file(folder, format!("expected {missing}, found none"), hint)
        })
    }

    /// The tokenizer in a folder, or the names of what is missing there.
    fn find(folder: &Path) -> Result<TokenizerFiles, &'static str> {
        let present = |file: &str| present_in(folder, file);
        match (present("tokenizer.json"), present("vocab.json"), present("merges.txt")) {
            (Some(json), _, _) => Ok(TokenizerFiles::Json(json)),
            (None, Some(vocab), Some(merges)) => Ok(TokenizerFiles::VocabAndMerges(vocab, merges)),
            (None, vocab, _) => match present("tokenizer.model") {
                Some(model) => Ok(TokenizerFiles::SentencePiece(model)),
                None if vocab.is_some() => Err("`merges.txt` beside `vocab.json`"),
                None => Err("`tokenizer.json`, `tokenizer.model`, or `vocab.json` and `merges.txt`"),
            },
        }
    }

    /// The file that messages name.
    pub fn path(&self) -> &Path {
        let (TokenizerFiles::Json(location)
        | TokenizerFiles::VocabAndMerges(location, _)
        | TokenizerFiles::SentencePiece(location)
        | TokenizerFiles::Gguf(location)) = self;
        location.path()
    }
}

impl Source {
    /// The licence that the card's front matter names.
    pub fn license(&self) -> Option<String> {
        let card = self.card.as_ref()?.read_text().ok()?;
        let matter = card.strip_prefix("---")?.split("\n---").next()?;
        let license = matter.lines().find_map(|line| line.strip_prefix("license:"))?;
        Some(license.trim().trim_matches(['"', '\'']).to_owned())
    }

    /// Finds the files that `name` stands for on this machine: the embedded model's, a folder's, or a weight file and
    /// its siblings. `None` for a name that can only be the Hub's.
    pub fn local(name: &str) -> Result<Option<Source>> {
        let path = Path::new(name);
        let there = std::fs::metadata(path).ok().filter(|_| name != EMBEDDED);
        if name == EMBEDDED {
            embedded().map(Some)
        } else if let Some(there) = there {
            match kind_of(there.file_type()) {
                Kind::Folder => Source::in_folder(name, path).map(Some),
                Kind::File => beside_weights(name, path).map(Some),
                Kind::Other(what) => {
                    let hint = "a model is read more than once and in any order: copy it into a file first";
                    Err(Error::file(path, format!("expected a file or a folder, found {what}"), hint))
                }
            }
        } else if is_path(name) {
            Err(Error::ModelNotFound {
                name: name.to_owned(),
                problem: "no such file or folder".to_owned(),
                hint: "check the path; a model is a .gguf file, or a folder with config.json, model.safetensors and tokenizer.json"
                    .to_owned(),
            })
        } else {
            Ok(None)
        }
    }

    /// The model in a folder.
    pub fn in_folder(name: &str, folder: &Path) -> Result<Source> {
        match weights_in(folder)? {
            WeightFiles::Gguf(file) => Ok(Source::of_gguf(name, file)),
            weights => around(name, folder, folder, weights),
        }
    }

    /// The model in a GGUF file, which has all that others have beside them.
    pub fn of_gguf(name: &str, file: Location) -> Source {
        let card = file.path().parent().and_then(|folder| present_in(folder, "README.md"));
        Source {
            name: name.to_owned(),
            config: file.clone(),
            generation_config: None,
            tokenizer: TokenizerFiles::Gguf(file.clone()),
            weights: WeightFiles::Gguf(file),
            card,
        }
    }
}

fn weights_in(folder: &Path) -> Result<WeightFiles> {
    let single = folder.join("model.safetensors");
    let index = folder.join("model.safetensors.index.json");
    if single.is_file() {
        Ok(WeightFiles::Single(Location::Disk(single)))
    } else if index.is_file() {
        Ok(WeightFiles::Sharded(Location::Disk(index)))
    } else if let Some(file) = gguf_in(folder)? {
        Ok(WeightFiles::Gguf(Location::Disk(file)))
    } else {
        Err(Error::file(
            folder,
            format!(
                "expected `model.safetensors`, `model.safetensors.index.json` or a .gguf file, found {}",
                listing(folder)
            ),
            "safetensors and GGUF are read; convert others with transformers' `save_pretrained`",
        ))
    }
}

/// The one model in GGUF files of a folder: the file, or the first of its parts.
fn gguf_in(folder: &Path) -> Result<Option<PathBuf>> {
    let failed = |error: std::io::Error| Error::file(folder, error.to_string(), "");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string().ok());
    }
    names.retain(|name| is_gguf(name) && is_first_part(name) && is_a_model(name));
    names.sort();
    match &names[..] {
        [] => Ok(None),
        [one] => Ok(Some(folder.join(one))),
        several => {
            const SHOWN: usize = 8;
            let more =
                if several.len() > SHOWN { format!(" and {} more", several.len() - SHOWN) } else { String::new() };
            let shown: Vec<String> = several.iter().take(SHOWN).map(|name| quote(name)).collect();
            Err(Error::file(
                folder,
                format!("expected one model, found {} GGUF files: {}{more}", several.len(), shown.join(", ")),
                "name the file instead of its folder",
            ))
        }
    }
}

/// A file's name up to the ending that all GGUF files have, in capitals or not, and that ending.
fn split_gguf(name: &str) -> Option<(&str, &str)> {
    let (stem, ending) = name.split_at_checked(name.len().checked_sub(".gguf".len())?)?;
    ending.eq_ignore_ascii_case(".gguf").then_some((stem, ending))
}

/// True for the name or path of a GGUF file.
pub(crate) fn is_gguf(name: &str) -> bool {
    split_gguf(name).is_some()
}

/// False for the later parts of a split model.
fn is_first_part(name: &str) -> bool {
    PartName::of(name).is_none_or(|part| part.part == 1)
}

/// False for what lies beside models under the same ending: projectors of images, and what a quantiser was led by.
pub(crate) fn is_a_model(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    !["mmproj", "imatrix"].iter().any(|other| name.contains(other))
}

fn beside_weights(name: &str, file: &Path) -> Result<Source> {
    let hint = "name a folder, a `.gguf` or `.safetensors` file, or a `.safetensors.index.json` file";
    let folder = file.parent().unwrap_or(Path::new(""));
    let file_name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let location = Location::Disk(file.to_owned());
    if file_name.ends_with(".safetensors.index.json") {
        around(name, file, folder, WeightFiles::Sharded(location))
    } else if file_name.ends_with(".safetensors") {
        around(name, file, folder, WeightFiles::Single(location))
    } else if is_gguf(&file_name) {
        match PartName::of(&file_name).filter(|part| part.part != 1) {
            None => Ok(Source::of_gguf(name, location)),
            Some(part) => {
                let problem = format!("expected the first part of a model, found part {} of {}", part.part, part.parts);
                let first = quote(&file.with_file_name(part.other(1)).display().to_string());
                Err(Error::file(file, problem, format!("name {first}; the others are found beside it")))
            }
        }
    } else {
        Err(Error::unsupported(file, "expected a `.gguf` or a `.safetensors` file", hint))
    }
}

fn present_in(folder: &Path, file: &str) -> Option<Location> {
    let path = folder.join(file);
    path.is_file().then_some(Location::Disk(path))
}

/// The small files that lie beside the weights. `named` is what the user named: the folder, or the weights in it.
fn around(name: &str, named: &Path, folder: &Path, weights: WeightFiles) -> Result<Source> {
    let present = |file: &str| present_in(folder, file);
    let missing = |what: &str| {
        let hint = "copy these files from where the model came from, and name the folder";
        Error::file(named, format!("expected {what} beside the weights, found none"), hint)
    };
    let (config, tokenizer) = match (present("config.json"), TokenizerFiles::find(folder)) {
        (Some(config), Ok(tokenizer)) => (config, tokenizer),
        (Some(_), Err(tokenizer)) => return Err(missing(tokenizer)),
        (None, Ok(_)) => return Err(missing("`config.json`")),
        (None, Err(tokenizer)) => return Err(missing(&format!("`config.json`, and {tokenizer},"))),
    };
    Ok(Source {
        name: name.to_owned(),
        config,
        generation_config: present("generation_config.json"),
        tokenizer,
        weights,
        card: present("README.md"),
    })
}

/// What a path leads to.
enum Kind {
    File,
    Folder,
    /// What can be no model, by its name.
    Other(&'static str),
}

fn kind_of(kind: std::fs::FileType) -> Kind {
    if kind.is_file() {
        return Kind::File;
    }
    if kind.is_dir() {
        return Kind::Folder;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return Kind::Other("a pipe");
        }
        if kind.is_socket() {
            return Kind::Other("a socket");
        }
    }
    Kind::Other("a device")
}

/// True for a text that is a path and can be no name on the Hub.
fn is_path(name: &str) -> bool {
    name.is_empty() || name.starts_with(['/', '.', '~']) || name.contains('\\')
}

/// What a folder holds, for a message: the first names, sorted.
fn listing(folder: &Path) -> String {
    const SHOWN: usize = 5;
    let mut names: Vec<String> = match std::fs::read_dir(folder) {
        Ok(entries) => entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect(),
        Err(error) => return format!("a folder that cannot be read ({error})"),
    };
    names.sort();
    if names.is_empty() {
        return "an empty folder".to_owned();
    }
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    let shown: Vec<String> = names.iter().take(SHOWN).map(|n| quote(n)).collect();
    format!("{}{more}", shown.join(", "))
}

fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read_bytes(path)?).map_err(|error| {
        Error::file(
            path,
            format!("expected UTF-8 text, found an invalid byte at {}", error.utf8_error().valid_up_to()),
            "the file is damaged; copy it again",
        )
    })
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| Error::file(path, error.to_string(), "");
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > TEXT_LIMIT {
        return Err(Error::file(
            path,
            format!("expected a small file of at most {TEXT_LIMIT} bytes, found {size}"),
            "",
        ));
    }
    std::fs::read(path).map_err(failed)
}

/// A name of a part, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartName<'a> {
    /// What stands before the numbers.
    pub(crate) base: &'a str,
    /// From 1.
    pub(crate) part: u32,
    pub(crate) parts: u32,
    /// `.gguf`, as the file spells it.
    pub(crate) ending: &'a str,
}

impl<'a> PartName<'a> {
    /// Reads a file's name; `None` where it is no part's.
    pub(crate) fn of(name: &'a str) -> Option<PartName<'a>> {
        let (stem, ending) = split_gguf(name)?;
        let (rest, parts) = stem.rsplit_once("-of-")?;
        let (base, part) = rest.rsplit_once('-')?;
        let number = |text: &str| {
            (text.len() >= 5 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
        };
        let (part, parts) = (number(part)?, number(parts)?);
        (1..=parts).contains(&part).then_some(PartName { base, part, parts, ending })
    }

    /// The name of another part.
    pub(crate) fn other(self, part: u32) -> String {
        format!("{}-{part:05}-of-{:05}{}", self.base, self.parts, self.ending)
    }
}

#[cfg(feature = "ember")]
fn embedded() -> Result<Source> {
    /// Puts the weights where 4-byte numbers may be read: `include_bytes!` alone promises no alignment.
    #[repr(C, align(64))]
    struct Aligned<B: ?Sized>(B);
    static WEIGHTS: &Aligned<[u8]> = &Aligned(*include_bytes!("../models/ember/model.safetensors"));

    let file = |name, bytes| Location::Embedded(name, bytes);
    Ok(Source {
        name: EMBEDDED.to_owned(),
        config: file("ember/config.json", include_bytes!("../models/ember/config.json")),
        generation_config: Some(file(
            "ember/generation_config.json",
            include_bytes!("../models/ember/generation_config.json"),
        )),
        tokenizer: TokenizerFiles::Json(file("ember/tokenizer.json", include_bytes!("../models/ember/tokenizer.json"))),
        weights: WeightFiles::Single(file("ember/model.safetensors", &WEIGHTS.0)),
        card: Some(file("ember/README.md", include_bytes!("../models/ember/README.md"))),
    })
}

#[cfg(not(feature = "ember"))]
fn embedded() -> Result<Source> {
    Err(Error::ModelNotFound {
        name: EMBEDDED.to_owned(),
        problem: "this build carries no embedded model".to_owned(),
        hint: "build with the feature `ember`, or name a folder".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::PartName;

    #[test]
    fn names_of_parts_are_taken_apart() {
        let name = PartName::of("m-Q4_K_M-00002-of-00003.gguf").unwrap();
        assert_eq!(name, PartName { base: "m-Q4_K_M", part: 2, parts: 3, ending: ".gguf" });
        assert_eq!(
            (name.other(1), name.other(3)),
            ("m-Q4_K_M-00001-of-00003.gguf".into(), "m-Q4_K_M-00003-of-00003.gguf".into())
        );
        let name = PartName::of("M-00001-OF-00002.GGUF");
        assert_eq!(name, None, "the words are the splitter's");
        let name = PartName::of("M-00001-of-00002.GGUF").unwrap();
        assert_eq!(name.other(2), "M-00002-of-00002.GGUF");
        for other in [
            "m.gguf",
            "m-00001-of-00003",
            "m-1-of-3.gguf",
            "m-00000-of-00003.gguf",
            "m-00004-of-00003.gguf",
            "m-0000x-of-00003.gguf",
            "m-00001-of-00003.gguff",
            "é",
            "",
        ] {
            assert_eq!(PartName::of(other), None, "{other}");
        }
    }
}
