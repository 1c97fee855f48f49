//! Choices by private values, without a branch and without an address that depends on them.

/// All ones where `condition` holds, else all zeros.
#[inline(always)]
fn mask(condition: bool) -> u64 {
    // Opaque, so that the compiler cannot turn the masks below back into a branch.
    std::hint::black_box(u64::from(condition)).wrapping_neg()
}

/// `a` where `condition` holds, else `b`.
#[inline(always)]
pub fn select_u64(condition: bool, a: u64, b: u64) -> u64 {
    let mask = mask(condition);
    a & mask | b & !mask
}

/// `a` where `condition` holds, else `b`, bit for bit.
#[inline(always)]
pub fn select_f64(condition: bool, a: f64, b: f64) -> f64 {
    f64::from_bits(select_u64(condition, a.to_bits(), b.to_bits()))
}

/// `a` where `condition` holds, else `b`, bit for bit.
#[inline(always)]
pub fn select_f32(condition: bool, a: f32, b: f32) -> f32 {
    f32::from_bits(select_u64(condition, a.to_bits().into(), b.to_bits().into()) as u32)
}

/// `numbers[index]` by a look at every one of them; 0 if there is no such number.
#[inline(always)]
pub fn pick(numbers: &[f32], index: usize) -> f32 {
    let look = |bits, (k, x): (usize, &f32)| bits | u64::from(x.to_bits()) & mask(k == index);
    f32::from_bits(numbers.iter().enumerate().fold(0, look) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_bit_for_bit() {
        assert_eq!((select_u64(true, 3, 5), select_u64(false, 3, 5)), (3, 5));
        assert_eq!(select_f64(false, 1.0, -0.0).to_bits(), (-0.0f64).to_bits());
        assert!(select_f64(true, f64::NAN, 1.0).is_nan());
        assert_eq!(select_f32(false, 1.0, -0.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!(select_f32(true, 1.5, f32::NAN), 1.5);
        let numbers = [1.5, f32::NEG_INFINITY, -0.0];
        assert_eq!([0, 1, 3].map(|i| pick(&numbers, i)), [1.5, f32::NEG_INFINITY, 0.0]);
        assert_eq!(pick(&numbers, 2).to_bits(), (-0.0f32).to_bits());
    }
}
