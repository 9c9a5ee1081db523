//! Giving up sockets: what `--offline` promises, enforced by the kernel where it can be.
//!
//! On Linux a seccomp filter over all threads makes every call that could open, accept or address a connection fail with
//! EACCES, for the rest of the process and for whatever it starts. Files, pipes and terminals are not affected, and
//! neither is an output that is a socket: Rust's stdio only reads and writes. The filter guards against mistakes, ours and
//! those of the crates under us; it is no prison for code that wants to break out. Elsewhere the promise rests on the
//! code alone, and [`NetworkBan`] says so.

use std::fmt::{self, Display};

/// How far the promise to use no network goes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "whether the kernel agreed is for the user to know"]
pub enum NetworkBan {
    /// The kernel refuses sockets to this process.
    Kernel,
    /// The kernel was not asked or did not agree; says why.
    CodeAlone(String),
}

impl Display for NetworkBan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetworkBan::Kernel => f.write_str("blocked by the kernel (seccomp)"),
            NetworkBan::CodeAlone(why) => write!(f, "not blocked: {why}; but nothing here opens a socket"),
        }
    }
}

/// Gives up sockets for the rest of this process, all of its threads included. It cannot be taken back.
pub fn forbid_network() -> NetworkBan {
    match filter::apply() {
        Ok(()) => NetworkBan::Kernel,
        Err(why) => NetworkBan::CodeAlone(crate::error::line(&why)),
    }
}

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod filter {
    use std::collections::BTreeMap;

    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
        TargetArch,
    };

    /// What a refused call returns: socket(2) says it with this.
    const EACCES: u32 = 13;
    /// The only family that `socketpair` may have: a pipe within this process. `sys/socket.h`.
    const AF_UNIX: u64 = 1;

    /// Numbers of the system calls, from the kernel's tables.
    #[cfg(target_arch = "x86_64")]
    mod call {
        pub(super) const ARCH: super::TargetArch = super::TargetArch::x86_64;
        // socket, connect, accept, sendmsg, bind, listen, accept4, sendmmsg, io_uring_setup
        pub(super) const REFUSED: &[i64] = &[41, 42, 43, 46, 49, 50, 288, 307, 425];
        pub(super) const SENDTO: i64 = 44;
        pub(super) const SOCKETPAIR: i64 = 53;
        /// The same calls by the numbers of x32, which a filter by number would otherwise let through.
        pub(super) const ALSO: &[i64] = &[0, 0x4000_0000];
    }

    #[cfg(target_arch = "aarch64")]
    mod call {
        pub(super) const ARCH: super::TargetArch = super::TargetArch::aarch64;
        // socket, bind, listen, accept, connect, sendmsg, accept4, sendmmsg, io_uring_setup
        pub(super) const REFUSED: &[i64] = &[198, 200, 201, 202, 203, 211, 242, 269, 425];
        pub(super) const SENDTO: i64 = 206;
        pub(super) const SOCKETPAIR: i64 = 199;
        pub(super) const ALSO: &[i64] = &[0];
    }

    pub(super) fn apply() -> Result<(), String> {
        let program = program().map_err(|error| format!("the filter cannot be built ({error})"))?;
        seccompiler::apply_filter_all_threads(&program)
            .map_err(|error| format!("the kernel does not take a filter ({error})"))
    }

    fn program() -> Result<BpfProgram, seccompiler::BackendError> {
        let rule = |index, length, operator, value| {
            SeccompRule::new(vec![SeccompCondition::new(index, length, operator, value)?])
        };
        // The family is an int: the upper half of the register says nothing.
        let foreign_pair = rule(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, AF_UNIX)?;
        let addressed = rule(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?; // without an address it is `send`
        let mut rules = BTreeMap::new();
        for also in call::ALSO {
            rules.extend(call::REFUSED.iter().map(|number| (number | also, Vec::new())));
            rules.insert(call::SOCKETPAIR | also, vec![foreign_pair.clone()]);
            rules.insert(call::SENDTO | also, vec![addressed.clone()]);
        }
        SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(EACCES), call::ARCH)?.try_into()
    }
}

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod filter {
    pub(super) fn apply() -> Result<(), String> {
        Err("this system has no such filter".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::process::Command;
    use std::sync::mpsc;

    use super::{NetworkBan, forbid_network};

    /// Set in the process that gives up its sockets: it could open none for the tests beside it.
    const CHILD: &str = "FIRESIDE_TEST_OFFLINE_CHILD";

    #[test]
    fn a_process_that_gave_up_sockets_opens_none() {
        let name = std::thread::current().name().expect("a test's thread has its name").to_owned();
        if std::env::var_os(CHILD).is_some() {
            return child();
        }
        let output = Command::new(std::env::current_exe().expect("this program"))
            .args([name.as_str(), "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, "1")
            .output()
            .expect("this program runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let failed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "{said}{failed}");
        assert!(!failed.contains("SKIPPED") || cfg!(not(target_os = "linux")), "{failed}");
    }

    fn child() {
        // A thread from before the filter and one from after it, an address of each kind.
        let (ask, asked) = mpsc::channel::<()>();
        let before = std::thread::spawn(move || {
            asked.recv().expect("a word from the main thread");
            try_all()
        });
        let server = TcpListener::bind("127.0.0.1:0").expect("a socket from before");
        let address = server.local_addr().expect("its address");
        let datagrams = UdpSocket::bind("127.0.0.1:0").expect("a socket from before");
        match forbid_network() {
            NetworkBan::Kernel => {}
            NetworkBan::CodeAlone(why) => {
                eprintln!("SKIPPED: sockets cannot be given up here: {why}");
                return;
            }
        }
        ask.send(()).expect("the thread waits");
        let results =
            [before.join().expect("the thread ends"), std::thread::spawn(try_all).join().expect("so does it")];
        for found in results.iter().flatten().chain(&try_all()) {
            assert_eq!(*found, Some(ErrorKind::PermissionDenied), "{results:?}");
        }
        // What was open before can accept nobody and address nobody.
        assert_eq!(server.accept().err().map(|error| error.kind()), Some(ErrorKind::PermissionDenied));
        assert_eq!(TcpStream::connect(address).err().map(|error| error.kind()), Some(ErrorKind::PermissionDenied));
        let sent = datagrams.send_to(b"x", datagrams.local_addr().expect("its address"));
        assert_eq!(sent.err().map(|error| error.kind()), Some(ErrorKind::PermissionDenied));
        // Files, pipes and programs work as before, and programs inherit the ban.
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "text").expect("a written file");
        let output = Command::new("sh").args(["-c", "echo alive"]).output().expect("a program");
        assert_eq!(output.stdout, b"alive\n");
        // Asked twice, it stays forbidden.
        assert_eq!(forbid_network(), NetworkBan::Kernel);
    }

    /// How each way to open a socket ends.
    fn try_all() -> Vec<Option<ErrorKind>> {
        let mut ends = vec![
            TcpStream::connect("127.0.0.1:9").err(),
            TcpListener::bind("127.0.0.1:0").err(),
            TcpListener::bind("[::1]:0").err(),
            UdpSocket::bind("0.0.0.0:0").err(),
        ];
        #[cfg(unix)]
        ends.push(std::os::unix::net::UnixStream::connect("/nowhere").err());
        ends.into_iter().map(|error| error.map(|error| error.kind())).collect()
    }
}
