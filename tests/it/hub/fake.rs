//! A Hub on loopback that tests fill and break: repositories, what was asked of it, how many bytes it gave away.
//!
//! Three origins with one set of routes: the Hub, the CDN that its large files redirect to, and a stranger that nobody
//! should tell a token. Routes are in `routes.rs`, sockets in `wire.rs`, how fast bodies go
//! out in `flow.rs`, faults in `rules.rs`.

use std::collections::BTreeMap;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sha1::{Digest, Sha1};

use super::content::{Content, hex};
use super::flow::Flow;
use super::rules::{Fault, On, Rule};
use super::wire;

/// Which of the three listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Hub,
    Cdn,
    Stranger,
}

const ORIGINS: [Origin; 3] = [Origin::Hub, Origin::Cdn, Origin::Stranger];

/// Who may read a repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Public,
    /// Its listing is public, its files are for tokens that were granted access.
    Gated,
    /// For others it does not exist.
    Private,
    /// Taken down.
    Disabled,
}

/// What a token opens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// Some account.
    Reader,
    /// An account that was granted access to gated and private repositories.
    Member,
}

/// A file of a repository, with the names that the Hub gives to its content.
pub struct RepoFile {
    pub content: Content,
    pub sha256: String,
    pub git_sha1: String,
    pub is_large: bool,
    /// The ETag to send in place of the true one.
    pub etag: Option<String>,
}

impl RepoFile {
    pub fn new(content: Content, is_large: bool) -> Arc<Self> {
        let sha256 = content.sha256();
        // Git knows a large file by its pointer.
        let pointer =
            format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {}\n", content.len());
        let git_sha1 = if is_large { Content::of(pointer).git_sha1() } else { content.git_sha1() };
        Arc::new(RepoFile { content, sha256, git_sha1, is_large, etag: None })
    }

    /// What the Hub's ETag says, which is the blob's name in a cache.
    pub fn etag(&self) -> &str {
        self.etag.as_deref().unwrap_or(if self.is_large { &self.sha256 } else { &self.git_sha1 })
    }

    /// What the CDN's ETag says: stable and opaque, no hash of the content that a client knows.
    pub fn cdn_etag(&self) -> String {
        format!("{}-7", &hex(&Sha1::digest(self.etag()))[..32])
    }
}

/// Path → file.
pub type Tree = BTreeMap<String, Arc<RepoFile>>;

#[derive(Clone)]
pub struct Repo {
    pub commits: BTreeMap<String, Arc<Tree>>,
    pub refs: BTreeMap<String, String>,
    pub access: Access,
    pub license: Option<String>,
}

/// What the Hub holds.
#[derive(Default)]
pub struct World {
    pub repos: BTreeMap<String, Repo>,
    pub renamed: BTreeMap<String, String>,
    pub tokens: BTreeMap<String, Token>,
    /// Entries to a page of a listing; 0 is all.
    pub page: usize,
    /// Small files by way of a redirection on the Hub's own origin.
    pub small_files_redirect: bool,
}

/// One request and what became of it.
pub struct Seen {
    pub origin: Origin,
    pub at: Instant,
    pub method: String,
    /// Path and query as they were sent.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub status: u16,
    /// Bytes of the body that the socket took.
    pub body: AtomicU64,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub fn body_bytes(&self) -> u64 {
        self.body.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let range = self.header("range").unwrap_or("-");
        write!(
            f,
            "{:?} {} {} [{range}] → {} ({} B)",
            self.origin,
            self.method,
            self.path,
            self.status,
            self.body_bytes()
        )
    }
}

/// The first header of this name, in any case.
pub fn header<'h>(headers: &'h [(String, String)], name: &str) -> Option<&'h str> {
    headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// What the threads share.
pub struct State {
    world: Mutex<World>,
    rules: Mutex<Vec<Rule>>,
    log: Mutex<Vec<Arc<Seen>>>,
    connections: Mutex<BTreeMap<u64, TcpStream>>,
    next_connection: AtomicU64,
    addresses: [SocketAddr; 3],
    pub stopped: AtomicBool,
    pub flow: Flow,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    pub fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    pub fn record(&self, seen: Seen) -> Arc<Seen> {
        let seen = Arc::new(seen);
        lock(&self.log).push(seen.clone());
        seen
    }

    pub fn url(&self, origin: Origin) -> String {
        format!("http://{}", self.addresses[origin as usize])
    }

    pub fn fault(&self, origin: Origin, method: &str, path: &str, bytes: Option<&Range<u64>>) -> Option<Fault> {
        let mut rules = lock(&self.rules);
        rules.iter_mut().find_map(|rule| rule.takes(origin, method, path, bytes).then(|| rule.fault.clone()))
    }

