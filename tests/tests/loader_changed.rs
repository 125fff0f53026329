//! Files that change while a checkpoint is open give an error, never a signal or wrong weights.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use megamoe::checkpoint::{Checkpoint, CheckpointError, LoadOptions};
use megamoe_tests::checkpoint_writer::CheckpointSpec;

const SHARD: &str = "model-00001-of-00002.safetensors";

fn small() -> CheckpointSpec {
    CheckpointSpec { hidden: 64, intermediate: 32, experts: 3, top_k: 2, vocab_size: 8, ..Default::default() }
}

#[track_caller]
fn assert_changed(error: CheckpointError) {
    assert!(matches!(error, CheckpointError::Changed { .. }), "{error:?}");
    assert!(error.to_string().contains(SHARD), "{error}");
}

#[test]
fn truncated_after_opening() {
    let dir = tempfile::tempdir().unwrap();
    small().write(dir.path()).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let path = dir.path().join(SHARD);
    let len = fs::metadata(&path).unwrap().len();
    for cut in [1, len / 2, len - 1, len] {
        File::options().write(true).open(&path).unwrap().set_len(len - cut).unwrap();
        assert_changed(checkpoint.load_layer(0, &LoadOptions::default()).map(drop).unwrap_err());
    }
    // Every read of a single tensor that is gone is an error that names it.
    for tensor in checkpoint.tensors().iter().filter(|t| checkpoint.file_of(t).ends_with(SHARD)) {
        let error = checkpoint.read_tensor(tensor.name()).unwrap_err();
        assert!(error.to_string().contains(tensor.name()), "{error}");
        assert_changed(error);
    }
}

#[test]
fn written_to_after_opening() {
    let dir = tempfile::tempdir().unwrap();
    small().write(dir.path()).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let path = dir.path().join(SHARD);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    // Some file systems have coarse clocks.
    let later = SystemTime::now() + Duration::from_secs(5);
    File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    assert_changed(checkpoint.load_layer(0, &LoadOptions::default()).map(drop).unwrap_err());
    // The other file is as it was; a new look at the first finds it valid.
    let again = Checkpoint::open(dir.path()).unwrap();
    assert!(again.load_layer(0, &LoadOptions::default()).is_ok());
}

#[cfg(unix)]
#[test]
fn replaced_after_opening() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    small().write(dir.path()).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    CheckpointSpec { seed: 2, ..small() }.write(other.path()).unwrap();
    fs::rename(other.path().join(SHARD), dir.path().join(SHARD)).unwrap();
    // The open checkpoint still is the one that was opened.
    assert!(checkpoint.load_layer(0, &LoadOptions::default()).unwrap() == small().layer(0));
    fs::remove_file(dir.path().join(SHARD)).unwrap();
    assert!(checkpoint.load_layer(0, &LoadOptions::default()).unwrap() == small().layer(0));
}
