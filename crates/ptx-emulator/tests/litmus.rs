//! Synchronisation between CTAs over global memory (PTX ISA chapter 8), as litmus tests: every pattern right, which
//! must be clean, and with a fault, which must be a race, under every schedule.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Kernel, entry, only, schedules, text};
use ptx_emulator::check::{Class, Finding, Mode};
use ptx_emulator::machine::{Argument, Schedule};

/// Launch of a litmus test: threads of a CTA, CTAs of a cluster.
#[derive(Clone, Copy)]
struct Shape {
    threads: u32,
    cluster: u32,
    mode: Mode,
}

const ONE: Shape = Shape { threads: 1, cluster: 1, mode: Mode::StrictPtx };
const MANY: Shape = Shape { threads: 64, cluster: 1, mode: Mode::StrictPtx };

/// Code for each CTA. %rd0 data, %rd1 and %rd2 flags (all zero), %r0 the thread, %p0 whether it is thread 0, %rd3 its
/// word of the data, %r20 its shared memory.
fn source(ctas: &[&str]) -> String {
    let mut body = "ld.param.u64 %rd0, [data]; ld.param.u64 %rd1, [flags]; add.u64 %rd2, %rd1, 64; mov.u32 %r0, %tid.x;\n\
        setp.eq.u32 %p0, %r0, 0; mul.wide.u32 %rd3, %r0, 4; add.u64 %rd3, %rd3, %rd0; mov.u32 %r20, smem;\n\
        mov.u32 %r19, %ctaid.x;\n"
        .to_owned();
    for (i, code) in ctas.iter().enumerate() {
        body += &format!("setp.ne.u32 %p15, %r19, {i}; @%p15 bra N{i};\n{{\n{code}\n}}\nbra END;\nN{i}:\n");
    }
    entry(".param .u64 data, .param .u64 flags", &(body + "END:\n"))
}

fn run(shape: Shape, ctas: &[&str], schedule: Schedule) -> Vec<Finding> {
    let mut k = Kernel::new(&source(ctas), shape.threads).schedule(schedule);
    k.grid = [ctas.len() as u32, 1, 1];
    k.cluster = [shape.cluster, 1, 1];
    k.checks.mode = shape.mode;
    let (data, flags) = (k.upload(&[0; 1024]), k.upload(&[0; 128]));
    k.run(&[Argument::B64(data), Argument::B64(flags)])
}

#[track_caller]
fn clean(shape: Shape, ctas: &[&str]) {
    for schedule in schedules() {
        let found = run(shape, ctas, schedule);
        assert!(found.is_empty(), "{schedule:?} of\n{}\n{}", ctas.join("\n---\n"), text(&found));
    }
}

#[track_caller]
fn fault(shape: Shape, ctas: &[&str], class: Class) {
    for schedule in schedules() {
        let found = run(shape, ctas, schedule);
        let right = !found.is_empty() && found.iter().all(|f| f.class == class && f.earlier.is_some());
        assert!(right, "{schedule:?} of\n{}\n{}", ctas.join("\n---\n"), text(&found));
    }
}

/// A pattern right, and with faults: texts of it replaced.
#[track_caller]
fn pair(shape: Shape, ctas: &[&str], faults: &[(&str, &str)]) {
    clean(shape, ctas);
    for (from, to) in faults {
        assert!(ctas.iter().any(|c| c.contains(from)), "{from}");
        let changed: Vec<String> = ctas.iter().map(|c| c.replace(from, to)).collect();
        fault(shape, &changed.iter().map(String::as_str).collect::<Vec<_>>(), Class::Race);
    }
}

const WAIT: &str = "W1: ld.acquire.gpu.global.u32 %r9, [%rd1]; setp.ne.u32 %p9, %r9, 1; @%p9 bra W1;\n";
const READ: &str = "ld.global.u32 %r8, [%rd0];";

