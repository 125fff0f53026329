//! The loop over K with groups of four MMAs: the fragments of a group are expanded while the one before runs, into the
//! registers of the one before that.

use cuda_std::wgmma;
use cuda_std::wgmma_groups::{self, Fragments};
use cuda_std::wgmma_rs::{self, DESCRIPTOR_K16};

use super::Operands;
use super::consumer::{Unit, Warp};
use super::layout::{Form, Position};
use super::loader::Loader;

/// Descriptor of the tokens of unit `half` of the stage at `at`.
#[inline(always)]
fn tokens<F: Form>(me: Warp, at: Position, half: u32) -> u64 {
    wgmma_rs::descriptor(me.shared + at.slot * F::B_BYTES + half * F::UNIT_B_BYTES)
}

/// Fragments of all steps of a unit.
#[inline(always)]
fn steps(me: Warp, unit: Unit) -> Fragments {
    let of = |step| unit.fragment(me.table, step);
    [of(0), of(1), of(2), of(3)]
}

/// Fragments of steps `first` and `first + 1` of a unit of two row tiles.
#[inline(always)]
fn half_steps(me: Warp, units: [Unit; 2], first: usize) -> Fragments {
    let of = |tile: usize, step| units[tile].fragment(me.table, step);
    [of(0, first), of(1, first), of(0, first + 1), of(1, first + 1)]
}

/// The accumulators of the warpgroup's m64 tile: one chain over all k16 steps in order. A group is a unit.
///
/// # Safety
/// As [`super::consumer::warpgroup`]; `k_units` is at least 1; the form has the width.
#[inline(always)]
pub unsafe fn chains<F: Form, const ACC: usize>(
    me: Warp,
    width: u32,
    operands: &Operands,
    blocks: u32,
    loader: &mut Loader,
    at: &mut Position,
) -> [u32; ACC] {
    const { assert!(F::TILES == 1 && F::STEP == wgmma_groups::step(ACC)) };
    let mut acc = [0u32; ACC];
    let k_units = operands.k_units;
    let mut left = k_units;
    let index = width / F::STEP - 1;
    // SAFETY: the warpgroup is here; a stage is used between "full" and "empty"; fragments are only overwritten
    // when the group that reads them is done.
    unsafe {
        me.wait_full::<F>(*at);
        let mut even = steps(me, me.load::<F>(*at, 0, 0));
        let mut odd;
        let mut previous = *at;
        loop {
            // A unit of even number, whose fragments are there.
            wgmma_groups::rs_chain_4(&mut acc, &even, tokens::<F>(me, *at, 0), index);
            wgmma::wait_group::<1>();
            if left != k_units {
                me.release::<F>(previous);
            }
            left -= 1;
            if F::STAGE_UNITS == 1 || left == 0 {
                loader.turn::<F>(*at, me.shared, me.notes, operands, blocks);
            }
            if left == 0 {
                break;
            }
            let next = if F::STAGE_UNITS == 1 { at.ahead::<F>(1) } else { *at };
            if F::STAGE_UNITS == 1 {
                me.wait_full::<F>(next);
            }
            let unit = me.load::<F>(next, F::STAGE_UNITS - 1, 0);
            odd = steps(me, unit);
            if F::STAGE_UNITS == 1 {
                previous = *at;
                *at = next;
            }
            // A unit of odd number.
            wgmma_groups::rs_chain_4(&mut acc, &odd, tokens::<F>(me, *at, F::STAGE_UNITS - 1), index);
            wgmma::wait_group::<1>();
            if F::STAGE_UNITS == 1 {
                me.release::<F>(previous);
            }
            left -= 1;
            loader.turn::<F>(*at, me.shared, me.notes, operands, blocks);
            if left == 0 {
                break;
            }
            let next = at.ahead::<F>(1);
            me.wait_full::<F>(next);
            let unit = me.load::<F>(next, 0, 0);
            even = steps(me, unit);
            previous = *at;
            *at = next;
        }
        wgmma::wait_group::<0>();
        me.release::<F>(*at);
        at.advance::<F>();
    }
    acc
}

/// The accumulators of the warpgroup's two m64 tiles: one chain over all k16 steps in order. A group is half a unit.
///
/// # Safety
/// As [`chains`].
#[inline(always)]
pub unsafe fn pairs<F: Form, const ACC: usize>(
    me: Warp,
    width: u32,
    operands: &Operands,
    blocks: u32,
    loader: &mut Loader,
    at: &mut Position,
) -> [u32; ACC] {
    const { assert!(F::TILES == 2 && F::STEP == wgmma_groups::step(ACC)) };
    let mut acc = [0u32; ACC];
    let k_units = operands.k_units;
    let mut left = k_units;
    let index = width / F::STEP - 1;
    // SAFETY: as in `chains`.
    unsafe {
        let load = |at, half| [me.load::<F>(at, half, 0), me.load::<F>(at, half, 1)];
        me.wait_full::<F>(*at);
        let mut half = 0;
        let mut units = load(*at, 0);
        let mut low = half_steps(me, units, 0);
        let mut previous = *at;
        loop {
            let b = tokens::<F>(me, *at, half);
            wgmma_groups::rs_pairs_2(&mut acc, &low, b, index);
            // The unit before is done.
            wgmma::wait_group::<1>();
            if half == 0 && left != k_units {
                me.release::<F>(previous);
            }
            let high = half_steps(me, units, 2);
            wgmma_groups::rs_pairs_2(&mut acc, &high, b + 2 * DESCRIPTOR_K16, index);
            left -= 1;
            if half == F::STAGE_UNITS - 1 || left == 0 {
                loader.turn::<F>(*at, me.shared, me.notes, operands, blocks);
                previous = *at;
                at.advance::<F>();
                half = 0;
            } else {
                half += 1;
            }
            if left == 0 {
                break;
            }
            if half == 0 {
                me.wait_full::<F>(*at);
            }
            units = load(*at, half);
            wgmma::wait_group::<1>();
            low = half_steps(me, units, 0);
        }
        wgmma::wait_group::<0>();
        me.release::<F>(previous);
    }
    acc
}
