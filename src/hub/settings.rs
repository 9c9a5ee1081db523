//! What the environment says of the Hub: where the cache is, which Hub, which token, and whether to stay offline.
//!
//! The variables and their order are those of Python's client, so that both find the same cache.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, HubFailure, Result, quote};

const ENDPOINT: &str = "https://huggingface.co";
/// Silence after which a connection counts as dead.
const STALL: Duration = Duration::from_secs(20);
/// Longest token file or `.env` that is read.
const SMALL_FILE: u64 = 64 << 10;

/// Where models are kept and fetched from.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The folder with `models--owner--name` in it.
    pub(crate) cache: PathBuf,
    /// The Hub's address, without a `/` at its end.
    pub(crate) endpoint: String,
    pub(crate) token: Option<Token>,
    pub(crate) network: Network,
    pub(crate) stall: Duration,
}

/// Whether requests may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    Allowed,
    /// Not by the user's word; says whose.
    Forbidden(&'static str),
}

/// Who the user is to the Hub. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    secret: String,
    /// For messages: "the variable HF_TOKEN", "the file …".
    pub(crate) source: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token from {}", self.source)
    }
}

impl Token {
    /// A token that can stand in a header: visible ASCII.
    pub(crate) fn new(secret: &str, source: impl Into<String>) -> Result<Option<Self>> {
        let (secret, source) = (secret.trim(), source.into());
        if secret.is_empty() {
            return Ok(None);
        }
        if !secret.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::hub(
                HubFailure::Unauthorized,
                format!("expected a token of letters, digits and signs in {source}, found other characters"),
                "copy the token again from the Hub's settings page",
            ));
        }
        Ok(Some(Token { secret: secret.to_owned(), source }))
    }

    /// A text in which the token does not occur.
    pub(crate) fn censored(&self, text: &str) -> String {
        text.replace(&self.secret, "[the token]")
    }

    /// The header's value.
    #[cfg_attr(not(feature = "hub"), allow(dead_code))]
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.secret)
    }
}

impl Settings {
    pub(crate) fn from_env() -> Result<Self> {
        Self::read(&|name| std::env::var_os(name).filter(|value| !value.is_empty()), Path::new(".env"))
    }

    fn read(variable: &dyn Fn(&str) -> Option<OsString>, dot_env: &Path) -> Result<Self> {
        let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
        let home = home_of(variable)?;
        let cache = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE"));
        let cache = cache.map_or_else(|| home.join("hub"), |path| expand(&path, variable));
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()).trim_end_matches('/').to_owned();
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(Error::hub(
                HubFailure::Name,
                format!("expected an address that begins with `https://` in HF_ENDPOINT, found {}", quote(&endpoint)),
                format!("leave HF_ENDPOINT unset for {ENDPOINT}"),
            ));
        }
        if endpoint.split("://").nth(1).is_some_and(|rest| rest.split('/').next().unwrap_or_default().contains('@')) {
            return Err(Error::hub(
                HubFailure::Name,
                "expected an address without a user's name or password in HF_ENDPOINT, found one with `@`",
                "set HF_TOKEN instead",
            ));
        }
        let is_true = |name: &str| {
            text(name).is_some_and(|v| matches!(v.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
        };
        let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().find(|name| is_true(name));
        let token =
            if is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") { None } else { token_of(&text, variable, &home, dot_env)? };
        let stall = match text("HF_HUB_DOWNLOAD_TIMEOUT") {
            None => STALL,
            Some(seconds) => {
                seconds.parse().ok().filter(|s| (1..=3600).contains(s)).map(Duration::from_secs).ok_or_else(|| {
                    let problem = format!(
                        "expected from 1 to 3600 seconds in HF_HUB_DOWNLOAD_TIMEOUT, found {}",
                        quote(&seconds)
                    );
                    Error::hub(HubFailure::Name, problem, "leave it unset for 20")
                })?
            }
        };
        Ok(Settings { cache, endpoint, token, network: offline.map_or(Network::Allowed, Network::Forbidden), stall })
    }
}

/// `HF_HOME`, or its place in the user's cache folder.
fn home_of(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    if let Some(home) = variable("HF_HOME") {
        return Ok(expand(&home, variable));
    }
    if let Some(cache) = variable("XDG_CACHE_HOME") {
        return Ok(expand(&cache, variable).join("huggingface"));
    }
    let user = variable("HOME").map(PathBuf::from).or_else(std::env::home_dir).filter(|path| path.is_absolute());
    user.map(|user| user.join(".cache").join("huggingface")).ok_or_else(|| {
        Error::hub(HubFailure::Cache, "there is no place for the cache: no home folder is set", "set HOME or HF_HOME")
    })
}

