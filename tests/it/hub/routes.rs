//! What the fake Hub answers: its protocol without its faults.

use std::sync::Arc;

use serde_json::{Value, json};

use super::content::Content;
use super::fake::{Access, Origin, Repo, RepoFile, State, Token, Tree, World, header};

/// A request as it came.
pub struct Request {
    pub method: String,
    /// Path and query.
    pub path: String,
    pub headers: Vec<(String, String)>,
}

/// An answer before anything goes wrong with it.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub payload: Payload,
}

pub enum Payload {
    Bytes(Vec<u8>),
    /// Bytes `start..end` of a file.
    File {
        file: Arc<RepoFile>,
        start: u64,
        end: u64,
    },
}

impl Answer {
    pub fn new(status: u16, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Answer { status, headers, payload: Payload::Bytes(body.into()) }
    }

    fn json(value: &Value) -> Self {
        Answer::new(200, &[("Content-Type", "application/json; charset=utf-8")], value.to_string())
    }

    /// The Hub's way to say no.
    fn error(status: u16, code: &str, message: &str) -> Self {
        let mut headers = vec![("Content-Type", "application/json; charset=utf-8"), ("X-Error-Message", message)];
        if !code.is_empty() {
            headers.push(("X-Error-Code", code));
        }
        Answer::new(status, &headers, json!({ "error": message }).to_string())
    }

    fn redirect(status: u16, location: &str) -> Self {
        Answer::new(
            status,
            &[("Location", location), ("Content-Type", "text/plain")],
            format!("Redirecting to {location}"),
        )
    }

    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.headers.retain(|(own, _)| !own.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.into()));
    }

    pub fn remove(&mut self, name: &str) {
        self.headers.retain(|(own, _)| !own.eq_ignore_ascii_case(name));
    }
}

/// The answer of any origin: all three have the same routes.
pub fn answer(state: &State, request: &Request) -> Answer {
    let world = state.world();
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let parts: Vec<String> = path.trim_start_matches('/').split('/').map(decoded).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["cdn", sha256, ..] => match by_sha256(&world, sha256) {
            Some(file) => body_of(&file, &file.cdn_etag(), request),
            None => {
                Answer::new(403, &[("Content-Type", "application/xml")], "<Error><Code>AccessDenied</Code></Error>")
            }
        },
        ["api", "resolve-cache", "models", rest @ ..] => file_route(&world, state, request, rest, Hop::Second),
        ["api", "models", rest @ ..] => api_route(&world, request, rest, query),
        _ => file_route(&world, state, request, &parts, Hop::First),
    }
}

fn by_sha256(world: &World, sha256: &str) -> Option<Arc<RepoFile>> {
    let trees = world.repos.values().flat_map(|repo| repo.commits.values());
    trees.flat_map(|tree| tree.values()).find(|file| file.sha256 == sha256).cloned()
}

/// Where a file's address was met: in the Hub's own name space, or behind its redirection to itself.
#[derive(PartialEq)]
enum Hop {
    First,
    Second,
}

/// `ORG/M/resolve/REV/FILE`, `M/resolve/REV/FILE`; behind the redirection `ORG/M/COMMIT/FILE`.
fn file_route(world: &World, state: &State, request: &Request, parts: &[&str], hop: Hop) -> Answer {
    let split = match hop {
        Hop::First => parts.iter().position(|part| *part == "resolve").map(|at| (at, at + 1)),
        Hop::Second => parts.iter().position(|part| part.len() == 40).map(|at| (at, at)),
    };
    let Some((end, rest)) = split.filter(|(end, rest)| (1..=2).contains(end) && parts.len() > rest + 1) else {
        return Answer::new(404, &[("Content-Type", "text/html")], "<html><body>404</body></html>");
    };
    let (id, revision, path) = (parts[..end].join("/"), parts[rest], parts[rest + 1..].join("/"));
    if let Some(new) = world.renamed.get(&id) {
        return Answer::redirect(307, &request.path.replacen(&id, new, 1));
    }
    let repo = match readable(world, request, &id, Part::Files) {
        Ok(repo) => repo,
        Err(answer) => return answer,
    };
    let Some((commit, tree)) = at_revision(repo, revision) else {
        return Answer::error(404, "RevisionNotFound", &format!("Invalid rev id: {revision}"));
    };
    let Some(file) = tree.get(&path) else {
        let mut answer = Answer::error(404, "EntryNotFound", "Entry not found");
        answer.set("X-Repo-Commit", commit);
        return answer;
    };
    let mut answer = if file.is_large {
        // The name is in the query, as a signed address has it.
        Answer::redirect(302, &format!("{}/cdn/{}?filename={}", state.url(Origin::Cdn), file.sha256, encoded(&path)))
    } else if world.small_files_redirect && hop == Hop::First {
        Answer::redirect(307, &format!("/api/resolve-cache/models/{id}/{commit}/{}", encoded(&path)))
    } else {
        body_of(file, file.etag(), request)
    };
    answer.set("X-Repo-Commit", commit);
    answer.set("ETag", format!("\"{}\"", file.etag()));
    if answer.status / 100 == 3 {
        answer.set("X-Linked-Etag", format!("\"{}\"", file.etag()));
        answer.set("X-Linked-Size", file.content.len().to_string());
    }
    answer
}

