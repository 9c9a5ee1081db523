//! The program as a user runs it: arguments and stdin in, exit code and both outputs back.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
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
    /// Time of processors, where the system tells: what a busy machine does not stretch.
    pub worked: Option<Duration>,
}

impl Outcome {
    /// The processors' time that it took, or, where that is not known, all time.
    pub fn effort(&self) -> Duration {
        self.worked.unwrap_or(self.took)
    }

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
    let (stdout, stderr) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let text = |reader: JoinHandle<Vec<u8>>| {
        String::from_utf8(reader.join().expect("a reader")).expect("the program writes UTF-8")
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    let worked = time_of_processors(&child);
    let status = child.wait().expect("the program ends");
    writer.join().expect("stdin is written");
    hints_are_of_the_verb(&command, &stderr);
    Outcome { code: status.code(), stdout, stderr, took: start.elapsed(), worked }
}

/// Reads a pipe to its end.
pub fn reader(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
        bytes
    })
}

/// What a process that was not waited for has taken of processors so far, at its end too.
pub fn time_of_processors(child: &Child) -> Option<Duration> {
    const TICKS: f64 = 100.0; // a second, on every Linux of today
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11); // proc(5): utime and stime are 14 and 15
    let ticks: f64 = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    Some(Duration::from_secs_f64(ticks / TICKS))
}

/// A hint is for the command that was run: every flag that it names is one of that verb's.
#[track_caller]
pub fn hints_are_of_the_verb(command: &Command, stderr: &str) {
    let program = OsStr::new(env!("CARGO_BIN_EXE_fireside"));
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let mut words = words.skip_while(|word| *word != program).skip(1).filter_map(OsStr::to_str);
    let mut all = fireside::cli::command();
    all.build(); // which hands flags that are a verb's own and its verbs' on to these
    let mut verb = &all;
    while let Some(inner) = words.next().and_then(|word| verb.find_subcommand(word)) {
        verb = inner;
    }
    if verb.get_name() == "fireside" {
        return; // another program, or no verb at all
    }
    for hint in stderr.lines().filter_map(|line| line.strip_prefix("hint: ")) {
        for cited in hint.split('`').skip(1).step_by(2) {
            let flag = cited.split([' ', '=']).next().and_then(|flag| flag.strip_prefix("--"));
            let known = |flag: &str| verb.get_arguments().any(|arg| arg.get_long() == Some(flag));
            let of_cargo = flag == Some("features");
            assert!(flag.is_none_or(known) || of_cargo, "`{}` has no flag `{cited}`: {hint}", verb.get_name());
        }
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
