//! Where the arithmetic runs: which device, which kernels, how many threads.

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::Arc;

use candle_core::Device;

use crate::error::{Error, Result, count, quote};
use crate::kernels::{self, Kernels, Pool};

/// A device as a user names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processor: the default, and always there.
    #[default]
    Cpu,
    /// An NVIDIA GPU by its index; needs a build with the feature `cuda`.
    Cuda(usize),
    /// An Apple GPU; needs a build with the feature `metal`.
    Metal,
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(DeviceChoice::Cpu),
            None if text == "cuda" => Ok(DeviceChoice::Cuda(0)),
            None if text == "metal" => Ok(DeviceChoice::Metal),
            Some(("cuda", index)) => index
                .parse()
                .map(DeviceChoice::Cuda)
                .map_err(|_| format!("expected a GPU's index after `cuda:`, found `{index}`")),
            _ => Err("expected `cpu`, `cuda`, `cuda:N` or `metal`".to_owned()),
        }
    }
}

/// Everything that a layer needs to know of the machine; cheap to clone.
#[derive(Clone)]
pub struct Compute {
    /// candle's device: where tensors live.
    pub device: Device,
    /// Our kernels on the processor. `None` sends the same work through candle's own operations: on a GPU, and with
    /// `FIRESIDE_KERNELS=candle` as an independent reference on the processor.
    pub kernels: Option<&'static Kernels>,
    /// The threads that kernels run on.
    pub pool: Arc<Pool>,
}

impl Compute {
    /// Opens `choice` with `threads` threads (all that the process may use when `None`).
    pub fn open(choice: DeviceChoice, threads: Option<NonZeroUsize>) -> Result<Compute> {
        let pool = Pool::shared(threads).map_err(|error| Error::Device {
            problem: format!("cannot start the threads: {error}"),
            hint: "ask for fewer with `--threads`".to_owned(),
        })?;
        let device = open_device(choice)?;
        let kernels = chosen_kernels(choice, std::env::var_os("FIRESIDE_KERNELS").as_deref())?;
        Ok(Compute { device, kernels, pool })
    }

    /// What runs here, for messages: `cpu (avx512, 2 threads)`.
    pub fn describe(&self) -> String {
        match (&self.device, self.kernels) {
            (Device::Cpu, Some(kernels)) => {
                format!("cpu ({}, {})", kernels.name(), count(self.pool.threads(), "thread"))
            }
            (Device::Cpu, None) => "cpu (candle's operations)".to_owned(),
            (Device::Cuda(_), _) => "cuda".to_owned(),
            (Device::Metal(_), _) => "metal".to_owned(),
        }
    }
}

/// The kernels that the environment names, or the best that this processor runs. An empty name is none.
fn chosen_kernels(choice: DeviceChoice, named: Option<&OsStr>) -> Result<Option<&'static Kernels>> {
    let named = named.filter(|name| !name.is_empty()).map(OsStr::to_string_lossy);
    let wrong = |problem: String, hint: &str| Error::Device {
        problem: format!("`FIRESIDE_KERNELS` is {}: {problem}", quote(named.as_deref().unwrap_or_default())),
        hint: hint.to_owned(),
    };
    match (choice, named.as_deref()) {
        (DeviceChoice::Cpu, Some("candle")) => Ok(None),
        (DeviceChoice::Cpu, name) => kernels::select(name).map(Some).map_err(|problem| {
            wrong(problem.to_string(), "unset it to let the processor decide; `candle` runs candle's own operations")
        }),
        (DeviceChoice::Cuda(_) | DeviceChoice::Metal, None) => Ok(None),
        (DeviceChoice::Cuda(_) | DeviceChoice::Metal, Some(_)) => {
            Err(wrong("it chooses among the processor's kernels".to_owned(), "unset it, or use `--device cpu`"))
        }
    }
}

fn open_device(choice: DeviceChoice) -> Result<Device> {
    let absent = |name: &str| Error::Device {
        problem: format!("this build cannot use `{name}`"),
        hint: format!("build with `--features {name}`, or use `--device cpu`"),
    };
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(_) if !cfg!(feature = "cuda") => Err(absent("cuda")),
        DeviceChoice::Metal if !cfg!(feature = "metal") => Err(absent("metal")),
        DeviceChoice::Cuda(index) => Device::new_cuda(index).map_err(|error| unusable("cuda", &error)),
        DeviceChoice::Metal => Device::new_metal(0).map_err(|error| unusable("metal", &error)),
    }
}

fn unusable(name: &str, error: &candle_core::Error) -> Error {
    Error::Device {
        problem: format!("cannot open the device `{name}`: {error}"),
        hint: "use `--device cpu`".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::{DeviceChoice, chosen_kernels};

    #[test]
    fn kernels_are_chosen_on_the_processor_and_refused_elsewhere() {
        let check = |choice, named: Option<&str>, expected: Result<Option<&str>, &str>| {
            let found = chosen_kernels(choice, named.map(OsStr::new));
            let found = found.map(|kernels| kernels.map(|kernels| kernels.name())).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{choice:?} {named:?}");
        };
        let best = Ok(Some(crate::kernels::best().name()));
        check(DeviceChoice::Cpu, None, best);
        check(DeviceChoice::Cpu, Some(""), best);
        check(DeviceChoice::Cpu, Some("scalar"), Ok(Some("scalar")));
        check(DeviceChoice::Cpu, Some("candle"), Ok(None));
        let refused = Err("`FIRESIDE_KERNELS` is `scalar`: it chooses among the processor's kernels");
        for gpu in [DeviceChoice::Cuda(0), DeviceChoice::Metal] {
            check(gpu, None, Ok(None));
            check(gpu, Some(""), Ok(None));
            check(gpu, Some("scalar"), refused);
        }
    }
}
