//! What the Hub says of a repository: its present commit, and every file with size and hash.

use serde_json::Value;
use ureq::http::{HeaderMap, header};

use super::client::{Client, percent_encoded};
use super::digest::Digest;
use super::name::{Commit, RepoId, RepoPath, Revision};
use crate::error::{Error, HubFailure, Result, quote};

/// Pages of one listing; a page holds a thousand files.
const MOST_PAGES: usize = 200;
/// Files of one listing; a model has hundreds at most.
const MOST_FILES: usize = 100_000;
/// Bytes of one file, and of all on a page's way: a thousand times what any model has, and sums stay far from their end.
const LARGEST: u64 = 1 << 50;
/// Bytes of one listing.
const LONGEST_LISTING: usize = 64 << 20;

/// A repository at one commit.
#[derive(Clone, Debug)]
pub(crate) struct Repository {
    /// Its present name, which differs from the one asked for after a renaming.
    pub(crate) id: RepoId,
    pub(crate) commit: Commit,
    /// The licence that its card names.
    pub(crate) license: Option<String>,
    /// Whether its page has terms to accept first.
    pub(crate) gated: bool,
    pub(crate) files: Vec<RemoteFile>,
    /// Names in the listing that no file may have here: they are never fetched.
    pub(crate) refused: Vec<String>,
}

/// A file on the Hub.
#[derive(Clone, Debug)]
pub(crate) struct RemoteFile {
    pub(crate) path: RepoPath,
    pub(crate) size: u64,
    /// What its content must hash to; also its ETag and its name in the cache.
    pub(crate) digest: Digest,
}

impl Repository {
    pub(crate) fn file(&self, path: &str) -> Option<&RemoteFile> {
        self.files.iter().find(|file| file.path.as_str() == path)
    }

    pub(crate) fn paths(&self) -> Vec<RepoPath> {
        self.files.iter().map(|file| file.path.clone()).collect()
    }
}

/// Asks for a repository's commit and files.
pub(crate) fn repository(client: &Client, repo: &RepoId, revision: &Revision) -> Result<Repository> {
    let path = format!("/api/models/{repo}/revision/{}", percent_encoded(revision.as_str(), ""));
    let (info, ..) = json(client, &path)?;
    let odd = |what: &str, found: Option<&Value>| {
        let found = quote(&found.map_or_else(|| "nothing".to_owned(), Value::to_string));
        let problem = format!("expected {what} in the Hub's answer about {}, found {found}", quote(repo.as_str()));
        Error::hub(HubFailure::Hostile, problem, "check HF_ENDPOINT and the proxy between")
    };
    let commit =
        info["sha"].as_str().and_then(Commit::new).ok_or_else(|| odd("a commit of 40 hex digits", info.get("sha")))?;
    if revision.as_commit().is_some_and(|asked| asked != commit) {
        return Err(odd(&format!("the commit {revision}"), info.get("sha")));
    }
    let id = match info.get("id").or_else(|| info.get("modelId")) {
        None => repo.clone(),
        Some(id) => id.as_str().and_then(RepoId::new).ok_or_else(|| odd("a repository's name", Some(id)))?,
    };
    let license = info["cardData"]["license"].as_str().map(str::to_owned);
    let gated = info["gated"].as_str().is_some() || info["gated"] == true; // `false`, `"auto"` or `"manual"`
    let mut repository = Repository { id, commit, license, gated, files: Vec::new(), refused: Vec::new() };
    read_tree(client, &mut repository, &odd)?;
    Ok(repository)
}

/// Where a file's bytes are.
pub(crate) fn file_path(repo: &RepoId, commit: &Commit, file: &RepoPath) -> String {
    format!("/{repo}/resolve/{commit}/{}", percent_encoded(file.as_str(), "/"))
}

fn read_tree(client: &Client, repository: &mut Repository, odd: &dyn Fn(&str, Option<&Value>) -> Error) -> Result<()> {
    let mut next =
        Some(format!("/api/models/{}/tree/{}?recursive=true&expand=false", repository.id, repository.commit));
    let mut bytes = 0;
    for _ in 0..MOST_PAGES {
        let Some(path) = next.take() else { return Ok(()) };
        let (page, headers, length) = json(client, &path)?;
        bytes += length;
        if bytes > LONGEST_LISTING || repository.files.len() > MOST_FILES {
            break;
        }
        let known: u64 = repository.files.iter().map(|file| file.size).fold(0, u64::saturating_add);
        if known > LARGEST {
            break;
        }
        for entry in page.as_array().ok_or_else(|| odd("a list of files", Some(&page)))? {
            if entry["type"] != "file" {
                continue;
            }
            let name = entry["path"].as_str().ok_or_else(|| odd("a file's path", entry.get("path")))?;
            let (size, hash) = match entry.get("lfs").filter(|lfs| lfs.is_object()) {
                Some(lfs) => (&lfs["size"], &lfs["oid"]),
                None => (&entry["size"], &entry["oid"]),
            };
            let known = size.as_u64().filter(|size| *size <= LARGEST);
            let size = known.ok_or_else(|| odd("a file's size", Some(size)))?;
            let digest = hash.as_str().and_then(Digest::of_name).ok_or_else(|| odd("a file's hash", Some(hash)))?;
            match RepoPath::new(name) {
                Some(path) => repository.files.push(RemoteFile { path, size, digest }),
                None => repository.refused.push(name.to_owned()),
            }
        }
        next = next_page(&headers, client.endpoint())?;
    }
    let found = Value::from(format!("{} files in {bytes} bytes, and more to come", repository.files.len()));
    Err(odd(&format!("at most {MOST_FILES} files"), Some(&found)))
}

/// The address in `Link: <…>; rel="next"`, which must be one of this Hub.
fn next_page(headers: &HeaderMap, endpoint: &str) -> Result<Option<String>> {
    let Some(link) = headers.get(header::LINK).and_then(|link| link.to_str().ok()) else { return Ok(None) };
    let Some(next) = link.split(',').find(|part| part.contains("rel=\"next\"")) else { return Ok(None) };
    let address = next.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(address, _)| address);
    let path = address.strip_prefix(endpoint).unwrap_or(address);
    if path.starts_with('/') && !path.starts_with("//") {
        return Ok(Some(path.to_owned()));
    }
    Err(Error::hub(
        HubFailure::Hostile,
        format!("expected the next page of a listing on the same Hub, found {}", quote(address)),
        "check HF_ENDPOINT and the proxy between",
    ))
}

/// An answer's JSON, headers and length in bytes.
fn json(client: &Client, path: &str) -> Result<(Value, HeaderMap, usize)> {
    let (text, headers) = client.text(path)?;
    let json = serde_json::from_str(&text).map_err(|error| {
        Error::hub(
            HubFailure::Server,
            format!("expected JSON from {}, found something else: {error}", quote(path)),
            "check HF_ENDPOINT and the proxy between; a sign-in page of a network may be in the way",
        )
    })?;
    Ok((json, headers, text.len()))
}