/// A leading `~` is the home folder, as in Python's client.
fn expand(path: &OsString, variable: &dyn Fn(&str) -> Option<OsString>) -> PathBuf {
    let path = Path::new(path);
    match (path.strip_prefix("~"), variable("HOME")) {
        (Ok(rest), Some(home)) => Path::new(&home).join(rest),
        _ => path.to_owned(),
    }
}

/// The first token of: the environment, `.env` here, the file that `hf auth login` writes.
fn token_of(
    text: &dyn Fn(&str) -> Option<String>,
    variable: &dyn Fn(&str) -> Option<OsString>,
    home: &Path,
    dot_env: &Path,
) -> Result<Option<Token>> {
    const NAMES: [&str; 3] = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_API_KEY"];
    for name in NAMES {
        if let Some(token) =
            text(name).map(|value| Token::new(&value, format!("the variable {name}"))).transpose()?.flatten()
        {
            return Ok(Some(token));
        }
    }
    if let Some(lines) = read_small(dot_env) {
        for name in NAMES {
            let value = lines.lines().rev().find_map(|line| assignment(line, name));
            if let Some(token) =
                value.map(|value| Token::new(value, format!("{name} in the file `.env`"))).transpose()?.flatten()
            {
                return Ok(Some(token));
            }
        }
    }
    let path = variable("HF_TOKEN_PATH").map_or_else(|| home.join("token"), |path| expand(&path, variable));
    let stored = read_small(&path);
    stored.map_or(Ok(None), |secret| Token::new(&secret, format!("the file {}", quote(&path.display().to_string()))))
}

/// The value of `name=value`, with `export` before it and quotes around it allowed.
fn assignment<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let line = line.trim();
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    let value = line.strip_prefix(name)?.trim_start().strip_prefix('=')?.trim();
    match value.chars().next() {
        Some(quote @ ('"' | '\'')) => value[1..].split(quote).next(),
        _ => value.split(" #").next().map(str::trim_end),
    }
}

fn read_small(path: &Path) -> Option<String> {
    let known = std::fs::metadata(path).ok()?;
    if !known.is_file() || known.len() > SMALL_FILE {
        return None;
    }
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)], dot_env: &Path) -> Settings {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
        Settings::read(&find, dot_env).unwrap()
    }

    #[test]
    fn the_cache_is_where_pythons_client_has_it() {
        let check = |variables: &[(&str, &str)], cache: &str| {
            assert_eq!(settings(variables, Path::new("")).cache, Path::new(cache), "{variables:?}");
        };
        check(&[("HOME", "/h")], "/h/.cache/huggingface/hub");
        check(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub");
        check(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/f")], "/f/hub");
        check(&[("HOME", "/h"), ("HF_HOME", "~/f")], "/h/f/hub");
        check(&[("HOME", "/h"), ("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/o")], "/o");
        check(&[("HOME", "/h"), ("HF_HUB_CACHE", "/c"), ("HUGGINGFACE_HUB_CACHE", "/o")], "/c");
    }

    #[test]
    fn the_first_token_wins_and_none_is_printed() {
        let folder = tempfile::tempdir().unwrap();
        let (dot_env, stored) = (folder.path().join(".env"), folder.path().join("token"));
        std::fs::write(&dot_env, "# keys\nOTHER=1\nexport HUGGINGFACE_API_KEY = \"hf_env\" # mine\n").unwrap();
        std::fs::write(&stored, "hf_stored\n").unwrap();
        let home = ("HF_HOME", folder.path().to_str().unwrap());
        let check = |variables: &[(&str, &str)], dot_env: &Path, expected: Option<(&str, &str)>| {
            let token = settings(variables, dot_env).token;
            assert!(!format!("{token:?}").contains("hf_"));
            let found = token.as_ref().map(|token| (token.secret.as_str(), token.source.as_str()));
            match expected {
                Some((secret, source)) => {
                    assert!(found.is_some_and(|f| f.0 == secret && f.1.contains(source)), "{found:?}")
                }
                None => assert_eq!(found, None),
            }
        };
        check(&[home, ("HF_TOKEN", "hf_a"), ("HUGGINGFACE_API_KEY", "hf_b")], &dot_env, Some(("hf_a", "HF_TOKEN")));
        check(&[home, ("HUGGINGFACE_API_KEY", "hf_b")], &dot_env, Some(("hf_b", "HUGGINGFACE_API_KEY")));
        check(&[home], &dot_env, Some(("hf_env", ".env")));
        check(&[home], Path::new("/nowhere"), Some(("hf_stored", "token")));
        check(&[home, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")], &dot_env, None);
        check(&[("HF_HOME", "/nowhere")], Path::new("/nowhere"), None);
    }
}
