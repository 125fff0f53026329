//! Loads and stores that all lanes make alike: one memory, aligned, in bounds. They are checked and moved for the
//! whole warp at once; all others go lane by lane (`memory`), with the same result.

use super::hooks::{self, Kind};
use super::traffic;
use crate::check::race::WarpAccess;
use crate::decode::Src;
use crate::machine::{AddressSpace, Ctx, GlobalView, LANES, Location, SharedMemory};

/// Such an access.
pub(super) struct Alike<'a> {
    /// Addresses, or offsets in shared memory.
    pub at: [u64; LANES],
    /// Where the lanes' bytes are.
    memory: Memory<'a>,
}

#[derive(Clone, Copy)]
enum Memory<'a> {
    Global(GlobalView<'a>),
    /// Owning CTA rank.
    Shared(u32),
}

/// The lowest and the highest of the executing lanes' addresses, and all of their bits.
#[inline(always)]
fn extent(addresses: &[u64; LANES], mask: u32) -> (u64, u64, u64) {
    let (mut low, mut high, mut bits) = (u64::MAX, 0, 0);
    for (lane, &address) in addresses.iter().enumerate() {
        let runs = mask >> lane & 1 == 1;
        low = low.min(if runs { address } else { u64::MAX });
        high = high.max(if runs { address } else { 0 });
        bits |= if runs { address } else { 0 };
    }
    (low, high, bits)
}

impl<'a> Alike<'a> {
    /// Resolves the addresses of the executing lanes, and tells the checkers. `None` if the lanes differ, or one
    /// of them is not as it should be: nothing has happened then.
    #[inline]
    pub fn new(
        ctx: &mut Ctx<'a>,
        space: AddressSpace,
        base: Src,
        addresses: &[u64; LANES],
        bytes: u32,
        kind: Kind,
    ) -> Option<Self> {
        let (low, high, bits) = extent(addresses, ctx.mask);
        if ctx.mask == 0 || bits & u64::from(bytes - 1) != 0 {
            return None;
        }
        let first = ctx.mask.trailing_zeros() as usize;
        let location = |ctx: &mut Ctx<'_>, address| match (space, base) {
            // Not of this CTA: a finding, lane by lane.
            (AddressSpace::SharedCta, _) if address as u32 >> 24 != ctx.cluster.ctas[ctx.cta].rank => None,
            _ => ctx.resolve(space, base, address, first),
        };
        let end = high.checked_add(u64::from(bytes))?;
        let (memory, at) = match (location(ctx, low)?, location(ctx, high)?) {
            (Location::Global(low), Location::Global(_)) => {
                let write = kind == Kind::Write;
                let view = ctx.env.global.view(low, (end - low) as usize, write)?;
                (Memory::Global(view), *addresses)
            }
            (Location::Shared(owner, from), Location::Shared(other, to)) if owner == other => {
                let cta = ctx.cluster.ctas.get(owner as usize)?;
                if high - low > 0x00ff_ffff || to as usize + bytes as usize > cta.shared.len() {
                    return None;
                }
                if owner as usize != ctx.cta && hooks::is_gone(ctx.cluster, owner) {
                    return None;
                }
                if hooks::touches_mbarrier(ctx, owner, from, to - from + bytes) {
                    return None;
                }
                (Memory::Shared(owner), addresses.map(|a| a & 0x00ff_ffff))
            }
            _ => return None,
        };
        let alike = Self { at, memory };
        match memory {
            Memory::Global(_) => traffic::global(ctx, kind.into(), &alike.at, ctx.mask, bytes),
            Memory::Shared(owner) => traffic::shared(ctx, kind.into(), owner, &alike.at, ctx.mask, bytes),
        }
        if ctx.checks().races {
            let access = WarpAccess {
                shared: alike.owner().map(|rank| ctx.cluster.state.first_cta + rank),
                first: hooks::number(ctx, 0),
                mask: ctx.mask,
                addresses: &alike.at,
                bytes,
                pc: ctx.pc,
            };
            hooks::track_warp(ctx, &access, kind);
        }
        Some(alike)
    }

    /// Owner of the shared memory; `None` = global memory.
    pub fn owner(&self) -> Option<u32> {
        match self.memory {
            Memory::Shared(owner) => Some(owner),
            Memory::Global(_) => None,
        }
    }

    /// A lane's location.
    pub fn location(&self, lane: usize) -> Location {
        match self.memory {
            Memory::Global(_) => Location::Global(self.at[lane]),
            Memory::Shared(owner) => Location::Shared(owner, self.at[lane] as u32),
        }
    }

    /// Reads `B` bytes in every lane of `mask`, and hands them to `f`; the lanes whose bytes are not all
    /// initialised.
    #[inline(always)]
    pub fn read<const B: usize>(&self, ctx: &Ctx<'_>, mask: u32, mut f: impl FnMut(usize, &[u8; B])) -> u32 {
        let mut unwritten = 0;
        let mut buffer = [0; B];
        let lanes = (0..LANES).filter(|l| mask >> l & 1 == 1);
        match self.memory {
            Memory::Global(view) => {
                for lane in lanes {
                    let init = view.read(self.at[lane], &mut buffer);
                    unwritten |= u32::from(!init) << lane;
                    f(lane, &buffer);
                }
            }
            Memory::Shared(owner) => {
                let shared: &SharedMemory = &ctx.cluster.ctas[owner as usize].shared;
                for lane in lanes {
                    // In bounds: `new` has seen to it.
                    let init = shared.read(self.at[lane] as u32, &mut buffer).unwrap_or(false);
                    unwritten |= u32::from(!init) << lane;
                    f(lane, &buffer);
                }
            }
        }
        unwritten
    }

    /// Writes what `f` gives for every lane of `mask`, in ascending order.
    #[inline(always)]
    pub fn write<const B: usize>(&self, ctx: &mut Ctx<'_>, mask: u32, f: impl Fn(usize) -> [u8; B]) {
        let lanes = (0..LANES).filter(|l| mask >> l & 1 == 1);
        ctx.cluster.changes += 1;
        match self.memory {
            Memory::Global(view) => lanes.for_each(|lane| view.write(self.at[lane], &f(lane))),
            Memory::Shared(owner) => {
                let shared = &mut ctx.cluster.ctas[owner as usize].shared;
                for lane in lanes {
                    // In bounds: `new` has seen to it.
                    let _ = shared.set(self.at[lane] as u32, &f(lane), true);
                }
            }
        }
    }
}
