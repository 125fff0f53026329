//! Mutants: what they are called, the list of equivalents, the runner's verdicts.
#![allow(clippy::unwrap_used)]

mod common;

use common::entry;
use ptx_emulator::machine::Schedule;
use ptx_emulator::mutate::{
    Equivalents, Mutant, Observation, Plan, Report, RunError, Trial, Verdict, kinds, mutants, run,
};
use ptx_emulator::program::load;

fn of(source: &str, kind: &str) -> Vec<Mutant> {
    mutants(source, "k", &kinds(&[kind]).unwrap()).unwrap()
}

#[test]
fn identities_survive_recompilation() {
    let source = entry("", "bar.sync 0;\n@%p1 bar.sync 1;\nmbarrier.arrive.shared::cta.b64 _, [%r2+8];");
    let names = |source: &str| -> Vec<String> {
        mutants(source, "k", &kinds::<&str>(&[]).unwrap())
            .unwrap()
            .iter()
            .map(|m| m.identity.to_string())
            .collect()
    };
    assert_eq!(
        names(&source),
        [
            "relax k#1 `mbarrier.arrive.shared::cta.b64 _, [%r+8];`",
            "delete-arrive k#1 `mbarrier.arrive.shared::cta.b64 _, [%r+8];`",
            "delete-barrier k#1 `bar.sync 0;`",
            "delete-barrier k#2 `@%p bar.sync 1;`",
        ]
    );
    let recompiled = source
        .replace("%p1", "%p12")
        .replace("%r2", "%r33")
        .replace("bar.sync 0;", "\n// barrier\n{bar.sync \t0;}");
    assert_eq!(names(&recompiled), names(&source));
    let wide = entry(
        "",
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%f1,%f2,%f3,%f4,%f5,%f6,%f7,%f8}, %rd1, %rd2, 1, 1, 1, 0, 0;",
    );
    assert!(names(&wide)[0].contains("{%f x 8}"), "{:?}", names(&wide));
}

/// A mutant keeps the lines of the others, and functions that are called are part of the entry.
#[test]
fn lines_and_functions() {
    let source = ".version 8.8\n.target sm_100a\n.address_size 64\n.func f ()\n{\n bar.sync\n  0;\n ret;\n}\n\
                  .func unused ()\n{\n bar.sync 3;\n ret;\n}\n\
                  .visible .entry k()\n{\n bar.sync 1;\n call f, ();\n call f, ();\n ret;\n}\n";
    load(source).unwrap();
    let found = of(source, "delete-barrier");
    let names: Vec<String> = found.iter().map(|m| format!("{} {}", m.identity, m.line)).collect();
    assert_eq!(names, ["delete-barrier k#1 `bar.sync 1;` 17", "delete-barrier k/f#1 `bar.sync 0;` 6"]);
    assert_eq!(found[1].identity.entry(), "k");
    let mutated = found[1].apply(source);
    assert_eq!(mutated.lines().count(), source.lines().count());
    assert!(!mutated.contains("0;"));
    let error = mutants(source, "kernel", &[]).unwrap_err().to_string();
    assert!(error.contains("no entry kernel") && error.ends_with("k"), "{error}");
}

#[test]
fn lists() {
    let text = "# comment\n\ndelete-barrier k#2 `bar.sync 0;`: nothing: to order\n";
    let list = Equivalents::parse(text).unwrap();
    let source = entry("", "bar.sync 0; bar.sync 0;");
    let [first, second] = &of(&source, "delete-barrier")[..] else { panic!() };
    assert_eq!(list.reason(&first.identity), None);
    assert_eq!(list.reason(&second.identity), Some("nothing: to order"));
    assert_eq!(list.identities().collect::<Vec<_>>(), [&second.identity]);
    for (text, line, why) in [
        ("delete-barrier k#2 `bar.sync 0;`", 1, "reason"),
        ("\ndelete-barrier k#2 `bar.sync 0;`:  ", 2, "reason"),
        ("delete-barrier k#0 `bar.sync 0;`: x", 1, "expected"),
        ("delete-barrier k `bar.sync 0;`: x", 1, "expected"),
        ("delete-barrier k#1 bar.sync 0;: x", 1, "expected"),
        ("a k#1 `b`: x\na k#1 `b`: y", 2, "twice"),
    ] {
        let error = Equivalents::parse(text).unwrap_err();
        assert!(error.line == line && error.to_string().contains(why), "{text}: {error}");
    }
}

