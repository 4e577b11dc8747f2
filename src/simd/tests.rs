//! Every kernel of every set against a float64 reference and against its scalar twin.

use super::*;
use proptest::prelude::*;

fn sets() -> impl Iterator<Item = &'static Kernels> {
    #[cfg(all(feature = "simd", target_arch = "x86_64"))]
    let plain = (has_avx2() && has_avx512()).then_some(&kernels::avx512::KERNELS);
    #[cfg(not(all(feature = "simd", target_arch = "x86_64")))]
    let plain = None;
    Isa::ALL.into_iter().filter_map(kernels_for).chain(plain)
}

/// Rounding of a sum of `terms` products whose absolute values add up to `mass`.
fn tolerance(terms: usize, mass: f64) -> f64 {
    (terms as f64 + 8.0) * f64::from(f32::EPSILON) * mass + 1e-37
}

fn dot_reference(a: &[f32], b: &[f32]) -> (f64, f64) {
    let products = a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y));
    products.fold((0.0, 0.0), |(sum, mass), p| (sum + p, mass + p.abs()))
}

fn l2_reference(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2)).sum()
}

fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -10.0f32..10.0,
        1 => Just(0.0f32),
        1 => (1u32..0x0080_0000).prop_map(f32::from_bits), // denormals
        1 => -1e15f32..1e15,
    ]
}

fn pair() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
    (0usize..150).prop_flat_map(|n| (prop::collection::vec(value(), n), prop::collection::vec(value(), n)))
}

