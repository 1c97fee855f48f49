//! Parts of slices, walked side by side by several threads.

/// Consecutive parts that can be divided among threads without being listed.
pub trait Parts: Sized + Send {
    type Part;

    /// How many there are; unlimited where nothing has to be divided.
    fn count(&self) -> usize;

    /// The first `at` parts, and the rest.
    fn divide(self, at: usize) -> (Self, Self);

    /// The part that is left when there is one.
    fn only(self) -> Self::Part;
}

/// Parts of `len` elements; the last may be shorter.
pub struct Chunks<'a, T> {
    pub data: &'a mut [T],
    pub len: usize,
}

impl<'a, T: Send> Parts for Chunks<'a, T> {
    type Part = &'a mut [T];

    fn count(&self) -> usize {
        self.data.len().div_ceil(self.len.max(1))
    }

    fn divide(self, at: usize) -> (Self, Self) {
        let (first, rest) = self.data.split_at_mut((at * self.len).min(self.data.len()));
        (Chunks { data: first, len: self.len }, Chunks { data: rest, len: self.len })
    }

    fn only(self) -> Self::Part {
        self.data
    }
}

/// Two at a time; as many as the shorter has.
impl<A: Parts, B: Parts> Parts for (A, B) {
    type Part = (A::Part, B::Part);

    fn count(&self) -> usize {
        self.0.count().min(self.1.count())
    }

    fn divide(self, at: usize) -> (Self, Self) {
        let (a, b) = (self.0.divide(at), self.1.divide(at));
        ((a.0, b.0), (a.1, b.1))
    }

    fn only(self) -> Self::Part {
        (self.0.only(), self.1.only())
    }
}

/// Several at a time; as many as the shortest has.
impl<P: Parts, const W: usize> Parts for [P; W] {
    type Part = [P::Part; W];

    fn count(&self) -> usize {
        self.iter().map(P::count).min().unwrap_or(0)
    }

    fn divide(self, at: usize) -> (Self, Self) {
        let mut rest = [const { None }; W];
        let mut rest_of = rest.iter_mut();
        let first = self.map(|parts| {
            let (first, after) = parts.divide(at);
            if let Some(rest) = rest_of.next() {
                *rest = Some(after);
            }
            first
        });
        (first, rest.map(|rest| rest.expect("one for each")))
    }

    fn only(self) -> Self::Part {
        self.map(P::only)
    }
}

/// Parts of what may be absent: then `None` beside every part of the others.
impl<P: Parts> Parts for Option<P> {
    type Part = Option<P::Part>;

    fn count(&self) -> usize {
        self.as_ref().map_or(usize::MAX, P::count)
    }

    fn divide(self, at: usize) -> (Self, Self) {
        self.map(|parts| parts.divide(at)).unzip()
    }

    fn only(self) -> Self::Part {
        self.map(P::only)
    }
}

/// Runs `job(first + i, part i)` on the threads of the current pool, halving what is left between them.
pub(crate) fn divided<P: Parts>(parts: P, first: usize, job: &(impl Fn(usize, P::Part) + Send + Sync)) {
    match parts.count() {
        0 => {}
        1 => job(first, parts.divide(1).0.only()),
        count => {
            let (left, right) = parts.divide(count / 2);
            rayon::join(|| divided(left, first, job), || divided(right, first + count / 2, job));
        }
    }
}

/// Runs `job(i, part i)` in order.
pub(crate) fn in_order<P: Parts>(mut parts: P, job: &impl Fn(usize, P::Part)) {
    for i in 0..parts.count() {
        let (part, rest) = parts.divide(1);
        job(i, part.only());
        parts = rest;
    }
}
