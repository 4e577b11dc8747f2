//! Weights in safetensors files: read into memory, and mapped.

use crate::rng::Rng;
use crate::{Mutate, mutate_bytes, put, scratch_file};
use ruvector_gnn::Error;
use ruvector_gnn::weights::{Named, load, map, save};
use safetensors::tensor::{SafeTensors, TensorView};
use serde_json::{Value, json};

/// Where the crate keeps its checksum in the metadata.
const CHECKSUM: &str = "ruvector_gnn.crc32";

/// Reads the file both ways, requires that they agree, and that what was read survives saving and loading.
pub fn check(data: &[u8]) {
    let path = scratch_file("weights.safetensors");
    std::fs::write(&path, data).unwrap();
    let (loaded, mapped) = (load(&path), map(&path));
    match (&loaded, &mapped) {
        (Ok(loaded), Ok(mapped)) => assert_eq!(bits(loaded), bits(mapped)),
        (Err(loaded), Err(mapped)) => {
            assert!(matches!(loaded, Error::Format(_)), "{loaded}");
            // An empty file can't be mapped: the system says so, or the reader.
            assert!(matches!(mapped, Error::Format(_)) || data.is_empty(), "{mapped}");
        }
        _ => panic!("read {loaded:?}, but mapped {mapped:?}"),
    }
    if let Ok(mut arrays) = mapped {
        for array in &arrays {
            assert_eq!(array.dims.iter().product::<usize>(), array.values.len(), "{array:?}");
        }
        let before = std::fs::read(&path).unwrap();
        for array in &mut arrays {
            array.values.iter_mut().for_each(|value| *value += 1.0);
        }
        assert_eq!(std::fs::read(&path).unwrap(), before, "a write to mapped values went to the file");
    }
    if let Ok(arrays) = loaded {
        save(&path, &arrays).unwrap();
        for again in [load(&path).unwrap(), map(&path).unwrap()] {
            assert_eq!(bits(&again), bits(&arrays));
        }
    }
    std::fs::remove_file(&path).unwrap();
}

/// Arrays with values that compare as they are stored, NaN among them.
fn bits(arrays: &[Named]) -> Vec<(&str, &[usize], Vec<u32>)> {
    let of = |array: &'_ Named| array.values.iter().map(|value| value.to_bits()).collect();
    arrays.iter().map(|array| (array.name.as_str(), &array.dims[..], of(array))).collect()
}

/// Mutates a file; three times in four its header, its data or both, with the length of the header and the checksum made
/// right afterwards.
pub fn mutate(data: &mut [u8], size: usize, seed: u32, mutate: Mutate<'_>) -> usize {
    let (mut rng, max) = (Rng::new(seed), data.len());
    let way = rng.below(8);
    if way > 1
        && let Some((mut header, mut values)) = parts(&data[..size])
    {
        match way {
            2 | 3 => mutate_bytes(&mut values, size.min(max), mutate),
            4 => mutate_bytes(&mut header, size.min(max), mutate),
            _ => mutate_header(&mut header, &mut rng, mutate),
        }
        let bytes = sealed(&header, &values, !rng.one_in(4));
        if let Some(size) = put(&bytes, data) {
            return size;
        }
    }
    mutate(data, size)
}

/// Header and data.
fn parts(data: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (len, rest) = data.split_first_chunk::<8>()?;
    let (header, values) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    Some((header.to_vec(), values.to_vec()))
}

fn joined(header: &[u8], values: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, values].concat()
}

/// The file, with a right checksum where it can be read and has one, if that is wanted.
fn sealed(header: &[u8], values: &[u8], wanted: bool) -> Vec<u8> {
    let bytes = joined(header, values);
    let Ok(file) = SafeTensors::deserialize(&bytes) else { return bytes };
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(header) else { return bytes };
    let Some(written) = fields.get_mut("__metadata__").and_then(|metadata| metadata.get_mut(CHECKSUM)) else {
        return bytes;
    };
    if !wanted {
        return bytes;
    }
    let mut views = file.tensors();
    views.sort_by(|(a, _), (b, _)| a.cmp(b));
    *written = json!(checksum(&views));
    joined(Value::Object(fields).to_string().as_bytes(), values)
}

