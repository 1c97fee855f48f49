//! The micro-kernel: a tile of at most `width × cols` of a product, in registers.
//!
//! The crate `gemm-f32` has the kernels; which one this processor can run is found here once. Block sizes are fixed in
//! [`super::blocks`], so no cache size is read from `/sys`, from `lscpu` or from the processor, and results are the
//! same bits on every processor with the same vector length.

use std::sync::OnceLock;

use gemm_f32::microkernel;

use super::bf16::{self, Isa, TileState};

/// Arguments: m, n, k, dst, left, right, dst_cs, dst_rs, left_cs, right_rs, right_cs, dst scale, scale, status of the
/// dst scale (0: zero, 1: one, 2: other), three conjugations and a prefetch address that have no meaning here.
type Function = unsafe fn(
    usize,
    usize,
    usize,
    *mut f32,
    *const f32,
    *const f32,
    isize,
    isize,
    isize,
    isize,
    isize,
    f32,
    f32,
    u8,
    bool,
    bool,
    bool,
    *const f32,
);

/// Widest panel of any kernel.
pub(crate) const MAX_WIDTH: usize = 64;

/// Widest column block of a kernel of the crate.
const MAX_COLS: usize = 8;

/// Depth of one pass: a block of [`Kernel::cols`] columns of this depth stays in the first-level cache.
const DEPTH: usize = 512;

/// The micro-kernels of one instruction set.
pub(crate) struct Kernel {
    name: &'static str,
    vector: usize,
    width: usize,
    cols: usize,
    /// Most steps of depth in one pass.
    depth: usize,
    micro: Micro,
}

#[allow(clippy::large_enum_variant)] // There are a few kernels in all, and the table is read for each tile.
enum Micro {
    /// Of `f32`: `table[vectors − 1][columns − 1]`.
    Single([[Option<Function>; MAX_COLS]; 4]),
    /// Of pairs of bf16.
    Pairs(Isa),
}

/// The operands of one tile: `dst[r, c] = dst_scale · dst[r, c] + scale · Σ_k left[k·width + r] · right[k, c]`.
pub(crate) struct Tile<'a> {
    pub rows: usize,
    pub cols: usize,
    pub depth: usize,
    /// A packed panel, `[depth, width]`.
    pub left: &'a [f32],
    /// Elements from one depth of `left` to the next.
    pub left_stride: usize,
    pub right: &'a [f32],
    pub right_strides: [usize; 2],
    pub dst: &'a mut [f32],
    pub dst_strides: [usize; 2],
    pub dst_scale: f32,
    pub scale: f32,
}

impl Kernel {
    /// The fastest kernel this processor can run.
    pub(crate) fn detected() -> &'static Kernel {
        static KERNEL: OnceLock<Kernel> = OnceLock::new();
        KERNEL.get_or_init(|| {
            #[cfg(test)]
            if let Some(kernel) = Kernel::limited(Kernel::available()) {
                return kernel;
            }
            Kernel::available().next().expect("the scalar kernel runs everywhere")
        })
    }

    /// Every kernel this processor can run, fastest first.
    pub(crate) fn available() -> impl Iterator<Item = Kernel> {
        let mut kernels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma") {
                kernels.push(Kernel::new("avx512f", 16, &microkernel::avx512f::f32::UKR));
            }
            if is_x86_feature_detected!("avx") && is_x86_feature_detected!("fma") {
                kernels.push(Kernel::new("fma", 8, &microkernel::fma::f32::UKR));
            }
        }
        // NEON belongs to every 64-bit ARM processor.
        #[cfg(target_arch = "aarch64")]
        kernels.push(Kernel::new("neon", 4, &microkernel::neon::f32::UKR));
        kernels.push(Kernel::new("scalar", 1, &microkernel::scalar::f32::UKR));
        kernels.into_iter()
    }

    /// The fastest kernel for pairs of bf16 this processor can run: operands are pairs ([`super::bf16`]), a step of depth
    /// is two multiply-adds, and the right operand's depths must lie next to each other.
    pub(crate) fn bf16() -> &'static Kernel {
        static KERNEL: OnceLock<Kernel> = OnceLock::new();
        KERNEL.get_or_init(|| {
            #[cfg(test)]
            if crate::simd::limit().is_some() {
                let kernel = Kernel::limited(Kernel::bf16_available());
                return kernel.unwrap_or_else(|| Kernel::of_pairs(Isa::Portable));
            }
            Kernel::bf16_available().next().expect("the portable kernel runs everywhere")
        })
    }

    /// Every kernel for pairs of bf16 this processor can run, fastest first.
    pub(crate) fn bf16_available() -> impl Iterator<Item = Kernel> {
        Isa::available().map(Kernel::of_pairs)
    }

    /// The one that the tests of this process are limited to.
    #[cfg(test)]
    fn limited(mut kernels: impl Iterator<Item = Kernel>) -> Option<Kernel> {
        let limit = crate::simd::limit()?;
        kernels.find(|kernel| kernel.name == limit)
    }

    fn of_pairs(isa: Isa) -> Kernel {
        let [width, cols] = isa.block();
        Kernel {
            name: isa.name(),
            vector: bf16::LANES,
            width,
            cols,
            depth: bf16::DEPTH,
            micro: Micro::Pairs(isa),
        }
    }

    fn new<const C: usize, const V: usize>(
        name: &'static str,
        vector: usize,
        functions: &[[Function; C]; V],
    ) -> Kernel {
        const { assert!(C <= MAX_COLS && V <= 4) };
        let mut table = [[None; MAX_COLS]; 4];
        for (row, functions) in table.iter_mut().zip(functions) {
            for (slot, &function) in row.iter_mut().zip(functions) {
                *slot = Some(function);
            }
        }
        Kernel { name, vector, width: V * vector, cols: C, depth: DEPTH, micro: Micro::Single(table) }
    }

    /// The instruction set, such as `avx512f`.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Rows that are read together.
    pub(crate) fn vector(&self) -> usize {
        self.vector
    }

    /// Rows of a panel.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Most columns of a tile.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Depth of each pass over `depth` steps, all of about the same length.
    pub(crate) fn depth_block(&self, depth: usize) -> usize {
        let block = depth.div_ceil(depth.div_ceil(self.depth).max(1)).max(1);
        match self.micro {
            Micro::Single(_) => block,
            // Whole steps of the tile instructions, but for the last.
            Micro::Pairs(_) => block.next_multiple_of(bf16::STEP),
        }
    }

    /// Gets this thread ready for tiles of `cols` columns.
    #[inline]
    pub(crate) fn begin(&self, cols: usize) -> Ready<'_> {
        let state = match self.micro {
            Micro::Single(_) => None,
            Micro::Pairs(isa) => isa.begin(cols),
        };
        Ready { kernel: self, cols, state }
    }
}

