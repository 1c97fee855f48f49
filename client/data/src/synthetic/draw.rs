/// A stream of random numbers, the same on every machine: SplitMix64 (Steele, Lea and Flood 2014). Nothing private.
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn new(key: [u64; 3]) -> Self {
        let mut draw = Self(0);
        for word in key {
            draw.0 ^= word;
            draw.0 = draw.next();
        }
        draw
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`, a multiple of 2⁻²⁴.
    pub(super) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    /// Uniform in `[low, high)`.
    pub(super) fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// A vector of length 1, every direction equally likely: a point of the unit disc, scaled.
    pub(super) fn direction(&mut self) -> [f32; 2] {
        loop {
            let [x, y] = [0; 2].map(|_| self.between(-1.0, 1.0));
            let square = x * x + y * y;
            if (0.01..=1.0).contains(&square) {
                let length = square.sqrt();
                return [x / length, y / length];
            }
        }
    }

    /// A vector of length 1, at most 29° from the first axis: slopes to either side of it equally likely.
    pub(super) fn upright(&mut self) -> [f32; 2] {
        let slope = self.between(-0.55, 0.55);
        let length = (1.0 + slope * slope).sqrt();
        [1.0 / length, slope / length]
    }
}
