//! Memory of the loader, counted by the allocator: loading needs the result and little more, a failed load leaves
//! nothing behind, and no document, however damaged, makes a parser panic or allocate out of proportion.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use megamoe::checkpoint::{Checkpoint, LoadOptions, parse};
use megamoe::weights::{LayerWeights, Linear, Nvfp4Matrix, Selection};
use megamoe_tests::checkpoint_writer::{CheckpointSpec, Fusion, Quant, Rng, SharedFormat, raw};
use safetensors::SafeTensors;

/// The system's allocator, counting.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grow(bytes: usize) {
    PEAK.fetch_max(LIVE.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged; only the counters are ours.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // As if old and new lived side by side: the worst case.
        grow(new_size);
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's contract.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time: the counters are for the process.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs `f`; gives its result and the memory that it needed at its worst.
fn peak<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let out = f();
    (out, PEAK.load(Relaxed).saturating_sub(before))
}

/// Bytes of the arrays of a layer, and of the largest.
fn sizes(layer: &LayerWeights) -> (usize, usize) {
    let nvfp4 = |m: &Nvfp4Matrix| [m.packed.len(), m.scales.len()];
    let mut all: Vec<usize> =
        layer.experts.iter().flat_map(|e| [&e.gate, &e.up, &e.down]).flat_map(nvfp4).collect();
    if let Some(shared) = &layer.shared {
        for linear in [&shared.gate, &shared.up, &shared.down] {
            match linear {
                Linear::Nvfp4(m) => all.extend(nvfp4(m)),
                Linear::Bf16(m) => all.push(m.data.len() * 2),
                Linear::Fp8(m) => all.extend([m.data.len(), m.scales.len() * 4]),
            }
        }
    }
    let router = layer.router.as_ref().unwrap();
    all.push(router.weight.len() * 4);
    match &router.selection {
        Selection::Hash { tid2eid } => all.push(tid2eid.len() * 4),
        Selection::TopK { bias } => all.extend(bias.iter().map(|b| b.len() * 4)),
    }
    (all.iter().sum(), all.into_iter().max().unwrap())
}

#[test]
fn loading_needs_the_result_and_little_more() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let base = CheckpointSpec { hidden: 1024, intermediate: 512, experts: 8, ..Default::default() };
    for spec in [
        base.clone(),
        CheckpointSpec { shared: SharedFormat::Bf16, fusion: Fusion::StackedTwoScales, ..base.clone() },
        CheckpointSpec { shared: SharedFormat::Fp8F32, quant: Quant::CompressedTensors, ..base.clone() },
        base.into_mxfp4(),
    ] {
        let dir = tempfile::tempdir().unwrap();
        spec.write(dir.path()).unwrap();
        let (checkpoint, opened) = peak(|| Checkpoint::open(dir.path()).unwrap());
        assert!(opened < 1 << 20, "opening took {opened} bytes");
        // The pool's own memory is not the loader's.
        drop(checkpoint.load_layer(0, &LoadOptions::default()).unwrap());
        for number in 0..2 {
            let (layer, needed) = peak(|| checkpoint.load_layer(number, &LoadOptions::default()).unwrap());
            let (total, largest) = sizes(&layer);
            let slack = 256 << 10;
            println!("{:?} layer {number}: result {total}, largest {largest}, peak {needed}", spec.quant);
            assert!(needed >= total, "the count is off");
            assert!(needed <= total + largest + slack, "{needed} for {total} + {largest}: {spec:?}");
            assert!(needed <= total + total / 32 + slack, "{needed} for {total}: {spec:?}");
        }
    }
}

#[test]
fn a_failed_load_leaves_nothing_behind() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let spec = CheckpointSpec { hidden: 512, intermediate: 256, ..Default::default() };
    let mut raw = spec.build();
    raw.tensor_mut("layers.1.ffn.experts.7.w2.weight_scale").data[5] = 0x7f;
    let dir = tempfile::tempdir().unwrap();
    raw.write(dir.path()).unwrap();
    drop(raw);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    drop(checkpoint.load_layer(0, &LoadOptions::default()).unwrap());
    drop(checkpoint.load_layer(1, &LoadOptions::default()).map(drop).unwrap_err());
    let before = LIVE.load(Relaxed);
    for _ in 0..20 {
        drop(checkpoint.load_layer(1, &LoadOptions::default()).map(drop).unwrap_err());
    }
    let left = LIVE.load(Relaxed).saturating_sub(before);
    // One matrix is 64 KiB; the pool's queues may differ by a little.
    assert!(left < 16 << 10, "{left} bytes are still allocated");
}

/// Damages a text: bytes flipped, cut, repeated, and pieces that parsers stumble over put in.
fn damage(rng: &mut Rng, text: &mut Vec<u8>) {
    const PIECES: [&str; 16] = [
        "18446744073709551615",
        "9223372036854775808",
        "-1",
        "0",
        "1e308",
        "1099511627775",
        "null",
        "\"\"",
        "[]",
        "{}",
        "{\"a\":",
        "[[[[",
        "\\u0000",
        "\"F4\"",
        "\"U8\"",
        ",",
    ];
    for _ in 0..=rng.below(4) {
        if text.is_empty() {
            return;
        }
        let at = rng.below(text.len());
        let span = at..(at + rng.below(40)).min(text.len());
        match rng.below(7) {
            0 => text[at] ^= 1 << rng.below(8),
            1 => drop(text.drain(span)),
            2 => text.truncate(at),
            3 => {
                let copy = text[span].to_vec();
                let to = rng.below(text.len());
                text.splice(to..to, copy);
            }
            4 => drop(text.splice(at..at, PIECES[rng.below(PIECES.len())].bytes())),
            // A whole number, replaced.
            _ => {
                let digits = |i: &usize| text[*i].is_ascii_digit();
                if let Some(begin) = (at..text.len()).find(digits) {
                    let end = (begin..text.len()).find(|i| !digits(i)).unwrap_or(text.len());
                    text.splice(begin..end, PIECES[rng.below(6)].bytes());
                }
            }
        }
    }
}

