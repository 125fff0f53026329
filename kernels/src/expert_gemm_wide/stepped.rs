//! The loop over K with a group of two MMAs for each k16 step: the fragments of a step are expanded while the one before
//! runs.

use cuda_std::wgmma;
use cuda_std::wgmma_rs::{self, DESCRIPTOR_K16};

use super::consumer::{Unit, Warp};
use super::layout::{Form, Position};

/// The accumulators of the warpgroup's two m64 tiles: one chain over all k16 steps in order.
///
/// # Safety
/// As [`super::consumer::warpgroup`]; `k_units` is at least 1.
#[inline(always)]
pub unsafe fn multiply<F: Form, const N: usize>(me: Warp, k_units: u32, at: &mut Position) -> [u32; N] {
    const { assert!(F::TILES == 2 && F::STAGE_UNITS == 2) };
    let mut acc = [0u32; N];
    let mut left = k_units;
    // SAFETY: the warpgroup is here; a stage is used between "full" and "empty".
    unsafe {
        me.wait_full::<F>(*at);
        let mut previous = *at;
        loop {
            let b = wgmma_rs::descriptor(me.shared + at.slot * F::B_BYTES);
            multiply_unit(&mut acc, [me.load::<F>(*at, 0, 0), me.load::<F>(*at, 0, 1)], b, || {
                if left != k_units {
                    me.release::<F>(previous);
                }
            });
            left -= 1;
            if left == 0 {
                break;
            }
            let b = wgmma_rs::descriptor(me.shared + at.slot * F::B_BYTES + F::UNIT_B_BYTES);
            multiply_unit(&mut acc, [me.load::<F>(*at, 1, 0), me.load::<F>(*at, 1, 1)], b, || ());
            left -= 1;
            if left == 0 {
                break;
            }
            previous = *at;
            at.advance::<F>();
            me.wait_full::<F>(*at);
        }
        wgmma::wait_group::<0>();
        me.release::<F>(*at);
        at.advance::<F>();
    }
    acc
}

/// A unit of both tiles. `ready`: nothing reads what was multiplied before any more.
///
/// # Safety
/// As [`multiply`]; the unit's tokens are at `b`.
#[inline(always)]
unsafe fn multiply_unit<const N: usize>(acc: &mut [u32; N], units: [Unit; 2], b: u64, ready: impl FnOnce()) {
    // SAFETY: the caller's duty; fragments are only overwritten when the group that reads them is done.
    unsafe {
        let even = [units[0].fragment(0), units[1].fragment(0)];
        wgmma_rs::rs_pair_step(acc, even[0], even[1], b);
        wgmma::wait_group::<1>();
        ready();
        let odd = [units[0].fragment(1), units[1].fragment(1)];
        wgmma_rs::rs_pair_step(acc, odd[0], odd[1], b + DESCRIPTOR_K16);
        wgmma::wait_group::<1>();
        let even = [units[0].fragment(2), units[1].fragment(2)];
        wgmma_rs::rs_pair_step(acc, even[0], even[1], b + 2 * DESCRIPTOR_K16);
        wgmma::wait_group::<1>();
        let odd = [units[0].fragment(3), units[1].fragment(3)];
        wgmma_rs::rs_pair_step(acc, odd[0], odd[1], b + 3 * DESCRIPTOR_K16);
        wgmma::wait_group::<1>();
    }
}
