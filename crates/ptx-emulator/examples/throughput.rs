//! Speed of the emulator: warp and lane instructions per second of tight loops, on one host thread.
//!
//! `cargo run --release --example throughput [ROUNDS [NAME]]`, NAME being part of a loop's name.

use std::time::Instant;

use ptx_emulator::check::Checks;
use ptx_emulator::machine::{Argument, GlobalMemory, Launch, Schedule, launch};
use ptx_emulator::program;

/// A loop around `body`.
fn kernel(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 smem[];\n\
         .visible .entry k(.param .u64 p, .param .u32 n)\n{{\n\
         .reg .b32 %r<32>; .reg .b64 %d<8>; .reg .f32 %f<16>; .reg .pred %p<4>; .reg .b16 %h<4>;\n\
         ld.param.u64 %d0, [p]; ld.param.u32 %r31, [n]; mov.u32 %r0, %tid.x; mov.u32 %r30, 0;\n\
         mul.wide.u32 %d1, %r0, 16; add.u64 %d0, %d0, %d1; mov.u32 %r29, smem; cvt.u32.u64 %r28, %d1;\n\
         add.u32 %r29, %r29, %r28; cvt.rn.f32.u32 %f0, %r0; mov.f32 %f1, 0f3F800001; mov.f32 %f2, 0f3F000000;\n\
         mov.u32 %r1, 1; mov.u32 %r2, 2; mov.u32 %r3, 3; mov.u32 %r4, 4; mov.u64 %d2, 5;\n\
         st.shared.v4.b32 [%r29], {{%r1, %r2, %r3, %r4}};\n\
         loop:\n{body}\nadd.u32 %r30, %r30, 1; setp.lt.u32 %p0, %r30, %r31; @%p0 bra loop;\n\
         st.global.u32 [%d0], %r1; ret;\n}}\n"
    )
}

/// Seconds of processor time of this process (10 ms steps), so that a busy machine does not distort the numbers.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok());
    Some((ticks(11)? + ticks(12)?) / 100.0)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let repeat = |text: &str, n: usize| text.repeat(n);
    let cases = [
        (
            "integer add, xor, shift, mad",
            repeat(
                "add.u32 %r1, %r1, %r0; xor.b32 %r2, %r2, %r1; shl.b32 %r3, %r2, 3; mad.lo.u32 %r4, %r3, %r1, %r2;\n",
                4,
            ),
        ),
        ("f32 add, mul", repeat("add.f32 %f0, %f0, %f2; mul.f32 %f0, %f0, %f1;\n", 8)),
        ("f32 fma", repeat("fma.rn.f32 %f0, %f0, %f1, %f2;\n", 16)),
        ("64-bit address arithmetic", repeat("mul.wide.u32 %d2, %r0, 4; add.s64 %d3, %d2, %d0;\n", 8)),
        ("setp, selp", repeat("setp.lt.s32 %p1, %r1, %r2; selp.b32 %r3, %r1, %r2, %p1;\n", 8)),
        (
            "prmt, lop3, shf",
            repeat(
                "prmt.b32 %r1, %r2, %r3, 0x5410; lop3.b32 %r2, %r1, %r3, %r4, 0xEA; shf.l.wrap.b32 %r3, %r1, %r2, 7;\n",
                5,
            ),
        ),
        ("cvt.rn.bf16x2.f32", repeat("cvt.rn.bf16x2.f32 %r1, %f0, %f1;\n", 16)),
        ("shfl.bfly", repeat("shfl.sync.bfly.b32 %r1, %r1, 1, 31, -1;\n", 16)),
        ("ld.global.b32", repeat("ld.global.b32 %r1, [%d0];\n", 16)),
        ("ld.global.v4.b32", repeat("ld.global.v4.b32 {%r1,%r2,%r3,%r4}, [%d0];\n", 16)),
        ("st.global.v4.b32", repeat("st.global.v4.b32 [%d0], {%r1,%r2,%r3,%r4};\n", 16)),
        ("ld.shared.v4.b32", repeat("ld.shared.v4.b32 {%r1,%r2,%r3,%r4}, [%r29];\n", 16)),
        ("st.shared.v4.b32", repeat("st.shared.v4.b32 [%r29], {%r1,%r2,%r3,%r4};\n", 16)),
        ("ld.shared.b32", repeat("ld.shared.b32 %r1, [%r29];\n", 16)),
        ("red.global.add.f32", repeat("red.global.add.f32 [%d0], %f0;\n", 16)),
        (
            "one lane of a diverged warp",
            format!(
                "setp.ne.u32 %p2, %r0, 0; @%p2 bra skip;\n{}skip:\n",
                repeat("add.u32 %r1, %r1, %r0;\n", 16)
            ),
        ),
    ];
    let rounds = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(40_000u32);
    let wanted = std::env::args().nth(2).unwrap_or_default();
    println!("{:32} {:>14} {:>14} {:>9}", "loop", "warp inst/s", "lane inst/s", "ns/warp");
    for (name, body) in cases.into_iter().filter(|c| c.0.contains(&wanted)) {
        for races in [true, false] {
            let module = program::load(&kernel(&body))?;
            let mut memory = GlobalMemory::default();
            let data = memory.allocate(128 * 16);
            memory.upload(data, &[1; 128 * 16])?;
            let arguments = [Argument::B64(data), Argument::B32(if races { rounds / 4 } else { rounds })];
            let (start, cpu) = (Instant::now(), cpu_seconds());
            let outcome = launch(&Launch {
                program: &module.entries[0],
                symbols: &[],
                global: &memory,
                grid: [1, 1, 1],
                block: [128, 1, 1],
                cluster: [1, 1, 1],
                dynamic_shared: 4096,
                arguments: &arguments,
                schedule: Schedule::RoundRobin,
                checks: Checks { races, ..Checks::default() },
                precision: Default::default(),
                trace: false,
                residency: Default::default(),
                predecessors: &[],
                progress: None,
                budget: 0,
            })?;
            let wall = start.elapsed().as_secs_f64();
            let seconds = cpu_seconds().zip(cpu).map_or(wall, |(end, start)| end - start);
            let warp = outcome.counters.warp_instructions as f64;
            let lane = outcome.counters.lane_instructions as f64;
            let title = if races { name.to_owned() } else { "  without the race detector".to_owned() };
            println!(
                "{title:32} {:>14.3e} {:>14.3e} {:>9.1}",
                warp / seconds,
                lane / seconds,
                seconds / warp * 1e9
            );
            if let Some(finding) = outcome.findings.first() {
                println!("{finding}");
            }
        }
    }
    Ok(())
}
