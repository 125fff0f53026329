//! The kernels of routing, preparation and combination, byte for byte: everywhere on the PTX emulator, at small sizes,
//! and on a card. Without the feature `cuda`, a driver or a supported card each case for the card is *ignored*, with the
//! reason.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use kernels::launch::{Arch, Launch, TABLE};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use megamoe_tests::gpu::emulator::Emulator;
use megamoe_tests::gpu::routing::{self, Scale};
use megamoe_tests::gpu::text::{only, same_as};
use megamoe_tests::gpu::{Case, Device, Ran, Unavailable};
use ptx_emulator::machine::Schedule;

type Opened = Result<Arc<dyn Device>, Unavailable>;

#[cfg(feature = "cuda")]
fn open_card() -> Opened {
    let device: Arc<dyn Device> = Arc::new(megamoe_tests::gpu::cuda::CudaDevice::open()?);
    eprintln!("on {}", device.describe());
    Ok(device)
}

#[cfg(not(feature = "cuda"))]
fn open_card() -> Opened {
    Err(Unavailable::Absent("built without the feature `cuda`".to_owned()))
}

/// The trials of `cases` on a device that the first of them opens; their names start with `prefix`.
fn trials(
    prefix: String,
    cases: Vec<Case>,
    open: impl Fn() -> Opened + Send + Sync + 'static,
) -> impl Iterator<Item = Trial> {
    let device: Arc<(OnceLock<Opened>, _)> = Arc::new((OnceLock::new(), open));
    cases.into_iter().map(move |case| {
        let device = Arc::clone(&device);
        Trial::ignorable_test(format!("{prefix}{}", case.name), move || {
            run(case, device.0.get_or_init(&device.1))
        })
    })
}

fn run(case: Case, device: &Opened) -> Result<Completion, Failed> {
    match device {
        Err(Unavailable::Absent(reason)) => Ok(Completion::ignored_with(reason)),
        Err(Unavailable::Broken(reason)) => Err(reason.into()),
        Ok(device) => match case.run(device.as_ref())? {
            Ran { passed: 0, .. } => Ok(Completion::ignored_with("too large for the device")),
            _ => Ok(Completion::Completed),
        },
    }
}

/// What runs on the emulator: everything in the default schedule, and a little in others. Kernels that are the same code
/// as on another architecture run there.
fn emulated(arch: Arch) -> impl Iterator<Item = Trial> {
    [
        ("", Schedule::RoundRobin, Scale::Small),
        ("highest-first/", Schedule::HighestWarpFirst, Scale::Few),
        ("seed:1/", Schedule::Seeded(1), Scale::Few),
    ]
    .into_iter()
    .flat_map(move |(name, schedule, scale)| {
        let open = move || match Emulator::new(arch, schedule) {
            Ok(device) => Ok(Arc::new(device) as Arc<dyn Device>),
            Err(e) => Err(Unavailable::Broken(e)),
        };
        let mut cases = routing::cases(scale);
        cases.retain(|case| same_as(arch, case.kernel()).is_none());
        trials(format!("emulator-{}/{name}", arch.name()), cases, open)
    })
}

