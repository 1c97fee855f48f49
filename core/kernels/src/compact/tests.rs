#![allow(clippy::unwrap_used)] // a test that fails says why

use proptest::prelude::*;

use super::*;
use crate::parts::Chunks;
use crate::testing::random;
use crate::{Threads, parts::Parts};

/// What rounding `x · (1 / scale)` may add to half a step.
const HALF: f32 = 0.5 + 1e-4;

/// Sizes on both sides of vectors' ends, and nothing at all.
const SIZES: [[usize; 2]; 8] = [[1, 1], [3, 5], [2, 16], [4, 17], [1, 300], [70, 3], [0, 0], [3, 0]];

/// The formats as loops over single numbers, as the documentation says.
mod twin {
    use super::Format;

    pub(super) fn encode(format: Format, values: &[f32], channels: usize) -> Vec<u8> {
        match format {
            Format::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Format::Bf16 => values.iter().flat_map(|&x| nearest_bf16(x).to_le_bytes()).collect(),
            Format::Int8 => {
                let plane = (values.len() / channels.max(1)).max(1);
                let scale = |plane: &[f32]| plane.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 127.0;
                let mut scales: Vec<f32> = values.chunks(plane).map(scale).collect();
                scales.resize(channels, 0.0);
                let step = |(i, x): (usize, &f32)| match scales[i / plane] {
                    0.0 => 0,
                    scale => (x / scale).round_ties_even() as i8 as u8,
                };
                let steps: Vec<u8> = values.iter().enumerate().map(step).collect();
                [scales.iter().flat_map(|s| s.to_le_bytes()).collect(), steps].concat()
            }
        }
    }

    /// The nearer of the two bf16 numbers around a finite `x`; the even one of two as near.
    fn nearest_bf16(x: f32) -> u16 {
        let below = (x.to_bits() >> 16) as u16;
        let value = |half: u16| f64::from(f32::from_bits(u32::from(half) << 16));
        let distance = |half: u16| (value(half) - f64::from(x)).abs();
        [below, below + 1]
            .into_iter()
            .min_by(|&a, &b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1))))
            .unwrap()
    }
}

/// Random numbers; each plane ten times as large as the one before.
fn record([channels, plane]: [usize; 2], seed: u64) -> Vec<f32> {
    let data = random(&[channels, plane], seed);
    let size = |i: usize| 10f32.powi((i / plane.max(1)) as i32 % 9 - 4);
    data.data().iter().enumerate().map(|(i, x)| x * size(i)).collect()
}

fn encoded(format: Format, values: &[f32], channels: usize) -> Vec<u8> {
    let mut bytes = vec![0xa5; format.encoded_len(channels, values.len() / channels.max(1))];
    format.encode(values, channels, &mut bytes);
    bytes
}

#[test]
fn names_are_those_of_the_configuration() {
    for format in Format::ALL {
        assert_eq!(serde_json::to_value(format).unwrap(), format.name());
    }
    assert_eq!(Format::default(), Format::F32);
    assert_eq!(Format::ALL.map(|format| format.encoded_len(3, 10)), [120, 60, 42]);
}

#[test]
fn agrees_with_the_twin() {
    for size @ [channels, _] in SIZES {
        let values = record(size, 1);
        for format in [Format::F32, Format::Bf16] {
            assert_eq!(
                encoded(format, &values, channels),
                twin::encode(format, &values, channels),
                "{size:?}"
            );
        }
        let (found, expected) =
            (encoded(Format::Int8, &values, channels), twin::encode(Format::Int8, &values, channels));
        let (scales, steps) = found.split_at(4 * channels);
        assert_eq!(scales, &expected[..4 * channels]);
        // Dividing by the scale and multiplying by its inverse may choose either neighbour of a half.
        let near = |(a, b): (&u8, &u8)| a.cast_signed().abs_diff(b.cast_signed()) <= 1;
        assert!(steps.iter().zip(&expected[4 * channels..]).all(near));
    }
}

#[test]
fn ties_go_to_the_even_number() {
    let x = f32::from_bits;
    let cases = [(0x3f80_8000, 0x3f80), (0x3f81_8000, 0x3f82), (0x3f80_8001, 0x3f81), (0xbf80_8000, 0xbf80)];
    for (bits, expected) in cases {
        assert_eq!(encoded(Format::Bf16, &[x(bits)], 1), u16::to_le_bytes(expected), "{bits:x}");
    }
    let bytes = encoded(Format::Int8, &[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -127.0, -126.6], 1);
    assert_eq!(
        bytes[4..].iter().map(|b| b.cast_signed()).collect::<Vec<_>>(),
        [127, 0, 2, 2, 0, -2, -127, -127]
    );
}

