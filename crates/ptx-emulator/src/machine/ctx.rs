//! What an instruction sees while it executes.

use super::cluster::Cluster;
use super::global::{GlobalMemory, MemoryError};
use super::launch::Environment;
use super::warp::Warp;
use super::{LANES, window};
use crate::check::{Access, Checks, Class, Finding, Origin, OriginKind, Place};
use crate::decode::{Addr, Special, Src};
use crate::program::{Inst, Program, Reg};

/// The execution of one instruction by the lanes of one warp.
pub struct Ctx<'a> {
    /// The launch: grid, arguments, device memory.
    pub env: &'a Environment<'a>,
    /// The cluster, with this warp taken out.
    pub cluster: &'a mut Cluster,
    /// Rank of the executing CTA.
    pub cta: usize,
    /// The executing warp.
    pub warp: &'a mut Warp,
    /// Lanes that execute: at this pc, ready, guard true.
    pub mask: u32,
    /// Lanes at this pc and ready, whatever the guard.
    pub converged: u32,
    /// Code index of the instruction.
    pub pc: u32,
}

/// A memory operand resolved to a state space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// Global memory.
    Global(u64),
    /// Shared memory: rank of the owning CTA in the cluster, offset.
    Shared(u32, u32),
    /// Local memory of the thread.
    Local(u32),
    /// Parameter space.
    Param(u32),
}

impl Location {
    /// The location `bytes` further on.
    pub fn offset_by(self, bytes: u64) -> Self {
        match self {
            Location::Global(address) => Location::Global(address.wrapping_add(bytes)),
            Location::Shared(owner, offset) => Location::Shared(owner, offset.wrapping_add(bytes as u32)),
            Location::Local(offset) => Location::Local(offset.wrapping_add(bytes as u32)),
            Location::Param(offset) => Location::Param(offset.wrapping_add(bytes as u32)),
        }
    }
}

/// State space named by an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSpace {
    /// None: generic.
    Generic,
    /// `.global`.
    Global,
    /// `.shared` / `.shared::cta`.
    SharedCta,
    /// `.shared::cluster`.
    SharedCluster,
    /// `.local`.
    Local,
    /// `.param`.
    Param,
    /// `.const`.
    Const,
}

