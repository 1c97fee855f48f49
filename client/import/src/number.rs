//! Little-endian numbers of other formats, as `f32`.

/// Numbers of `N` bytes each; a rest shorter than `N` is ignored.
pub(crate) fn numbers<const N: usize, T>(bytes: &[u8], from: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.chunks_exact(N).map(|c| from(c.try_into().expect("chunks_exact gives N bytes"))).collect()
}

/// IEEE 754 half precision.
pub(crate) fn half(bytes: [u8; 2]) -> f32 {
    let bits = u16::from_le_bytes(bytes);
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f32::from(bits & 0x3ff));
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        0x1f if fraction == 0.0 => f32::INFINITY,
        0x1f => f32::NAN,
        _ => (1024.0 + fraction) * 2f32.powi(exponent - 25),
    }
}

/// The upper half of an `f32`.
pub(crate) fn bfloat(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

/// A double, rounded.
pub(crate) fn double(bytes: [u8; 8]) -> f32 {
    f64::from_le_bytes(bytes) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_floats() {
        for (bits, value) in [
            (0x3c00u16, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0400, 2f32.powi(-14)),
            (0x0001, 2f32.powi(-24)),
            (0x83ff, -1023.0 * 2f32.powi(-24)),
            (0x3555, 0.333_251_95),
            (0x7c00, f32::INFINITY),
        ] {
            assert_eq!(half(bits.to_le_bytes()), value, "{bits:#x}");
        }
        assert!(half(0x7e00u16.to_le_bytes()).is_nan());
        assert_eq!(bfloat(0xc049u16.to_le_bytes()), -3.140_625);
        assert_eq!(double(0.1f64.to_le_bytes()), 0.1f32);
        assert_eq!(numbers(&[1, 0, 2, 0, 9], u16::from_le_bytes), [1, 2]);
    }
}