/// A file's bytes, or the range that was asked for.
pub fn body_of(file: &Arc<RepoFile>, etag: &str, request: &Request) -> Answer {
    let (len, quoted) = (file.content.len(), format!("\"{etag}\""));
    let whole = (200, 0, len);
    let may_range = header(&request.headers, "if-range").is_none_or(|known| known == quoted);
    let asked = header(&request.headers, "range").filter(|_| may_range);
    let (status, start, end) = match asked.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) {
        Some(("", last)) => last.parse().map_or(whole, |n: u64| (206, len.saturating_sub(n), len)),
        Some((from, "")) => from.parse().map_or(whole, |from| (206, from, len)),
        Some((from, to)) => match (from.parse(), to.parse::<u64>()) {
            (Ok(from), Ok(to)) if from <= to => (206, from, len.min(to.saturating_add(1))),
            _ => whole,
        },
        None => whole,
    };
    let headers = [("ETag", quoted.as_str()), ("Accept-Ranges", "bytes"), ("Content-Type", "application/octet-stream")];
    if status == 206 && start >= len {
        let mut answer = Answer::new(416, &headers, "");
        answer.set("Content-Range", format!("bytes */{len}"));
        return answer;
    }
    let mut answer = Answer::new(status, &headers, "");
    if status == 206 {
        answer.set("Content-Range", format!("bytes {start}-{}/{len}", end - 1));
    }
    answer.payload = Payload::File { file: file.clone(), start, end };
    answer
}

/// `ORG/M`, `ORG/M/revision/REV`, `ORG/M/tree/REV`, and the same for bare names.
fn api_route(world: &World, request: &Request, parts: &[&str], query: &str) -> Answer {
    let verb = parts.iter().skip(1).position(|part| ["revision", "tree"].contains(part)).map(|at| at + 1);
    let end = verb.unwrap_or(parts.len());
    let (id, revision) = (parts[..end].join("/"), verb.and_then(|at| parts.get(at + 1)).unwrap_or(&"main"));
    if let Some(new) = world.renamed.get(&id) {
        return Answer::redirect(307, &request.path.replacen(&id, new, 1));
    }
    let repo = match readable(world, request, &id, Part::Listing) {
        Ok(repo) => repo,
        Err(answer) => return answer,
    };
    let Some((commit, tree)) = at_revision(repo, revision) else {
        return Answer::error(404, "RevisionNotFound", &format!("Invalid rev id: {revision}"));
    };
    match verb.map(|at| parts[at]) {
        Some("tree") => listing(world, request, tree, query),
        _ => Answer::json(&info(repo, &id, commit, tree, query)),
    }
}

fn info(repo: &Repo, id: &str, commit: &str, tree: &Tree, query: &str) -> Value {
    let siblings: Vec<Value> = tree
        .iter()
        .map(|(path, file)| {
            let mut sibling = json!({ "rfilename": path });
            if query.contains("blobs=true") {
                sibling["size"] = json!(file.content.len());
                sibling["blobId"] = json!(file.git_sha1);
                if file.is_large {
                    sibling["lfs"] = json!({ "sha256": file.sha256, "size": file.content.len(), "pointerSize": 134 });
                }
            }
            sibling
        })
        .collect();
    let gated = if repo.access == Access::Gated { json!("manual") } else { json!(false) };
    let license = repo.license.as_ref();
    json!({
        "_id": "621ffdc036468d709f174338", "id": id, "modelId": id, "sha": commit, "author": id.split('/').next(),
        "private": repo.access == Access::Private, "gated": gated, "disabled": false,
        "lastModified": "2024-02-19T10:57:45.000Z", "createdAt": "2022-03-02T23:29:04.000Z",
        "tags": license.iter().map(|name| format!("license:{name}")).collect::<Vec<_>>(),
        "cardData": license.map_or_else(|| json!({}), |name| json!({ "license": name })),
        "downloads": 7, "likes": 1, "siblings": siblings, "spaces": [],
    })
}

