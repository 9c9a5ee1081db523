//! How the C library keeps freed memory. It knows nothing of what the memory is used for.

/// Keeps what was freed for the next layer of the network. By default glibc hands rows of more than a few megabytes back to
/// the system and asks for them again at the next product, and each page costs a fault: a tenth of the time of a long prompt and more.
/// The program's own choice and not the library's, since it holds for the whole process.
pub(super) fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// malloc.h
        const M_TRIM_THRESHOLD: i32 = -1;
        /// malloc.h
        const M_MMAP_THRESHOLD: i32 = -3;
        /// The largest that glibc takes for a request to be served from its own memory.
        const LARGEST: i32 = 32 << 20;
        /// Free memory at the end that is kept: more than the rows of a layer take.
        const KEPT: i32 = 256 << 20;
        #[allow(unsafe_code)]
        unsafe extern "C" {
            fn mallopt(parameter: i32, value: i32) -> i32;
        }
        // SAFETY: both parameters are of the kind that may be set at any time, from any thread; where a value is refused
        // nothing changes.
        #[allow(unsafe_code)]
        unsafe {
            mallopt(M_MMAP_THRESHOLD, LARGEST);
            mallopt(M_TRIM_THRESHOLD, KEPT);
        }
    }
}
