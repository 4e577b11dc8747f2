//! Every bit flip and every truncation of a small file is refused, or leaves its content as it was.

use super::*;
use crate::error::Error;
use proptest::prelude::*;

type Content = (Vec<f32>, Vec<u64>, Vec<u8>);

fn sample() -> Content {
    ((0..40).map(|i| i as f32 * 0.5).collect(), vec![7, u64::MAX], b"some text".to_vec())
}

fn encode(content: &Content) -> Vec<u8> {
    Writer::new("sample", 3)
        .blocks("vectors", &content.0)
        .values("numbers", &content.1)
        .section("text", &content.2[..])
        .section("empty", Vec::new())
        .to_bytes()
}

fn decode(bytes: Vec<u8>) -> crate::Result<Content> {
    let reader = Reader::from_bytes(bytes, "sample", 3)?;
    assert!(reader.section("empty")?.is_empty());
    Ok((reader.values("vectors")?, reader.values("numbers")?, reader.section("text")?))
}

fn message(result: crate::Result<impl Sized>) -> String {
    match result {
        Err(Error::Format(text)) => text,
        Err(other) => panic!("expected a format error, got {other}"),
        Ok(_) => panic!("expected a format error, got a file"),
    }
}

#[test]
fn every_bit_flip_is_refused() {
    let bytes = encode(&sample());
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        message(decode(damaged));
    }
}

#[test]
fn every_truncation_and_every_tail_is_refused() {
    let bytes = encode(&sample());
    for len in 0..bytes.len() {
        message(decode(bytes[..len].to_vec()));
    }
    for tail in [1, 64, 1000] {
        let longer: Vec<u8> = bytes.iter().copied().chain(std::iter::repeat_n(0, tail)).collect();
        message(decode(longer));
    }
}

#[test]
fn a_damaged_block_is_named() {
    let values: Vec<f32> = (0..50_000).map(|i| i as f32).collect();
    let mut bytes = Writer::new("sample", 1).blocks("vectors", &values).to_bytes();
    let read = |bytes: Vec<u8>| Reader::from_bytes(bytes, "sample", 1)?.values::<f32>("vectors");
    assert_eq!(read(bytes.clone()).unwrap(), values);
    bytes[128 + 2 * 65_536 + 5] ^= 1;
    assert!(message(read(bytes)).contains("block 2 of 4"));
}

#[cfg(feature = "mmap")]
#[test]
fn blocks_of_a_mapped_file_are_verified_once_when_they_are_touched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sample");
    let values: Vec<f32> = (0..50_000).map(|i| i as f32).collect();
    let mut bytes = Writer::new("sample", 1).blocks("vectors", &values).to_bytes();
    bytes[128 + 2 * 65_536 + 5] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let reader = Reader::map(&path, "sample", 1).unwrap();
    assert!(Reader::open(&path, "sample", 1).unwrap().blocks::<f32>("vectors").unwrap().is_none());
    let blocks = reader.blocks::<f32>("vectors").unwrap().unwrap();
    let asked = std::cell::RefCell::new(Vec::new());
    let sound = |values: std::ops::Range<usize>| {
        asked.borrow_mut().push(values);
        Ok(())
    };
    for touched in [16_383..16_384, 0..16_384, 16_384..16_384, 49_999..50_000, 16_000..16_400, 0..30_000] {
        blocks.touch(touched, &sound);
        blocks.require_sound().unwrap();
    }
    assert_eq!(asked.take(), [0..16_384, 49_152..50_000, 16_384..32_768]);
    assert_eq!(blocks.values()[..32_768], values[..32_768]);
    blocks.touch(32_767..32_769, &sound);
    assert!(asked.take().is_empty() && message(blocks.require_sound()).contains("block 2 of 4 is damaged"));
    // What the kind of file refuses is damage too, and the first that was found stays.
    let again = reader.blocks::<f32>("vectors").unwrap().unwrap();
    again.touch(3..4, &|_| Err("no such value".into()));
    again.touch_all(&sound);
    assert!(message(again.require_sound()).contains("no such value"));
    std::fs::write(&path, Writer::new("sample", 1).values("vectors", &values).to_bytes()).unwrap();
    let plain = Reader::map(&path, "sample", 1).unwrap();
    assert!(message(plain.blocks::<f32>("vectors")).contains("can't be verified one by one"));
}

#[test]
fn each_way_of_being_wrong_has_its_text() {
    let bytes = encode(&sample());
    let open = |kind, version| Reader::from_bytes(bytes.clone(), kind, version);
    assert!(message(open("other", 3)).contains("holds a \"sample\", expected a \"other\""));
    assert!(message(open("sample", 2)).contains("version 3 of \"sample\"; this build reads 1 to 2"));
    let reader = open("sample", 4).unwrap();
    assert_eq!(reader.version(), 3);
    assert!(message(reader.section("nothing")).contains("section \"nothing\" is missing"));
    assert!(message(reader.values::<u32>("text")).contains("are no numbers of 4"));
    assert!(message(reader.value::<u64>("numbers")).contains("2 values, expected one"));
    assert!(message(decode(b"hello".to_vec())).contains("shorter than a header"));
    assert!(message(decode(vec![1; 100])).contains("not a ruvector_gnn file"));
}

#[test]
fn saving_replaces_the_file_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.rvx");
    for version in [1, 2] {
        Writer::new("sample", version).section("text", &b"abc"[..]).save(&path).unwrap();
        assert_eq!(Reader::open(&path, "sample", 2).unwrap().version(), version);
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    let missing = directory.path().join("no/such/place");
    assert!(matches!(Writer::new("sample", 1).save(&missing), Err(Error::Io { .. })));
    assert!(matches!(Reader::open(&missing, "sample", 1), Err(Error::Io { .. })));
    assert!(matches!(Reader::open(directory.path(), "sample", 1), Err(Error::Io { .. })));
}

#[test]
fn a_failed_write_keeps_the_old_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kept");
    std::fs::write(&path, "old").unwrap();
    let failed = replace(&path, |_| Err(std::io::Error::other("disk full")));
    assert!(matches!(failed, Err(Error::Io { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

proptest! {
    #[test]
    fn any_content_comes_back(
        vectors in prop::collection::vec(any::<u32>().prop_map(f32::from_bits), 0..200),
        numbers in prop::collection::vec(any::<u64>(), 0..50),
        text in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let content = (vectors, numbers, text);
        let (vectors, numbers, text) = decode(encode(&content)).unwrap();
        prop_assert_eq!(bytemuck::cast_slice::<_, u32>(&vectors), bytemuck::cast_slice::<_, u32>(&content.0));
        prop_assert_eq!((numbers, text), (content.1, content.2));
    }

    #[test]
    fn lying_headers_are_refused(at in 8usize..256, value in any::<u64>(), width in 1usize..=8) {
        prop_assert!(forged(at, &value.to_le_bytes()[..width.min(256 - at)]), "silent damage at {}", at);
    }
}

#[test]
fn every_lying_byte_of_a_header_is_refused() {
    for at in 8..256 {
        for value in 0..=255 {
            assert!(forged(at, &[value]), "silent damage: {value} at {at}");
        }
    }
}

/// A header whose checksum is right may still lie: whatever it says, the answer is an error, in little memory, or
/// the content as it was.
fn forged(at: usize, lie: &[u8]) -> bool {
    let mut bytes = encode(&sample());
    bytes[at..at + lie.len()].copy_from_slice(lie);
    let crc = super::layout::crc_of(&[&bytes[..60], &bytes[64..256]]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    decode(bytes).map_or(true, |content| content == sample())
}
