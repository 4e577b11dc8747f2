//! Weights of modules in safetensors files.
//!
//! Files are written beside their name and renamed. They are untrusted when read: the `safetensors` crate checks the
//! header against the length of the file before anything is used.

#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::storage;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::io::Write as _;
use std::path::Path;

/// A named array.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// As in `state_dict`.
    pub name: String,
    /// Lengths of the axes.
    pub dims: Vec<usize>,
    /// Row-major values.
    pub values: Vec<f32>,
}

/// Writes the arrays to `path`, replacing what is there in one step.
pub fn save(path: &Path, arrays: &[Named]) -> Result<()> {
    let refuse = |error: safetensors::SafeTensorError| Error::Shape(format!("{}: {error}", path.display()));
    let views = arrays.iter().map(|array| {
        let bytes: &[u8] = bytemuck::cast_slice(&array.values);
        Ok((array.name.as_str(), TensorView::new(Dtype::F32, array.dims.clone(), bytes).map_err(refuse)?))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    let bytes = safetensors::serialize(views, None).map_err(refuse)?;
    storage::replace(path, |file| file.write_all(&bytes))
}

/// Reads all arrays of a file; 16- and 64-bit floats are converted.
pub fn load(path: &Path) -> Result<Vec<Named>> {
    let bytes = std::fs::read(path).map_err(Error::io(format!("read {}", path.display())))?;
    let damaged = |what: String| Error::Format(format!("{}: {what}", path.display()));
    let file = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
    let mut arrays = Vec::new();
    for (name, view) in file.tensors() {
        let values =
            values_of(&view).ok_or_else(|| damaged(format!("{name} has type {:?}", view.dtype())))?;
        arrays.push(Named { name, dims: view.shape().to_vec(), values });
    }
    arrays.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(arrays)
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
            Named { name: "bias".into(), dims: vec![3], values: vec![1.0, -2.5, 0.0] },
            Named { name: "weight".into(), dims: vec![2, 1], values: vec![4.0, 5.0] },
        ];
        save(&path, &arrays).unwrap();
        assert_eq!(load(&path).unwrap(), arrays);
        std::fs::write(&path, &std::fs::read(&path).unwrap()[..40]).unwrap();
        assert!(matches!(load(&path), Err(Error::Format(_))));
        assert!(matches!(load(&folder.path().join("none")), Err(Error::Io { .. })));
    }
}