    /// Keeps a handle to a connection for as long as `serve` runs.
    fn connected(&self, stream: TcpStream, serve: impl FnOnce(TcpStream)) {
        let Ok(handle) = stream.try_clone() else { return };
        let id = self.next_connection.fetch_add(1, Ordering::Relaxed);
        lock(&self.connections).insert(id, handle);
        serve(stream);
        lock(&self.connections).remove(&id);
    }
}

/// The Hub; it ends when it is dropped.
pub struct FakeHub {
    state: Arc<State>,
    listeners: Vec<JoinHandle<()>>,
}

impl FakeHub {
    pub fn start() -> Self {
        let sockets = ORIGINS.map(|_| TcpListener::bind("127.0.0.1:0").expect("a port of loopback"));
        let addresses = [0, 1, 2].map(|i| sockets[i].local_addr().expect("an address"));
        let state = Arc::new(State {
            world: Mutex::default(),
            rules: Mutex::default(),
            log: Mutex::default(),
            connections: Mutex::default(),
            next_connection: AtomicU64::new(0),
            addresses,
            stopped: AtomicBool::new(false),
            flow: Flow::default(),
        });
        let listeners = sockets.into_iter().zip(ORIGINS).map(|(socket, origin)| {
            let state = state.clone();
            std::thread::spawn(move || listen(socket, origin, &state))
        });
        FakeHub { listeners: listeners.collect(), state }
    }

    /// What `HF_ENDPOINT` is.
    pub fn url(&self) -> String {
        self.state.url(Origin::Hub)
    }

    pub fn url_of(&self, origin: Origin) -> String {
        self.state.url(origin)
    }

    /// Begins a commit of a repository: what it has on `main` and what is added.
    pub fn repo(&self, id: &str) -> Draft<'_> {
        let world = self.state.world();
        let repo = world.repos.get(id);
        let main = repo.and_then(|repo| repo.commits.get(repo.refs.get("main")?));
        Draft {
            hub: self,
            id: id.to_owned(),
            tree: main.map_or_else(Tree::new, |tree| (**tree).clone()),
            branch: "main".to_owned(),
            commit: None,
            access: repo.map_or(Access::Public, |repo| repo.access),
            license: repo.and_then(|repo| repo.license.clone()),
        }
    }

    /// A tag, or another name, of a commit.
    pub fn tag(&self, id: &str, name: &str, commit: &str) {
        let mut world = self.state.world();
        let repo = world.repos.get_mut(id).expect("a repository");
        repo.refs.insert(name.to_owned(), commit.to_owned());
    }

    /// Takes a file off the newest commit of `main`, which keeps its id.
    pub fn without(&self, id: &str, path: &str) {
        let mut world = self.state.world();
        let repo = world.repos.get_mut(id).expect("a repository");
        let commit = repo.refs["main"].clone();
        let mut tree = (*repo.commits[&commit]).clone();
        tree.remove(path);
        repo.commits.insert(commit, Arc::new(tree));
    }

    /// The old name redirects from now on.
    pub fn rename(&self, old: &str, new: &str) {
        let mut world = self.state.world();
        let repo = world.repos.remove(old).expect("a repository");
        world.repos.insert(new.to_owned(), repo);
        world.renamed.insert(old.to_owned(), new.to_owned());
    }

    pub fn knows(&self, token: &str, what: Token) {
        self.state.world().tokens.insert(token.to_owned(), what);
    }

    /// Listings in pages of so many entries.
    pub fn pages_of(&self, entries: usize) {
        self.state.world().page = entries;
    }

    /// Small files come by way of a redirection on the same origin, as the Hub's own cache does it.
    pub fn redirects_small_files(&self) {
        self.state.world().small_files_redirect = true;
    }

    /// The file at a path of `main`.
    pub fn file(&self, id: &str, path: &str) -> Arc<RepoFile> {
        self.tree(id)[path].clone()
    }

    /// All files of `main`.
    pub fn tree(&self, id: &str) -> Arc<Tree> {
        let world = self.state.world();
        let repo = world.repos.get(id).expect("a repository");
        repo.commits[&repo.refs["main"]].clone()
    }

    /// A rule for requests of this method (`*` is any) whose path contains this text.
    pub fn on(&self, method: &'static str, path: &str) -> On<'_> {
        On::new(self, method, path)
    }

    pub fn add_rule(&self, rule: Rule) {
        lock(&self.state.rules).push(rule);
    }

    /// Faults that are still to happen, those that always happen aside.
    pub fn faults_left(&self) -> usize {
        lock(&self.state.rules).iter().filter(|rule| rule.times < usize::MAX).map(|rule| rule.times).sum()
    }

    pub fn clear_rules(&self) {
        lock(&self.state.rules).clear();
    }

    /// Limits all bodies together to so many bytes per second; 0 is no limit.
    pub fn bandwidth(&self, bytes_per_second: u64) {
        self.state.flow.bandwidth(bytes_per_second);
    }

    /// Lets so many more bytes of weights out, and none until [`FakeHub::go_on`]; small files and looks at headers go on.
    pub fn stall_after(&self, bytes: u64) {
        self.state.flow.stall_after(bytes);
    }

    pub fn is_stalled(&self) -> bool {
        self.state.flow.is_stalled()
    }

    pub fn go_on(&self) {
        self.state.flow.go_on();
    }

    /// What was asked so far.
    pub fn seen(&self) -> Vec<Arc<Seen>> {
        lock(&self.state.log).clone()
    }

    pub fn forget_seen(&self) {
        lock(&self.state.log).clear();
    }

    /// Bytes of bodies that went out for addresses that contain this text.
    pub fn served(&self, path: &str) -> u64 {
        self.seen().iter().filter(|seen| seen.path.contains(path)).map(|seen| seen.body_bytes()).sum()
    }

    /// How often bytes of such an address were asked for at an origin that has them.
    pub fn gets(&self, path: &str) -> usize {
        let file = |seen: &&Arc<Seen>| seen.method == "GET" && seen.path.contains(path) && seen.status / 100 == 2;
        self.seen().iter().filter(file).count()
    }

    /// Ends every connection and refuses new ones.
    pub fn stop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        for address in self.state.addresses {
            // Wakes the listener, which sees that it is over.
            let _ = TcpStream::connect_timeout(&address, Duration::from_secs(1));
        }
        for listener in self.listeners.drain(..) {
            let _ = listener.join();
        }
        for connection in lock(&self.state.connections).values() {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.stop();
    }
}

