//! What the tests of instructions share: small kernels, device memory, schedules.
#![allow(dead_code, clippy::unwrap_used)]

pub mod eval;
pub mod pipelines;

use ptx_emulator::check::race::Touched;
use ptx_emulator::check::{Checks, Class, Finding};
use ptx_emulator::machine::{Argument, GlobalMemory, Launch, Outcome, Residency, Schedule, launch};
use ptx_emulator::program::{self, Module};

/// A module with one entry `k(params) { body }`: registers %r<64> (b32), %rd<32> (b64), %p<16>, %f<32>,
/// %h<16> (b16), %q<4> (b128), and the dynamic shared array `smem`, aligned to 1024.
pub fn entry(params: &str, body: &str) -> String {
    format!(
        ".version 8.8\n.target sm_100a\n.address_size 64\n.extern .shared .align 1024 .b8 smem[];\n\
         .visible .entry k({params})\n{{\n.reg .b32 %r<64>; .reg .b64 %rd<32>; .reg .pred %p<16>; .reg .f32 %f<32>;\n\
         .reg .b16 %h<16>; .reg .b128 %q<4>;\n{body}\nret;\n}}\n"
    )
}

/// A kernel with device memory and launch parameters.
pub struct Kernel {
    pub module: Module,
    pub memory: GlobalMemory,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
    pub shared: u32,
    pub schedule: Schedule,
    pub checks: Checks,
    pub residency: Residency,
    pub predecessors: Vec<std::sync::Arc<Touched>>,
}

impl Kernel {
    /// Loads a module; one block of `threads` threads, 64 KiB of dynamic shared memory.
    pub fn new(source: &str, threads: u32) -> Self {
        let module = program::load(source).unwrap_or_else(|e| panic!("{e:#?}"));
        Self {
            module,
            memory: GlobalMemory::default(),
            grid: [1, 1, 1],
            block: [threads, 1, 1],
            cluster: [1, 1, 1],
            shared: 65_536,
            schedule: Schedule::RoundRobin,
            checks: Checks::default(),
            residency: Residency::default(),
            predecessors: Vec::new(),
        }
    }

    /// One cluster of `n` CTAs.
    pub fn cluster(mut self, n: u32) -> Self {
        (self.grid, self.cluster) = ([n, 1, 1], [n, 1, 1]);
        self
    }

    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// Device memory with contents.
    pub fn upload(&mut self, data: &[u8]) -> u64 {
        let address = self.memory.allocate(data.len());
        self.memory.upload(address, data).unwrap();
        address
    }

    /// Device memory with 32-bit words.
    pub fn upload_u32(&mut self, data: &[u32]) -> u64 {
        self.upload(&data.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>())
    }

    /// Uninitialised device memory.
    pub fn allocate(&mut self, bytes: usize) -> u64 {
        self.memory.allocate(bytes)
    }

    /// Runs entry `k`; returns the findings.
    pub fn run(&self, arguments: &[Argument]) -> Vec<Finding> {
        self.outcome(arguments).findings
    }

    /// Runs entry `k`.
    pub fn outcome(&self, arguments: &[Argument]) -> Outcome {
        let outcome = launch(&Launch {
            program: self.module.entry("k").unwrap(),
            symbols: &[],
            global: &self.memory,
            grid: self.grid,
            block: self.block,
            cluster: self.cluster,
            dynamic_shared: self.shared,
            arguments,
            schedule: self.schedule,
            checks: self.checks,
            precision: Default::default(),
            trace: false,
            residency: self.residency,
            predecessors: &self.predecessors,
            progress: None,
            budget: 4_000_000,
        });
        outcome.unwrap()
    }

    /// Runs with 64-bit arguments, and panics on findings.
    pub fn run_clean(&self, arguments: &[u64]) {
        let arguments: Vec<Argument> = arguments.iter().map(|&a| Argument::B64(a)).collect();
        let findings = self.run(&arguments);
        assert!(findings.is_empty(), "{:?}:\n{}", self.schedule, text(&findings));
    }

    /// Device memory as bytes.
    pub fn bytes(&self, address: u64, n: usize) -> Vec<u8> {
        let mut out = vec![0; n];
        self.memory.read(address, &mut out).unwrap();
        out
    }

    /// Device memory as 32-bit words.
    pub fn u32s(&self, address: u64, n: usize) -> Vec<u32> {
        let bytes = self.bytes(address, n * 4);
        bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
    }
}

/// Findings as text.
pub fn text(findings: &[Finding]) -> String {
    findings.iter().map(|f| format!("{f}\n")).collect()
}

/// The only class among findings.
#[track_caller]
pub fn only(findings: &[Finding], class: Class) -> &Finding {
    assert!(!findings.is_empty(), "no finding, expected {class:?}");
    assert!(findings.iter().all(|f| f.class == class), "expected only {class:?}:\n{}", text(findings));
    &findings[0]
}

/// Every fixed schedule and 20 seeds.
pub fn schedules() -> Vec<Schedule> {
    Schedule::NAMED.iter().map(|s| s.1).chain((0..20).map(Schedule::Seeded)).collect()
}

/// Bytes that differ everywhere.
pub fn pattern(n: usize) -> Vec<u8> {
    let mut x = 0x2545_f491_u32;
    (0..n)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            (x >> 11) as u8
        })
        .collect()
}