proptest! {
    #[test]
    fn dot_and_squared_l2_match_float64((a, b) in pair()) {
        let (dot, mass) = dot_reference(&a, &b);
        let l2 = l2_reference(&a, &b);
        for set in sets() {
            let got = f64::from((set.dot)(&a, &b));
            prop_assert!((got - dot).abs() <= tolerance(a.len(), mass), "{:?} dot {got} {dot}", set.isa);
            let got = f64::from((set.squared_l2)(&a, &b));
            prop_assert!((got - l2).abs() <= tolerance(a.len() + 2, l2), "{:?} l2 {got} {l2}", set.isa);
        }
    }

    #[test]
    fn axpy_matches_float64((x, y) in pair(), alpha in value()) {
        for set in sets() {
            let mut got = y.clone();
            (set.axpy)(alpha, &x, &mut got);
            for ((&x, &y), &got) in x.iter().zip(&y).zip(&got) {
                let product = f64::from(alpha) * f64::from(x);
                let expected = product + f64::from(y);
                let bound = tolerance(2, product.abs() + f64::from(y).abs());
                prop_assert!((f64::from(got) - expected).abs() <= bound, "{:?} {got} {expected}", set.isa);
            }
        }
    }

    #[test]
    fn row_kernels_equal_their_single_row_twins_bit_for_bit(
        dim in 1usize..70, rows in prop::collection::vec(0u32..9, 0..20), seed in any::<u64>(),
    ) {
        let mut rng = crate::rng::stream(seed, "simd-test", 0);
        let table: Vec<f32> = (0..9 * dim).map(|_| rng.normal() as f32).collect();
        let query: Vec<f32> = (0..dim).map(|_| rng.normal() as f32).collect();
        let row = |r: u32| &table[r as usize * dim..(r as usize + 1) * dim];
        for set in sets() {
            let mut out = vec![f32::NAN; rows.len()];
            (set.dot_rows)(&query, &table, &rows, &mut out);
            prop_assert!(rows.iter().zip(&out).all(|(&r, &v)| v == (set.dot)(&query, row(r))));
            (set.squared_l2_rows)(&query, &table, &rows, &mut out);
            prop_assert!(rows.iter().zip(&out).all(|(&r, &v)| v == (set.squared_l2)(&query, row(r))));
        }
    }

    #[test]
    fn code_dots_are_exact(
        dim in 0usize..260, rows in prop::collection::vec(0u32..9, 0..40), extreme in any::<bool>(), seed in any::<u64>(),
    ) {
        let mut rng = crate::rng::stream(seed, "simd-test", 4);
        let mut codes = |len| -> Vec<i8> {
            let mut code = || if extreme { 127 - 254 * rng.below(2) as i16 } else { rng.below(255) as i16 - 127 };
            (0..len).map(|_| code() as i8).collect()
        };
        let (table, query) = (codes(9 * dim), codes(dim));
        for set in sets() {
            let mut out = vec![f32::NAN; rows.len()];
            (set.code_dots)(&query, &table, &rows, &mut out);
            for (&row, &got) in rows.iter().zip(&out) {
                let codes = &table[row as usize * dim..][..dim];
                let sum: i32 = query.iter().zip(codes).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum();
                prop_assert_eq!(got, sum as f32, "{:?}", set.isa);
            }
        }
    }

    #[test]
    fn code_squared_l2_rows_are_exact(
        dim in 0usize..300, rows in prop::collection::vec(0u32..9, 0..40), extreme in any::<bool>(), seed in any::<u64>(),
    ) {
        let mut rng = crate::rng::stream(seed, "simd-test", 7);
        let mut codes = |len| -> Vec<i8> {
            let code = |_| if extreme { 63 - 126 * rng.below(2) as i8 } else { rng.below(127) as i8 - 63 };
            (0..len).map(code).collect()
        };
        let (table, query) = (codes(9 * dim), codes(dim));
        for set in sets() {
            let mut out = vec![f32::NAN; rows.len()];
            (set.code_squared_l2_rows)(&query, &table, &rows, &mut out);
            for (&row, &got) in rows.iter().zip(&out) {
                let row = &table[row as usize * dim..][..dim];
                let sum: i32 = query.iter().zip(row).map(|(&a, &b)| (i32::from(a) - i32::from(b)).pow(2)).sum();
                prop_assert_eq!(got, sum as f32, "{:?}", set.isa);
            }
        }
    }

    #[test]
    fn split_codes_stand_for_their_values(
        values in prop::collection::vec((-3.0f32..3.0, -1.0f32..1.0, 0.0f32..2.0), 0..300), most in 1.0f32..=127.0, flat in any::<bool>(),
    ) {
        let values = if flat { values.iter().map(|&(_, centre, weight)| (centre, centre, weight)).collect() } else { values };
        let column = |of: fn(&(f32, f32, f32)) -> f32| values.iter().map(of).collect::<Vec<f32>>();
        let [given, centre, weights] = [column(|v| v.0), column(|v| v.1), column(|v| v.2)];
        let want: Vec<f32> = values.iter().map(|&(value, centre, weight)| (value - centre) * weight).collect();
        let mut first = None;
        for set in sets() {
            let (mut high, mut low) = (vec![99; want.len()], vec![99; want.len()]);
            let split = (set.split_codes)(&given, &centre, &weights, most, &mut high, &mut low);
            let greatest = want.iter().fold(0.0, |greatest: f32, value| greatest.max(value.abs()));
            prop_assert_eq!(split.unit, greatest / most);
            let counted = |&code: &i8| u32::from(code.unsigned_abs()).min(codes::MOST_COUNTED);
            prop_assert_eq!(split.counted, high.iter().map(counted).sum::<u32>());
            for (&want, (&high, &low)) in want.iter().zip(high.iter().zip(&low)) {
                prop_assert!(f32::from(high).abs() <= most.round() && low != i8::MIN);
                let got = split.unit * (f32::from(high) + f32::from(low) / codes::LOW);
                prop_assert!((got - want).abs() <= split.unit * (1.0 / 508.0 + 1e-4), "{:?} {got} {want}", set.isa);
            }
            let found = (split, high, low);
            prop_assert_eq!(first.get_or_insert(found.clone()), &found, "{:?}", set.isa);
        }
    }

    #[test]
    fn squared_norms_are_the_same_in_every_set(values in prop::collection::vec(-1e3f32..1e3, 0..100)) {
        let want: f64 = values.iter().map(|&value| f64::from(value).powi(2)).sum();
        let got: Vec<f64> = sets().map(|set| (set.norm2)(&values)).collect();
        prop_assert!(got.iter().all(|&norm2| norm2 == got[0] && (norm2 - want).abs() <= 1e-12 * want));
    }

    #[test]
    fn sums_in_float64_are_the_same_in_every_set(
        pairs in prop::collection::vec((-1e3f32..1e3, -1e3f32..1e3), 0..100), scales in (0.1f64..9.0, 0.1f64..9.0),
    ) {
        let (a, b): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
        let both = || a.iter().zip(&b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
        let products: f64 = both().map(|(a, b)| (a * b).abs()).sum();
        let dots: Vec<f64> = sets().map(|set| (set.dot_f64)(&a, &b)).collect();
        let want: f64 = both().map(|(a, b)| a * b).sum();
        prop_assert!(dots.iter().all(|&dot| dot == dots[0] && (dot - want).abs() <= 1e-13 * products));
        let squares: Vec<f64> =
            sets().map(|set| (set.scaled_squared_l2_f64)(&a, scales.0, &b, scales.1)).collect();
        let want: f64 = both().map(|(a, b)| (scales.0 * a - scales.1 * b).powi(2)).sum();
        prop_assert!(squares.iter().all(|&square| square == squares[0] && (square - want).abs() <= 1e-12 * want));
        let squares: Vec<f64> = sets().map(|set| (set.squared_l2_f64)(&a, &b)).collect();
        let want: f64 = both().map(|(a, b)| (a - b).powi(2)).sum();
        prop_assert!(squares.iter().all(|&square| square == squares[0] && (square - want).abs() <= 1e-12 * want));
        let b = [0, 1, 2, 3].map(|turn| b.iter().cycle().skip(turn).take(b.len()).copied().collect::<Vec<f32>>());
        let fours: [&[f32]; 4] = std::array::from_fn(|i| &b[i][..]);
        for set in sets() {
            prop_assert_eq!((set.four_dots_f64)(&a, fours), fours.map(|b| (set.dot_f64)(&a, b)));
            prop_assert_eq!((set.four_squared_l2_f64)(&a, fours), fours.map(|b| (set.squared_l2_f64)(&a, b)));
            let both = (fours.map(|b| (set.dot_f64)(&a, b)), fours.map(set.norm2));
            prop_assert_eq!((set.four_dots_and_norms_f64)(&a, fours), both);
        }
    }

    #[test]
    fn kernels_of_half_precision_match_float64(
        dim in 0usize..150, rows in prop::collection::vec(0u32..9, 0..20), seed in any::<u64>(),
    ) {
        let mut rng = crate::rng::stream(seed, "simd-test", 5);
        // Any finite bits, denormals among them.
        let table: Vec<half::f16> = (0..9 * dim)
            .map(|_| half::f16::from_bits(rng.below(65_536) as u16))
            .map(|value| if value.is_finite() { value } else { half::f16::ZERO })
            .collect();
        let query: Vec<f32> = (0..dim).map(|_| rng.normal() as f32).collect();
        for set in sets() {
            let (mut dots, mut l2) = (vec![f32::NAN; rows.len()], vec![f32::NAN; rows.len()]);
            (set.half_dot_rows)(&query, &table, &rows, &mut dots);
            (set.half_squared_l2_rows)(&query, &table, &rows, &mut l2);
            for (j, &row) in rows.iter().enumerate() {
                let row: Vec<f32> = table[row as usize * dim..][..dim].iter().map(|value| value.to_f32()).collect();
                let (dot, mass) = dot_reference(&query, &row);
                prop_assert!((f64::from(dots[j]) - dot).abs() <= tolerance(dim, mass), "{:?}", set.isa);
                let want = l2_reference(&query, &row);
                prop_assert!((f64::from(l2[j]) - want).abs() <= tolerance(dim + 2, want), "{:?}", set.isa);
            }
        }
    }

    #[test]
    fn hamming_counts_bits(words in 0usize..20, rows in prop::collection::vec(0u32..9, 0..20), seed in any::<u64>()) {
        let mut rng = crate::rng::stream(seed, "simd-test", 6);
        let table: Vec<u64> = (0..9 * words).map(|_| rng.below(u64::MAX)).collect();
        let query: Vec<u64> = (0..words).map(|_| rng.below(u64::MAX)).collect();
        for set in sets() {
            let mut out = vec![f32::NAN; rows.len()];
            (set.hamming_rows)(&query, &table, &rows, &mut out);
            for (&row, &got) in rows.iter().zip(&out) {
                let differ = |bit: usize| (query[bit / 64] ^ table[row as usize * words + bit / 64]) >> (bit % 64) & 1;
                prop_assert_eq!(got as u64, (0..64 * words).map(differ).sum::<u64>(), "{:?}", set.isa);
            }
        }
    }

    #[test]
    fn keys_are_inserted_in_order(
        blocks in prop_oneof![0usize..9, 127usize..131], held in 0usize..1100, distinct in prop::collection::hash_set(1..u64::MAX, 0..1200),
    ) {
        let mut drawn: Vec<u64> = distinct.into_iter().collect();
        let mut keys = drawn.split_off(drawn.len().saturating_sub(held.min(8 * blocks)));
        keys.sort_unstable();
        for set in sets() {
            let mut got = vec![0];
            got.extend(&keys);
            got.resize(1 + 8 * blocks, u64::MAX);
            let mut want = [&got[..], &drawn].concat();
            want.sort_unstable();
            (set.insert_keys)(&mut got, &drawn);
            prop_assert_eq!(&got[..], &want[..got.len()], "{:?}", set.isa);
        }
    }

    #[test]
    fn gathers_match_float64(
        dim in 0usize..300, rows in prop::collection::vec(0u32..7, 0..20), seed in any::<u64>(),
    ) {
        let mut rng = crate::rng::stream(seed, "simd-test", 1);
        let table: Vec<f32> = (0..7 * dim).map(|_| rng.normal() as f32).collect();
        let weights: Vec<f32> = rows.iter().map(|_| rng.normal() as f32).collect();
        let ones = vec![1.0; rows.len()];
        for set in sets() {
            let (mut plain, mut weighted) = (vec![f32::NAN; dim], vec![f32::NAN; dim]);
            (set.gather_sum)(&table, rows[..].into(), &mut plain);
            (set.gather_weighted_sum)(&table, rows[..].into(), &weights, &mut weighted);
            for column in 0..dim {
                let values: Vec<f32> = rows.iter().map(|&r| table[r as usize * dim + column]).collect();
                for (got, weights) in [(&plain, &ones), (&weighted, &weights)] {
                    let (sum, mass) = dot_reference(&values, weights);
                    let got = f64::from(got[column]);
                    prop_assert!((got - sum).abs() <= tolerance(rows.len(), mass), "{:?} {got} {sum}", set.isa);
                }
            }
        }
    }

    #[test]
    fn the_largest_of_rows_is_exact_and_shows_nan(
        dim in 0usize..300, rows in prop::collection::vec(0u32..7, 0..20), nan in 0usize..2000, seed in any::<u64>(),
    ) {
        let mut rng = crate::rng::stream(seed, "simd-test", 2);
        let mut table: Vec<f32> = (0..7 * dim).map(|_| rng.normal() as f32).collect();
        if let Some(value) = table.get_mut(nan) {
            *value = f32::NAN;
        }
        for set in sets() {
            let mut out = vec![f32::NAN; dim];
            (set.gather_max)(&table, rows[..].into(), &mut out);
            for (column, &got) in out.iter().enumerate() {
                let values = || rows.iter().map(|&r| table[r as usize * dim + column]);
                if values().any(f32::is_nan) {
                    prop_assert!(got.is_nan(), "{:?}", set.isa);
                } else {
                    prop_assert_eq!(got, values().reduce(f32::max).unwrap_or(0.0), "{:?}", set.isa);
                }
            }
        }
    }

    #[test]
    fn sums_of_matching_values_are_those_of_the_definition(
        dim in 0usize..300, rows in prop::collection::vec(0u32..7, 0..20), seed in any::<u64>(),
    ) {
        let mut rng = crate::rng::stream(seed, "simd-test", 3);
        let mut small = |len: usize| -> Vec<f32> { (0..len).map(|_| rng.below(3) as f32 - 1.0).collect() };
        let (keys, values, key) = (small(7 * dim), small(7 * dim), small(dim));
        for set in sets() {
            for values in [Some(&values[..]), None] {
                let mut out = vec![f32::NAN; dim];
                (set.gather_where_equal)(&keys, values, rows[..].into(), &key, &mut out);
                for (column, &got) in out.iter().enumerate() {
                    let places = rows.iter().map(|&row| row as usize * dim + column);
                    let matching = places.filter(|&at| keys[at] == key[column]);
                    let expected: f32 = matching.map(|at| values.map_or(1.0, |values| values[at])).sum();
                    prop_assert_eq!(got, expected, "{:?}", set.isa);
                }
            }
        }
    }
}

#[test]
fn sums_of_small_integers_are_exact_in_every_set() {
    for n in 0..200usize {
        let a: Vec<f32> = (0..n).map(|i| (i % 13) as f32 - 6.0).collect();
        let b: Vec<f32> = (0..n).map(|i| (i % 7) as f32 - 3.0).collect();
        let (dot, l2) = (dot_reference(&a, &b).0 as f32, l2_reference(&a, &b) as f32);
        for set in sets() {
            assert_eq!((set.dot)(&a, &b), dot, "{:?} length {n}", set.isa);
            assert_eq!((set.squared_l2)(&a, &b), l2, "{:?} length {n}", set.isa);
        }
    }
}

#[test]
#[should_panic(expected = "outside the table")]
fn a_row_outside_the_table_is_refused() {
    (kernels().dot_rows)(&[1.0; 4], &[1.0; 12], &[3], &mut [0.0]);
}

#[test]
#[should_panic(expected = "outside the table")]
fn a_row_of_codes_outside_the_table_is_refused() {
    (kernels().code_dots)(&[1; 4], &[1; 12], &[3], &mut [0.0]);
}

#[test]
fn the_variable_names_a_set_or_is_empty() {
    let chosen = |name: &str| named(name.as_ref()).map(|kernels| kernels.isa);
    let best = chosen("").unwrap();
    assert!(kernels_for(best).is_some());
    for isa in Isa::ALL {
        match chosen(isa.name()) {
            Ok(found) => assert_eq!(found, isa),
            Err(error) => {
                assert!(kernels_for(isa).is_none());
                assert!(error.to_string().contains("which has scalar"), "{error}");
            }
        }
    }
    for unknown in ["AVX2", " avx2", "sse", " ", "none"] {
        let Err(Error::Config(text)) = chosen(unknown) else { panic!("{unknown:?} is accepted") };
        assert!(text.contains("scalar, avx2, avx512 or neon") && text.contains(unknown), "{text}");
    }
}

#[test]
fn this_machine_runs_its_best_set() {
    assert!(kernels_for(kernels().isa).is_some());
    assert!(check_environment().is_ok());
}

/// A table of rows, rows drawn from it with repeats, and weights for every drawn row and head; half of the rows are such
/// as fill registers.
fn gathered() -> impl Strategy<Value = (usize, usize, Vec<f32>, Vec<u32>, Vec<f32>)> {
    let whole = prop::sample::select(vec![2usize, 4, 8, 16, 32, 64]);
    let heads_whole = prop::sample::select(vec![1usize, 2, 3, 4, 8, 12, 16]);
    let shapes = prop_oneof![(1usize..9, 1usize..37), (heads_whole, whole)];
    (shapes, 1usize..9, 0usize..12).prop_flat_map(|((heads, width), rows, picked)| {
        let unit = || -2.0f32..2.0;
        (
            Just(heads),
            Just(width),
            prop::collection::vec(unit(), rows * heads * width),
            prop::collection::vec(0..rows as u32, picked),
            prop::collection::vec(unit(), picked * heads),
        )
    })
}

fn close(got: &[f32], expected: &[f64], terms: usize) -> bool {
    let bound = tolerance(terms, 4.0 * terms as f64);
    got.len() == expected.len() && got.iter().zip(expected).all(|(&a, b)| (f64::from(a) - b).abs() <= bound)
}

proptest! {
    #[test]
    fn kernels_of_divided_rows_match_float64((heads, width, table, rows, weights) in gathered()) {
        let columns = heads * width;
        let at = |row: u32, column: usize| f64::from(table[row as usize * columns + column]);
        let query = &table[..columns];
        let mut dots = vec![0.0; rows.len() * heads];
        let mut sums = vec![0.0; columns];
        for (j, &row) in rows.iter().enumerate() {
            for column in 0..columns {
                dots[j * heads + column / width] += f64::from(query[column]) * at(row, column);
                sums[column] += f64::from(weights[j * heads + column / width]) * at(row, column);
            }
        }
        for set in sets() {
            let mut got = vec![f32::NAN; dots.len()];
            (set.head_dots)(query, &table, Rows::of(&rows, 0..rows.len()), heads, &mut got);
            prop_assert!(close(&got, &dots, width), "{:?} head_dots", set.isa);
            let mut got = vec![f32::NAN; columns];
            let plan = HeadPlan::with_lanes(set.lanes, heads, columns);
            (set.head_sums)(&table, rows[..].into(), &weights, &plan, &mut got);
            prop_assert!(close(&got, &sums, rows.len()), "{:?} head_sums", set.isa);
        }
    }

    #[test]
    fn sums_by_factors_match_float64(
        (heads, width, table, rows, _) in gathered(),
        factors in prop::collection::vec(0.1f32..1.0, 20 * 10),
        slope in 0.0f32..1.0,
    ) {
        // More heads than a register has lanes, too.
        let (heads, width) = if width % 3 == 0 { (heads * width, 1) } else { (heads, width) };
        let columns = heads * width;
        let factor = |at: usize| factors[at % factors.len()];
        let sources: Vec<f32> = (0..table.len() / columns * 2 * heads).map(factor).collect();
        let target: Vec<f32> = (0..2 * heads).map(|at| factor(7 * at + 3)).collect();
        let mut totals = vec![0.0; heads];
        let (mut sums, mut second) = (vec![0.0; columns], vec![0.0; columns]);
        let mut weights = vec![0.0; heads];
        for &row in &rows {
            for head in 0..heads {
                let product = |at: usize| sources[row as usize * 2 * heads + at] * target[at];
                let (one, other) = (product(head), product(heads + head));
                let weight = f64::from(one.max(other));
                let less = weight * if one > other { 1.0 } else { f64::from(slope) };
                (totals[head], weights[head]) = (totals[head] + weight, weights[head] + less);
                for column in head * width..(head + 1) * width {
                    let value = f64::from(table[row as usize * columns + column]);
                    (sums[column], second[column]) = (sums[column] + weight * value, second[column] + less * value);
                }
            }
        }
        let scaled = |sums: &[f64], width: usize| -> Vec<f64> {
            let scale = |total: f64| if total > 0.0 { 1.0 / total } else { 0.0 };
            sums.iter().enumerate().map(|(at, sum)| sum * scale(totals[at / width])).collect()
        };
        for set in sets() {
            let plan = HeadPlan::with_lanes(set.lanes, heads, columns);
            let factors = Factors { sources: &sources, target: &target, slope };
            let (mut scale, mut got, mut alone) = (vec![f32::NAN; heads], vec![f32::NAN; columns], vec![f32::NAN; columns]);
            let (mut got_second, mut got_weights) = (vec![f32::NAN; columns], vec![f32::NAN; heads]);
            let asked = SecondSums { rows: &mut got_second, weights: &mut got_weights };
            let all = Rows::of(&rows, 0..rows.len());
            (set.factored_sums)(&table, all, factors, &plan, &mut scale, &mut got, Some(asked));
            (set.factored_sums)(&table, all, factors, &plan, &mut scale, &mut alone, None);
            prop_assert_eq!(&got, &alone);
            prop_assert!(close(&scale, &scaled(&vec![1.0; heads], 1), rows.len()), "{:?} scale", set.isa);
            prop_assert!(close(&got, &scaled(&sums, width), rows.len()), "{:?} sums", set.isa);
            prop_assert!(close(&got_second, &scaled(&second, width), rows.len()), "{:?} second", set.isa);
            prop_assert!(close(&got_weights, &scaled(&weights, 1), rows.len()), "{:?} weights", set.isa);
        }
    }

    #[test]
    fn kernels_of_whole_rows_match_float64((heads, columns, table, rows, weights) in gathered()) {
        // `table` holds `heads` times as many rows of `columns` values: enough for the queries.
        let at = |row: u32, column: usize| f64::from(table[row as usize * columns + column]);
        let queries = &table[..heads * columns];
        let mut dots = vec![0.0; rows.len() * heads];
        let mut sums = vec![0.0; heads * columns];
        for (j, &row) in rows.iter().enumerate() {
            for head in 0..heads {
                for column in 0..columns {
                    dots[j * heads + head] += f64::from(queries[head * columns + column]) * at(row, column);
                    sums[head * columns + column] += f64::from(weights[j * heads + head]) * at(row, column);
                }
            }
        }
        for set in sets() {
            let mut got = vec![f32::NAN; dots.len()];
            (set.row_dots)(queries, &table, rows[..].into(), heads, &mut got);
            prop_assert!(close(&got, &dots, columns), "{:?} row_dots", set.isa);
            let mut got = vec![f32::NAN; heads * columns];
            (set.row_sums)(&table, &rows, &weights, heads, &mut got);
            prop_assert!(close(&got, &sums, rows.len()), "{:?} row_sums", set.isa);
        }
    }
}
