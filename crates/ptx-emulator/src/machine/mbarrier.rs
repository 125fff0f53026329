//! The mbarrier object (PTX ISA 9.7.13.15): exact counts of arrivals and bytes.
//!
//! The 64 bits live in the CTA's shared memory (so that ordinary accesses to them can be found), packed as
//! `phase:1 | expected:20 | pending:20 | tx:21 + bias | valid:1`; the layout is ours, the ISA calls it opaque.

/// Largest arrival count.
pub const MAX_COUNT: u32 = (1 << 20) - 1;
/// Largest magnitude of the transaction count.
pub const MAX_TX: i32 = (1 << 20) - 1;

/// Decoded state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mbarrier {
    /// Parity of the current, incomplete phase.
    pub phase: u32,
    /// Arrivals that complete a phase.
    pub expected: u32,
    /// Arrivals still missing in this phase.
    pub pending: u32,
    /// Bytes still missing in this phase (negative: completed before they were expected).
    pub tx: i32,
}

/// Misuse of an mbarrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// Count 0 or above 2^20 - 1.
    #[error("arrival count {0} is outside 1..=1048575")]
    Count(u32),
    /// More arrivals than the phase has left.
    #[error("{arrivals} arrivals, but only {pending} are pending in this phase")]
    Overflow {
        /// Arrivals made.
        arrivals: u32,
        /// Arrivals pending.
        pending: u32,
    },
    /// The transaction count left its range.
    #[error("transaction count {0} is outside -1048575..=1048575")]
    Tx(i64),
}

impl Mbarrier {
    /// `mbarrier.init`.
    pub fn new(count: u32) -> Result<Self, Misuse> {
        if count == 0 || count > MAX_COUNT {
            return Err(Misuse::Count(count));
        }
        Ok(Self { phase: 0, expected: count, pending: count, tx: 0 })
    }

    /// The object's 64 bits.
    pub fn to_bits(self) -> u64 {
        let tx = (self.tx + (1 << 20)) as u64;
        u64::from(self.phase)
            | u64::from(self.expected) << 1
            | u64::from(self.pending) << 21
            | tx << 41
            | 1 << 63
    }

    /// From the 64 bits; `None` if they are not an initialised mbarrier.
    pub fn from_bits(bits: u64) -> Option<Self> {
        let field = |shift: u32, width: u32| ((bits >> shift) & ((1 << width) - 1)) as u32;
        let this = Self {
            phase: field(0, 1),
            expected: field(1, 20),
            pending: field(21, 20),
            tx: field(41, 22) as i32 - (1 << 20),
        };
        (bits >> 63 == 1 && this.tx.abs() <= MAX_TX).then_some(this)
    }

    /// `count` arrivals. Returns whether the phase completed.
    pub fn arrive(&mut self, count: u32) -> Result<bool, Misuse> {
        if count == 0 || count > self.pending {
            return Err(Misuse::Overflow { arrivals: count, pending: self.pending });
        }
        self.pending -= count;
        Ok(self.try_complete())
    }

    /// `mbarrier.arrive_drop`: arrives and lowers the expected count of later phases.
    pub fn arrive_drop(&mut self, count: u32) -> Result<bool, Misuse> {
        if count == 0 || count > self.pending || count > self.expected {
            return Err(Misuse::Overflow { arrivals: count, pending: self.pending });
        }
        self.expected -= count;
        self.pending -= count;
        Ok(self.try_complete())
    }

    /// `expect_tx`.
    pub fn expect_tx(&mut self, bytes: u32) -> Result<(), Misuse> {
        self.add_tx(i64::from(bytes))
    }

    /// `complete_tx`. Returns whether the phase completed.
    pub fn complete_tx(&mut self, bytes: u32) -> Result<bool, Misuse> {
        self.add_tx(-i64::from(bytes))?;
        Ok(self.try_complete())
    }

    fn add_tx(&mut self, delta: i64) -> Result<(), Misuse> {
        let tx = i64::from(self.tx) + delta;
        if tx.abs() > i64::from(MAX_TX) {
            return Err(Misuse::Tx(tx));
        }
        self.tx = tx as i32;
        Ok(())
    }

    /// One more arrival pending in this phase only (`cp.async.mbarrier.arrive` without `.noinc`).
    pub fn increment(&mut self) -> Result<(), Misuse> {
        if self.pending >= MAX_COUNT {
            return Err(Misuse::Count(self.pending + 1));
        }
        self.pending += 1;
        Ok(())
    }

    /// Completes the phase if nothing is missing. Returns whether it did.
    pub fn try_complete(&mut self) -> bool {
        let done = self.pending == 0 && self.tx == 0;
        if done {
            self.phase ^= 1;
            self.pending = self.expected;
        }
        done
    }

    /// Whether the phase with parity `parity` has completed: the current phase has the other parity.
    pub fn test_parity(&self, parity: u32) -> bool {
        self.phase != parity & 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_and_bits() {
        let mut b = Mbarrier::new(2).unwrap();
        assert!(b.test_parity(1));
        assert!(!b.test_parity(0));
        b.expect_tx(256).unwrap();
        assert!(!b.arrive(1).unwrap());
        assert!(!b.arrive(1).unwrap());
        assert_eq!(Mbarrier::from_bits(b.to_bits()), Some(b));
        assert!(!b.complete_tx(128).unwrap());
        assert!(b.complete_tx(128).unwrap());
        assert!(b.test_parity(0));
        assert_eq!(b.pending, 2);
        assert!(Mbarrier::from_bits(0).is_none());
        assert!(Mbarrier::new(0).is_err());
        assert!(b.arrive(3).is_err());
    }
}
