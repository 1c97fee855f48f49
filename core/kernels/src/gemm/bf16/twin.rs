//! The product of rounded operands as a triple loop.

/// Nearest number in bf16 (ties to even), as a sum of what is kept and half of what is not.
pub(crate) fn round(x: f32) -> f32 {
    if !x.is_finite() {
        return x;
    }
    let low = f32::from_bits(x.to_bits() & 0xffff_0000);
    let high = f32::from_bits((x.to_bits() & 0xffff_0000).wrapping_add(0x1_0000));
    // Beyond the largest number, the next would be as far away as the one before.
    let next = if high.is_finite() { f64::from(high) } else { 2.0 * f64::from(low) - f64::from(before(low)) };
    let (below, above) = ((f64::from(x) - f64::from(low)).abs(), (next - f64::from(x)).abs());
    match below.total_cmp(&above) {
        std::cmp::Ordering::Less => low,
        std::cmp::Ordering::Greater => high,
        std::cmp::Ordering::Equal if low.to_bits() >> 16 & 1 == 0 => low,
        std::cmp::Ordering::Equal => high,
    }
}

fn before(x: f32) -> f32 {
    f32::from_bits(x.to_bits() - 0x1_0000)
}

/// [`round`] of every element.
pub(crate) fn rounded(data: &[f32]) -> Vec<f32> {
    data.iter().map(|&x| round(x)).collect()
}