fn listen(socket: TcpListener, origin: Origin, state: &Arc<State>) {
    for stream in socket.incoming() {
        if state.stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let state = state.clone();
        std::thread::spawn(move || state.connected(stream, |stream| wire::serve(stream, origin, &state)));
    }
}

/// A commit that is being written.
#[must_use = "a commit exists with `publish`"]
pub struct Draft<'h> {
    hub: &'h FakeHub,
    id: String,
    tree: Tree,
    branch: String,
    commit: Option<String>,
    access: Access,
    license: Option<String>,
}

impl Draft<'_> {
    pub fn file(self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.with(path, RepoFile::new(Content::of(bytes), false))
    }

    pub fn large_file(self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.with(path, RepoFile::new(Content::of(bytes), true))
    }

    pub fn with(mut self, path: &str, file: Arc<RepoFile>) -> Self {
        self.tree.insert(path.to_owned(), file);
        self
    }

    /// An ETag that is not the content's.
    pub fn lies_about(mut self, path: &str, etag: &str) -> Self {
        let file = &self.tree[path];
        let liar = RepoFile {
            content: file.content.clone(),
            sha256: file.sha256.clone(),
            git_sha1: file.git_sha1.clone(),
            is_large: file.is_large,
            etag: Some(etag.to_owned()),
        };
        self.tree.insert(path.to_owned(), Arc::new(liar));
        self
    }

    pub fn on_branch(mut self, name: &str) -> Self {
        self.branch = name.to_owned();
        self
    }

    /// A commit id that is not the content's hash.
    pub fn with_commit(mut self, id: &str) -> Self {
        self.commit = Some(id.to_owned());
        self
    }

    pub fn with_access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    pub fn with_license(mut self, license: &str) -> Self {
        self.license = Some(license.to_owned());
        self
    }

    /// Makes it the newest commit of its branch; gives its id.
    pub fn publish(self) -> String {
        let mut hash = Sha1::new_with_prefix(format!("{}@{}\n", self.id, self.branch));
        for (path, file) in &self.tree {
            hash.update(format!("{} {path}\n", file.git_sha1));
        }
        let commit = self.commit.unwrap_or_else(|| hex(&hash.finalize()));
        let mut world = self.hub.state.world();
        let repo = world.repos.entry(self.id).or_insert_with(|| Repo {
            commits: BTreeMap::new(),
            refs: BTreeMap::new(),
            access: Access::Public,
            license: None,
        });
        repo.access = self.access;
        repo.license = self.license;
        repo.commits.insert(commit.clone(), Arc::new(self.tree));
        repo.refs.insert(self.branch, commit.clone());
        commit
    }
}
