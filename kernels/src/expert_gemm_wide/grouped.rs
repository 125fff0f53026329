//! The loop over K with two groups of two MMAs for each k unit: fragments of a group are expanded while the one before runs.

use cuda_std::wgmma;
use cuda_std::wgmma_groups::{self, ACC, Fragments};
use cuda_std::wgmma_rs::{self, DESCRIPTOR_K16};

use super::Operands;
use super::consumer::{Unit, Warp};
use super::layout::{Form, Position};
use super::loader::Loader;

/// The fragments of steps `first` and `first + 1`.
#[inline(always)]
fn fragments(unit: &Unit, first: usize) -> Fragments {
    [unit.fragment(first), unit.fragment(first + 1)]
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
        assert!(F::WIDTH as usize == 2 * ACC);
        // The turn of a stage fills a slot that was given back a unit before.
        assert!(F::AHEAD + 2 <= F::STAGES);
    }
    let mut acc = [0u32; ACC];
    let k_units = operands.k_units;
    let mut left = k_units;
    let index = wgmma_groups::index_of(width);
    // SAFETY: the warpgroup is here; a stage is used between "full" and "empty"; fragments are only overwritten
    // when the group that reads them is done.
    unsafe {
        me.wait_full::<F>(*at);
        let mut unit = me.load::<F>(*at, 0, 0);
        let mut even = fragments(&unit, 0);
        loop {
            let b = wgmma_rs::descriptor(me.shared + at.slot * F::B_BYTES);
            wgmma_groups::rs_chain_2(&mut acc, &even, b, index);
            wgmma::wait_group::<1>();
            if left != k_units {
                me.release::<F>(at.behind::<F>());
            }
            let odd = fragments(&unit, 2);
            wgmma_groups::rs_chain_2(&mut acc, &odd, b + 2 * DESCRIPTOR_K16, index);
            loader.fetch::<F>(at.ahead::<F>(F::AHEAD), me.shared, me.notes, operands, blocks);
            left -= 1;
            if left == 0 {
                break;
            }
            at.advance::<F>();
            me.wait_full::<F>(*at);
            unit = me.load::<F>(*at, 0, 0);
            wgmma::wait_group::<1>();
            even = fragments(&unit, 0);
        }
        wgmma::wait_group::<0>();
        me.release::<F>(*at);
        at.advance::<F>();
    }
    acc
}
