//! Public randomness: reproducible draws keyed by seed, epoch, step and purpose.
//!
//! Nothing private may come from here; the enclave's noise has its own keyed generator in `trusted/mechanism`.

/// What a stream of draws is for; streams of different purposes are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Order of the records in an epoch.
    Order = 1,
    /// Flips and crops.
    Augment = 2,
    /// Dropout masks.
    Dropout = 3,
    /// Flips and crops of the views that leave.
    View = 4,
}

/// A SplitMix64 stream.
#[derive(Clone, Debug)]
pub struct Stream {
    state: u64,
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Stream {
    /// The stream for one purpose at one place of a run.
    pub fn new(seed: u64, purpose: Purpose, epoch: u64, step: u64) -> Self {
        let state = [purpose as u64, epoch, step]
            .iter()
            .fold(mix(seed.wrapping_add(GOLDEN)), |state, word| mix(state ^ mix(word.wrapping_add(GOLDEN))));
        Stream { state }
    }

    /// The next 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// A uniform integer below `bound` (multiply-shift; bias below 2⁻³²).
    pub fn below(&mut self, bound: u32) -> u32 {
        (((self.next_u64() >> 32) * u64::from(bound)) >> 32) as u32
    }
}

/// A uniform permutation of `0..n` (Fisher–Yates).
pub fn permutation(stream: &mut Stream, n: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    for i in (1..n).rev() {
        order.swap(i, stream.below(i as u32 + 1) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_every_key() {
        let first = |seed, purpose, epoch, step| Stream::new(seed, purpose, epoch, step).next_u64();
        let base = first(1, Purpose::Order, 2, 3);
        assert_eq!(base, first(1, Purpose::Order, 2, 3));
        for other in [
            first(2, Purpose::Order, 2, 3),
            first(1, Purpose::Augment, 2, 3),
            first(1, Purpose::Order, 3, 3),
            first(1, Purpose::Order, 2, 4),
            first(1, Purpose::Order, 3, 2),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn permutation_holds_every_record_once_and_is_not_the_identity() {
        let order = permutation(&mut Stream::new(7, Purpose::Order, 0, 0), 1000);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.iter().enumerate().all(|(i, &v)| i as u32 == v));
        let fixed = order.iter().enumerate().filter(|&(i, &v)| i as u32 == v).count();
        assert!(fixed < 10, "{fixed} records kept their place");
        assert!(permutation(&mut Stream::new(7, Purpose::Order, 0, 0), 0).is_empty());
    }

    #[test]
    fn draws_below_a_bound_are_uniform() {
        let mut stream = Stream::new(3, Purpose::Augment, 0, 0);
        let mut counts = [0u32; 9];
        for _ in 0..90_000 {
            counts[stream.below(9) as usize] += 1;
        }
        // Five standard deviations of a binomial with mean 10,000.
        assert!(counts.iter().all(|&c| (9_500..10_500).contains(&c)), "{counts:?}");
    }
}