#[test]
fn release_and_acquire() {
    let reader = format!("{WAIT}{READ}");
    pair(
        ONE,
        &["st.global.u32 [%rd0], 7; st.release.gpu.global.u32 [%rd1], 1;", &reader],
        &[
            ("st.release.gpu", "st.relaxed.gpu"),
            ("st.release.gpu", "st.release.cta"),
            ("st.release.gpu", "st.release.cluster"),
            ("st.release.gpu", "st.volatile"),
            ("ld.acquire.gpu", "ld.relaxed.gpu"),
            ("ld.acquire.gpu", "ld.acquire.cta"),
            ("ld.acquire.gpu", "ld.acquire.cluster"),
            ("ld.acquire.gpu", "ld.volatile"),
            // The flag itself races.
            ("st.release.gpu", "st"),
        ],
    );
    // System scope includes everybody, and generic addresses are the same memory.
    clean(ONE, &["st.u32 [%rd0], 7; st.release.sys.u32 [%rd1], 1;", &reader.replace("gpu.global", "sys")]);
    // What comes behind the release is not released.
    fault(ONE, &["st.release.gpu.global.u32 [%rd1], 1; st.global.u32 [%rd0], 7;", &reader], Class::Race);
}

#[test]
fn fences_around_relaxed_accesses() {
    let reader = format!("{}fence.acquire.gpu; {READ}", WAIT.replace("acquire", "relaxed"));
    let writer = "st.global.u32 [%rd0], 7; fence.acq_rel.gpu; st.relaxed.gpu.global.u32 [%rd1], 1;";
    pair(
        ONE,
        &[writer, &reader],
        &[
            ("fence.acq_rel.gpu; ", ""),
            ("fence.acq_rel.gpu", "fence.acq_rel.cta"),
            ("fence.acq_rel.gpu", "fence.acq_rel.cluster"),
            ("fence.acq_rel.gpu", "fence.acquire.gpu"),
            ("fence.acquire.gpu; ", ""),
            ("fence.acquire.gpu", "fence.acquire.cta"),
            ("fence.acquire.gpu", "fence.release.gpu"),
            ("st.relaxed.gpu", "st.relaxed.cta"),
            ("ld.relaxed.gpu", "ld.relaxed.cta"),
        ],
    );
    // `volatile` and `membar`, as older code has it.
    let reader = reader.replace("relaxed.gpu", "volatile").replace("fence.acquire.gpu", "membar.gl");
    let writer = writer.replace("relaxed.gpu", "volatile").replace("fence.acq_rel.gpu", "membar.gl");
    pair(
        ONE,
        &[&writer, &reader],
        &[("membar.gl; st", "st"), ("membar.gl; ld", "ld"), ("membar.gl", "membar.cta")],
    );
    // The fence must come before the flag is written, and after it is read.
    let late = "st.global.u32 [%rd0], 7; st.relaxed.gpu.global.u32 [%rd1], 1; fence.acq_rel.gpu;";
    fault(ONE, &[late, &format!("{WAIT}{READ}")], Class::Race);
    // A narrower fence in between hides nothing, and adds nothing.
    let both = |data: &str, late: &str| {
        format!("{data} fence.release.gpu; {late} fence.release.cta; st.relaxed.gpu.global.u32 [%rd1], 1;")
    };
    let store = "st.global.u32 [%rd0], 7;";
    clean(ONE, &[&both(store, ""), &format!("{WAIT}{READ}")]);
    fault(ONE, &[&both("", store), &format!("{WAIT}{READ}")], Class::Race);
}

