//! The classes, as signed distances to their edges.

use super::draw::Draw;

const SQRT_3_HALVES: f32 = 0.866_025_4;

/// One of the classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Disc,
    Ring,
    Square,
    Triangle,
    Cross,
    Bar,
    Corner,
    Rows,
    Columns,
    Checker,
}

impl Shape {
    pub(super) const ALL: [Self; 10] = [
        Self::Disc,
        Self::Ring,
        Self::Square,
        Self::Triangle,
        Self::Cross,
        Self::Bar,
        Self::Corner,
        Self::Rows,
        Self::Columns,
        Self::Checker,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Disc => "disc",
            Self::Ring => "ring",
            Self::Square => "square",
            Self::Triangle => "triangle",
            Self::Cross => "cross",
            Self::Bar => "bar",
            Self::Corner => "corner",
            Self::Rows => "rows",
            Self::Columns => "columns",
            Self::Checker => "checker",
        }
    }

    /// Draws place, size and rotation; gives the signed distance, in pixels, of a point to the edge, negative inside.
    pub(super) fn place(self, draw: &mut Draw) -> impl Fn([f32; 2]) -> f32 + use<> {
        let size = draw.between(9.0, 13.0);
        let centre = [0; 2].map(|_| draw.between(11.5, 20.5));
        let along = draw.upright();
        let grain = Grain::draw(draw);
        move |point| {
            let pixels = turned(point, centre, along);
            let unit = pixels.map(|x| x / size);
            match self {
                Self::Rows | Self::Columns | Self::Checker => {
                    let patch = if grain.round { disc(unit, 1.0) } else { block(unit, [0.0; 2], [0.85; 2]) };
                    let texture = match self {
                        Self::Rows => grain.stripe(point, [grain.tilt, 1.0]),
                        Self::Columns => grain.stripe(point, [1.0, grain.tilt]),
                        _ => grain.checker(pixels),
                    };
                    (patch * size).max(texture)
                }
                _ => self.outline(unit) * size,
            }
        }
    }

    /// Distance to the outline of a shape about as large as the unit disc.
    fn outline(self, [x, y]: [f32; 2]) -> f32 {
        let centre = [0.0; 2];
        match self {
            Self::Disc => disc([x, y], 0.85),
            Self::Ring => disc([x, y], 0.72).abs() - 0.2,
            Self::Square => block([x, y], centre, [0.75; 2]),
            Self::Triangle => {
                let sides = [y, x * SQRT_3_HALVES - y * 0.5, -x * SQRT_3_HALVES - y * 0.5];
                sides.into_iter().fold(f32::MIN, f32::max) - 0.5
            }
            Self::Cross => block([x, y], centre, [1.0, 0.28]).min(block([x, y], centre, [0.28, 1.0])),
            Self::Bar => block([x, y], centre, [1.0, 0.28]),
            _ => block([x, y], [0.0, -0.5], [0.8, 0.28]).min(block([x, y], [-0.52, 0.0], [0.28, 0.8])),
        }
    }
}

/// What makes a texture: period in pixels, where it starts, a small tilt, and the form of its patch.
struct Grain {
    period: f32,
    start: [f32; 2],
    tilt: f32,
    round: bool,
}

impl Grain {
    fn draw(draw: &mut Draw) -> Self {
        Self {
            period: draw.between(4.5, 6.5),
            start: [0; 2].map(|_| draw.unit()),
            tilt: draw.between(-0.25, 0.25),
            round: draw.unit() < 0.5,
        }
    }

    fn stripe(&self, [x, y]: [f32; 2], across: [f32; 2]) -> f32 {
        self.wave(x * across[0] + y * across[1], 0)
    }

    /// Negative where just one of two crossed stripes is.
    fn checker(&self, [x, y]: [f32; 2]) -> f32 {
        let (a, b) = (self.wave(x * 0.7, 0), self.wave(y * 0.7, 1));
        if (a < 0.0) == (b < 0.0) { a.abs().min(b.abs()) } else { -a.abs().min(b.abs()) }
    }

    /// Distance to a stripe of half a period, at the place `x` across the stripes.
    fn wave(&self, x: f32, axis: usize) -> f32 {
        let turns = x / self.period + self.start[axis];
        ((turns - turns.floor() - 0.5).abs() - 0.25) * self.period
    }
}

/// `point` as seen from `centre` with the first axis along the unit vector `along`.
pub(super) fn turned(point: [f32; 2], centre: [f32; 2], along: [f32; 2]) -> [f32; 2] {
    let [x, y] = [point[0] - centre[0], point[1] - centre[1]];
    [x * along[0] + y * along[1], y * along[0] - x * along[1]]
}

/// Distance to a rectangle, from the side it is farthest beyond.
pub(super) fn block(point: [f32; 2], centre: [f32; 2], half: [f32; 2]) -> f32 {
    let beyond = |axis: usize| (point[axis] - centre[axis]).abs() - half[axis];
    beyond(0).max(beyond(1))
}

fn disc([x, y]: [f32; 2], radius: f32) -> f32 {
    (x * x + y * y).sqrt() - radius
}