/// A kernel on a thread that is ready to run it, for tiles of some number of columns.
pub(crate) struct Ready<'a> {
    kernel: &'a Kernel,
    cols: usize,
    state: Option<TileState>,
}

impl Ready<'_> {
    /// Columns of the tiles it is ready for.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Computes one tile.
    ///
    /// # Panics
    /// If a slice is shorter than the sizes and strides say: the caller's arithmetic is wrong.
    #[inline]
    pub(crate) fn run(&self, tile: Tile<'_>) {
        assert!(tile.cols == self.cols);
        match &self.kernel.micro {
            Micro::Single(table) => self.kernel.run_single(table, tile),
            Micro::Pairs(isa) => isa.run(self.state.as_ref(), tile),
        }
    }
}

impl Kernel {
    #[inline]
    fn run_single(&self, table: &[[Option<Function>; MAX_COLS]; 4], tile: Tile<'_>) {
        let Tile {
            rows,
            cols,
            depth,
            left,
            left_stride,
            right,
            right_strides,
            dst,
            dst_strides,
            dst_scale,
            scale,
        } = tile;
        assert!(1 <= rows && rows <= self.width && 1 <= cols && cols <= self.cols && depth >= 1);
        let vectors = rows.div_ceil(self.vector);
        assert!(left.len() >= (depth - 1) * left_stride + vectors * self.vector);
        assert!(right.len() > last(depth, right_strides[0], cols, right_strides[1]));
        assert!(dst.len() > last(rows, dst_strides[0], cols, dst_strides[1]));
        let function = table[vectors - 1][cols - 1].expect("the table is full up to width and cols");
        let status = if dst_scale == 0.0 { 0 } else { 1 + u8::from(dst_scale != 1.0) };
        // SAFETY: `available` found the instructions `function` needs. It reads `vectors · vector` elements at each of
        // `depth` multiples of `left_stride` in `left`, reads `right` at `k·rs + c·cs` for `k < depth`, `c < cols`, and
        // writes (and, unless `status` is 0, reads) `dst` at `r·rs + c·cs` for `r < rows`, `c < cols`: all inside the
        // slices by the assertions above. The slices are shorter than `isize::MAX` bytes, so the strides that are used
        // fit an `isize`; one that is not used (its size is 1) is replaced by 0 where it does not. `dst` is borrowed
        // mutably, so it overlaps neither operand. Pointers beyond an operand's end are computed with wrapping
        // arithmetic and not read.
        #[allow(unsafe_code)]
        unsafe {
            function(
                rows,
                cols,
                depth,
                dst.as_mut_ptr(),
                left.as_ptr(),
                right.as_ptr(),
                signed(dst_strides[1]),
                signed(dst_strides[0]),
                signed(left_stride),
                signed(right_strides[0]),
                signed(right_strides[1]),
                dst_scale,
                scale,
                status,
                false,
                false,
                false,
                std::ptr::null(),
            );
        }
    }
}

/// Largest index into a matrix; `usize::MAX`, which no slice reaches, where it overflows.
pub(super) fn last(rows: usize, row_stride: usize, cols: usize, col_stride: usize) -> usize {
    (rows - 1).saturating_mul(row_stride).saturating_add((cols - 1).saturating_mul(col_stride))
}

fn signed(stride: usize) -> isize {
    isize::try_from(stride).unwrap_or(0)
}