#[test]
fn reductions_and_atomics() {
    let reader = format!("{WAIT}{READ}");
    let writer = "st.global.u32 [%rd0], 7; red.release.gpu.global.add.u32 [%rd1], 1;";
    pair(
        ONE,
        &[writer, &reader],
        &[("release", "relaxed"), ("red.release.gpu", "red"), ("release.gpu", "release.cta")],
    );
    let ticket = "st.global.u32 [%rd0], 7; atom.acq_rel.gpu.global.add.u32 %r5, [%rd1], 1;";
    pair(ONE, &[ticket, &reader], &[("acq_rel", "acquire"), ("acq_rel.gpu", "acq_rel.cluster")]);
    // `atom` can be the read of an acquire pattern, `red` cannot.
    let swap = "W2: atom.relaxed.gpu.global.cas.b32 %r9, [%rd1], 1, 2; setp.ne.u32 %p9, %r9, 1; @%p9 bra W2; fence.acquire.gpu;\n";
    clean(ONE, &[writer, &format!("{swap}{READ}")]);
    let blind = format!(
        "{}red.relaxed.gpu.global.add.u32 [%rd1], 1; fence.acquire.gpu; {READ}",
        WAIT.replace("gpu", "cta")
    );
    fault(ONE, &[writer, &blind], Class::Race);
}

#[test]
fn counters() {
    let add = "red.relaxed.gpu.global.add.u32 [%rd1], 1;";
    pair(ONE, &[add, add], &[(".gpu", ".cta"), (".gpu", ".cluster")]);
    // Of two sizes, and beside an ordinary access.
    let wide = "red.relaxed.gpu.global.add.u64 [%rd1], %rd0;";
    clean(ONE, &[wide, wide]);
    fault(ONE, &[add, wide], Class::Race);
    fault(ONE, &[add, "st.global.u32 [%rd1], 0;"], Class::Race);
    fault(ONE, &[add, "ld.global.u32 %r5, [%rd1];"], Class::Race);
    clean(ONE, &[add, "ld.relaxed.gpu.global.u32 %r5, [%rd1];"]);
    // Vectors are their elements (8.2.4).
    let vector = "mov.f32 %f1, 0f3F800000; red.global.add.v2.f32 [%rd1], {%f1, %f1};";
    clean(ONE, &[vector, "mov.f32 %f1, 0f3F800000; red.global.add.f32 [%rd1+4], %f1;"]);
}

#[test]
fn what_other_threads_wrote_before_a_barrier() {
    let writer = "st.global.u32 [%rd3], 7; bar.sync 0;\n\
                  @%p0 fence.acq_rel.gpu; @%p0 atom.relaxed.gpu.global.add.u32 %r5, [%rd1], 1;";
    let reader = format!(
        "@!%p0 bra B;\n{}fence.acq_rel.gpu;\nB: bar.sync 0; xor.b32 %r1, %r0, 33; mul.wide.u32 %rd4, %r1, 4;\n\
         add.u64 %rd4, %rd4, %rd0; ld.global.u32 %r8, [%rd4];",
        WAIT.replace("acquire", "relaxed")
    );
    pair(
        MANY,
        &[writer, &reader],
        &[
            // As in `__syncthreads(); if (!threadIdx.x) { __threadfence(); atomicAdd(..); }` without the one or the other.
            ("bar.sync 0;\n@%p0 fence", "@%p0 fence"),
            ("@%p0 fence.acq_rel.gpu; ", ""),
            ("@%p0 fence.acq_rel.gpu", "@!%p0 fence.acq_rel.gpu"),
            ("B: bar.sync 0;", "B:"),
            ("fence.acq_rel.gpu;\nB", "B"),
        ],
    );
}

