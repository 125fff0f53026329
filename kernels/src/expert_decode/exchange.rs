//! Results on their way between blocks: SwiGLU's, and those of the second product.
//!
//! A word is its own message. Nothing is zero, and a result is the complement of its bits, which is never zero: all bits set is a
//! NaN that no instruction makes (theirs are 0x7fff and 0x7fffffff; PTX ISA, Floating Point Instructions). So nobody counts, and
//! no fence lies between a result and the word that it is there: that takes a microsecond each time, when nothing else is left to do.
//!
//! Words are zero again before their next use. Only one thread reads a word of the second product, and zeroes it. SwiGLU's are read by many
//! blocks, so calls take turns at two halves, and each call zeroes the other's: kernels in stream order see each other's stores.
//!
//! # Layout
//! u32: arrivals; extents `[2]`; 13 of padding; SwiGLU's halves `[2][64 * 4096]`, rows of bf16 pairs; the second product
//! `[64 * 8192]`, rows of f32.

use cuda_std::half::bf16x2_from_f32;
use cuda_std::math::min_u16x2;
use cuda_std::prelude::*;
use cuda_std::{atomic, convergence::opaque};

use super::layout::{MAX_COLUMNS, MAX_ROWS, at};
use super::rows::BATCH;

/// Words in all.
pub const WORDS: u32 = Y + MAX_ROWS * MAX_COLUMNS;
/// Blocks of the present call that have arrived, and in bit 31 the half of SwiGLU's results that it uses.
pub const ARRIVALS: u32 = 0;
/// Words of each half that the last call that used it can have written.
pub const EXTENTS: u32 = 1;
/// SwiGLU's results.
pub const H: u32 = 16;
/// Words of a half.
pub const HALF: u32 = MAX_ROWS * MAX_COLUMNS / 2;
/// The second product.
pub const Y: u32 = H + 2 * HALF;
/// Nanoseconds between looks.
const POLL_NS: u32 = 20;

/// The words.
#[derive(Clone, Copy)]
pub struct Exchange {
    /// Their address, 16-byte aligned.
    pub words: *mut u32,
    /// Words of a row of SwiGLU's results: a multiple of 4.
    pub h_stride: u32,
    /// Words of a row of the second product.
    pub y_stride: u32,
    /// Shared memory of the block.
    pub base: u32,
}

impl Exchange {
    /// Takes the block's part in the change of halves: finds out which one is in turn, and how much of the other is to be zeroed.
    /// `rows` is how many the call can have.
    ///
    /// # Safety
    /// One thread of each block calls it, once; a block barrier must follow.
    #[inline(always)]
    pub unsafe fn arrive_thread(self, rows: u32) {
        // SAFETY: the words are there. All blocks have seen the half when the last one arrives.
        unsafe {
            let arrivals = self.words.add(ARRIVALS as usize);
            let before = atomic::fetch_add_u32(arrivals, 1);
            let half = before >> 31;
            if (before & 0xffff) + 1 == thread::grid_dim_x() {
                atomic::store_u32(arrivals, (half ^ 1) << 31);
                atomic::store_u32(self.words.add((EXTENTS + half) as usize), rows * self.h_stride);
            }
            let extent = atomic::load_u32(self.words.add((EXTENTS + (half ^ 1)) as usize));
            shared::store_v2(self.base + at::HALF, [half, extent]);
        }
    }

    /// Zeroes what the call before has left.
    ///
    /// # Safety
    /// All of `threads` threads of the grid, as number `thread`; [`Self::arrive_thread`] and a block barrier lie before.
    #[inline(always)]
    pub unsafe fn clear_thread(self, thread: u32, threads: u32) {
        // SAFETY: the other half, which nobody uses now.
        unsafe {
            let [half, extent] = shared::load_v2(self.base + at::HALF);
            let other = self.words.add((H + (half ^ 1) * HALF) as usize);
            let mut word = thread;
            while word < extent {
                atomic::store_u32(other.add(word as usize), 0);
                word += threads;
            }
        }
    }

    /// Row `row` of SwiGLU's results: bf16 pairs.
    ///
    /// # Safety
    /// As [`Self::clear_thread`]; there is such a row.
    #[inline(always)]
    pub unsafe fn h_row(self, row: u32) -> *mut u32 {
        // SAFETY: the caller's duty.
        unsafe {
            let half = shared::load_u32(self.base + at::HALF);
            self.words.add((H + half * HALF + row * self.h_stride) as usize)
        }
    }