impl<'a> Ctx<'a> {
    /// The instruction.
    pub fn inst(&self) -> &'a Inst {
        &self.program().code[self.pc as usize]
    }

    /// The program.
    pub fn program(&self) -> &'a Program {
        self.env.program
    }

    /// Checkers that are on.
    pub fn checks(&self) -> &'a Checks {
        &self.env.checks
    }

    /// Device memory.
    pub fn global(&self) -> &'a GlobalMemory {
        self.env.global
    }

    /// Iterates over the executing lanes.
    pub fn lanes(&self) -> impl Iterator<Item = usize> + use<> {
        let mask = self.mask;
        (0..LANES).filter(move |l| mask >> l & 1 == 1)
    }

    /// Linear thread index of a lane in its CTA.
    pub fn thread(&self, lane: usize) -> u32 {
        (self.warp.index * LANES + lane) as u32
    }

    /// Value of a source in a lane.
    pub fn get(&self, src: Src, lane: usize) -> u64 {
        match src {
            Src::Reg(reg) => self.warp.get(reg, lane),
            Src::Imm(value) => value,
            Src::Special(special) => self.special(special, lane),
            Src::Shared(offset) => u64::from(self.shared_base() | offset),
            Src::DynamicShared(offset) => {
                u64::from(self.shared_base() | (self.cluster.ctas[self.cta].dynamic_shared.0 + offset))
            }
            // `mov.b64 r, param` gives the address in parameter space; cvta.param adds the window.
            Src::Param(offset) | Src::Local(offset) => u64::from(offset),
            Src::Global(index, offset) => self.env.symbols[index as usize].wrapping_add_signed(offset),
        }
    }

    /// Bits 31..24 of this CTA's shared addresses.
    fn shared_base(&self) -> u32 {
        self.cluster.ctas[self.cta].rank << 24
    }

    /// Sources in all lanes.
    #[inline(always)]
    pub fn rows<const N: usize>(&self, sources: &[Src; N]) -> [[u64; LANES]; N] {
        // (In place: `map` over arrays of this size copies them several times.)
        let mut rows = [[0; LANES]; N];
        for (row, &source) in rows.iter_mut().zip(sources) {
            match source {
                Src::Reg(reg) => row.copy_from_slice(self.warp.row(reg)),
                _ => *row = self.row(source),
            }
        }
        rows
    }

    /// A source in all lanes.
    pub fn row(&self, src: Src) -> [u64; LANES] {
        match src {
            Src::Reg(reg) => *self.warp.row(reg),
            Src::Special(_) => std::array::from_fn(|lane| self.get(src, lane)),
            other => [self.get(other, 0); LANES],
        }
    }

    /// Poison of a source in a lane: of all of it, if any of it is poisoned.
    pub fn origin(&self, src: Src, lane: usize) -> Origin {
        self.partial_origin(src, lane).whole()
    }

    /// Poison of a source in a lane, nibble by nibble.
    pub fn partial_origin(&self, src: Src, lane: usize) -> Origin {
        match src {
            Src::Reg(reg) => self.warp.origin(reg, lane),
            _ => Origin::CLEAN,
        }
    }

    /// Executing lanes in which any of the sources is poisoned.
    #[inline]
    pub fn dirty_lanes(&self, sources: &[Src]) -> u32 {
        let dirty = sources.iter().fold(0, |mask, s| match *s {
            Src::Reg(reg) => mask | self.warp.dirty_lanes(reg),
            _ => mask,
        });
        dirty & self.mask
    }

    /// Whether any source is poisoned in any executing lane.
    pub fn any_dirty(&self, sources: &[Src]) -> bool {
        self.dirty_lanes(sources) != 0
    }

    /// First poison among sources in a lane.
    pub fn origin_of(&self, sources: &[Src], lane: usize) -> Origin {
        sources.iter().fold(Origin::CLEAN, |o, &s| o.or(self.origin(s, lane)))
    }

    /// Writes a register in a lane.
    pub fn set(&mut self, reg: Reg, lane: usize, value: u64, origin: Origin) {
        self.warp.set(reg, lane, value, origin);
    }

    /// Computes a destination from sources in every executing lane; poison in any source poisons the result.
    /// `f` runs for the other lanes too (so that the loop vectorises) and must not panic for any input.
    #[inline]
    pub fn map<const N: usize>(&mut self, dst: Reg, sources: [Src; N], f: impl Fn([u64; N]) -> u64) {
        let rows = self.rows(&sources);
        let mut out = [0u64; LANES];
        for (lane, value) in out.iter_mut().enumerate() {
            *value = f(std::array::from_fn(|i| rows[i][lane]));
        }
        self.write_row(dst, &sources, &out);
    }

    /// As [`Self::map`], but calls `f` for the executing lanes only: for functions that take long.
    #[inline]
    pub fn map_lanes<const N: usize>(&mut self, dst: Reg, sources: [Src; N], f: impl Fn([u64; N]) -> u64) {
        let rows = self.rows(&sources);
        let mut out = [0u64; LANES];
        for lane in self.lanes() {
            out[lane] = f(std::array::from_fn(|i| rows[i][lane]));
        }
        self.write_row(dst, &sources, &out);
    }

    /// Writes results to the executing lanes of `dst`, with the poison of the sources they were computed from.
    #[inline]
    pub fn write_row(&mut self, dst: Reg, sources: &[Src], values: &[u64; LANES]) {
        let mut dirty = self.dirty_lanes(sources);
        if dirty == 0 {
            self.warp.set_row(dst, self.mask, values);
            return;
        }
        // The destination may be among the sources: their poison is read before it is overwritten.
        let mut origins = [Origin::CLEAN; LANES];
        while dirty != 0 {
            let lane = dirty.trailing_zeros() as usize;
            origins[lane] = self.origin_of(sources, lane);
            dirty &= dirty - 1;
        }
        self.write_origins(dst, values, &origins);
    }

    /// Writes values with their origins to the executing lanes of `dst`.
    pub fn write_origins(&mut self, dst: Reg, values: &[u64; LANES], origins: &[Origin; LANES]) {
        for lane in self.lanes() {
            self.warp.set(dst, lane, values[lane], origins[lane]);
        }
    }

    /// A memory operand in a lane, resolved. `None` if the space does not fit the address; the finding has then
    /// been made. A poisoned address is a finding too.
    pub fn locate(&mut self, space: AddressSpace, addr: Addr, lane: usize) -> Option<Location> {
        let origin = self.origin(addr.base, lane);
        if !origin.is_clean() {
            self.report_poison(origin, lane, "an address");
        }
        let value = self.get(addr.base, lane).wrapping_add_signed(addr.offset);
        self.resolve(space, addr.base, value, lane)
    }

    /// An address in a lane, resolved; `base` is where it comes from. As [`Self::locate`], but takes the address
    /// for granted.
    #[inline(always)]
    pub fn resolve(&mut self, space: AddressSpace, base: Src, value: u64, lane: usize) -> Option<Location> {
        let rank = self.cluster.ctas[self.cta].rank;
        let space = match (space, base) {
            // `[symbol]` names its space by itself.
            (AddressSpace::Generic, Src::Param(_)) => AddressSpace::Param,
            // Parameters of calls live in local memory.
            (AddressSpace::Generic | AddressSpace::Param, Src::Local(_)) => AddressSpace::Local,
            (AddressSpace::Generic, Src::Shared(_) | Src::DynamicShared(_)) => AddressSpace::SharedCluster,
            (space, _) => space,
        };
        let location = match space {
            AddressSpace::Global | AddressSpace::Const => Location::Global(value),
            AddressSpace::SharedCta => {
                let owner = (value as u32) >> 24;
                if owner != rank {
                    self.foreign_address(lane, value, rank);
                    return None;
                }
                Location::Shared(rank, value as u32 & 0x00ff_ffff)
            }
            AddressSpace::SharedCluster => Location::Shared((value as u32) >> 24, value as u32 & 0x00ff_ffff),
            AddressSpace::Local => Location::Local(value as u32),
            AddressSpace::Param => Location::Param(value as u32),
            AddressSpace::Generic => match value & window::MASK {
                window::SHARED => Location::Shared((value as u32) >> 24, value as u32 & 0x00ff_ffff),
                window::LOCAL => Location::Local(value as u32),
                window::PARAM => Location::Param(value as u32),
                _ => Location::Global(value),
            },
        };
        Some(location)
    }

    /// The place of this instruction in a lane.
    pub fn place(&self, lane: usize) -> Place {
        self.env.place(self.pc, self.cluster.ctas[self.cta].linear, self.thread(lane))
    }

    /// Adds a finding at this instruction.
    pub fn finding(&mut self, class: Class, lane: usize, message: String, earlier: Option<Access>) {
        let place = self.place(lane);
        self.cluster.report.add(Finding { class, place, message, earlier, count: 1 });
    }

    /// Adds a finding that poison reached something that matters.
    pub fn report_poison(&mut self, origin: Origin, lane: usize, reached: &str) {
        let Some((kind, pc)) = origin.parts() else { return };
        if kind == OriginKind::InFlight {
            return self.report_in_flight(pc, lane, reached);
        }
        if !self.checks().uninitialised {
            return;
        }
        let cta = self.cluster.ctas[self.cta].linear;
        let earlier = (pc as usize) < self.program().code.len() && origin != Origin::UNWRITTEN_REGISTER;
        let earlier = earlier.then(|| Access {
            place: self.env.place(pc, cta, self.thread(lane)),
            what: format!("read of uninitialised {kind:?} memory").to_lowercase(),
        });
        let source = match earlier {
            Some(_) => "",
            None => " (a register that was never written)",
        };
        let message = format!("uninitialised data reached {reached}{source}");
        self.finding(Class::Uninitialised, lane, message, earlier);
    }

    /// Reports an accumulator of the wgmma at `pc` that was read before a wait covered it.
    fn report_in_flight(&mut self, pc: u32, lane: usize, reached: &str) {
        if !self.checks().wgmma {
            return;
        }
        let place = self.env.place(pc, self.cluster.ctas[self.cta].linear, self.thread(lane));
        let earlier = Access { place, what: "write in flight".to_owned() };
        let message =
            format!("an accumulator reached {reached} before a wgmma.wait_group that covers its wgmma");
        self.finding(Class::Wgmma, lane, message, Some(earlier));
    }

    fn special(&self, special: Special, lane: usize) -> u64 {
        let cta = &self.cluster.ctas[self.cta];
        let (block, grid, cluster) = (self.env.block, self.env.grid, self.env.cluster);
        let thread = self.thread(lane);
        let split = |n: u32, dims: [u32; 3], c: u8| match c {
            0 => n % dims[0],
            1 => n / dims[0] % dims[1],
            _ => n / (dims[0] * dims[1]),
        };
        let lane = lane as u32;
        let at = |v: [u32; 3], c: u8| u64::from(v[usize::from(c)]);
        u64::from(match special {
            Special::Tid(c) => split(thread, block, c),
            Special::Ntid(c) => return at(block, c),
            Special::Ctaid(c) => return at(cta.index, c),
            Special::Nctaid(c) => return at(grid, c),
            Special::ClusterId(c) => return at(self.cluster.index, c),
            Special::NclusterId(c) => return at(grid, c) / at(cluster, c),
            Special::ClusterCtaid(c) => split(cta.rank, cluster, c),
            Special::ClusterNctaid(c) => return at(cluster, c),
            Special::ClusterCtarank => cta.rank,
            Special::ClusterNctarank => self.cluster.ctas.len() as u32,
            Special::IsExplicitCluster => u32::from(cluster != [1, 1, 1]),
            Special::LaneId => lane,
            Special::WarpId => self.warp.index as u32,
            Special::NwarpId => block.iter().product::<u32>().div_ceil(LANES as u32),
            Special::SmId => cta.sm,
            Special::NsmId => self.env.residency.sms,
            Special::GridId => 1,
            Special::LanemaskEq => 1 << lane,
            Special::LanemaskLe => ((2u64 << lane) - 1) as u32,
            Special::LanemaskLt => (1 << lane) - 1,
            Special::LanemaskGe => u32::MAX << lane,
            Special::LanemaskGt => (u64::from(u32::MAX) << (lane + 1)) as u32,
            // One tick per warp instruction: monotone, and the same in every run.
            Special::Clock | Special::GlobalTimerLo => self.warp.issued as u32,
            Special::Clock64 | Special::GlobalTimer => return self.warp.issued,
            Special::GlobalTimerHi => (self.warp.issued >> 32) as u32,
            Special::DynamicSmemSize => cta.dynamic_shared.1,
            Special::TotalSmemSize | Special::AggrSmemSize => cta.shared.len() as u32,
        })
    }
}

/// What an asynchronous operation sees when it completes.
pub struct AsyncCtx<'a> {
    /// The launch.
    pub env: &'a Environment<'a>,
    /// The cluster, all warps in place.
    pub cluster: &'a mut Cluster,
}

impl AsyncCtx<'_> {
    /// Reads global memory on behalf of an operation issued at `place`.
    ///
    /// # Errors
    /// As [`GlobalMemory::read`].
    pub fn read_global(&self, address: u64, out: &mut [u8]) -> Result<bool, MemoryError> {
        self.env.global.read(address, out)
    }

    /// Adds a finding.
    pub fn finding(&mut self, class: Class, place: Place, message: String) {
        self.cluster.report.add(Finding { class, place, message, earlier: None, count: 1 });
    }

    /// Makes lanes of all warps of a CTA ready again whose wait satisfies `f`: blocked lanes go on behind their
    /// instruction, retrying lanes execute it again.
    pub fn wake(&mut self, cta: usize, f: impl Fn(super::Wait) -> bool) {
        self.cluster.wake(cta, f);
    }
}
