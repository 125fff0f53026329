//! The loop over K with a group of four MMAs for each k unit: the fragments of a unit are expanded while the unit before
//! runs, into the registers of the one before that.

use cuda_std::convergence::opaque_u32;
use cuda_std::prelude::*;
use cuda_std::wgmma;
use cuda_std::wgmma_groups::{self, ACC, Fragments};
use cuda_std::wgmma_rs;

use super::Operands;
use super::consumer::Warp;
use super::layout::{Form, Position};
use super::loader::Loader;

/// The fragments of the unit of the stage at `at`.
///
/// # Safety
/// The whole warp; the stage is full.
#[inline(always)]
unsafe fn fragments<F: Form>(me: Warp, at: Position) -> Fragments {
    // SAFETY: the caller's duty.
    let unit = unsafe { me.load::<F>(at, 0, 0) };
    let of = |step| unit.fragment(me.table, step);
    [of(0), of(1), of(2), of(3)]
}

/// How many units of a tile are left, times 8, plus its width as [`wgmma_groups`] counts it: two numbers in a register.
#[derive(Clone, Copy)]
struct Left(u32);

impl Left {
    #[inline(always)]
    const fn new(units: u32, index: u32) -> Self {
        Self(units << 3 | index)
    }

    #[inline(always)]
    const fn units(self) -> u32 {
        self.0 >> 3
    }

    #[inline(always)]
    fn index(self) -> u32 {
        // Hidden: it is the same in every unit, and would have a register of its own.
        opaque_u32(self.0) & 7
    }

    /// One unit less; whether none is left.
    #[inline(always)]
    fn step(&mut self) -> bool {
        self.0 -= 1 << 3;
        self.0 < 1 << 3
    }
}

/// Starts the unit of the stage at `at`, the first of those that are left, and gives back the stage before, if it belongs
/// to the same tile. The loader has its turn while both run.
///
/// # Safety
/// The warpgroup; the stage is full, and `a` are its fragments; the registers of `a` are not written before the next
/// call has returned.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn start<F: Form>(
    me: Warp,
    acc: &mut [u32; ACC],
    a: &Fragments,
    operands: &Operands,
    blocks: u32,
    loader: &mut Loader,
    at: Position,
    left: Left,
) {
    // SAFETY: the caller's duties. When this group alone is pending, the one before has read its stage.
    unsafe {
        let b = wgmma_rs::descriptor(shared::dynamic_again() + at.slot * F::B_BYTES);
        wgmma_groups::rs_chain_4(acc, a, b, left.index());
        loader.turn::<F>(at, me.shared, me.notes, operands, blocks);
        wgmma::wait_group::<1>();
        if left.units() != operands.k_units {
            me.release::<F>(at.behind::<F>());
        }
    }
}

/// The accumulators of the warpgroup's m64 tile: one chain over all k16 steps in order.
///
/// # Safety
/// As [`super::consumer::warpgroup`]; `k_units` is at least 1; the form has the width.
#[inline(always)]
pub unsafe fn multiply<F: Form>(
    me: Warp,
    width: u32,
    operands: &Operands,
    blocks: u32,
    loader: &mut Loader,
    at: &mut Position,
) -> [u32; ACC] {
    const {
        assert!(F::TILES == 1 && F::STAGE_UNITS == 1);
        assert!(F::STEP == wgmma_groups::STEP && F::WIDTH as usize == 2 * ACC);
        assert!(F::WIDTH / F::STEP <= 8);
        // The turn of a stage fills a slot that was given back a unit before.
        assert!(F::AHEAD + 2 <= F::STAGES);
    }
    let mut acc = [0u32; ACC];
    let mut left = Left::new(operands.k_units, width / F::STEP - 1);
    // SAFETY: the warpgroup is here; a stage is used between "full" and "empty"; fragments are only overwritten
    // when the group that reads them is done.
    unsafe {
        me.wait_full::<F>(*at);
        let mut even = fragments::<F>(me, *at);
        loop {
            start::<F>(me, &mut acc, &even, operands, blocks, loader, *at, left);
            if left.step() {
                break;
            }
            at.advance::<F>();
            me.wait_full::<F>(*at);
            let odd = fragments::<F>(me, *at);
            start::<F>(me, &mut acc, &odd, operands, blocks, loader, *at, left);
            if left.step() {
                break;
            }
            at.advance::<F>();
            me.wait_full::<F>(*at);
            even = fragments::<F>(me, *at);
        }
        wgmma::wait_group::<0>();
        me.release::<F>(*at);
        at.advance::<F>();
    }
    acc
}
