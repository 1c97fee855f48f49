use tensor::{Shape, ShapeError};

use super::Conv2d;
use crate::check;

/// A convolution's sizes for one input size, checked. Channels are those of one group.
#[derive(Clone, Debug)]
pub(super) struct Geometry {
    pub groups: usize,
    /// Input channels `C` of a group.
    pub inputs: usize,
    /// Output channels `K` of a group.
    pub outputs: usize,
    /// `H`, `W`.
    pub input: [usize; 2],
    /// `H'`, `W'`.
    pub output: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    /// Top, left, bottom, right.
    pub padding: [usize; 4],
    pub dilation: [usize; 2],
}

impl Geometry {
    pub(super) fn new(conv: &Conv2d, input: Shape) -> Result<Geometry, ShapeError> {
        const WHAT: &str = "conv2d";
        let [_, channels, h, w] = input.nchw(WHAT)?;
        let Conv2d { in_channels, out_channels, groups, .. } = *conv;
        check::attribute("conv2d groups", groups, groups > 0, "there is at least one group")?;
        let divides = |n: usize| n > 0 && n.is_multiple_of(groups);
        check::attribute(
            "conv2d in_channels",
            in_channels,
            divides(in_channels),
            "not a multiple of groups",
        )?;
        check::attribute(
            "conv2d out_channels",
            out_channels,
            divides(out_channels),
            "not a multiple of groups",
        )?;
        if channels != in_channels {
            return Err(ShapeError::Channels { what: WHAT, expected: in_channels, found: channels });
        }
        check::attribute("conv2d input", 0, h > 0 && w > 0, "an image has at least one element")?;
        let [top, left, bottom, right] = conv.padding;
        let steps = |axis: usize| [conv.kernel[axis], conv.stride[axis], conv.dilation[axis]];
        let output = [
            check::positions("conv2d height", h, steps(0), [top, bottom])?,
            check::positions("conv2d width", w, steps(1), [left, right])?,
        ];
        Shape::try_new(&conv.weight_dims())?;
        let geometry = Geometry {
            groups,
            inputs: in_channels / groups,
            outputs: out_channels / groups,
            input: [h, w],
            output,
            kernel: conv.kernel,
            stride: conv.stride,
            padding: conv.padding,
            dilation: conv.dilation,
        };
        geometry.check_padding()?;
        Ok(geometry)
    }

    /// A padded image is held in scratch memory: a padding out of all proportion must not exhaust it.
    fn check_padding(&self) -> Result<(), ShapeError> {
        let [h, w] = self.padded();
        let padded = Shape::try_new(&[self.inputs, h, w])?.len();
        let real = Shape::try_new(&[self.inputs, self.input[0], self.input[1]])?.len();
        let made = Shape::try_new(&[self.outputs, self.output[0], self.output[1]])?.len();
        let limit = real.saturating_add(made).saturating_mul(16).saturating_add(1 << 20);
        let largest = self.padding.into_iter().max().unwrap_or(0);
        check::attribute("conv2d padding", largest, padded <= limit, "out of proportion to the image")
    }

    pub(super) fn output(&self, n: usize) -> Result<Shape, ShapeError> {
        Shape::try_new(&[n, self.groups * self.outputs, self.output[0], self.output[1]])
    }

    /// `H·W`.
    pub(super) fn input_plane(&self) -> usize {
        self.input[0] * self.input[1]
    }

    /// `H'·W'`.
    pub(super) fn output_plane(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Height and width with padding.
    pub(super) fn padded(&self) -> [usize; 2] {
        let [top, left, bottom, right] = self.padding;
        [self.input[0] + top + bottom, self.input[1] + left + right]
    }

    /// Elements of a padded row, whose columns lie sorted by their remainder modulo the stride: those that one tap reads
    /// for consecutive outputs then follow each other.
    #[inline(always)]
    pub(super) fn row_len(&self) -> usize {
        match (self.padded()[1], self.stride[1]) {
            (columns, 1) => columns,
            (columns, 2) => columns.next_multiple_of(2),
            (columns, across) => columns.next_multiple_of(across),
        }
    }

    /// Where a padded column lies in its row.
    #[inline(always)]
    pub(super) fn in_row(&self, column: usize) -> usize {
        // Asked for every tap of every panel: the usual strides do without divisions.
        match self.stride[1] {
            1 => column,
            2 => column % 2 * (self.row_len() / 2) + column / 2,
            across => column % across * (self.row_len() / across) + column / across,
        }
    }

    /// Whether any window reads this padded row (axis 0) or column (1).
    pub(super) fn reads(&self, axis: usize, at: usize) -> bool {
        let stride = self.stride[axis];
        (0..self.kernel[axis].min(stride)).any(|tap| tap * self.dilation[axis] % stride == at % stride)
    }

    /// Elements of a kernel plane.
    pub(super) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Depth of the columns: `C·KH·KW`.
    pub(super) fn depth(&self) -> usize {
        self.inputs * self.taps()
    }

    /// One input channel per group: too little for a matrix product.
    pub(super) fn is_depthwise(&self) -> bool {
        self.inputs == 1 && self.groups > 1
    }

    /// The stride-1 convolution of `dy` that gives `dx`, with kernels turned by 180° and channels exchanged; `None` where
    /// the stride is not 1 or the padding would be negative.
    pub(super) fn transposed(&self) -> Option<Geometry> {
        if self.stride != [1, 1] {
            return None;
        }
        let mut padding = [0; 4];
        for axis in 0..2 {
            let reach = (self.kernel[axis] - 1) * self.dilation[axis];
            padding[axis] = reach.checked_sub(self.padding[axis])?;
            padding[axis + 2] = reach.checked_sub(self.padding[axis + 2])?;
        }
        Some(Geometry {
            inputs: self.outputs,
            outputs: self.inputs,
            input: self.output,
            output: self.input,
            padding,
            ..*self
        })
    }

    /// The 1×1 convolution whose columns are the output gradient itself.
    pub(super) fn of_output(&self) -> Geometry {
        Geometry {
            groups: self.groups,
            inputs: self.outputs,
            outputs: self.inputs,
            input: self.output,
            output: self.output,
            kernel: [1; 2],
            stride: [1; 2],
            padding: [0; 4],
            dilation: [1; 2],
        }
    }
}
