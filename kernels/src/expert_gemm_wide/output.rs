//! What becomes of accumulators: SwiGLU as bf16 or f32, or the scaled sums.

use cuda_std::convergence::opaque_u32;
use cuda_std::half::bf16x2_from_f32;
use cuda_std::prelude::*;

use crate::epilogue;
use crate::fragment::{GATE_UP_FEATURES, TILE_ROWS};

/// One lane's share of a chunk: the accumulators of one row tile and one token.
#[derive(Clone, Copy)]
pub struct Lane {
    /// Shared address of the 16 accumulators, in order of rows; 16-byte aligned.
    pub staged: u32,
    /// Scale of the token's row of B.
    pub scale: f32,
    /// The expert's alphas.
    pub alphas: [f32; 2],
    /// Row of the output.
    pub row: u32,
    /// Row tile, counted in the chunk of columns.
    pub row_tile: u32,
    /// First row tile of the chunk of columns.
    pub first_tile: u32,
    /// Whether the row and the row tile exist.
    pub wanted: bool,
}

/// A kind of output.
pub trait Output {
    /// Alpha and alpha_up of an expert; equal where there is one.
    ///
    /// # Safety
    /// The expert exists.
    unsafe fn alphas(&self, expert: u32) -> [f32; 2];

    /// Computes the lane's results and stores them if they are wanted.
    ///
    /// # Safety
    /// The accumulators are staged; the output holds the row.
    unsafe fn store(&self, lane: Lane);
}

/// What all outputs need.
#[derive(Clone, Copy)]
pub struct Target<T> {
    /// `[rows][stride]`.
    pub out: *mut T,
    /// Elements from row to row.
    pub stride: u32,
    /// Features at or past this one are not stored.
    pub features: u32,
    /// Whether scale and alpha are multiplied first.
    pub fold: bool,
    /// f32 `[experts]`.
    pub alpha: *const f32,
    /// f32 `[experts]`; equal to `alpha` where there is one.
    pub alpha_up: *const f32,
}

impl<T> Target<T> {
    /// # Safety
    /// As [`Output::alphas`].
    #[inline(always)]
    unsafe fn alphas(&self, expert: u32) -> [f32; 2] {
        // SAFETY: the caller's duty.
        unsafe { [*self.alpha.add(expert as usize), *self.alpha_up.add(expert as usize)] }
    }

    /// Address of `count` neighbouring features from that of the lane's row tile on, how many of them are stored,
    /// and whether 16-byte stores are possible.
    #[inline(always)]
    fn place(&self, lane: &Lane, features: u32, count: u32) -> (*mut T, u32, bool) {
        let at = lane.row as usize * self.stride as usize + (lane.row_tile * features) as usize;
        let to = self.out.wrapping_add(at);
        let feature = (lane.first_tile + lane.row_tile) * features;
        let left = self.features.saturating_sub(feature).min(count);
        (to, if lane.wanted { left } else { 0 }, (to as usize).is_multiple_of(16))
    }
}

/// Sixteen staged accumulators from word `first` on.
///
/// # Safety
/// They are staged.
#[inline(always)]
unsafe fn staged<const COUNT: usize>(address: u32, first: u32) -> [f32; COUNT] {
    let mut v = [0.0; COUNT];
    let mut i = 0;
    while i < COUNT / 4 {
        // SAFETY: the caller's duty.
        let w = unsafe { shared::load_v4(address + 4 * (first + 4 * i as u32)) };
        v[4 * i] = f32::from_bits(w[0]);
        v[4 * i + 1] = f32::from_bits(w[1]);
        v[4 * i + 2] = f32::from_bits(w[2]);
        v[4 * i + 3] = f32::from_bits(w[3]);
        i += 1;
    }
    v
}

/// Eight results of SwiGLU.
///
/// # Safety
/// As [`Output::store`].
#[inline(always)]
unsafe fn swiglu<T>(target: &Target<T>, lane: &Lane, limit: f32) -> [f32; GATE_UP_FEATURES] {
    const HALF: usize = GATE_UP_FEATURES / 2;
    let [alpha, alpha_up] = lane.alphas;
    let mut h = [0.0; GATE_UP_FEATURES];
    // In halves, which take fewer registers.
    let mut i = 0;
    while i < 2 {
        // SAFETY: the caller's duty. The address hides from the compiler that both halves could be loaded at once.
        let (gate, up) = unsafe {
            let from = opaque_u32(lane.staged) + 4 * (HALF * i) as u32;
            (staged(from, 0), staged(from, GATE_UP_FEATURES as u32))
        };
        let half: [f32; HALF] =
            epilogue::swiglu(gate, up, [lane.scale; HALF], alpha, alpha_up, target.fold, limit);
        let mut j = 0;
        while j < HALF {
            h[HALF * i + j] = half[j];
            j += 1;
        }
        i += 1;
    }
    h
}

