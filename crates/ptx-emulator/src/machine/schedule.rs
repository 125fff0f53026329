//! Orders in which warps run and asynchronous operations complete.

/// A schedule. All are deterministic; `Seeded` is replayed by its seed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// Warps in turn, asynchronous operations a while after their issue.
    #[default]
    RoundRobin,
    /// The lowest-numbered warp that can run runs (warp-specialised kernels put producers first or last).
    LowestWarpFirst,
    /// The highest-numbered warp that can run runs.
    HighestWarpFirst,
    /// Asynchronous operations complete at once.
    AsyncAtOnce,
    /// Asynchronous operations complete only when nothing else can run.
    AsyncLate,
    /// As late as possible, and the latest issued first where their order is free.
    AsyncReversed,
    /// Pseudo-random choices.
    Seeded(u64),
}

impl Schedule {
    /// Every fixed schedule, with its name on the command line.
    pub const NAMED: [(&'static str, Schedule); 6] = [
        ("round-robin", Schedule::RoundRobin),
        ("lowest-first", Schedule::LowestWarpFirst),
        ("highest-first", Schedule::HighestWarpFirst),
        ("async-at-once", Schedule::AsyncAtOnce),
        ("async-late", Schedule::AsyncLate),
        ("async-reversed", Schedule::AsyncReversed),
    ];

    /// From a name, `producer-first` and `consumer-first` being the two warp orders, or `seed:N`.
    pub fn parse(name: &str) -> Option<Self> {
        if let Some(seed) = name.strip_prefix("seed:") {
            return seed.parse().ok().map(Schedule::Seeded);
        }
        match name {
            "producer-first" => Some(Schedule::LowestWarpFirst),
            "consumer-first" => Some(Schedule::HighestWarpFirst),
            _ => Self::NAMED.iter().find(|(n, _)| *n == name).map(|&(_, s)| s),
        }
    }
}

/// SplitMix64: the generator behind [`Schedule::Seeded`].
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator for a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n` (> 0).
    pub fn below(&mut self, n: usize) -> usize {
        (self.next_u64() % n as u64) as usize
    }
}