#[test]
fn the_last_cta_finishes() {
    // Every CTA stores a partial result and takes a ticket; the last one adds them up.
    let cta = "mov.u32 %r1, %ctaid.x; mul.wide.u32 %rd4, %r1, 4; add.u64 %rd4, %rd4, %rd0; st.global.u32 [%rd4], 7;\n\
               fence.acq_rel.gpu; atom.relaxed.gpu.global.add.u32 %r5, [%rd1], 1; setp.ne.u32 %p9, %r5, 2; @%p9 bra END;\n\
               fence.acq_rel.gpu; ld.global.v2.u32 {%r6, %r7}, [%rd0]; ld.global.u32 %r8, [%rd0+8];";
    pair(
        ONE,
        &[cta, cta, cta],
        &[
            ("fence.acq_rel.gpu; atom", "atom"),
            ("fence.acq_rel.gpu; ld", "ld"),
            ("fence.acq_rel.gpu", "fence.acq_rel.cta"),
        ],
    );
    let cta = cta.replace("fence.acq_rel.gpu; ", "").replace("atom.relaxed", "atom.acq_rel");
    pair(
        ONE,
        &[&cta, &cta, &cta],
        &[("acq_rel", "acquire"), ("acq_rel", "release"), ("acq_rel.gpu", "acq_rel.cta")],
    );
}

#[test]
fn chains() {
    // An atomic operation hands on what it has found, whatever its own order; a store does not. (The second flag only
    // makes the reader late.)
    let writer = "st.global.u32 [%rd0], 7; st.release.gpu.global.u32 [%rd1], 1;";
    let middle = format!(
        "{}red.relaxed.gpu.global.add.u32 [%rd1], 1; st.relaxed.gpu.global.u32 [%rd2], 1;",
        WAIT.replace("acquire", "relaxed")
    );
    let late = WAIT.replace("acquire", "relaxed").replace("%rd1", "%rd2");
    let reader = format!("{late}ld.acquire.gpu.global.u32 %r9, [%rd1]; {READ}");
    pair(
        ONE,
        &[writer, &middle, &reader],
        &[("red.relaxed.gpu.global.add.u32 [%rd1], 1", "st.relaxed.gpu.global.u32 [%rd1], 2")],
    );
    // The thread's own later store does.
    let twice =
        "st.global.u32 [%rd0], 7; st.release.gpu.global.u32 [%rd1], 1; st.relaxed.gpu.global.u32 [%rd1], 2;";
    let reader = format!("{}{READ}", WAIT.replace("%r9, 1", "%r9, 2"));
    pair(ONE, &[twice, &reader], &[("st.release.gpu", "st.relaxed.gpu")]);
    // From CTA to CTA over two flags.
    let middle = format!("{WAIT}st.release.gpu.global.u32 [%rd2], 1;");
    let reader = format!("{}{READ}", WAIT.replace("%rd1", "%rd2"));
    pair(
        ONE,
        &[writer, &middle, &reader],
        &[("st.release.gpu.global.u32 [%rd2]", "st.relaxed.gpu.global.u32 [%rd2]"), ("acquire", "relaxed")],
    );
}

#[test]
fn locks() {
    let cta = "L: atom.acquire.gpu.global.cas.b32 %r9, [%rd1], 0, 1; setp.ne.u32 %p9, %r9, 0; @%p9 bra L;\n\
               ld.global.u32 %r8, [%rd0]; add.u32 %r8, %r8, 1; st.global.u32 [%rd0], %r8;\n\
               atom.release.gpu.global.exch.b32 %r9, [%rd1], 0;";
    pair(
        ONE,
        &[cta, cta, cta, cta],
        &[("acquire", "relaxed"), ("release", "relaxed"), (".gpu", ".cta"), ("@%p9 bra L;", "")],
    );
}

#[test]
fn work_queues() {
    // CTAs draw numbers and write what belongs to them.
    let cta = "Q: atom.global.add.u32 %r5, [%rd1], 1; setp.ge.u32 %p9, %r5, 12; @%p9 bra END; mul.wide.u32 %rd4, %r5, 4;\n\
               add.u64 %rd4, %rd4, %rd0; st.global.u32 [%rd4], %r5; bra Q;";
    clean(ONE, &[cta, cta, cta]);
    // Two queues: both give out the same numbers.
    fault(ONE, &[cta, &cta.replace("%rd1", "%rd2"), cta], Class::Race);
}

