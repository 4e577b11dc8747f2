//! Weights of modules in safetensors files.
//!
//! Files are written beside their name and renamed, so that a mapped file keeps what it held. They are untrusted when
//! read: the `safetensors` crate checks the header against the length of the file before anything is used. The format has
//! no checksum; ours stands among the header's metadata, which other readers ignore, and covers names, types, shapes and
//! values. Files of other programs may lack it. A key that differs from ours in a few bytes is ours, damaged: the file is
//! refused, so that no flipped bit turns it into one without a checksum.

#![forbid(unsafe_code)]

use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::storage::{self, Mapped};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Where the checksum stands in the metadata: eight hexadecimal digits.
const CHECKSUM: &str = "ruvector_gnn.crc32";

/// A key of the same length that differs from [`CHECKSUM`] in at most so many bytes counts as damaged.
const MAX_DAMAGED_BYTES: usize = 4;

/// A named array.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// As in `state_dict`.
    pub name: String,
    /// Lengths of the axes.
    pub dims: Vec<usize>,
    /// Row-major values.
    pub values: Buffer<f32>,
}

/// Writes the arrays to `path`, replacing what is there in one step.
pub fn save(path: &Path, arrays: &[Named]) -> Result<()> {
    let refuse = |error: safetensors::SafeTensorError| Error::Shape(format!("{}: {error}", path.display()));
    let views = arrays.iter().map(|array| {
        let bytes: &[u8] = bytemuck::cast_slice(&array.values);
        Ok((array.name.as_str(), TensorView::new(Dtype::F32, array.dims.clone(), bytes).map_err(refuse)?))
    });
    let mut views = views.collect::<Result<Vec<_>>>()?;
    views.sort_by_key(|(name, _)| *name);
    let metadata = HashMap::from([(CHECKSUM.to_owned(), checksum(&views))]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(refuse)?;
    storage::replace(path, |file| file.write_all(&bytes))
}

/// Reads all arrays of a file; 16- and 64-bit floats are converted. A file that is damaged is refused with
/// [`Error::Format`], as far as it has a checksum, which [`save`] writes.
pub fn load(path: &Path) -> Result<Vec<Named>> {
    let mut bytes = Vec::new();
    let mut file = storage::open_regular(path)?;
    file.read_to_end(&mut bytes).map_err(Error::io(format!("read {}", path.display())))?;
    arrays(path, &bytes, |view| values_of(view).map(Buffer::from))
}

/// As [`load`], but 32-bit floats stay in the mapped file, of which only what is touched is read, until somebody writes
/// them: the writer gets a copy and the file never changes. Other types, and values off their alignment, are copied. The
/// checksum is verified by reading the file through once.
///
/// The file may be replaced by renaming meanwhile, as [`save`] does; see [`Mapped`] for what it must not be.
///
/// ```
/// use ruvector_gnn::weights::{Named, map, save};
/// # #[cfg(feature = "mmap")] {
/// let path = std::env::temp_dir().join(format!("mapped-{}.safetensors", std::process::id()));
/// save(&path, &[Named { name: "bias".into(), dims: vec![2], values: vec![1.0, 2.0].into() }])?;
/// let mut mapped = map(&path)?;
/// mapped[0].values[0] = 5.0;
/// assert_eq!(map(&path)?[0].values[..], [1.0, 2.0]);
/// # std::fs::remove_file(&path).unwrap();
/// # }
/// # Ok::<(), ruvector_gnn::Error>(())
/// ```
pub fn map(path: &Path) -> Result<Vec<Named>> {
    let file = Arc::new(Mapped::open(path)?);
    arrays(path, file.bytes(), |view| match Region::of(&file, view) {
        Some(region) => Some(Buffer::shared(Arc::new(region))),
        None => values_of(view).map(Buffer::from),
    })
}

/// The arrays of a file, by name; `read` gives `None` for types that are not floats.
fn arrays(
    path: &Path,
    bytes: &[u8],
    read: impl Fn(&TensorView<'_>) -> Option<Buffer<f32>>,
) -> Result<Vec<Named>> {
    let damaged = |what: String| Error::Format(format!("{}: {what}", path.display()));
    let file = SafeTensors::deserialize(bytes).map_err(|error| damaged(error.to_string()))?;
    let mut views = file.tensors();
    views.sort_by(|(a, _), (b, _)| a.cmp(b));
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| damaged(error.to_string()))?;
    if let Some(metadata) = header.metadata() {
        match metadata.get(CHECKSUM) {
            Some(written) if *written != checksum(&views) => {
                return Err(damaged("damaged: its checksum does not match".into()));
            }
            None if metadata.keys().any(|key| is_damaged_key(key)) => {
                return Err(damaged("damaged: the name of its checksum does not match".into()));
            }
            _ => {}
        }
    }
    let mut arrays = Vec::with_capacity(views.len());
    for (name, view) in views {
        let values = read(&view).ok_or_else(|| damaged(format!("{name} has type {:?}", view.dtype())))?;
        arrays.push(Named { name, dims: view.shape().to_vec(), values });
    }
    Ok(arrays)
}

/// Whether a key of the metadata was [`CHECKSUM`] before a few of its bytes changed.
fn is_damaged_key(key: &str) -> bool {
    let differing = key.bytes().zip(CHECKSUM.bytes()).filter(|(a, b)| a != b).count();
    key.len() == CHECKSUM.len() && differing <= MAX_DAMAGED_BYTES
}

/// The checksum of arrays in the order of their names.
fn checksum(views: &[(impl AsRef<str>, TensorView<'_>)]) -> String {
    let mut hasher = crc32fast::Hasher::new();
    for (name, view) in views {
        let shape: Vec<u64> = view.shape().iter().map(|&len| len as u64).collect();
        for part in [name.as_ref().as_bytes(), view.dtype().to_string().as_bytes()] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.update(&(shape.len() as u64).to_le_bytes());
        hasher.update(bytemuck::cast_slice(&shape));
        hasher.update(view.data());
    }
    format!("{:08x}", hasher.finalize())
}

/// One array in a mapped file.
struct Region {
    file: Arc<Mapped>,
    place: Range<usize>,
}

impl Region {
    /// Where `view` lies in `file`; `None` for what can't be read there as `f32`.
    fn of(file: &Arc<Mapped>, view: &TensorView<'_>) -> Option<Self> {
        let data = view.data();
        if view.dtype() != Dtype::F32 || bytemuck::try_cast_slice::<u8, f32>(data).is_err() {
            return None;
        }
        let start = data.as_ptr().addr() - file.bytes().as_ptr().addr();
        Some(Self { file: Arc::clone(file), place: start..start + data.len() })
    }
}

impl AsRef<[f32]> for Region {
    fn as_ref(&self) -> &[f32] {
        bytemuck::cast_slice(&self.file.bytes()[self.place.clone()])
    }
}

/// The values as `f32`; `None` for types that are not floats.
fn values_of(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let bytes = view.data();
    match view.dtype() {
        Dtype::F32 => Some(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()),
        Dtype::F64 => Some(bytes.as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect()),
        Dtype::F16 => {
            Some(bytes.as_chunks::<2>().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f32()).collect())
        }
        Dtype::BF16 => {
            Some(bytes.as_chunks::<2>().0.iter().map(|&b| half::bf16::from_le_bytes(b).to_f32()).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_damage_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let arrays = [
            Named { name: "bias".into(), dims: vec![3], values: vec![1.0, -2.5, 0.0].into() },
            Named { name: "weight".into(), dims: vec![2, 1], values: vec![4.0, 5.0].into() },
        ];
        save(&path, &arrays).unwrap();
        assert_eq!(load(&path).unwrap(), arrays);
        std::fs::write(&path, &std::fs::read(&path).unwrap()[..40]).unwrap();
        assert!(matches!(load(&path), Err(Error::Format(_))));
        assert!(matches!(load(&folder.path().join("none")), Err(Error::Io { .. })));
    }

    #[test]
    fn every_bit_that_flips_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let named = |name: &str, dims: &[usize]| {
            let values = vec![4.0; dims.iter().product()].into();
            Named { name: name.into(), dims: dims.to_vec(), values }
        };
        let files = [
            vec![named("bias", &[3]), named("weight", &[2, 3])],
            vec![],
            vec![named("a", &[0, 7]), named("c", &[0, 7]), named("b", &[])],
            vec![named("first.é\"\\", &[1, 1, 1]), named("first.è\"\\", &[1, 1, 1])],
        ];
        let read_by = |mmap: bool| if mmap { map(&path) } else { load(&path) };
        let ways = if cfg!(feature = "mmap") { vec![false, true] } else { vec![false] };
        for arrays in &files {
            save(&path, arrays).unwrap();
            assert_eq!(load(&path).unwrap().len(), arrays.len());
            let bytes = std::fs::read(&path).unwrap();
            for bit in 0..8 * bytes.len() {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                std::fs::write(&path, &damaged).unwrap();
                for &mmap in &ways {
                    let read = read_by(mmap);
                    let what = String::from_utf8_lossy(&damaged);
                    assert!(matches!(read, Err(Error::Format(_))), "bit {bit}: {read:?} from {what}");
                }
            }
            for len in 0..bytes.len() {
                std::fs::write(&path, &bytes[..len]).unwrap();
                assert!(
                    ways.iter().all(|&mmap| matches!(read_by(mmap), Err(Error::Format(_)))),
                    "cut at {len}"
                );
            }
        }
    }

    #[test]
    fn metadata_of_other_programs_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let tensor = r#""w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
        for (metadata, refused) in [
            (r#"{"format":"pt"}"#, false),
            ("{}", false),
            (r#"{"another_key.crc32":"0"}"#, false),
            (r#"{"total_parameters.x":"1","format":"np"}"#, false),
            (r#"{"ruvector_gnn.crc32":"00000000"}"#, true),
            (r#"{"ruvector_gnn.crc36":"00000000"}"#, true),
            (r#"{"Ruvector_gnn.crc32":"00000000","format":"pt"}"#, true),
        ] {
            std::fs::write(&path, raw(&format!(r#"{{"__metadata__":{metadata},{tensor}}}"#), &[0; 4]))
                .unwrap();
            let read = load(&path);
            assert_eq!(matches!(read, Err(Error::Format(_))), refused, "{metadata}: {read:?}");
            assert!(refused || read.is_ok(), "{metadata}: {read:?}");
        }
    }

    /// Written before keys near that of the checksum were refused.
    #[test]
    fn a_file_of_the_first_version_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let header = concat!(
            r#"{"__metadata__":{"ruvector_gnn.crc32":"7d8aaad2"},"#,
            r#""b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#
        );
        std::fs::write(&path, raw(header, bytemuck::cast_slice(&[1.0f32, -2.5]))).unwrap();
        assert_eq!(load(&path).unwrap()[0].values[..], [1.0, -2.5]);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_regular_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |read: Result<Vec<Named>>| match read {
            Err(Error::Format(text)) => text.contains("expected a regular file, got a character device"),
            Err(Error::Io { source, .. }) => source.kind() == std::io::ErrorKind::IsADirectory,
            _ => false,
        };
        for path in [Path::new("/dev/zero"), Path::new("/dev/null"), folder.path()] {
            assert!(refused(load(path)), "{path:?}");
            assert!(!cfg!(feature = "mmap") || refused(map(path)), "{path:?}");
            assert!(matches!(save(path, &[]), Err(Error::Io { .. })), "{path:?}");
        }
    }

    /// A file as safetensors lays it out, `data` right after a header that need not end on a line of eight bytes.
    fn raw(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[cfg(feature = "mmap")]
    #[test]
    fn mapped_values_are_those_of_the_file_until_they_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let array = |values: Vec<f32>| Named { name: "w".into(), dims: vec![2], values: values.into() };
        save(&path, &[array(vec![1.0, 2.0])]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let (first, mut second) = (map(&path).unwrap(), map(&path).unwrap());
        assert_eq!(first, load(&path).unwrap());
        second[0].values[1] = 7.0;
        assert_eq!((&first[0].values[..], &second[0].values[..]), (&[1.0, 2.0][..], &[1.0, 7.0][..]));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        save(&path, &[array(vec![3.0, 4.0])]).unwrap();
        assert_eq!(first[0].values[..], [1.0, 2.0], "the old file outlives its name");
        assert_eq!(map(&path).unwrap()[0].values[..], [3.0, 4.0]);
    }

    #[cfg(feature = "mmap")]
    #[test]
    fn only_aligned_floats_of_32_bits_stay_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let one = 1.5f32.to_le_bytes();
        let half = half::f16::from_f32(1.5).to_le_bytes();
        for (dtype, data, pad, stays) in
            [("F32", &one[..], 0, true), ("F32", &one[..], 1, false), ("F16", &half[..], 0, false)]
        {
            let end = data.len();
            let header = format!(r#"{{"w":{{"dtype":"{dtype}","shape":[1],"data_offsets":[0,{end}]}}}}"#);
            let header = format!("{header:<width$}", width = header.len().next_multiple_of(8) + pad);
            std::fs::write(&path, raw(&header, data)).unwrap();
            let file = Arc::new(Mapped::open(&path).unwrap());
            let view = SafeTensors::deserialize(file.bytes()).unwrap().tensors().remove(0).1;
            assert_eq!(Region::of(&file, &view).is_some(), stays, "{dtype}, {pad} bytes off");
            assert_eq!(map(&path).unwrap()[0].values[..], [1.5]);
        }
    }

    #[cfg(feature = "mmap")]
    #[test]
    fn damaged_files_are_refused_when_mapped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let beyond = r#"{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}"#;
        let integers = r#"{"w":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}"#;
        let endless = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
        for bytes in [Vec::new(), endless, raw("{", &[]), raw(beyond, &[0; 8]), raw(integers, &[0; 4])] {
            std::fs::write(&path, &bytes).unwrap();
            assert!(matches!(map(&path), Err(Error::Format(_))), "{bytes:?}");
        }
        assert!(matches!(map(&folder.path().join("none")), Err(Error::Io { .. })));
    }

    #[cfg(not(feature = "mmap"))]
    #[test]
    fn mapping_says_what_it_lacks() {
        assert!(matches!(map(Path::new("weights.safetensors")), Err(Error::Config(_))));
    }
}
