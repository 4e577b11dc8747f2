//! See `ruvector_gnn_fuzz::weights`.

#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use ruvector_gnn_fuzz::weights;

fuzz_target!(|data: &[u8]| weights::check(data));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    weights::mutate(&mut data[..max_size], size, seed, &mut |data: &mut [u8], size: usize| {
        let max_size = data.len();
        fuzzer_mutate(data, size, max_size)
    })
});
