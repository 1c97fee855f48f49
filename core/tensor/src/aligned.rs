//! Floats that begin on a line of the cache.

use std::ops::{Deref, DerefMut};

/// Floats in a line of the cache, which is also the longest vector of any processor: 64 bytes.
pub const LINE: usize = 16;

/// Floats whose first lies on a 64-byte boundary, so that no vector at a multiple of [`LINE`] straddles two lines of the
/// cache.
#[derive(Debug, Default)]
pub struct Aligned {
    /// [`LINE`]` - 1` longer than what is used of it.
    data: Vec<f32>,
    start: usize,
}

impl Aligned {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        if len == 0 {
            return Aligned::default();
        }
        let data = vec![0.0f32; len + LINE - 1];
        let start = data.as_ptr().align_offset(size_of::<f32>() * LINE).min(LINE - 1);
        Aligned { data, start }
    }

    /// Bytes that [`Aligned::zeros`] takes.
    pub const fn bytes(len: usize) -> usize {
        match len {
            0 => 0,
            _ => size_of::<f32>() * (len + LINE - 1),
        }
    }

    fn end(&self) -> usize {
        (self.data.len() + 1).saturating_sub(LINE) + self.start
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data[self.start..self.end()]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        let end = self.end();
        &mut self.data[self.start..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_begins_on_a_line_and_stays_there() {
        assert!(Aligned::default().is_empty() && Aligned::zeros(0).is_empty());
        for len in 1..100 {
            let mut floats = Box::new(Aligned::zeros(len));
            floats.fill(1.0);
            let moved = *floats;
            assert_eq!(moved.as_ptr() as usize % 64, 0);
            assert_eq!(*moved, *vec![1.0; len]);
            assert!(Aligned::bytes(len) >= 4 * len);
        }
    }
}
