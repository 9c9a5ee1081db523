//! A weight file's header, read by range: its tensors, dtypes and sizes for some kilobytes instead of gigabytes.

use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use safetensors::tensor::Metadata;

use super::api::{RemoteFile, Repository, file_path};
use super::choice::shown;
use super::client::Client;
use super::threads::on_threads;
use super::trouble::Trouble;
use crate::error::{Error, HubFailure, Result, quote};
use crate::gguf::{Gguf, Header};
use crate::mapped::Bytes;

/// Bytes of the first request: the header of most files of a few hundred tensors fits.
const FIRST: u64 = 64 << 10;
/// Headers that are asked for at the same time.
const AT_ONCE: usize = 4;
/// Longest header that the format allows.
const LONGEST: u64 = 100_000_000;

/// The header of a safetensors file on the Hub.
fn read(client: &Client, remote: &Repository, file: &RemoteFile) -> Result<Metadata> {
    let path = file_path(&remote.id, &remote.commit, &file.path);
    let bad = |problem: String| {
        let file = quote(&format!("{}/{}", remote.id, file.path));
        Error::hub(
            HubFailure::Damaged,
            format!("expected a safetensors file in {file}, {problem}"),
            "try another revision or repository",
        )
    };
    let mut bytes = range(client, &path, 0, FIRST.min(file.size))?;
    let length = bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length));
    let length = length.ok_or_else(|| bad(format!("found {} bytes", bytes.len())))?;
    if length > LONGEST || length + 8 > file.size {
        return Err(bad(format!("found a header of {length} bytes in a file of {}", file.size)));
    }
    let end = length + 8;
    if end > bytes.len() as u64 {
        bytes.extend(range(client, &path, bytes.len() as u64, end)?);
    }
    let header = &bytes[8..end as usize];
    let metadata: Metadata =
        serde_json::from_slice(header).map_err(|error| bad(format!("found a header that is none: {error}")))?;
    let data = metadata.data_len() as u64;
    if end + data != file.size {
        return Err(bad(format!("found a header of tensors of {data} bytes in a file of {}", file.size)));
    }
    Ok(metadata)
}

/// The headers of weight files, several at once, in the order of the files, each with its file's name for messages.
pub(super) fn read_all(
    client: &Client,
    remote: &Repository,
    files: &[&RemoteFile],
) -> Result<Vec<(PathBuf, Metadata)>> {
    let next = AtomicUsize::new(0);
    let found: Mutex<Vec<(usize, Result<Metadata>)>> = Mutex::default();
    on_threads(AT_ONCE.min(files.len()), || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(at) else { return };
            let header = read(client, remote, file);
            if header.is_err() {
                next.store(files.len(), Ordering::Relaxed);
            }
            found.lock().unwrap_or_else(PoisonError::into_inner).push((at, header));
        }
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(at, header)| Ok((shown(remote, &files[at].path), header?))).collect()
}

/// The head of a model in GGUF files.
pub(super) fn read_gguf(client: &Client, remote: &Repository, files: &[&RemoteFile]) -> Result<Gguf> {
    let mut heads = Vec::new();
    for file in files {
        heads.push(read_gguf_head(client, remote, file)?);
    }
    Gguf::of_heads(heads).ok_or_else(|| Error::hub(HubFailure::NotFound, "expected a GGUF file, found none", ""))
}

/// Reads more and more of a file until its head is whole: a vocabulary of 250,000 tokens has about ten megabytes.
fn read_gguf_head(client: &Client, remote: &Repository, file: &RemoteFile) -> Result<(Header, Arc<Bytes>)> {
    let (path, shown) = (file_path(&remote.id, &remote.commit, &file.path), shown(remote, &file.path));
    let (mut bytes, mut end) = (Vec::new(), FIRST.min(file.size));
    loop {
        bytes.extend(range(client, &path, bytes.len() as u64, end)?);
        let first = Arc::new(Bytes::Read(bytes));
        if let Some(header) = Header::of_first(&shown, &first, file.size)? {
            return Ok((header, first));
        }
        if end >= file.size.min(LONGEST) {
            let problem = format!("expected a head of at most {LONGEST} bytes in {}, found a longer one", quote(&path));
            return Err(Error::hub(HubFailure::Damaged, problem, "try another revision or repository"));
        }
        bytes = first.all().to_vec();
        end = (4 * end).min(file.size).min(LONGEST);
    }
}

/// Some bytes of a file.
fn range(client: &Client, path: &str, start: u64, end: u64) -> Result<Vec<u8>> {
    if start == end {
        return Ok(Vec::new());
    }
    client.retrying(|| {
        let answer = client.get(path, Some(start..end))?;
        let skip = if answer.status == 206 { 0 } else { start };
        if answer.status == 206 && answer.content_range().is_none_or(|(range, _)| range != (start..end)) {
            let problem = format!("expected the bytes {start} to {end} of {}, found others", quote(path));
            return Err(Trouble::transient(HubFailure::Damaged, problem));
        }
        let host = answer.host.clone();
        let mut reader = answer.into_reader();
        let read = std::io::copy(&mut reader.by_ref().take(skip), &mut std::io::sink());
        read.map_err(|error| client.transport(error.into(), &host))?;
        let mut bytes = Vec::new();
        let read = reader.take(end - start).read_to_end(&mut bytes);
        read.map_err(|error| client.transport(error.into(), &host))?;
        if bytes.len() as u64 == end - start {
            Ok(bytes)
        } else {
            Err(Trouble::transient(
                HubFailure::Damaged,
                format!("expected {} bytes of {}, found {}", end - start, quote(path), bytes.len()),
            ))
        }
    })
}
