//! The bytes of a file, mapped and not read, or of one inside the binary.
//!
//! What they mean is for `weights` and `gguf`. This is the one place that maps files.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// The bytes of one file.
pub enum Bytes {
    /// On disk.
    Mapped(Arc<Mmap>),
    /// Inside the binary.
    Embedded(&'static [u8]),
    /// The first ones of a file that is elsewhere.
    #[cfg_attr(not(feature = "hub"), allow(dead_code))]
    Read(Vec<u8>),
}

impl Bytes {
    /// Maps a file for reading.
    pub fn map(path: &Path) -> Result<Bytes> {
        let failed = |error: std::io::Error| Error::file(path, error.to_string(), "check the path and its permissions");
        let file = std::fs::File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(Error::file(path, "expected a file, found something else", "check the path"));
        }
        if metadata.len() == 0 {
            return Ok(Bytes::Embedded(&[])); // nothing cannot be mapped
        }
        // SAFETY: the map is read-only and private to this process. Another process may still change the file under it; a
        // changed number is as harmless as a wrong file, and README tells users to replace model files, not to rewrite them.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        Ok(Bytes::Mapped(Arc::new(map)))
    }

    /// All of them.
    pub fn all(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Embedded(bytes) => bytes,
            Bytes::Read(bytes) => bytes,
        }
    }

    /// Lets go of the memory under a range that will not be read again soon. It is read from the file again if it is.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = self {
            // SAFETY: the map is a read-only one of a file, so that a page that was let go of comes back as it is there; what
            // lies on it beside the range only has to be read again. A refusal changes nothing.
            #[allow(unsafe_code)]
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}