#[test]
fn a_buffer_is_used_again() {
    // The reader gives the buffer back before the writer fills it anew: a write after a read.
    let writer = "st.global.u32 [%rd0], 7; st.release.gpu.global.u32 [%rd1], 1;\n\
        W2: ld.acquire.gpu.global.u32 %r9, [%rd2]; setp.ne.u32 %p9, %r9, 1; @%p9 bra W2; st.global.u32 [%rd0], 8;";
    let reader = format!("{WAIT}{READ} st.release.gpu.global.u32 [%rd2], 1;");
    pair(
        ONE,
        &[writer, &reader],
        &[
            ("st.release.gpu.global.u32 [%rd2]", "st.relaxed.gpu.global.u32 [%rd2]"),
            ("ld.acquire.gpu.global.u32 %r9, [%rd2]", "ld.relaxed.gpu.global.u32 %r9, [%rd2]"),
        ],
    );
    // A read of what nobody has written yet counts as well.
    let (first, second) =
        (format!("{READ} st.release.gpu.global.u32 [%rd1], 1;"), format!("{WAIT}st.global.u32 [%rd0], 7;"));
    pair(ONE, &[&first, &second], &[("release", "relaxed")]);
}

#[test]
fn clusters() {
    let pairs = Shape { cluster: 2, ..ONE };
    let reader = format!("{WAIT}{READ}").replace("gpu", "cluster");
    let writer = "st.global.u32 [%rd0], 7; st.release.cluster.global.u32 [%rd1], 1;";
    pair(
        pairs,
        &[writer, &reader],
        &[("release.cluster", "release.cta"), ("acquire.cluster", "acquire.cta")],
    );
    // The third CTA is of another cluster.
    fault(pairs, &[writer, "", &reader, ""], Class::Race);
    clean(pairs, &[&writer.replace("cluster", "gpu"), "", &reader.replace("cluster", "gpu"), ""]);
    // The cluster's own barrier; relaxed it needs a fence.
    let whole = "barrier.cluster.arrive.release; barrier.cluster.wait.acquire;";
    let (writer, reader) = (format!("st.global.u32 [%rd0], 7; {whole}"), format!("{whole} {READ}"));
    pair(pairs, &[&writer, &reader], &[("arrive.release", "arrive.relaxed")]);
    let fenced = writer
        .replace("barrier.cluster.arrive.release", "fence.acq_rel.cluster; barrier.cluster.arrive.relaxed");
    pair(
        pairs,
        &[&fenced, &reader],
        &[("fence.acq_rel.cluster; ", ""), ("fence.acq_rel.cluster", "fence.mbarrier_init.release.cluster")],
    );
}

#[test]
fn mbarriers_across_ctas() {
    let pairs = Shape { cluster: 2, ..ONE };
    let init = "mbarrier.init.shared::cta.b64 [%r20], 1; fence.mbarrier_init.release.cluster; barrier.cluster.arrive.relaxed; barrier.cluster.wait.acquire;";
    let reader = format!(
        "{init}\nW: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p9, [%r20], 0; @!%p9 bra W; {READ}\n\
         barrier.cluster.arrive; barrier.cluster.wait;"
    );
    let writer = format!(
        "{init}\nst.global.u32 [%rd0], 7; mapa.shared::cluster.u32 %r5, %r20, 1;\n\
         mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r5]; barrier.cluster.arrive; barrier.cluster.wait;"
    );
    pair(
        pairs,
        &[&writer, &reader],
        &[
            // The defaults have the scope of the CTA.
            ("arrive.release.cluster", "arrive"),
            ("arrive.release.cluster", "arrive.relaxed.cluster"),
            ("try_wait.parity.acquire.cluster", "try_wait.parity"),
            ("try_wait.parity.acquire.cluster", "try_wait.parity.relaxed.cluster"),
        ],
    );
    let relaxed = writer.replace("mbarrier.arrive.release", "fence.release.cluster; mbarrier.arrive.relaxed");
    clean(pairs, &[&relaxed, &reader]);
    // What CUTLASS relies on.
    let compatible = Shape { mode: Mode::CutlassCompatible, ..pairs };
    clean(
        compatible,
        &[&writer.replace("arrive.release.cluster", "arrive"), &reader.replace("acquire.cluster.", "")],
    );
}

