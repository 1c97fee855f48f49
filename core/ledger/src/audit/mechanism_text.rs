//! What the name of a mechanism tells.

use crate::Kind;

/// Mechanisms whose answer is only a number in the names of later entries: a clipping norm.
const PUBLISHED: [&str; 1] = ["norm-quantile"];

/// Parameters in a mechanism's name, such as `residual-bits v1: pooled:4 of 32x16x16, clip 2, sigma 2.4, function …`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct MechanismText {
    pub(super) kind: Option<Kind>,
    /// What it makes is no message, but a number in the ledger.
    pub(super) published: bool,
    /// ε of a mechanism with δ = 0.
    pub(super) epsilon: Option<f64>,
    pub(super) clip: Option<f64>,
    pub(super) sigma: Option<f64>,
    /// Numbers in one message.
    pub(super) numbers: Option<u64>,
    /// Bytes of one message.
    pub(super) bytes: Option<u64>,
}

impl MechanismText {
    pub(super) fn parse(name: &str) -> Self {
        let (title, parameters) = name.split_once(": ").unwrap_or((name, ""));
        let word = title.split_whitespace().next().unwrap_or_default();
        let value = |key: &str| {
            let text = parameters.split(", ").find_map(|part| part.strip_prefix(key)?.strip_prefix(' '))?;
            text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0)
        };
        let kind = Kind::from_name(word);
        let (numbers, bytes) = match kind {
            Some(Kind::LogitGradients) => {
                let mut labels =
                    parameters.split(", ").map(|part| part.strip_suffix(" labels")?.parse().ok());
                let labels: Option<u64> = labels.find_map(|labels| labels);
                (labels, labels.and_then(|labels| labels.checked_mul(4)))
            }
            Some(Kind::NoisedInputs | Kind::NoisedResiduals) => {
                let size = parameters.split(", ").find_map(|part| vector(part.split_once(" in ")?));
                size.unzip()
            }
            _ => {
                let numbers = parameters.split(", ").find_map(|part| numbers(part.split_once(" of ")?));
                (numbers, numbers.map(|numbers| numbers.div_ceil(8)))
            }
        };
        MechanismText {
            kind,
            published: PUBLISHED.contains(&word),
            epsilon: value("epsilon"),
            clip: value("clip"),
            sigma: value("sigma"),
            numbers,
            bytes,
        }
    }
}

/// `[C, H, W]` of `CxHxW`.
fn sides(size: &str) -> Option<[u64; 3]> {
    let mut sides = size.split('x').map(|side| side.parse::<u64>().ok());
    let found = [sides.next()??, sides.next()??, sides.next()??];
    sides.next().is_none().then_some(found)
}

/// Numbers and bytes of a vector of size `CxHxW` in this format.
fn vector((size, format): (&str, &str)) -> Option<(u64, u64)> {
    let [channels, height, width] = sides(size)?;
    let numbers = channels.checked_mul(height)?.checked_mul(width)?;
    let bytes = match format {
        "f32" => numbers.checked_mul(4),
        "bf16" => numbers.checked_mul(2),
        // With a scale of four bytes for each channel.
        "int8" => numbers.checked_add(channels.checked_mul(4)?),
        _ => None,
    };
    Some((numbers, bytes?))
}

/// How many numbers a residual of size `CxHxW` leaves in this shape.
fn numbers((shape, size): (&str, &str)) -> Option<u64> {
    let [channels, height, width] = sides(size)?;
    let map = height.checked_mul(width)?;
    match shape {
        "full" => map.checked_mul(channels),
        "mean" => Some(map),
        _ => shape.strip_prefix("pooled:")?.parse::<u64>().ok()?.checked_pow(2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_and_others_are_left_out() {
        let text = |shape: &str| {
            MechanismText::parse(&format!(
                "residual-bits v1: {shape} of 8x4x6, clip 2, sigma 0.5, function 00"
            ))
        };
        let expected = MechanismText {
            kind: Some(Kind::ResidualBits),
            clip: Some(2.0),
            sigma: Some(0.5),
            numbers: Some(24),
            bytes: Some(3),
            ..MechanismText::default()
        };
        assert_eq!(text("mean"), expected);
        assert_eq!((text("full").numbers, text("pooled:3").numbers), (Some(192), Some(9)));
        let none = MechanismText::default();
        let labels = MechanismText::parse("randomised-labels v1: 10 labels, epsilon 1");
        assert_eq!(labels, MechanismText { kind: Some(Kind::RandomisedLabels), epsilon: Some(1.0), ..none });
        let gradients = MechanismText::parse("logit-gradients v1: 10 labels, clip 1, sigma 3");
        assert_eq!((gradients.numbers, gradients.clip, gradients.sigma), (Some(10), Some(1.0), Some(3.0)));
        assert_eq!(gradients.bytes, Some(40));
        for (format, bytes) in [("f32", Some(768)), ("bf16", Some(384)), ("int8", Some(224)), ("f16", None)] {
            let name =
                format!("noised-residuals v1: 8x4x6 in {format}, clip 2, sigma 3, layer 1, function 00");
            let vector = MechanismText::parse(&name);
            assert_eq!((vector.bytes, vector.clip, vector.sigma), (bytes, Some(2.0), Some(3.0)), "{format}");
            assert_eq!(vector.numbers, bytes.map(|_| 192));
        }
        let norm = "norm-quantile v1: 0.5 of pooled:4 of 8x4x4, epsilon 0.1, function 00";
        assert_eq!(MechanismText::parse(norm), MechanismText { published: true, epsilon: Some(0.1), ..none });
        for odd in
            ["", "laplace v1: clip -1, sigma inf", ": x of 1x1", "a: full of 99999999999x99999999999x9"]
        {
            assert_eq!(MechanismText::parse(odd), none, "{odd}");
        }
    }
}
