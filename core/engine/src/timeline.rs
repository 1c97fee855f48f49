//! Which buffers are alive at the same time, and where they are put so that those never overlap.
//!
//! A [`Timeline`] is told the steps of a run in order, each with the buffers it makes and reads; a buffer lives from the
//! step that makes it to the last one that reads it. [`Timeline::lay_out`] then gives each a place in one [`Arena`].

use std::ops::Range;

use tensor::{Aligned, LINE};

/// A buffer of a [`Timeline`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer(usize);

/// What a buffer holds; both take four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Floats,
    Indices,
}

/// From the step that makes a buffer to the last that reads it, both included.
#[derive(Clone, Copy, Debug)]
struct Life {
    first: usize,
    last: usize,
    len: usize,
    holds: Holds,
}

/// Bytes of an element of any buffer.
const ELEMENT: usize = 4;

/// The steps of a run and the buffers alive in them.
pub struct Timeline {
    steps: Vec<String>,
    lives: Vec<Life>,
}

/// The step at which most is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peak {
    /// What is done there, such as `layer1.0.conv1, backward`.
    pub step: String,
    pub bytes: usize,
}

impl Default for Timeline {
    fn default() -> Self {
        Timeline { steps: vec!["input".to_owned()], lives: Vec::new() }
    }
}

impl Timeline {
    /// Goes on to the next step.
    pub fn step(&mut self, name: impl Into<String>) {
        self.steps.push(name.into());
    }

    /// A buffer of `len` floats that this step makes.
    pub fn make(&mut self, len: usize) -> Buffer {
        self.begin(len, Holds::Floats)
    }

    /// A buffer of `len` indices that this step makes.
    pub fn make_indices(&mut self, len: usize) -> Buffer {
        self.begin(len, Holds::Indices)
    }

    /// This step reads (or adds to) `buffer`.
    pub fn read(&mut self, buffer: Buffer) {
        self.lives[buffer.0].last = self.now();
    }

    /// Where most is alive; nothing laid out for these lives can be smaller.
    pub fn peak(&self) -> Peak {
        let mut changes = vec![0isize; self.steps.len() + 1];
        for life in &self.lives {
            changes[life.first] += life.len as isize;
            changes[life.last + 1] -= life.len as isize;
        }
        let alive = changes.iter().scan(0, |alive, change| {
            *alive += change;
            Some(*alive)
        });
        let (at, most) =
            alive.enumerate().reduce(|a, b| if b.1 > a.1 { b } else { a }).expect("there is a first step");
        Peak { step: self.steps[at.min(self.steps.len() - 1)].clone(), bytes: ELEMENT * most as usize }
    }

    /// A place for every buffer: no two that are alive in the same step overlap.
    pub fn lay_out(&self) -> Layout {
        let of = |holds| {
            let kept = |&i: &usize| self.lives[i].holds == holds && self.lives[i].len > 0;
            (0..self.lives.len()).filter(kept).collect::<Vec<_>>()
        };
        let mut places = vec![0..0; self.lives.len()];
        let [floats, indices] =
            [Holds::Floats, Holds::Indices].map(|holds| self.place(of(holds), &mut places));
        Layout { places, floats, indices }
    }

    /// Every buffer in a place of its own: the slow twin of [`Timeline::lay_out`].
    #[cfg(test)]
    pub(crate) fn lay_out_apart(&self) -> Layout {
        let (mut floats, mut indices) = (0usize, 0usize);
        let places = self.lives.iter().map(|life| {
            let end = if life.holds == Holds::Floats { &mut floats } else { &mut indices };
            let start = end.next_multiple_of(LINE);
            *end = start + life.len;
            if life.len == 0 { 0..0 } else { start..*end }
        });
        Layout { places: places.collect(), floats, indices }
    }

    fn now(&self) -> usize {
        self.steps.len() - 1
    }

    fn begin(&mut self, len: usize, holds: Holds) -> Buffer {
        let now = self.now();
        self.lives.push(Life { first: now, last: now, len, holds });
        Buffer(self.lives.len() - 1)
    }

    /// Places `buffers` in the better of two orders, and returns the length they take.
    ///
    /// Largest first is good where sizes differ much; in order of time, long lives first, where buffers are given up in the
    /// reverse order in which they were made, as in training.
    fn place(&self, buffers: Vec<usize>, places: &mut [Range<usize>]) -> usize {
        let life = |&i: &usize| self.lives[i];
        let (mut by_size, mut by_time) = (buffers.clone(), buffers);
        by_size.sort_by_key(|i| (usize::MAX - life(i).len, life(i).first, *i));
        by_time.sort_by_key(|i| (life(i).first, usize::MAX - life(i).last, usize::MAX - life(i).len, *i));
        let tried = [by_size, by_time].map(|order| self.place_in_order(&order));
        let (placed, len) = tried.into_iter().min_by_key(|(_, len)| *len).expect("two orders were tried");
        placed.into_iter().for_each(|(buffer, place)| places[buffer] = place);
        len
    }