#[test]
fn bulk_copies_between_ctas() {
    // A bulk store, then a release: complete it must be, not only read.
    let store = "st.shared.u32 [%r20], 7; st.shared.u32 [%r20+4], 7; st.shared.u32 [%r20+8], 7; st.shared.u32 [%r20+12], 7;\n\
        fence.proxy.async; cp.async.bulk.global.shared::cta.bulk_group [%rd0], [%r20], 16; cp.async.bulk.commit_group;\n\
        cp.async.bulk.wait_group 0; st.release.gpu.global.u32 [%rd1], 1; cp.async.bulk.wait_group 0;";
    pair(
        ONE,
        &[store, &format!("{WAIT}{READ}")],
        &[("cp.async.bulk.wait_group 0; st", "cp.async.bulk.wait_group.read 0; st"), ("release", "relaxed")],
    );
    // Ordinary stores, read by a bulk copy of another CTA: a proxy fence between the two, of the writer or of the reader.
    let load = |fence: &str| {
        format!(
            "mbarrier.init.shared::cta.b64 [%r20+64], 1;\n{WAIT}{fence}mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r20+64], 16;\n\
             cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r20], [%rd0], 16, [%r20+64];\n\
             W: mbarrier.try_wait.parity.shared::cta.b64 %p8, [%r20+64], 0; @!%p8 bra W;"
        )
    };
    let writer =
        |fence: &str| format!("st.global.u32 [%rd0], 7; {fence} st.release.gpu.global.u32 [%rd1], 1;");
    clean(ONE, &[&writer("fence.proxy.async.global;"), &load("")]);
    clean(ONE, &[&writer("fence.proxy.async;"), &load("")]);
    fault(ONE, &[&writer(""), &load("")], Class::ProxyRace);
    fault(ONE, &[&writer("fence.proxy.async.shared::cta;"), &load("")], Class::ProxyRace);
    fault(ONE, &[&writer("fence.proxy.async;").replace("release", "relaxed"), &load("")], Class::Race);
    clean(ONE, &[&writer(""), &load("fence.proxy.async;")]);
    fault(ONE, &[&writer(""), &load("fence.proxy.async.shared::cta;")], Class::ProxyRace);
    // Before the reader has synchronised, or before the write, it fences nothing.
    let early = format!("fence.proxy.async;\n{}", load(""));
    fault(ONE, &[&writer(""), &early], Class::ProxyRace);
    fault(ONE, &[&format!("fence.proxy.async; {}", writer("")), &load("")], Class::ProxyRace);
    // That of a third, if it comes in between.
    let relay =
        |fences: [&str; 2]| format!("{} {WAIT}{} st.release.gpu.global.u32 [%rd2], 1;", fences[0], fences[1]);
    let behind = load("").replace("%rd1]", "%rd2]");
    clean(ONE, &[&writer(""), &relay(["", "fence.proxy.async;"]), &behind]);
    fault(ONE, &[&writer(""), &relay(["fence.proxy.async;", ""]), &behind], Class::ProxyRace);
    // A third that hands nothing on.
    let aside = format!("{WAIT}fence.proxy.async;");
    fault(ONE, &[&writer(""), &load(""), &aside], Class::ProxyRace);
    let compatible = Shape { mode: Mode::CutlassCompatible, ..ONE };
    fault(compatible, &[&writer(""), &load("")], Class::ProxyRace);
    // Reductions through one proxy do not race with each other; with those of threads they do.
    let reduce = "st.shared.u32 [%r20], 7; st.shared.u32 [%r20+4], 7; st.shared.u32 [%r20+8], 7; st.shared.u32 [%r20+12], 7; fence.proxy.async;\n\
        cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%rd0], [%r20], 16; cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;";
    clean(ONE, &[reduce, reduce]);
    fault(ONE, &[reduce, "red.global.add.u32 [%rd0], 1;"], Class::Race);
    fault(ONE, &[reduce, "red.global.add.u32 [%rd1], 1; st.global.u32 [%rd0], 1;"], Class::Race);
}