/// The crate's checksum, written down a second time.
fn checksum(views: &[(String, TensorView<'_>)]) -> String {
    let mut hasher = crc32fast::Hasher::new();
    for (name, view) in views {
        for part in [name.as_str(), &view.dtype().to_string()] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.update(&(view.shape().len() as u64).to_le_bytes());
        view.shape().iter().for_each(|&len| hasher.update(&(len as u64).to_le_bytes()));
        hasher.update(view.data());
    }
    format!("{:08x}", hasher.finalize())
}

/// Changes a field of one array.
fn mutate_header(header: &mut Vec<u8>, rng: &mut Rng, mutate: Mutate<'_>) {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(header) else {
        return mutate_bytes(header, header.len() + 64, mutate);
    };
    let names: Vec<String> = fields.keys().cloned().collect();
    if names.is_empty() {
        return mutate_bytes(header, 256, mutate);
    }
    let name = &names[rng.below(names.len())];
    if !fields[name].is_object() {
        fields.insert(name.clone(), json!({}));
    }
    let lens = [0, 1, 2, 3, 4, 6, 8, 12, 24, 1 << 32, u64::MAX / 4, u64::MAX];
    match rng.below(6) {
        0 => drop(fields.remove(name)),
        1 => {
            let copy = fields[name].clone();
            fields.insert(rng.pick(&["", "a", "weight", "__metadata__", "\u{e9}"]).to_owned(), copy);
        }
        2 => {
            fields[name]["dtype"] =
                json!(rng.pick(&["F32", "F64", "F16", "BF16", "I32", "F8_E4M3", "F4", "BOOL", "C64"]))
        }
        3 => {
            let shape: Vec<u64> = (0..rng.below(5)).map(|_| rng.pick(&lens)).collect();
            fields[name]["shape"] = json!(shape);
        }
        4 => fields[name]["data_offsets"] = json!([rng.pick(&lens), rng.pick(&lens)]),
        _ => {
            // An array that takes what the others leave.
            let end = rng.pick(&lens);
            let begin = fields[name]["data_offsets"][1].as_u64().unwrap_or(0);
            let array =
                json!({"dtype": "F32", "shape": [end / 4], "data_offsets": [begin, begin.wrapping_add(end)]});
            fields.insert("more".into(), array);
        }
    }
    *header = Value::Object(fields).to_string().into_bytes();
    if rng.one_in(4) {
        header.resize(header.len().next_multiple_of(8), b' ');
    }
}

/// Small files of every type, with and without a checksum.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let path = scratch_file("seed.safetensors");
    let arrays = [
        Named { name: "bias".into(), dims: vec![3], values: vec![1.0, -2.5, f32::NAN].into() },
        Named { name: "scalar".into(), dims: vec![], values: vec![0.5].into() },
        Named { name: "weight".into(), dims: vec![2, 3], values: vec![4.0; 6].into() },
        Named { name: "none".into(), dims: vec![0, 3], values: vec![].into() },
    ];
    save(&path, &arrays).unwrap();
    let mut seeds = vec![("own".to_owned(), std::fs::read(&path).unwrap())];
    std::fs::remove_file(&path).unwrap();
    for (dtype, size) in [("F32", 4), ("F64", 8), ("F16", 2), ("BF16", 2), ("I32", 4)] {
        let header =
            json!({"w": {"dtype": dtype, "shape": [2, 2], "data_offsets": [0, 4 * size]}}).to_string();
        let padded = if size == 4 { header.len().next_multiple_of(8) } else { header.len() };
        let values: Vec<u8> = (0..4 * size as u8).map(|byte| byte.wrapping_mul(37)).collect();
        seeds.push((dtype.into(), joined(format!("{header:<padded$}").as_bytes(), &values)));
    }
    seeds.push(("empty".into(), joined(b"{}", b"")));
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_and_mutants_pass() {
        let mut accepted = 0;
        for (name, bytes) in seeds() {
            assert!(bytes.len() < 4096, "{name}");
            check(&bytes);
            for seed in 0..100 {
                let mut data = bytes.clone();
                data.resize(1024, 0);
                let mut flip = |data: &mut [u8], size: usize| {
                    data[seed as usize % size.max(1)] ^= 1;
                    size
                };
                let size = mutate(&mut data, bytes.len(), seed, &mut flip);
                check(&data[..size]);
                accepted += usize::from(SafeTensors::deserialize(&data[..size]).is_ok());
            }
        }
        assert!(accepted > 100, "{accepted} of 700 mutants can be read");
    }
}