    /// Puts each buffer at the first line of the cache in the lowest gap between those placed before that live at the same time.
    fn place_in_order(&self, order: &[usize]) -> (Vec<(usize, Range<usize>)>, usize) {
        // Sorted by where they start.
        let mut placed: Vec<(usize, Range<usize>)> = Vec::with_capacity(order.len());
        let mut len = 0;
        for &buffer in order {
            let life = self.lives[buffer];
            let mut start = 0;
            for (other, place) in &placed {
                let other = self.lives[*other];
                if other.first > life.last || life.first > other.last {
                    continue;
                }
                if place.start >= start + life.len {
                    break;
                }
                start = start.max(place.end.next_multiple_of(LINE));
            }
            let place = start..start + life.len;
            len = len.max(place.end);
            let at = placed.partition_point(|(_, other)| other.start < place.start);
            placed.insert(at, (buffer, place));
        }
        (placed, len)
    }
}

/// Where every buffer of a [`Timeline`] is.
#[derive(Clone, Debug)]
pub struct Layout {
    places: Vec<Range<usize>>,
    floats: usize,
    indices: usize,
}

impl Layout {
    /// Elements of the arena that `buffer` has.
    pub fn place(&self, buffer: Buffer) -> Range<usize> {
        self.places[buffer.0].clone()
    }

    /// Bytes of the arena.
    pub fn bytes(&self) -> usize {
        Aligned::bytes(self.floats) + ELEMENT * self.indices
    }

    /// An arena of this layout, all zeros.
    pub fn arena(&self) -> Arena {
        Arena { floats: Aligned::zeros(self.floats), indices: vec![0; self.indices] }
    }
}

/// The memory of a [`Layout`]: one block of floats, one of indices.
#[derive(Default)]
pub struct Arena {
    pub floats: Aligned,
    pub indices: Vec<u32>,
}

impl Arena {
    pub fn bytes(&self) -> usize {
        Aligned::bytes(self.floats.len()) + ELEMENT * self.indices.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Buffers as (first step, steps alive after it, length, whether floats).
    fn timeline(buffers: &[(usize, usize, usize, bool)]) -> Timeline {
        const STEPS: usize = 24;
        let mut timeline = Timeline::default();
        let mut made = vec![None; buffers.len()];
        for step in 0..STEPS {
            timeline.step(format!("step {step}"));
            for (&(first, more, len, floats), made) in buffers.iter().zip(&mut made) {
                if step == first {
                    *made = Some(if floats { timeline.make(len) } else { timeline.make_indices(len) });
                }
                if let Some(made) = *made
                    && step <= first + more
                {
                    timeline.read(made);
                }
            }
        }
        timeline
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]
        #[test]
        fn lives_that_overlap_have_places_that_do_not(
            buffers in prop::collection::vec((0usize..16, 0usize..8, 0usize..50, any::<bool>()), 0..40)
        ) {
            let timeline = timeline(&buffers);
            let layout = timeline.lay_out();
            let (lives, places) = (&timeline.lives, &layout.places);
            for (i, a) in lives.iter().enumerate() {
                prop_assert_eq!(places[i].len(), a.len);
                let end = if a.holds == Holds::Floats { layout.floats } else { layout.indices };
                prop_assert!(places[i].end <= end);
                prop_assert!(a.holds == Holds::Indices || places[i].start % LINE == 0);
                for (j, b) in lives.iter().enumerate().skip(i + 1) {
                    let together = a.first <= b.last && b.first <= a.last && a.holds == b.holds;
                    let apart = places[i].end <= places[j].start || places[j].end <= places[i].start;
                    prop_assert!(!together || apart, "{i} {a:?} {:?}, {j} {b:?} {:?}", places[i], places[j]);
                }
            }
            let lines = |life: &Life| life.len.next_multiple_of(LINE);
            prop_assert!(layout.bytes() <= ELEMENT * (lives.iter().map(lines).sum::<usize>() + LINE));
            prop_assert!(layout.bytes() >= timeline.peak().bytes);
        }
    }

    #[test]
    fn nested_lives_take_no_more_than_is_alive() {
        // As in training: made in order, given up in reverse, with short-lived ones between.
        let buffers =
            [(0, 9, 48, true), (1, 7, 32, true), (2, 0, 64, true), (3, 4, 16, true), (7, 1, 64, true)];
        let timeline = timeline(&buffers);
        assert_eq!(timeline.peak(), Peak { step: "step 7".into(), bytes: 4 * 160 });
        assert_eq!(timeline.lay_out().bytes(), Aligned::bytes(160));
    }

    #[test]
    fn an_empty_timeline_needs_nothing() {
        let timeline = Timeline::default();
        assert_eq!((timeline.lay_out().bytes(), timeline.peak().bytes), (0, 0));
    }
}
