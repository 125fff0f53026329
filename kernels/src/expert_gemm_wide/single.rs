//! The loop over K of a warpgroup with one m64 tile, a group of two MMAs for two k16 steps: the fragments of a group are
//! expanded while the one before runs.

use cuda_std::wgmma;
use cuda_std::wgmma_rs::{self, DESCRIPTOR_K16};

use super::consumer::Warp;
use super::layout::{Form, Position};

/// The accumulators of the warpgroup's m64 tile: one chain over all k16 steps in order.
///
/// # Safety
/// As [`super::consumer::warpgroup`]; `k_units` is at least 1.
#[inline(always)]
pub unsafe fn multiply<F: Form, const ACC: usize>(me: Warp, k_units: u32, at: &mut Position) -> [u32; ACC] {
    const { assert!(F::TILES == 1 && F::STAGE_UNITS == 2) };
    let mut acc = [0u32; ACC];
    let mut left = k_units;
    // SAFETY: the warpgroup is here; a stage is used between "full" and "empty"; fragments are only overwritten
    // when the group that reads them is done.
    unsafe {
        me.wait_full::<F>(*at);
        let mut unit = me.load::<F>(*at, 0, 0);
        let mut even = [unit.fragment(0), unit.fragment(1)];
        let mut previous = *at;
        let mut half = 0;
        loop {
            let b = wgmma_rs::descriptor(me.shared + at.slot * F::B_BYTES + half * F::UNIT_B_BYTES);
            wgmma_rs::rs_two_steps(&mut acc, even, b);
            wgmma::wait_group::<1>();
            // Nothing reads the stage before any more.
            if half == 0 && left != k_units {
                me.release::<F>(previous);
            }
            let odd = [unit.fragment(2), unit.fragment(3)];
            wgmma_rs::rs_two_steps(&mut acc, odd, b + 2 * DESCRIPTOR_K16);
            left -= 1;
            if left == 0 {
                break;
            }
            half ^= 1;
            if half == 0 {
                previous = *at;
                at.advance::<F>();
                me.wait_full::<F>(*at);
            }
            unit = me.load::<F>(*at, half, 0);
            wgmma::wait_group::<1>();
            even = [unit.fragment(0), unit.fragment(1)];
        }
        wgmma::wait_group::<0>();
        me.release::<F>(*at);
        at.advance::<F>();
    }
    acc
}
