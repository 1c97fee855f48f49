//! `exp` and `ln` as polynomials: the platform's look tables up by their argument and branch on it.

/// Adding and subtracting this rounds to a whole number: 1.5 · 2⁵².
const ROUND: f64 = 6_755_399_441_055_744.0;

/// ln 2 in two parts; the first has few digits, so that its multiples are exact.
const LN2: [f64; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];

/// `1/n!` from 13 down.
const EXP: [f64; 14] = [
    1.0 / 6_227_020_800.0,
    1.0 / 479_001_600.0,
    1.0 / 39_916_800.0,
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
    1.0,
];

/// `eˣ` for `x ≤ 0`, to a relative error of 10⁻¹⁵; 0 below −700, where no sum in this module notices.
#[inline(always)]
pub(super) fn exp(x: f64) -> f64 {
    let tiny = x < -700.0;
    let x = if tiny { -700.0 } else { x };
    let shifted = x * std::f64::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let rest = (x - whole * LN2[0]) - whole * LN2[1];
    let power = EXP.iter().fold(0.0, |sum, c| sum * rest + c);
    // The low bits of `shifted` are the whole number; 1023 is the exponent's bias.
    let scale = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    if tiny { 0.0 } else { power * scale }
}

/// `ln x` for normal `x > 0`, to 10⁻¹⁵; NaN of a NaN.
#[inline(always)]
pub(super) fn ln(x: f64) -> f64 {
    // x = m · 2ᵉ with m from √½ to √2: the exponent is taken of x/√½.
    let bits = x.to_bits();
    let exponent = (bits.wrapping_sub(std::f64::consts::FRAC_1_SQRT_2.to_bits()) as i64) >> 52;
    let m = f64::from_bits(bits.wrapping_sub((exponent << 52) as u64));
    // ln m = 2 artanh s, |s| ≤ 0.172.
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let series = (0..10).rev().fold(0.0, |sum, n| sum * square + 1.0 / f64::from(2 * n + 1));
    let e = exponent as f64;
    let result = 2.0 * s * series + e * LN2[1] + e * LN2[0];
    if x.is_nan() { x } else { result }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agree_with_the_platform() {
        for i in 0..20_000 {
            let x = -f64::from(i) * 0.034_87;
            let (found, expected) = (exp(x), x.exp());
            assert!((found - expected).abs() <= 1e-14 * expected, "exp({x}) = {found}, not {expected}");
            let x = 1.000_7f64.powi(i - 5_000);
            let (found, expected) = (ln(x), x.ln());
            assert!(
                (found - expected).abs() <= 1e-14 * expected.abs().max(0.1),
                "ln({x}) = {found}, not {expected}"
            );
        }
        assert_eq!([exp(0.0), exp(-701.0), exp(f64::NEG_INFINITY), ln(1.0)], [1.0, 0.0, 0.0, 0.0]);
        assert!(exp(f64::NAN).is_nan() && ln(f64::NAN).is_nan());
    }
}