/// What the runner makes of observations, without an emulator behind them.
fn judged(
    list: &str,
    launch: impl Fn(&Trial<'_>) -> Result<Observation, String> + Sync,
) -> Result<Report, RunError> {
    let source = entry("", "bar.sync 0; bar.sync 1; bar.sync 2;");
    let list = Equivalents::parse(list).unwrap();
    let schedules = ["round-robin", "async-late"].map(|n| (n.to_owned(), Schedule::parse(n).unwrap()));
    let plan = Plan::new(&source, "k", &list).schedules(schedules);
    run(&plan, launch, |done, all| assert!((1..=3).contains(&done) && all == 3))
}

fn statuses(report: &Report) -> Vec<&'static str> {
    report.results.iter().map(|r| r.status()).collect()
}

#[test]
fn verdicts() {
    let seen = |outputs: &[u8]| Observation {
        longest_cluster: 5000,
        outputs: outputs.to_vec(),
        ..Default::default()
    };
    let lacks = |trial: &Trial<'_>, n: u32| !trial.ptx.contains(&format!("bar.sync {n};"));
    let report = judged("", |trial| {
        let mut seen = seen(&[1]);
        if lacks(trial, 0) {
            return Err("no".to_owned());
        }
        if lacks(trial, 1) && trial.schedule == Schedule::AsyncLate {
            seen.outputs = vec![2];
        }
        if lacks(trial, 2) {
            seen.wrong = Some("too large".to_owned());
        }
        assert_eq!(trial.budget == 20_000, (0..3).any(|n| lacks(trial, n)));
        Ok(seen)
    })
    .unwrap();
    assert!(report.good() && report.baseline.compares_outputs && report.baseline.longest_cluster == 5000);
    let fates: Vec<(&str, String)> = report
        .results
        .iter()
        .map(|r| match &r.verdict {
            Verdict::Killed { by, schedule } => (schedule.as_str(), format!("{by}: {}", by.detail())),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(fates[0], ("round-robin", "load: no".to_owned()));
    assert_eq!(fates[1].0, "async-late");
    assert!(fates[1].1.contains("not that of the unmutated"));
    assert_eq!(fates[2], ("round-robin", "output: too large".to_owned()));

    // Survivors; a list that is not true.
    let list = "delete-barrier k#1 `bar.sync 0;`: a\ndelete-barrier k#2 `bar.sync 1;`: b\n\
                delete-barrier k#4 `bar.sync 3;`: c\nno-such-kind k#1 `bar.sync 0;`: d\n\
                delete-barrier other#1 `bar.sync 0;`: e";
    let report =
        judged(list, |trial| Ok(Observation { wrong: lacks(trial, 0).then(String::new), ..seen(&[1]) }))
            .unwrap();
    assert_eq!(statuses(&report), ["listed-but-killed", "equivalent", "survived"]);
    assert_eq!(report.stale.len(), 3);
    assert!(!report.good());
    let text = report.to_string();
    for line in [
        "listed-but-killed: delete-barrier k#1",
        "survived: delete-barrier k#3",
        "no such mutant: delete-barrier k#4",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert!(!text.contains("equivalent: delete"), "{text}");

    // Each fault of the list alone is an error.
    let rest = "delete-barrier k#2 `bar.sync 1;`: b\ndelete-barrier k#3 `bar.sync 2;`: b\n";
    let kills_first =
        |trial: &Trial<'_>| Ok(Observation { wrong: lacks(trial, 0).then(String::new), ..seen(&[1]) });
    assert!(judged(rest, kills_first).unwrap().good());
    assert!(!judged(&format!("{rest}delete-barrier k#1 `bar.sync 0;`: a"), kills_first).unwrap().good());
    assert!(!judged(&format!("{rest}delete-barrier k#9 `bar.sync 0;`: a"), kills_first).unwrap().good());

    // Outputs that depend on the schedule anyway are not compared.
    let report = judged("", |trial| Ok(seen(&[u8::from(trial.schedule == Schedule::AsyncLate)]))).unwrap();
    assert_eq!(statuses(&report), ["survived"; 3]);
    assert!(!report.baseline.compares_outputs);
}

#[test]
fn a_panic_is_no_verdict() {
    let report = judged("", |trial| {
        assert!(trial.ptx.contains("bar.sync 1;"), "planted");
        Ok(Observation::default())
    })
    .unwrap();
    assert_eq!(statuses(&report), ["survived", "crashed", "survived"]);
    assert!(report.to_string().contains("planted"));
}

#[test]
fn the_unmutated_module_must_be_right() {
    let wrong =
        |_: &Trial<'_>| Ok(Observation { wrong: Some("off by one".to_owned()), ..Default::default() });
    assert!(judged("", wrong).unwrap_err().to_string().contains("off by one"));
    assert!(
        judged("", |_| Err("does not load".to_owned())).unwrap_err().to_string().contains("does not load")
    );
    let late = |trial: &Trial<'_>| match trial.schedule {
        Schedule::AsyncLate => Err("late".to_owned()),
        _ => Ok(Observation::default()),
    };
    assert!(judged("", late).unwrap_err().to_string().contains("async-late: late"));
}
