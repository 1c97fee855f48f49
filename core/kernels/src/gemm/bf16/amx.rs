//! Tile instructions of x86-64 (AMX-BF16): 16×16 sums of 32 products each, in one instruction.
//!
//! Stable Rust has no intrinsics for them, and the operating system gives the tiles to a process that asks: both are
//! here, as assembly.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::marker::PhantomData;

use super::{LANES, Operands, STEP};
use crate::gemm::kernel::Tile;

/// Rows and columns of a block: two tiles by two.
pub(super) const SIDE: usize = 32;

/// Rows of a tile, and numbers in one.
const ROWS: usize = 16;

/// Whether the processor has the instructions and the operating system lets this process use them.
pub(super) fn is_available() -> bool {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    let leaves = __cpuid_count(0, 0).eax;
    leaves >= 7 && __cpuid_count(7, 0).edx & (BF16 | TILE) == BF16 | TILE && ask_for_tiles()
}

/// Asks Linux for the tiles' state on behalf of the process (`arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`):
/// the only system call of the kernels. It changes nothing but that the process may use the instructions.
fn ask_for_tiles() -> bool {
    const ARCH_PRCTL: u64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: the call reads and writes no memory of this process; it keeps every register but those named.
    #[allow(unsafe_code)]
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// The sizes of all tiles, as the processor reads them.
#[repr(C, align(64))]
struct Sizes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Tiles of this thread, in use: sums in 0 to 3, columns of the right operand in 4 and 5, rows of the left in 6 and 7.
pub(crate) struct TileState {
    /// Rows of tile 4, and of tile 5.
    cols: usize,
    of_this_thread: PhantomData<*const ()>,
}

impl TileState {
    /// # Panics
    /// Unless `cols` is from 1 to [`SIDE`].
    pub(super) fn new(cols: usize) -> Self {
        assert!((1..=SIDE).contains(&cols));
        let (upper, lower) = (cols.min(ROWS) as u8, cols.saturating_sub(ROWS) as u8);
        let mut sizes =
            Sizes { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        sizes.rows[..8].copy_from_slice(&[upper, upper, lower, lower, upper, lower, 16, 16]);
        for (bytes, &rows) in sizes.row_bytes.iter_mut().zip(&sizes.rows) {
            *bytes = if rows == 0 { 0 } else { 64 };
        }
        // SAFETY: the one place that makes an `Isa::Amx`, whose `begin` this is, is `Isa::available`, after `is_available` has
        // found the instruction and the permission. `sizes` is what the instruction reads, 64 valid bytes of palette 1. No
        // compiled code uses tiles.
        #[allow(unsafe_code)]
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &sizes, options(nostack, readonly, preserves_flags));
        }
        TileState { cols, of_this_thread: PhantomData }
    }
}

impl Drop for TileState {
    /// Tiles in use would have to be kept whenever the thread is interrupted.
    fn drop(&mut self) {
        // SAFETY: `new` ran on this thread, so the instruction exists.
        #[allow(unsafe_code)]
        unsafe {
            asm!("tilerelease", options(nostack, nomem, preserves_flags));
        }
    }
}

macro_rules! load {
    ($tile:literal, $at:expr, $stride:expr) => {
        asm!(
            concat!("tileloadd tmm", $tile, ", [{} + {}]"),
            in(reg) $at,
            in(reg) $stride,
            options(nostack, readonly, preserves_flags),
        )
    };
}

macro_rules! store {
    ($tile:literal, $at:expr, $stride:expr) => {
        asm!(
            concat!("tilestored [{} + {}], tmm", $tile),
            in(reg) $at,
            in(reg) $stride,
            options(nostack, preserves_flags),
        )
    };
}

macro_rules! zero {
    ($tile:literal) => {
        asm!(concat!("tilezero tmm", $tile), options(nostack, nomem, preserves_flags))
    };
}

macro_rules! multiply_add {
    ($sums:literal, $right:literal, $left:literal) => {
        asm!(
            concat!("tdpbf16ps tmm", $sums, ", tmm", $right, ", tmm", $left),
            options(nostack, nomem, preserves_flags),
        )
    };
}

/// Whether the tiles of sums can be loaded from where they go, and stored there.
pub(super) fn is_whole(tile: &Tile<'_>, lanes: usize) -> bool {
    let alone = tile.dst_scale == 0.0 || tile.dst_scale == 1.0;
    tile.rows == lanes && tile.dst_strides[0] == 1 && tile.scale == 1.0 && alone
}

