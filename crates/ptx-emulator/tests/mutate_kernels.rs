//! Every mutant of the small kernels of `data/ptx-mutants` is killed or is known to make no difference.
#![allow(clippy::unwrap_used)]

mod common;

use ptx_emulator::device::{Device, LaunchConfig};
use ptx_emulator::machine::{Argument, Schedule};
use ptx_emulator::mutate::{Equivalents, Observation, Plan, Report, Trial, run};

/// A launch of entry `k` with 64 KiB of shared memory and two buffers, `input` and an output of 2 KiB; entries with
/// one parameter take the output.
struct Small {
    source: String,
    threads: u32,
    cluster: u32,
    parameters: usize,
    input: Vec<u8>,
}

impl Small {
    fn new(source: &str, threads: u32, parameters: usize) -> Self {
        let input = common::pattern(8192);
        Self { source: source.to_owned(), threads, cluster: 1, parameters, input }
    }

    fn observe(&self, trial: &Trial<'_>) -> Result<Observation, String> {
        let mut device = Device::new();
        let module = device.load_module(trial.ptx).map_err(|e| e.to_string())?;
        let input = device.upload_new(&self.input);
        device.protect(input);
        let output = device.allocate(2048);
        let config = LaunchConfig {
            dynamic_shared: 65_536,
            schedule: trial.schedule,
            budget: trial.budget,
            cluster: [self.cluster, 1, 1],
            ..LaunchConfig::new([self.cluster, 1, 1], [self.threads, 1, 1])
        };
        let arguments = [input, output].map(Argument::B64);
        let arguments = &arguments[2 - self.parameters..];
        let outcome = device.launch(&module, "k", &config, arguments).map_err(|e| e.to_string())?;
        Ok(Observation {
            findings: outcome.findings,
            longest_cluster: outcome.longest_cluster,
            wrong: None,
            outputs: device.download(output).map_err(|e| e.to_string())?,
        })
    }

    fn mutate(&self, equivalents: &str) -> Report {
        let equivalents = Equivalents::parse(equivalents).unwrap();
        let schedules = Schedule::NAMED.iter().map(|&(n, s)| (n.to_owned(), s));
        let plan = Plan::new(&self.source, "k", &equivalents).schedules(schedules);
        run(&plan, |trial| self.observe(trial), |_, _| ()).unwrap()
    }
}

#[track_caller]
fn good(small: &Small, equivalents: &str, mutants: usize) {
    let report = small.mutate(equivalents);
    assert!(report.good(), "{report}");
    assert_eq!(report.results.len(), mutants, "{report}");
    assert!(report.baseline.compares_outputs);
}

#[test]
fn barrier() {
    good(&Small::new(include_str!("data/ptx-mutants/ok.ptx"), 64, 1), "", 1);
}

/// The mbarrier of this kernel is never used.
#[test]
fn bulk_store() {
    let equivalents = "
delete-fence k#1 `@%p fence.mbarrier_init.release.cluster;`: nothing uses the mbarrier
delete-init k#1 `@%p mbarrier.init.shared::cta.b64 [%r], 1;`: nothing uses the mbarrier
init-count-more k#1 `@%p mbarrier.init.shared::cta.b64 [%r], 1;`: nothing uses the mbarrier
delete-barrier k#1 `bar.sync 0;`: orders nothing but the initialisation of the unused mbarrier";
    good(&Small::new(include_str!("data/ptx-mutants/proxy_ok.ptx"), 64, 2), equivalents, 10);
}

#[test]
fn bulk_load() {
    let equivalents = "
delete-fence k#1 `@%p fence.mbarrier_init.release.cluster;`: bar.sync orders the initialisation in the CTA, and there is no cluster
relax k#1 `@%p mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r], 256;`: the thread that arrives has written nothing that is read";
    good(&Small::new(include_str!("data/ptx-mutants/tma_ok.ptx"), 64, 2), equivalents, 13);
}

/// The text with other operands: as it stands they are uniform, and to exchange them would change nothing.
fn varied(source: &str, edits: &[(&str, &str)]) -> String {
    edits.iter().fold(source.to_owned(), |text, (old, new)| {
        assert_eq!(text.matches(old).count(), 1, "{old}");
        text.replace(old, new)
    })
}

#[test]
fn wgmma() {
    // bf16 values from 0.5 to 2, others in A than in B.
    let source = varied(
        include_str!("data/ptx-mutants/wg.ptx"),
        &[
            (
                "st.shared.v4.b32 [%r5], {%r1,%r1,%r1,%r1}",
                "mul.lo.u32 %r6, %r1, 2654435761; and.b32 %r6, %r6, 0x007f007f; or.b32 %r6, %r6, 0x3f003f00;\n\
                 st.shared.v4.b32 [%r5], {%r6,%r6,%r6,%r6}",
            ),
            (
                "st.shared.v4.b32 [%r5+2048], {%r1,%r1,%r1,%r1}",
                "mul.lo.u32 %r7, %r1, 2246822507; and.b32 %r7, %r7, 0x007f007f; or.b32 %r7, %r7, 0x3f003f00;\n\
                 st.shared.v4.b32 [%r5+2048], {%r7,%r6,%r7,%r6}",
            ),
        ],
    );
    good(&Small::new(&source, 128, 1), "", 8);
}