#[test]
fn proxy_fences_in_a_cta() {
    // All threads write shared memory, one issues the store: each fences before the barrier, or one that the issuer knows
    // of does behind it.
    let cta = |writers: &str, issuer: &str| {
        format!(
            "mul.lo.u32 %r1, %r0, 4; add.u32 %r1, %r1, %r20; st.shared.u32 [%r1], %r0; {writers} bar.sync 0;\n\
             setp.eq.u32 %p1, %r0, 40; {issuer} @!%p0 bra END; cp.async.bulk.global.shared::cta.bulk_group [%rd0], [%r20], 256; cp.async.bulk.commit_group;\n\
             cp.async.bulk.wait_group 0;"
        )
    };
    clean(MANY, &[&cta("fence.proxy.async.shared::cta;", "")]);
    fault(MANY, &[&cta("", "")], Class::ProxyRace);
    // Before the barrier a fence covers its own thread's stores only.
    fault(MANY, &[&cta("@%p0 fence.proxy.async.shared::cta;", "")], Class::ProxyRace);
    fault(MANY, &[&cta("@!%p0 fence.proxy.async.shared::cta;", "")], Class::ProxyRace);
    clean(MANY, &[&cta("", "fence.proxy.async.shared::cta;")]);
    clean(MANY, &[&cta("", "@%p0 fence.proxy.async.shared::cta;")]);
    fault(MANY, &[&cta("", "fence.proxy.async.global;")], Class::ProxyRace);
    // Of another thread than the issuer: only with another barrier behind it.
    fault(MANY, &[&cta("", "@%p1 fence.proxy.async.shared::cta;")], Class::ProxyRace);
    clean(MANY, &[&cta("", "@%p1 fence.proxy.async.shared::cta; bar.sync 0;")]);
    fault(MANY, &[&cta("", "bar.sync 0; @%p1 fence.proxy.async.shared::cta;")], Class::ProxyRace);
    // What was written behind the fence is not covered.
    let late = "fence.proxy.async.shared::cta; bar.sync 0; st.shared.u32 [%r1], 3; bar.sync 0;";
    fault(MANY, &[&cta("", late)], Class::ProxyRace);
    // cp.async writes through the generic proxy: its completion includes no proxy fence.
    let copy = |fence: &str| {
        format!(
            "cp.async.ca.shared.global [%r20], [%rd0], 16; cp.async.wait_all; {fence}\n\
             cp.async.bulk.global.shared::cta.bulk_group [%rd0+256], [%r20], 16; cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;"
        )
    };
    clean(ONE, &[&copy("fence.proxy.async.shared::cta;")]);
    fault(ONE, &[&copy("")], Class::ProxyRace);
}

#[test]
fn grid_barriers() {
    // A barrier of all CTAs, twice, on a counter that only grows.
    let barrier = |n: u32| {
        format!(
            "bar.sync 0; @!%p0 bra G{n}C%%; fence.acq_rel.gpu; red.relaxed.gpu.global.add.u32 [%rd1], 1;\n\
             G{n}W%%: ld.relaxed.gpu.global.u32 %r9, [%rd1]; setp.lt.u32 %p9, %r9, {}; @%p9 bra G{n}W%%; fence.acq_rel.gpu;\n\
             G{n}C%%: bar.sync 0;\n",
            3 * n
        )
    };
    // In each step a CTA writes its words and reads those of the next one.
    let cta = |me: u32| {
        let body = format!(
            "st.global.u32 [%rd3+{}], %r0;\n{}ld.global.u32 %r8, [%rd3+{}];\n{}st.global.u32 [%rd3+{}], %r8;",
            me * 256,
            barrier(1),
            (me + 1) % 3 * 256,
            barrier(2),
            me * 256
        );
        body.replace("%%", &me.to_string())
    };
    let all = [cta(0), cta(1), cta(2)];
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    pair(
        MANY,
        &all,
        &[
            ("setp.lt.u32 %p9, %r9, 6", "setp.lt.u32 %p9, %r9, 4"),
            ("fence.acq_rel.gpu; red", "red"),
            ("; fence.acq_rel.gpu;\nG2", ";\nG2"),
            ("bar.sync 0; @!%p0 bra G2", "@!%p0 bra G2"),
        ],
    );
}

