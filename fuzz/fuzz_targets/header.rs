//! The text of a safetensors header, in front of as many zeros as its last tensor says (at most 64 KiB).
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use megamoe::checkpoint::parse;
use safetensors::SafeTensors;

fuzz_target!(|text: &[u8]| {
    let path = Path::new("fuzz");
    let base = 8 + text.len() as u64;
    // A file of any size must be harmless; find the one that fits, if any.
    let data = match parse::header(path, text, base) {
        Ok(_) => 0,
        Err(megamoe::checkpoint::CheckpointError::Truncated { .. }) => {
            let fits = |len: u64| parse::header(path, text, base + len);
            let mut len = 0;
            while let Err(megamoe::checkpoint::CheckpointError::Truncated { expected, .. }) = fits(len) {
                len = expected - base;
                if len > 64 << 10 {
                    return;
                }
            }
            len
        }
        Err(_) => return,
    };
    let Ok(entries) = parse::header(path, text, base + data) else { return };
    let mut at = base;
    for entry in &entries {
        assert_eq!(entry.offset, at);
        at += entry.bytes;
    }
    assert_eq!(at, base + data);
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(text);
    file.resize(file.len() + data as usize, 0);
    let theirs = SafeTensors::deserialize(&file).expect("the reference reader is laxer");
    assert_eq!(theirs.len(), entries.len());
    for entry in &entries {
        let view = theirs.tensor(&entry.name).expect("the same names");
        assert_eq!((view.dtype(), view.shape()), (entry.dtype, &*entry.shape));
        assert_eq!(view.data().as_ptr() as u64 - file.as_ptr() as u64, entry.offset);
    }
});
