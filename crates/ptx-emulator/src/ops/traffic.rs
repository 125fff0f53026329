//! What memory instructions move, for the counters.

use super::hooks::Kind;
use crate::counters::{Counter, banks};
use crate::decode::Src;
use crate::machine::{AddressSpace, Ctx, LANES, window};

/// What an instruction does to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Load,
    Store,
    Atomic,
}

impl From<Kind> for Access {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Read | Kind::StrongRead(_) => Access::Load,
            Kind::Atomic(_) => Access::Atomic,
            Kind::Write | Kind::StrongWrite(_) | Kind::MbarrierInit => Access::Store,
        }
    }
}

/// Global memory: lanes of `mask`.
#[inline]
pub(super) fn global(ctx: &mut Ctx<'_>, access: Access, addresses: &[u64; LANES], mask: u32, bytes: u32) {
    let (of_bytes, of_sectors) = match access {
        Access::Load => (Counter::GlobalLoadBytes, Counter::GlobalLoadSectors),
        Access::Store => (Counter::GlobalStoreBytes, Counter::GlobalStoreSectors),
        Access::Atomic => (Counter::GlobalAtomicBytes, Counter::GlobalAtomicSectors),
    };
    let total = u64::from(mask.count_ones() * bytes);
    let sectors = banks::sectors(addresses, mask, bytes);
    let counters = &mut ctx.cluster.counters;
    counters.add(of_bytes, total);
    counters.add(of_sectors, sectors);
    let site = counters.site(ctx.pc);
    site.bytes += total;
    site.sectors += sectors;
}

/// Shared memory of a CTA: offsets of the lanes of `mask`.
#[inline]
pub(super) fn shared(
    ctx: &mut Ctx<'_>,
    access: Access,
    owner: u32,
    offsets: &[u64; LANES],
    mask: u32,
    bytes: u32,
) {
    let total = u64::from(mask.count_ones() * bytes);
    let (pc, own) = (ctx.pc, owner == ctx.cluster.ctas[ctx.cta].rank);
    let counters = &mut ctx.cluster.counters;
    counters.site(pc).bytes += total;
    if !own {
        let counter = match access {
            Access::Load => Counter::ClusterLoadBytes,
            Access::Store => Counter::ClusterStoreBytes,
            Access::Atomic => Counter::ClusterAtomicBytes,
        };
        return counters.add(counter, total);
    }
    let (of_bytes, of_needed, of_minimum) = match access {
        Access::Load => (Counter::SharedLoadBytes, Counter::SharedLoadWavefronts, Counter::SharedLoadMinimum),
        Access::Store => {
            (Counter::SharedStoreBytes, Counter::SharedStoreWavefronts, Counter::SharedStoreMinimum)
        }
        Access::Atomic => {
            (Counter::SharedAtomicBytes, Counter::SharedAtomicWavefronts, Counter::SharedAtomicMinimum)
        }
    };
    let passes = match access {
        Access::Atomic => banks::atomic_wavefronts(offsets, mask, bytes),
        _ => banks::wavefronts(offsets, mask, bytes),
    };
    counters.add(of_bytes, total);
    wavefronts(ctx, of_needed, of_minimum, passes);
}

fn wavefronts(ctx: &mut Ctx<'_>, of_needed: Counter, of_minimum: Counter, passes: banks::Wavefronts) {
    let counters = &mut ctx.cluster.counters;
    counters.add(of_needed, passes.needed);
    counters.add(of_minimum, passes.minimum);
    let site = counters.site(ctx.pc);
    site.wavefronts += passes.needed;
    site.wavefronts_minimum += passes.minimum;
}

/// Lanes of one instruction that may be in several memories.
pub(super) fn any(
    ctx: &mut Ctx<'_>,
    access: Access,
    (space, base): (AddressSpace, Src),
    addresses: &[u64; LANES],
    bytes: u32,
) {
    let kind = |address: u64| match (space, base) {
        (AddressSpace::Global | AddressSpace::Const, _) => Some(None),
        (AddressSpace::SharedCta | AddressSpace::SharedCluster, _)
        | (AddressSpace::Generic, Src::Shared(_) | Src::DynamicShared(_)) => Some(Some(address as u32 >> 24)),
        (AddressSpace::Generic, Src::Param(_) | Src::Local(_))
        | (AddressSpace::Local | AddressSpace::Param, _) => None,
        (AddressSpace::Generic, _) => match address & window::MASK {
            window::SHARED => Some(Some(address as u32 >> 24)),
            window::LOCAL | window::PARAM => None,
            _ => Some(None),
        },
    };
    let is_local = |address: u64| {
        let generic = space == AddressSpace::Generic;
        space == AddressSpace::Local
            || matches!(base, Src::Local(_)) && (generic || space == AddressSpace::Param)
            || generic
                && !matches!(base, Src::Shared(_) | Src::DynamicShared(_))
                && address & window::MASK == window::LOCAL
    };
    let mut left = ctx.mask;
    while left != 0 {
        let first = addresses[left.trailing_zeros() as usize];
        let (of, local) = (kind(first), is_local(first));
        let alike = (0..LANES)
            .filter(|&l| left >> l & 1 == 1 && kind(addresses[l]) == of && is_local(addresses[l]) == local)
            .fold(0u32, |m, l| m | 1 << l);
        left &= !alike;
        match of {
            Some(None) => global(ctx, access, addresses, alike, bytes),
            Some(Some(owner)) => {
                let offsets = addresses.map(|a| a & 0x00ff_ffff);
                shared(ctx, access, owner, &offsets, alike, bytes);
            }
            None if local => {
                let total = u64::from(alike.count_ones() * bytes);
                let counter =
                    if access == Access::Load { Counter::LocalLoadBytes } else { Counter::LocalStoreBytes };
                ctx.cluster.counters.add(counter, total);
                ctx.cluster.counters.site(ctx.pc).bytes += total;
            }
            // Parameters: constant memory, in effect.
            None => {}
        }
    }
}

/// `ldmatrix` and `stmatrix`: the offsets of the rows, 16 bytes each, eight for a matrix.
pub(super) fn matrices(ctx: &mut Ctx<'_>, access: Access, rows: &[u32]) {
    let (of_bytes, of_needed, of_minimum) = match access {
        Access::Load => (Counter::LdMatrixBytes, Counter::LdMatrixWavefronts, Counter::LdMatrixMinimum),
        _ => (Counter::StMatrixBytes, Counter::StMatrixWavefronts, Counter::StMatrixMinimum),
    };
    let offsets = std::array::from_fn(|l| rows.get(l).map_or(0, |&o| u64::from(o)));
    let mask = ((1u64 << rows.len().min(LANES)) - 1) as u32;
    // Eight rows are a quarter-warp of 16-byte accesses.
    let passes = banks::wavefronts(&offsets, mask, 16);
    let total = 16 * rows.len() as u64;
    ctx.cluster.counters.add(of_bytes, total);
    ctx.cluster.counters.site(ctx.pc).bytes += total;
    wavefronts(ctx, of_needed, of_minimum, passes);
}

/// Sectors of a range of global memory.
pub(super) fn range_sectors(address: u64, bytes: u64) -> u64 {
    if bytes == 0 { 0 } else { (address + bytes - 1) / 32 - address / 32 + 1 }
}
