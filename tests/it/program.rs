//! The program as a user runs it: arguments and stdin in, exit code and both outputs back.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// What a run left behind.
#[derive(Debug)]
pub struct Outcome {
    /// `None` where a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Outcome {
    /// The answer of a run that went well and had nothing to add.
    #[track_caller]
    pub fn answer(self) -> String {
        assert!(self.code == Some(0) && self.stderr.is_empty(), "{self:?}");
        self.stdout
    }
}

/// `fireside`, with arguments. It finds no cache, and no Hub where it looks for one: the port of the `discard` service.
pub fn fireside<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fireside"));
    command.args(args).env("HF_HOME", "/nowhere/of/a/test").env("HF_ENDPOINT", "http://127.0.0.1:9");
    for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
        command.env_remove(name);
    }
    command
}

/// Runs a command with nothing on stdin.
pub fn run(command: Command) -> Outcome {
    run_with(command, b"")
}

/// Runs a command with some bytes on stdin.
pub fn run_with(mut command: Command, stdin: &[u8]) -> Outcome {
    let start = Instant::now();
    let mut child = piped(&mut command);
    let mut pipe = child.stdin.take().expect("a piped stdin");
    let bytes = stdin.to_vec();
    // A program that fails early closes its stdin, and that is no fault of the test.
    let writer = std::thread::spawn(move || drop(pipe.write_all(&bytes)));
    let output = child.wait_with_output().expect("the program ends");
    writer.join().expect("stdin is written");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program writes UTF-8");
    Outcome {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
        took: start.elapsed(),
    }
}

/// Starts a command with a pipe on each of its ends.
pub fn piped(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// One tensor of a weight file that is taken apart.
pub struct Tensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

/// Rewrites a safetensors file.
pub fn edit_tensors(file: &Path, edit: impl FnOnce(&mut BTreeMap<String, Tensor>)) {
    let bytes = std::fs::read(file).expect("a weight file");
    let parsed = SafeTensors::deserialize(&bytes).expect("a sound weight file");
    let tensor =
        |view: TensorView| Tensor { dtype: view.dtype(), shape: view.shape().to_vec(), data: view.data().to_vec() };
    let mut tensors: BTreeMap<String, Tensor> =
        parsed.iter().map(|(name, view)| (name.to_owned(), tensor(view))).collect();
    edit(&mut tensors);
    let views = tensors.iter().map(|(name, t)| {
        (name, TensorView::new(t.dtype, t.shape.clone(), &t.data).expect("shape and data that agree"))
    });
    std::fs::write(file, safetensors::serialize(views, None).expect("a weight file")).expect("a written file");
}
