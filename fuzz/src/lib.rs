//! What the fuzz targets share: checks of each reader, mutators that know the formats, and seeds.
//!
//! ```text
//! rng                        random choices of a mutator
//! sections                   the layout of section files, with a repair of checksums
//! index, weights, layer      per format: `check` (what must hold for any input), `mutate`, `seeds`
//! ```
//!
//! A check panics on a finding. It knows nothing of libFuzzer, so that a test or a debugger can call it.

pub mod index;
pub mod layer;
pub mod rng;
pub mod sections;
pub mod weights;

/// libFuzzer's own mutation: changes the first `size` bytes of a buffer, which may grow to the buffer's length, and
/// returns the new size.
pub type Mutate<'a> = &'a mut dyn FnMut(&mut [u8], usize) -> usize;

/// Applies libFuzzer's own mutation to `bytes`, which may grow to `max` bytes.
fn mutate_bytes(bytes: &mut Vec<u8>, max: usize, mutate: Mutate<'_>) {
    let size = bytes.len();
    bytes.resize(size.max(max), 0);
    let size = mutate(bytes, size);
    bytes.truncate(size);
}

/// Writes `bytes` over the start of `data`; returns their number, or `None` if they do not fit.
fn put(bytes: &[u8], data: &mut [u8]) -> Option<usize> {
    data.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(bytes.len())
}

/// A file of this thread for readers that take a path, in memory where the system offers that.
fn scratch_file(name: &str) -> std::path::PathBuf {
    let memory = std::path::Path::new("/dev/shm");
    let folder = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    folder.join(format!("ruvector-fuzz-{}-{:?}-{name}", std::process::id(), std::thread::current().id()))
}