#[test]
fn tcgen05() {
    let operand: u64 = 1 << 46 | (256 >> 4) << 32 | (128 >> 4) << 16;
    let scales: u64 = 1 << 46 | (128 >> 4) << 32;
    // Descriptors that hardware takes (see `tcgen05_mutants.rs`), any E2M1 codes, and scales from 2^-1 to 2^0.
    let scale = |register: &str, factor: u32| {
        format!(
            "mul.lo.u32 {register}, %r1, {factor}; and.b32 {register}, {register}, 0x07070707; or.b32 {register}, {register}, 0x30303030;\n"
        )
    };
    let source = include_str!("data/ptx-mutants/nv_ok.ptx")
        .replace("70643624607744", &operand.to_string())
        .replace("70437464178688", &scales.to_string());
    let source = varied(
        &source,
        &[
            (
                "st.shared.b32 [%r5+1024], 572662306",
                "mul.lo.u32 %r6, %r5, 2654435761; st.shared.b32 [%r5+1024], %r6",
            ),
            (
                "st.shared.b32 [%r5+8192], 572662306",
                "mul.lo.u32 %r7, %r5, 2246822507; st.shared.b32 [%r5+8192], %r7",
            ),
            (
                "st.shared.b32 [%r5+16384], 943208504",
                &(scale("%r6", 2_654_435_761) + "st.shared.b32 [%r5+16384], %r6"),
            ),
            (
                "st.shared.b32 [%r5+17408], 943208504",
                &(scale("%r7", 2_246_822_507) + "st.shared.b32 [%r5+17408], %r7"),
            ),
        ],
    );
    let equivalents = "
delete-fence k#2 `tcgen05.fence::before_thread_sync;`: no operation on tensor memory precedes it; alloc is known through shared memory
delete-fence k#3 `tcgen05.fence::after_thread_sync;`: the same barrier";
    good(&Small::new(&source, 128, 1), equivalents, 26);
}

/// A producer, a consumer, three stages: full and empty mbarriers.
#[test]
fn ring() {
    let equivalents = "
delete-fence k#1 `fence.mbarrier_init.release.cluster;`: bar.sync orders the initialisation in the CTA, and there is no cluster
relax k#2 `mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r], 512;`: the producer writes nothing itself; the copy's completion releases";
    good(&Small::new(&common::pipelines::ring(512), 64, 2), equivalents, 33);
}

/// One CTA of a cluster loads for both.
#[test]
fn multicast() {
    let small = Small { cluster: 2, ..Small::new(&common::pipelines::multicast(0b11), 64, 2) };
    let equivalents = "
delete-fence k#1 `@%p fence.mbarrier_init.release.cluster;`: barrier.cluster.arrive releases by itself
relax k#1 `@%p mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r+1024], 256;`: the thread that arrives has written nothing that is read
relax k#2 `barrier.cluster.arrive;`: fence.mbarrier_init in front of it releases what others need
relax k#4 `barrier.cluster.arrive;`: nothing is read behind the last barrier
delete-wait k#3 `barrier.cluster.wait;`: each CTA has waited for its data, and nobody touches a peer any more";
    good(&small, equivalents, 19);
}

/// A warp-specialised matrix product, checked against plain loops too.
#[test]
fn gemm() {
    use common::pipelines::{GEMM_STEP, GEMM_STEPS};
    // bf16 values from 0.5 to 2 in steps of 1/128, of both signs: every partial sum is exact.
    let mut input = common::pattern(GEMM_STEP * GEMM_STEPS);
    input.as_chunks_mut::<2>().0.iter_mut().for_each(|[_, high]| *high = 0x3f | *high & 0x80);
    let small = Small { input, ..Small::new(&common::pipelines::gemm(), 160, 2) };
    let trial = Trial { ptx: &small.source, schedule: Schedule::RoundRobin, budget: 0 };
    let seen = small.observe(&trial).unwrap();
    assert!(seen.findings.is_empty(), "{}", common::text(&seen.findings));
    // Element of a core-matrix layout: 8 rows of 16 bytes, 128 bytes further along K, 256 along the rows.
    let value = |step: usize, base: usize, row: usize, k: usize| {
        let at = step * GEMM_STEP + base + row / 8 * 256 + k / 8 * 128 + row % 8 * 16 + k % 8 * 2;
        f32::from_bits(u32::from(u16::from_le_bytes([small.input[at], small.input[at + 1]])) << 16)
    };
    for thread in 0..128 {
        let (warp, lane) = (thread / 32, thread % 32);
        for i in 0..4 {
            let (row, column) = (warp * 16 + lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2);
            let sum: f32 = (0..GEMM_STEPS)
                .flat_map(|step| (0..16).map(move |k| (step, k)))
                .map(|(step, k)| value(step, 0, row, k) * value(step, 2048, column, k))
                .sum();
            let at = thread * 16 + i * 4;
            assert_eq!(seen.outputs[at..at + 4], sum.to_le_bytes(), "{row}, {column}");
        }
    }
    let equivalents = "
delete-fence k#1 `fence.mbarrier_init.release.cluster;`: bar.sync orders the initialisation in the CTA, and there is no cluster
relax k#2 `mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r], 2304;`: the producer writes nothing itself; the copies' completion releases";
    good(&small, equivalents, 33);
}