    /// Row `row` of the second product.
    ///
    /// # Safety
    /// There is such a row.
    #[inline(always)]
    pub unsafe fn y_row(self, row: u32) -> *mut u32 {
        // SAFETY: the caller's duty.
        unsafe { self.words.add((Y + row * self.y_stride) as usize) }
    }

    /// Hands on SwiGLU's results of a row tile for `rows` rows from `row` on: `h` of the lane's feature (lane / 4) and its two
    /// rows (lane % 4 * 2).
    ///
    /// # Safety
    /// The whole warp calls it; the rows are its own; `features`, a multiple of 16, fit in a row.
    #[inline(always)]
    pub unsafe fn put_h_warp(self, h: [f32; 2], row_tile: u32, row: u32, rows: u32, features: u32) {
        let lane = warp::lane_id();
        // Neighbouring features make a word: the even one takes the first row, the odd one the second.
        let is_odd = opaque(lane & 4 != 0);
        let (own, other) = if is_odd { (h[1], h[0]) } else { (h[0], h[1]) };
        // SAFETY: the caller's duty.
        unsafe {
            let got = f32::from_bits(warp::shuffle_xor(warp::FULL, other.to_bits(), 4));
            let pair = if is_odd { [got, own] } else { [own, got] };
            let token = lane % 4 * 2 + u32::from(is_odd);
            let word = row_tile * 4 + lane / 8;
            if token < rows && 2 * word < features {
                atomic::store_u32(
                    self.h_row(row + token).add(word as usize),
                    !bf16x2_from_f32(pair[0], pair[1]),
                );
            }
        }
    }

    /// Waits for eight of SwiGLU's results at each of the addresses that are not null; zeros for the others.
    ///
    /// # Safety
    /// The whole warp calls it; the results will be there.
    #[inline(always)]
    pub unsafe fn wait_h_warp(from: [*const u16; BATCH]) -> [[u32; 4]; BATCH] {
        loop {
            let mut words = [[u32::MAX; 4]; BATCH];
            let mut least = u32::MAX;
            let mut n = 0;
            while n < BATCH {
                if !from[n].is_null() {
                    // SAFETY: the caller's addresses.
                    words[n] = unsafe { atomic::load_v4_u32(from[n].cast()) };
                }
                n += 1;
            }
            n = 0;
            while n < BATCH {
                let [a, b, c, d] = words[n];
                least = min_u16x2(least, min_u16x2(min_u16x2(a, b), min_u16x2(c, d)));
                n += 1;
            }
            let is_there = least & 0xffff != 0 && least >> 16 != 0;
            // SAFETY: the whole warp is here.
            if unsafe { warp::vote_all(warp::FULL, is_there) } {
                return words.map(|words| words.map(|word| !word));
            }
            thread::nanosleep(POLL_NS);
        }
    }

    /// Hands on a result of the second product: `column` of row `row`.
    ///
    /// # Safety
    /// It is the thread's own.
    #[inline(always)]
    pub unsafe fn put_y_thread(self, value: f32, row: u32, column: u32) {
        // SAFETY: the caller's duty.
        unsafe { atomic::store_u32(self.y_row(row).add(column as usize), !value.to_bits()) }
    }

    /// Waits for `column` of the rows that are not [`NONE`](crate::slots::NONE), and zeroes the words.
    ///
    /// # Safety
    /// The results will be there, and no other thread waits for them.
    #[inline(always)]
    pub unsafe fn take_y_thread<const N: usize>(self, rows: [u32; N], column: u32) -> [f32; N] {
        // SAFETY: the caller's duty.
        unsafe {
            let at = |row: u32| self.y_row(row).add(column as usize);
            loop {
                let mut words = [u32::MAX; N];
                let mut n = 0;
                while n < N {
                    if rows[n] != crate::slots::NONE {
                        words[n] = atomic::load_u32(at(rows[n]));
                    }
                    n += 1;
                }
                if words.iter().all(|&word| word != 0) {
                    n = 0;
                    while n < N {
                        if rows[n] != crate::slots::NONE {
                            atomic::store_u32(at(rows[n]), 0);
                        }
                        n += 1;
                    }
                    return words.map(|word| f32::from_bits(!word));
                }
                thread::nanosleep(POLL_NS);
            }
        }
    }
}