fn listing(world: &World, request: &Request, tree: &Tree, query: &str) -> Answer {
    let mut entries: Vec<Value> = Vec::new();
    let mut folders: Vec<&str> =
        tree.keys().filter_map(|path| path.rsplit_once('/').map(|(folder, _)| folder)).collect();
    folders.dedup();
    for folder in folders {
        entries.push(json!({ "type": "directory", "oid": Content::of(folder).git_sha1(), "size": 0, "path": folder }));
    }
    for (path, file) in tree {
        let mut entry = json!({ "type": "file", "oid": file.git_sha1, "size": file.content.len(), "path": path });
        if file.is_large {
            entry["lfs"] = json!({ "oid": file.sha256, "size": file.content.len(), "pointerSize": 134 });
        }
        entries.push(entry);
    }
    let parameter =
        |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
    let limit: Option<usize> = parameter("limit");
    let from: usize = parameter("cursor").unwrap_or(0);
    let page = [limit, Some(world.page)].into_iter().flatten().filter(|page| *page > 0).min().unwrap_or(1000);
    let until = entries.len().min(from + page);
    let mut answer = Answer::json(&json!(entries.get(from..until).unwrap_or_default()));
    if until < entries.len() {
        let (path, _) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let kept: Vec<&str> =
            query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("cursor=")).collect();
        let host = header(&request.headers, "host").unwrap_or("localhost");
        let next = format!("http://{host}{path}?{}&cursor={until}", kept.join("&")).replace("?&", "?");
        answer.set("Link", format!("<{next}>; rel=\"next\""));
    }
    answer
}

fn at_revision<'r>(repo: &'r Repo, revision: &str) -> Option<(&'r str, &'r Arc<Tree>)> {
    let commit = repo.refs.get(revision).map_or(revision, String::as_str);
    repo.commits.get_key_value(commit).map(|(commit, tree)| (commit.as_str(), tree))
}

/// What of a repository a request is for.
#[derive(PartialEq)]
enum Part {
    Listing,
    Files,
}

/// The repository, where the request's token opens it.
fn readable<'w>(world: &'w World, request: &Request, id: &str, part: Part) -> Result<&'w Repo, Answer> {
    let bearer = header(&request.headers, "authorization").map(|value| value.strip_prefix("Bearer ").unwrap_or(value));
    let token = match bearer.map(|token| world.tokens.get(token)) {
        Some(None) => return Err(Answer::error(401, "", "Invalid credentials in Authorization header")),
        Some(Some(token)) => Some(*token),
        None => None,
    };
    // Strangers learn no more of a private repository than of one that is not there.
    let nothing = || match token {
        Some(_) => Answer::error(404, "RepoNotFound", "Repository not found"),
        None => Answer::error(401, "RepoNotFound", "Invalid username or password."),
    };
    let repo = world.repos.get(id).ok_or_else(nothing)?;
    match (repo.access, token) {
        (Access::Public, _) | (Access::Gated | Access::Private, Some(Token::Member)) => Ok(repo),
        (Access::Disabled, _) => Err(Answer::error(403, "", "Access to this resource is disabled.")),
        (Access::Private, _) => Err(nothing()),
        (Access::Gated, _) if part == Part::Listing => Ok(repo),
        (Access::Gated, None) => Err(Answer::error(
            401,
            "GatedRepo",
            &format!(
                "Access to model {id} is restricted. You must have access to it and be authenticated to access it."
            ),
        )),
        (Access::Gated, Some(Token::Reader)) => Err(Answer::error(
            403,
            "GatedRepo",
            &format!("Access to model {id} is restricted and you are not in the authorized list. Visit {id} to ask."),
        )),
    }
}

/// A part of a path without its percent signs.
fn decoded(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        let hex = others.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &others[2..];
            }
            _ => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A path as it stands in an address.
fn encoded(path: &str) -> String {
    let mut text = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => text.push(byte as char),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}