/// Faults in the kernels' PTX: the entry, what stands there, what stands there instead. Each must fail some case.
const FAULTS: &[(&str, &str, &str)] = &[
    ("router_logits", ", 16, 31, -1;", ", 8, 31, -1;"),
    ("router_logits", "fma.rn.f32", "fma.rz.f32"),
    ("router_logits", "bar.sync \t0;", ""),
    ("route_tokens", "redux.sync.min.u32", "redux.sync.max.u32"),
    ("route_tokens", "sqrt.rn.f32", "sqrt.rz.f32"),
    ("route_tokens", "div.rn.f32", "div.rz.f32"),
    ("route_tokens", "bar.sync \t0;", ""),
    ("count_slots", "red.relaxed.gpu.global.add.u32", "red.relaxed.gpu.global.max.u32"),
    ("sort_slots", "bar.warp.sync", "// bar.warp.sync"),
    ("sort_slots", "bar.sync \t0;", ""),
    ("sort_slots", "shfl.sync.up.b32", "shfl.sync.down.b32"),
    ("place_slots", "bar.sync \t0;", ""),
    ("prepare_rows_bf16", "redux.sync.max.u32", "redux.sync.min.u32"),
    ("prepare_rows_bf16", "bar.sync \t0;", ""),
    ("prepare_rows_nvfp4_bf16", "0f45280000", "0f45280001"),
    ("prepare_rows_nvfp4_bf16", "div.rn.f32", "div.rz.f32"),
    ("prepare_rows_nvfp4_f32", "redux.sync.max.u32", "redux.sync.min.u32"),
    ("quantise_blocks_bf16", ", 1, 31, -1;", ", 2, 31, -1;"),
    ("quantise_blocks_bf16", "div.rn.f32", "div.rz.f32"),
    ("quantise_blocks_f32", "redux.sync.max.u32", "redux.sync.min.u32"),
    ("rows_amax_bf16", "red.relaxed.gpu.global.max.u32", "red.relaxed.gpu.global.add.u32"),
    ("rows_amax_f32", "2139095039", "2139095040"),
    ("combine", "add.rn.f32", "add.rz.f32"),
    ("combine", "mul.rn.f32", "mul.rz.f32"),
    ("combine", "cvt.rn.bf16x2.f32", "cvt.rz.bf16x2.f32"),
    ("dense_bf16_linear", "cp.async.wait_group 1", "cp.async.wait_group 2"),
    ("dense_bf16_linear", "bar.sync \t0;", ""),
    ("dense_bf16_swiglu", "cp.async.wait_group 1", "cp.async.wait_group 2"),
    ("dense_fp8_linear", "mul.rn.f32", "mul.rz.f32"),
    ("dense_fp8_swiglu", "cp.async.wait_group 1", "cp.async.wait_group 2"),
];

/// The PTX of what the entry's cases launch, with the fault in every place of the entry.
fn with_fault(arch: Arch, entry: &str, right: &str, wrong: &str) -> Result<String, Failed> {
    let ptx = only(arch, &[entry]);
    let from = ptx.find(&format!(".entry {entry}(")).ok_or("no such entry")?;
    let to = ptx[from..].find("\n}").map_or(ptx.len(), |n| from + n);
    let body = &ptx[from..to];
    if !body.contains(right) {
        return Err(format!("`{right}` is not in {entry}").into());
    }
    Ok([&ptx[..from], &body.replace(right, wrong), &ptx[to..]].concat())
}

fn launch(name: &str) -> &'static Launch {
    TABLE.iter().find(|kernel| kernel.name == name).unwrap_or_else(|| panic!("there is no {name}"))
}

/// That each fault is caught, on the emulator; once if the code is the same.
fn faults(arch: Arch) -> impl Iterator<Item = Trial> {
    let own = move |fault: &&(&str, &str, &str)| same_as(arch, launch(fault.0)).is_none();
    FAULTS.iter().filter(own).map(move |&(entry, right, wrong)| {
        Trial::test(format!("emulator-{}/fault/{entry}/`{wrong}` for `{right}`", arch.name()), move || {
            let ptx = with_fault(arch, entry, right, wrong)?;
            // A fault may leave a loop without end; the cases need far less.
            let emulator = Emulator::with_ptx(arch, Schedule::RoundRobin, &ptx)?.budget(1 << 19);
            let mut cases = routing::cases(Scale::Few)
                .into_iter()
                .filter(|case| case.name.starts_with(&format!("{entry}/")));
            match cases.any(|case| case.run(&emulator).is_err()) {
                true => Ok(()),
                false => Err("goes unnoticed".into()),
            }
        })
    })
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // A case uses every core for its reference, and the emulator for its blocks.
    arguments.test_threads.get_or_insert(1);
    let all = Arch::ALL
        .into_iter()
        .flat_map(emulated)
        .chain(Arch::ALL.into_iter().flat_map(faults))
        .chain(trials(String::new(), routing::cases(Scale::Card), open_card));
    libtest_mimic::run(&arguments, all.collect()).exit_code()
}
