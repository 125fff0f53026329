//! Where poison comes from.

/// Shadow of a register value: 0 is clean; otherwise the kind of source (bits 29..32), which of the low eight nibbles
/// are not poisoned after all (bits 21..29) and the code index that read it.
/// Values computed from poisoned ones carry the first operand's origin on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Origin(u32);

/// Bits of the code index; programs have fewer instructions.
const PC: u32 = (1 << 21) - 1;
const CLEAN_NIBBLES: u32 = 0xff << 21;

/// Kind of an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginKind {
    /// A register that was never written.
    Register,
    /// Global memory.
    Global,
    /// Shared memory.
    Shared,
    /// Local memory.
    Local,
    /// Tensor memory.
    Tensor,
    /// Registers owned by an asynchronous operation that was not waited for.
    InFlight,
}

impl Origin {
    /// Initialised.
    pub const CLEAN: Origin = Origin(0);
    /// A register that was never written.
    pub const UNWRITTEN_REGISTER: Origin = Origin(1 << 29);

    /// Poison of the given kind, first read by the instruction at `pc`.
    pub fn new(kind: OriginKind, pc: u32) -> Self {
        let kind = match kind {
            OriginKind::Register => 1,
            OriginKind::Global => 2,
            OriginKind::Shared => 3,
            OriginKind::Local => 4,
            OriginKind::Tensor => 5,
            OriginKind::InFlight => 6,
        };
        Origin(kind << 29 | (pc & PC))
    }

    /// Whether there is no poison.
    #[inline(always)]
    pub fn is_clean(self) -> bool {
        self.0 == 0
    }

    /// This origin, or `other` if this one is clean.
    #[inline(always)]
    pub fn or(self, other: Origin) -> Origin {
        if self.0 != 0 { self.whole() } else { other.whole() }
    }

    /// Kind and code index; `None` if clean.
    pub fn parts(self) -> Option<(OriginKind, u32)> {
        let kind = match self.0 >> 29 {
            1 => OriginKind::Register,
            2 => OriginKind::Global,
            3 => OriginKind::Shared,
            4 => OriginKind::Local,
            5 => OriginKind::Tensor,
            6 => OriginKind::InFlight,
            _ => return None,
        };
        Some((kind, self.0 & PC))
    }

    /// The origin, all of the value poisoned.
    #[inline(always)]
    pub fn whole(self) -> Origin {
        Origin(self.0 & !CLEAN_NIBBLES)
    }

    /// Which of the low eight nibbles are poisoned, a bit for each.
    pub fn poisoned(self) -> u8 {
        if self.is_clean() { 0 } else { !(self.0 >> 21) as u8 }
    }

    /// The origin of a value of at most 32 bits of which these nibbles are poisoned.
    pub fn of_nibbles(self, poisoned: u8) -> Origin {
        if poisoned == 0 { Origin::CLEAN } else { Origin(self.whole().0 | u32::from(!poisoned) << 21) }
    }
}