/// `sums[c·stride + r] = Σ_k …`, or added to what is there.
#[inline]
pub(super) fn sum(state: &TileState, operands: &Operands<'_>, add: bool, sums: &mut [f32], stride: usize) {
    assert!(state.cols == operands.cols);
    let Operands { lanes, cols, .. } = *operands;
    assert!(lanes == LANES || lanes == SIDE);
    assert!(sums.len() >= (cols - 1) * stride + lanes);
    // SAFETY: the caller holds a `TileState` of `cols` columns. `sums` is as long as the tiles that are loaded and
    // stored; `Isa::run` has checked the operands.
    #[allow(unsafe_code)]
    unsafe {
        match (cols > ROWS, lanes > LANES) {
            (false, false) => sum_tiles::<false, false>(operands, add, sums.as_mut_ptr(), stride),
            (false, true) => sum_tiles::<false, true>(operands, add, sums.as_mut_ptr(), stride),
            (true, false) => sum_tiles::<true, false>(operands, add, sums.as_mut_ptr(), stride),
            (true, true) => sum_tiles::<true, true>(operands, add, sums.as_mut_ptr(), stride),
        }
    }
}

/// One tile of sums, or two for more columns (`TALL`), or for more rows (`WIDE`), or four for both.
///
/// # Safety
/// The thread's tiles are set for `operands.cols`; `left` has `lanes` pairs at each depth, `right` has `depth` pairs in
/// each column, and `sums` has `lanes` elements in each column.
#[allow(unsafe_code)]
#[inline(always)]
unsafe fn sum_tiles<const TALL: bool, const WIDE: bool>(
    operands: &Operands<'_>,
    add: bool,
    sums: *mut f32,
    stride: usize,
) {
    let Operands { lanes, cols, depth, left, left_stride, right, right_stride } = *operands;
    let bytes = |elements: usize| elements * size_of::<f32>();
    // Wrapping: the places of tiles that are not used are not read.
    let places = [0, LANES, ROWS * stride, ROWS * stride + LANES].map(|at| sums.wrapping_add(at));
    // SAFETY: as above; a last step shorter than a tile is copied to where the rest is 0.
    unsafe {
        if add {
            load!("0", places[0], bytes(stride));
            if WIDE {
                load!("1", places[1], bytes(stride));
            }
            if TALL {
                load!("2", places[2], bytes(stride));
            }
            if TALL && WIDE {
                load!("3", places[3], bytes(stride));
            }
        } else {
            zero!("0");
            zero!("1");
            if TALL {
                zero!("2");
                zero!("3");
            }
        }
        let whole = depth / STEP * STEP;
        for k in (0..whole).step_by(STEP) {
            let (left, right) = (left.as_ptr().add(k * left_stride), right.as_ptr().add(k));
            step::<TALL, WIDE>(left, bytes(left_stride), right, bytes(right_stride));
        }
        if whole < depth {
            let mut short = [[0.0; STEP]; SIDE];
            for (c, to) in short.iter_mut().enumerate().take(cols) {
                let from = &right[c * right_stride + whole..][..depth - whole];
                to[..from.len()].copy_from_slice(from);
            }
            let mut few = [[0.0; SIDE]; STEP];
            for (k, to) in (whole..depth).zip(&mut few) {
                to[..lanes].copy_from_slice(&left[k * left_stride..][..lanes]);
            }
            step::<TALL, WIDE>(few.as_ptr().cast(), bytes(SIDE), short.as_ptr().cast(), bytes(STEP));
        }
        store!("0", places[0], bytes(stride));
        if WIDE {
            store!("1", places[1], bytes(stride));
        }
        if TALL {
            store!("2", places[2], bytes(stride));
        }
        if TALL && WIDE {
            store!("3", places[3], bytes(stride));
        }
    }
}

/// Adds the products of [`STEP`] pairs.
///
/// # Safety
/// As [`sum_tiles`], for so many pairs from these places on; strides are in bytes.
#[allow(unsafe_code)]
#[inline(always)]
unsafe fn step<const TALL: bool, const WIDE: bool>(
    left: *const f32,
    left_stride: usize,
    right: *const f32,
    right_stride: usize,
) {
    // SAFETY: as above.
    unsafe {
        load!("4", right, right_stride);
        load!("6", left, left_stride);
        multiply_add!("0", "4", "6");
        if WIDE {
            load!("7", left.wrapping_add(LANES), left_stride);
            multiply_add!("1", "4", "7");
        }
        if TALL {
            load!("5", right.wrapping_byte_add(ROWS * right_stride), right_stride);
            multiply_add!("2", "5", "6");
        }
        if TALL && WIDE {
            multiply_add!("3", "5", "7");
        }
    }
}