/// Stores the first `left` of the words, by 16 bytes if `wide`.
///
/// # Safety
/// `to` is 4-byte aligned, and `left` words there are the caller's; 16-byte aligned if `wide`.
#[inline(always)]
unsafe fn store_words<const COUNT: usize>(to: *mut u32, v: [u32; COUNT], left: u32, wide: bool) {
    let mut i = 0;
    if wide && left as usize == COUNT {
        while i < COUNT / 4 {
            // SAFETY: the caller's duty.
            unsafe { global::store_v4(to.add(4 * i), [v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]]) };
            i += 1;
        }
    } else {
        while i < COUNT {
            if (i as u32) < left {
                // SAFETY: the caller's duty.
                unsafe { to.add(i).write(v[i]) };
            }
            i += 1;
        }
    }
}

/// `bf16(swiglu(gate, up))`.
pub struct SwigluBf16 {
    /// Where to.
    pub target: Target<u16>,
    /// Clamp.
    pub limit: f32,
}

impl Output for SwigluBf16 {
    #[inline(always)]
    unsafe fn alphas(&self, expert: u32) -> [f32; 2] {
        // SAFETY: the caller's duty.
        unsafe { self.target.alphas(expert) }
    }

    #[inline(always)]
    unsafe fn store(&self, lane: Lane) {
        const N: usize = GATE_UP_FEATURES;
        // SAFETY: the caller's duty.
        let h = unsafe { swiglu(&self.target, &lane, self.limit) };
        let words = [
            bf16x2_from_f32(h[0], h[1]),
            bf16x2_from_f32(h[2], h[3]),
            bf16x2_from_f32(h[4], h[5]),
            bf16x2_from_f32(h[6], h[7]),
        ];
        let (to, left, wide) = self.target.place(&lane, N as u32, N as u32);
        if wide && left as usize == N {
            // SAFETY: eight elements of the row, aligned.
            unsafe { global::store_v4(to, words) };
        } else {
            let mut i = 0;
            while i < N {
                if (i as u32) < left {
                    // SAFETY: an element of the row.
                    unsafe { to.add(i).write((words[i / 2] >> (16 * (i % 2))) as u16) };
                }
                i += 1;
            }
        }
    }
}

/// `swiglu(gate, up)` in f32.
pub struct SwigluF32 {
    /// Where to.
    pub target: Target<f32>,
    /// Clamp.
    pub limit: f32,
}

impl Output for SwigluF32 {
    #[inline(always)]
    unsafe fn alphas(&self, expert: u32) -> [f32; 2] {
        // SAFETY: the caller's duty.
        unsafe { self.target.alphas(expert) }
    }

    #[inline(always)]
    unsafe fn store(&self, lane: Lane) {
        const N: usize = GATE_UP_FEATURES;
        // SAFETY: the caller's duty.
        let h = unsafe { swiglu(&self.target, &lane, self.limit) };
        let (to, left, wide) = self.target.place(&lane, N as u32, N as u32);
        // SAFETY: elements of the row.
        unsafe { store_words(to.cast(), h.map(f32::to_bits), left, wide) };
    }
}

/// The scaled sums in f32.
pub struct PlainF32 {
    /// Where to.
    pub target: Target<f32>,
}

impl Output for PlainF32 {
    #[inline(always)]
    unsafe fn alphas(&self, expert: u32) -> [f32; 2] {
        // SAFETY: the caller's duty.
        unsafe { self.target.alphas(expert) }
    }

    #[inline(always)]
    unsafe fn store(&self, lane: Lane) {
        const N: usize = TILE_ROWS;
        // SAFETY: the caller's duty.
        let acc: [f32; N] = unsafe { staged(lane.staged, 0) };
        let mut words = [0; N];
        let mut i = 0;
        while i < N {
            words[i] = epilogue::scaled(acc[i], lane.scale, lane.alphas[0], self.target.fold).to_bits();
            i += 1;
        }
        let (to, left, wide) = self.target.place(&lane, N as u32, N as u32);
        // SAFETY: elements of the row.
        unsafe { store_words(to.cast(), words, left, wide) };
    }
}