#[test]
fn what_is_not_finite_is_refused() {
    let mut values = vec![0.0; 40];
    for format in Format::ALL {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -2.0 * LARGEST] {
            for at in [0, 19, 20, 39] {
                let mut record = record([2, 20], 2);
                record[at] = bad;
                assert!(
                    !format.decode(&encoded(format, &record, 2), 2, &mut values),
                    "{format:?} {bad} at {at}"
                );
                assert!(!format.decode_add(&encoded(format, &record, 2), 2, &mut values), "{format:?} {bad}");
            }
        }
        let largest = vec![-0.99 * LARGEST; 40];
        assert!(format.decode(&encoded(format, &largest, 2), 2, &mut values), "{format:?}");
    }
    // Any bytes decode to something: scales of both signs, and the step that is never made.
    let bytes = [&(-2.0f32).to_le_bytes()[..], &[0x80, 127]].concat();
    assert!(Format::Int8.decode(&bytes, 1, &mut values[..2]));
    assert_eq!(values[..2], [256.0, -254.0]);
}

#[test]
fn zeros_stay_zeros() {
    for format in Format::ALL {
        let mut values = vec![f32::NAN; 6];
        let nearly = [0.0, -0.0, 1e-40, -1e-42, 0.0, 0.0];
        assert!(format.decode(&encoded(format, &nearly, 2), 2, &mut values));
        assert!(values.iter().all(|x| x.abs() < SMALLEST), "{format:?} {values:?}");
    }
}

#[test]
#[should_panic(expected = "10 bytes for 3 numbers")]
fn a_record_of_another_length_is_refused() {
    let _ = Format::F32.decode(&[0; 10], 1, &mut [0.0; 3]);
}

#[test]
#[should_panic(expected = "7 numbers in 2 planes")]
fn numbers_divide_into_planes() {
    Format::F32.encode(&[0.0; 7], 2, &mut [0; 28]);
}

/// What an encoder makes of a record, in runs of `run` pixels and groups of `together` planes.
fn in_parts(format: Format, values: &[f32], size: [usize; 2], run: usize, together: usize) -> Vec<u8> {
    let [channels, plane] = size;
    let mut bytes = vec![0xa5; format.encoded_len(channels, plane)];
    let parts = format.encoder(channels, plane, &mut bytes).by_channels(together);
    let rest = Chunks { data: &mut vec![0u8; parts.count()], len: 1 };
    Threads::new(2).for_each_part((parts, rest), |part, (mut encoder, _)| {
        for c in 0..encoder.channels() {
            let values = &values[(part * together + c) * plane..][..plane];
            values.chunks(run).for_each(|run| encoder.measure(c, run));
        }
        encoder.measured();
        for c in 0..encoder.channels() {
            let values = &values[(part * together + c) * plane..][..plane];
            values.chunks(run).enumerate().for_each(|(i, values)| encoder.put(c, i * run, values));
        }
    });
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn errors_are_what_is_said(channels in 1usize..9, plane in 1usize..90, seed: u64) {
        let values = record([channels, plane], seed);
        for format in Format::ALL {
            let bytes = encoded(format, &values, channels);
            let (mut found, mut sum) = (vec![f32::NAN; values.len()], vec![1.0; values.len()]);
            prop_assert!(format.decode(&bytes, channels, &mut found));
            prop_assert!(format.decode_add(&bytes, channels, &mut sum));
            for (i, (&x, &y)) in values.iter().zip(&found).enumerate() {
                let largest = values[i / plane * plane..][..plane].iter().fold(0.0f32, |m, x| m.max(x.abs()));
                let bound = match format {
                    Format::F32 => 0.0,
                    Format::Bf16 => x.abs() / 256.0,
                    Format::Int8 => HALF * largest / 127.0,
                };
                prop_assert!((x - y).abs() <= bound, "{format:?}: {x} became {y}");
                prop_assert_eq!(sum[i], 1.0 + y);
            }
        }
    }

    #[test]
    fn parts_are_the_same_bytes(channels in 1usize..9, plane in 1usize..90, run in 1usize..40, together in 1usize..5) {
        let values = record([channels, plane], 3);
        for format in Format::ALL {
            let parts = in_parts(format, &values, [channels, plane], run, together);
            prop_assert_eq!(parts, encoded(format, &values, channels));
        }
    }

    #[test]
    fn any_bytes_decode(bytes in proptest::collection::vec(any::<u8>(), 48)) {
        let _ = Format::F32.decode(&bytes, 3, &mut [0.0; 12]);
        let _ = Format::Bf16.decode(&bytes, 3, &mut [0.0; 24]);
        let _ = Format::Int8.decode(&bytes, 3, &mut [0.0; 36]);
    }
}