/// Runs `parse` on many damaged copies of `text`. Returns how many were accepted.
fn bombard(what: &str, text: &[u8], cases: usize, mut parse: impl FnMut(&[u8]) -> bool) -> usize {
    let mut rng = Rng::new(7, what);
    let mut accepted = 0;
    for case in 0..cases {
        let mut copy = text.to_vec();
        damage(&mut rng, &mut copy);
        let (ok, needed) = peak(|| parse(&copy));
        accepted += usize::from(ok);
        let limit = 64 * copy.len() + (64 << 10);
        assert!(needed <= limit, "{what} {case}: {needed} bytes for {} bytes of text", copy.len());
    }
    accepted
}

fn tiny() -> CheckpointSpec {
    CheckpointSpec { hidden: 32, intermediate: 32, experts: 2, top_k: 1, vocab_size: 4, ..Default::default() }
}

#[test]
fn damaged_headers() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let mut raw = tiny().build();
    let tensors: Vec<_> = raw.shards.remove(0).tensors.drain(..6).collect();
    let data: usize = tensors.iter().map(|t| t.data.len()).sum();
    let header = raw::header(&tensors);
    let accepted = bombard("header", header.as_bytes(), 20_000, |text| {
        let len = (8 + text.len() + data) as u64;
        let Ok(entries) = parse::header(Path::new("file"), text, len) else { return false };
        let mut at = 8 + text.len() as u64;
        for entry in &entries {
            assert_eq!(entry.offset, at);
            at += entry.bytes;
            let elements: usize = entry.shape.iter().product();
            assert_eq!(entry.bytes as usize * 8, elements * entry.dtype.bitsize());
        }
        assert_eq!(at, len);
        true
    });
    assert!(accepted > 100, "only {accepted}: the damage is too heavy to reach far");

    // What we accept, the reference reader accepts too, and reads the same.
    let mut rng = Rng::new(8, "differential");
    for _ in 0..5_000 {
        let mut text = header.clone().into_bytes();
        damage(&mut rng, &mut text);
        let mut file = (text.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(&text);
        file.resize(file.len() + data, 0);
        let Ok(entries) = parse::header(Path::new("file"), &text, file.len() as u64) else { continue };
        let theirs = SafeTensors::deserialize(&file).expect("the reference reader is laxer");
        assert_eq!(theirs.len(), entries.len());
        for entry in entries {
            let view = theirs.tensor(&entry.name).unwrap();
            assert_eq!((view.dtype(), view.shape()), (entry.dtype, &*entry.shape));
            assert_eq!(view.data().as_ptr() as usize - file.as_ptr() as usize, entry.offset as usize);
        }
    }
}

#[test]
fn damaged_indices() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let text = tiny().build().index.unwrap().to_string();
    let accepted = bombard("index", text.as_bytes(), 10_000, |text| {
        let Ok(index) = parse::index(Path::new("index"), text) else { return false };
        assert!(index.tensors.values().all(|&shard| shard < index.shards.len()));
        assert!(index.shards.iter().all(|s| s.ends_with(".safetensors") && !s.contains(['/', '\\'])));
        true
    });
    assert!(accepted > 100, "only {accepted}");
}

#[test]
fn damaged_configurations() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let text = tiny().build().config.to_string();
    let accepted = bombard("config", text.as_bytes(), 20_000, |text| {
        let Ok(config) = parse::config(Path::new("config"), text) else { return false };
        let layer = &config.layer;
        for width in [layer.hidden, layer.intermediate, layer.shared_intermediate] {
            assert!(width <= 1 << 20 && width % 16 == 0);
        }
        assert!((1..=65_536).contains(&layer.experts) && (1..=layer.experts.min(64)).contains(&layer.top_k));
        assert!(layer.routed_scaling_factor.is_normal() && layer.routed_scaling_factor > 0.0);
        assert!(layer.swiglu_limit.is_none_or(|l| l.is_normal() && l > 0.0));
        assert!(config.hash_layers <= config.layers && layer.vocab_size <= 1 << 31);
        true
    });
    assert!(accepted > 100, "only {accepted}");
}

/// Whole checkpoints with a damaged file: opened and loaded as far as they go.
#[test]
fn damaged_files() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let dir = tempfile::tempdir().unwrap();
    tiny().write(dir.path()).unwrap();
    let mut files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut rng = Rng::new(9, "files");
    let (mut opened, mut loaded) = (0, 0);
    for case in 0..1_500 {
        let file = &files[rng.below(files.len())];
        let original = std::fs::read(file).unwrap();
        let mut copy = original.clone();
        damage(&mut rng, &mut copy);
        std::fs::write(file, &copy).unwrap();
        let (_, needed) = peak(|| {
            let Ok(checkpoint) = Checkpoint::open(dir.path()) else { return };
            opened += 1;
            for layer in checkpoint.moe_layers() {
                loaded += usize::from(checkpoint.load_layer(layer, &LoadOptions::default()).is_ok());
            }
        });
        assert!(needed < 4 << 20, "case {case}: {needed} bytes");
        std::fs::write(file, &original).unwrap();
    }
    assert!(opened > 50 && loaded > 50, "{opened} opened, {loaded} layers loaded");
}
