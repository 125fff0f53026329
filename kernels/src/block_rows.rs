//! Rows as an operand of the block-scaled MMA ([`crate::operand`]): what [`crate::quantise_blocks_bf16`] and
//! [`crate::quantise_blocks_f32`] write.

use crate::operand::{self, BLOCK_ROWS, STEP_CODE_BYTES, STEP_K, STEP_SCALE_BYTES};
use crate::quantise::{Target, expert_of};
use crate::row::scale_word;
use nvfp4::BLOCK;
use nvfp4::quantize::Block;

/// Rows that a tile of the MMA is padded to: its N is a multiple of 8, of 16 for a pair of CTAs (PTX ISA, tcgen05.mma,
/// shapes). Padding rows are zeros.
pub const GROUP_ROWS: u32 = 16;
/// Groups of 16 of a step.
const STEP_GROUPS: u32 = (STEP_K / BLOCK) as u32;

const _: () = {
    // No group of rows crosses a block, and an expert starts with a block.
    assert!(BLOCK_ROWS.is_multiple_of(GROUP_ROWS as usize));
    // A step's scales of a row are one word.
    assert!(STEP_GROUPS == 4 && operand::scale_offset(0, 3) == operand::scale_offset(0, 0) + 3);
    // A group's codes lie together.
    assert!(operand::code_offset(0, 14) == operand::code_offset(0, 0) + 7);
};

/// The constant scale of the rows' results in the next product, by expert: written beside the rows' own scales, so that
/// an epilogue needs to touch it only where a result is not finite.
#[derive(Clone, Copy)]
pub struct NextScale {
    /// f32 `[rows]`, or null.
    pub scale: *mut f32,
    /// f32 `[experts]`; unused if `scale` is null.
    pub constant: *const f32,
    /// u32 `[experts]`: first row of each; unused if `scale` is null.
    pub offsets: *const u32,
    /// Experts.
    pub experts: u32,
}

impl NextScale {
    /// None.
    pub const NONE: NextScale = NextScale {
        scale: core::ptr::null_mut(),
        constant: core::ptr::null(),
        offsets: core::ptr::null(),
        experts: 0,
    };
}

/// Rows of codes and scales. Pointers to global memory for whole blocks of rows.
#[derive(Clone, Copy)]
pub struct BlockRows {
    /// u8 `[row blocks][steps]` of [`STEP_CODE_BYTES`]; 8-byte aligned.
    pub codes: *mut u8,
    /// u8 `[row blocks][steps]` of [`STEP_SCALE_BYTES`]; 4-byte aligned.
    pub scales: *mut u8,
    /// f32 `[rows]`: global scales.
    pub b_scale: *mut f32,
    /// Steps of 64 columns.
    pub steps: u32,
    /// Scales of the next product.
    pub next: NextScale,
}

impl Target for BlockRows {
    const GROUP_ROWS: u32 = GROUP_ROWS;

    #[inline(always)]
    fn groups(&self) -> u32 {
        self.steps * STEP_GROUPS
    }

    #[inline(always)]
    unsafe fn store_scale(&self, row: u32, s2: f32) {
        // SAFETY: the caller's row; the arrays of `next` are there unless its scale is null.
        unsafe {
            self.b_scale.add(row as usize).write(s2);
            if !self.next.scale.is_null() {
                let expert = expert_of(self.next.offsets, self.next.experts, row);
                self.next.scale.add(row as usize).write(*self.next.constant.add(expert as usize));
            }
        }
    }

    #[inline(always)]
    unsafe fn store(&self, row: u32, g: u32, block: Block) {
        // SAFETY: all lanes are here.
        let word = unsafe { scale_word(block.scale) };
        // SAFETY: the caller's row.
        unsafe { self.store_codes(row, g, block.codes, word) };
    }

    #[inline(always)]
    unsafe fn store_zeros(&self, row: u32, g: u32) {
        // SAFETY: the caller's row.
        unsafe { self.store_codes(row, g, 0, 0) };
    }
}

impl BlockRows {
    /// Stores the codes of group `g` and, if it is the first of a step, the step's scales; nothing past the last group.
    ///
    /// # Safety
    /// The row exists.
    #[inline(always)]
    unsafe fn store_codes(&self, row: u32, g: u32, codes: u64, scales: u32) {
        let (row, group) = (row as usize, (g % STEP_GROUPS) as usize);
        let unit = row / BLOCK_ROWS * self.steps as usize + (g / STEP_GROUPS) as usize;
        let row = row % BLOCK_ROWS;
        if g < self.groups() {
            // SAFETY: the caller's row, a group of it.
            unsafe {
                let at = unit * STEP_CODE_BYTES + operand::code_offset(row, group * BLOCK);
                self.codes.add(at).cast::<u64>().write(codes);
                if group == 0 {
                    let at = unit * STEP_SCALE_BYTES + operand::scale_offset(row, 0);
                    self.scales.add(at).cast::<u32>().write(scales);
                }
            }
        }
    }
}