#[test]
fn ctas_that_do_not_synchronise() {
    // No strong access: the CTAs run in parallel, and are compared afterwards.
    let own = "mov.u32 %r1, %ctaid.x; mul.wide.u32 %rd4, %r1, 256; add.u64 %rd4, %rd4, %rd3; st.global.u32 [%rd4], %r0; ld.global.u32 %r8, [%rd4];";
    pair(
        MANY,
        &[own, own, own],
        &[
            ("%r1, 256", "%r1, 252"),
            ("ld.global.u32 %r8, [%rd4]", "ld.global.u32 %r8, [%rd0]"),
            ("%r1, 256", "%r1, 0"),
        ],
    );
    // Bytes are told apart.
    let byte =
        "mov.u32 %r1, %ctaid.x; cvt.u64.u32 %rd4, %r1; add.u64 %rd4, %rd4, %rd0; st.global.u8 [%rd4], %r1;";
    pair(ONE, &[byte, byte, byte], &[("cvt.u64.u32 %rd4, %r1;", "mov.u64 %rd4, 1;")]);
    // What all of them read nobody may write.
    pair(MANY, &[READ, READ, "st.global.u32 [%rd3+256], 1;"], &[("[%rd3+256]", "[%rd3]")]);
    // The same findings in every run.
    let racy = own.replace("%r1, 256", "%r1, 128");
    let first = run(MANY, &[&racy, &racy, &racy, &racy], Schedule::RoundRobin);
    only(&first, Class::Race);
    for _ in 0..20 {
        assert_eq!(run(MANY, &[&racy, &racy, &racy, &racy], Schedule::RoundRobin), first);
    }
}

#[test]
fn many_readers() {
    // Every one of 1024 threads reads a word before one thread of another CTA writes it: all must have arrived.
    let shape = Shape { threads: 1024, ..ONE };
    let reader = "setp.ne.u32 %p8, %r0, 0; ld.global.u32 %r8, [%rd0]; bar.sync 0; @%p0 red.release.gpu.global.add.u32 [%rd1], 1;";
    let writer = format!("@!%p0 bra END;\n{WAIT}st.global.u32 [%rd0], 7;");
    let good = [reader, writer.as_str()];
    let late = reader.replace(
        "ld.global.u32 %r8, [%rd0]; bar.sync 0;",
        "@%p8 ld.global.u32 %r8, [%rd0]; bar.sync 0; @!%p8 ld.global.u32 %r8, [%rd0];",
    );
    // Only the read of thread 1 stands behind the barrier.
    let one = late.replace("setp.ne.u32 %p8, %r0, 0", "setp.ne.u32 %p8, %r0, 1");
    for schedule in
        [Schedule::RoundRobin, Schedule::LowestWarpFirst, Schedule::HighestWarpFirst, Schedule::Seeded(3)]
    {
        let found = run(shape, &good, schedule);
        assert!(found.is_empty(), "{}", text(&found));
        let found = run(shape, &[&one, &writer], schedule);
        let found = only(&found, Class::Race);
        let (a, b) = (&found.place, &found.earlier.as_ref().unwrap().place);
        assert!([a, b].iter().any(|p| p.cta == 0 && p.thread == 1), "{schedule:?} {found}");
    }
}
