//! See `ruvector_gnn_fuzz::index`.

#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use ruvector_gnn_fuzz::index;

fuzz_target!(|data: &[u8]| index::check(data));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    index::mutate(&mut data[..max_size], size, seed, &mut |data: &mut [u8], size: usize| {
        let max_size = data.len();
        fuzzer_mutate(data, size, max_size)
    })
});
