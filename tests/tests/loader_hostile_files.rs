//! Broken files are refused at opening, each with its own error that names file and tensor.

use std::fs;
use std::path::Path;

use megamoe::checkpoint::{Checkpoint, CheckpointError as E};
use megamoe_tests::checkpoint_writer::{CheckpointSpec, RawCheckpoint, RawTensor, raw};
use serde_json::json;

fn small() -> CheckpointSpec {
    CheckpointSpec { hidden: 32, intermediate: 32, experts: 2, top_k: 1, vocab_size: 4, ..Default::default() }
}

/// Opens the checkpoint that `write` makes of a valid configuration, which must fail.
fn refused(write: impl FnOnce(&Path)) -> E {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), small().build().config.to_string()).unwrap();
    write(dir.path());
    Checkpoint::open(dir.path()).map(|_| ()).expect_err("must be refused")
}

/// A `model.safetensors` with this header and `data` zeros.
fn file(header: impl AsRef<[u8]>, data: usize) -> E {
    refused(|dir| {
        raw::write_file(&dir.join("model.safetensors"), header.as_ref(), &[&vec![0; data]]).unwrap();
    })
}

/// One tensor entry.
fn entry(dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!("{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{begin},{end}]}}")
}

/// A checkpoint with index, after a change.
fn indexed(change: impl FnOnce(&mut RawCheckpoint)) -> E {
    let mut raw = small().build();
    change(&mut raw);
    refused(|dir| raw.write(dir).unwrap())
}

/// A checkpoint whose index is this text.
fn index_text(text: &str) -> E {
    let raw = small().build();
    refused(|dir| {
        raw.write(dir).unwrap();
        fs::write(dir.join("model.safetensors.index.json"), text).unwrap();
    })
}

/// A checkpoint whose index calls the first shard `name`.
fn shard_name(name: &str) -> E {
    indexed(|raw| {
        let first = raw.shards[0].file.clone();
        let map = raw.index.as_mut().unwrap()["weight_map"].as_object_mut().unwrap();
        map.values_mut().filter(|v| **v == *first).for_each(|v| *v = json!(name));
    })
}

macro_rules! refuses {
    ($($name:ident: $error:expr, $pattern:pat, [$($needle:expr),*];)*) => {$(
        #[test]
        fn $name() {
            let error = $error;
            assert!(matches!(error, $pattern), "{error:?}");
            let text = error.to_string();
            $(assert!(text.contains($needle), "{:?} not in {text:?}", $needle);)*
        }
    )*};
}

const FILE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

// ---- the header as a whole ----------------------------------------------------------------------------------

fn bytes(content: Vec<u8>) -> E {
    refused(|dir| fs::write(dir.join(FILE), content).unwrap())
}

refuses! {
    an_empty_file: bytes(vec![]), E::HeaderTruncated { expected: 8, found: 0, .. }, [FILE];
    a_file_shorter_than_its_length_field: bytes(vec![1; 5]), E::HeaderTruncated { found: 5, .. }, [FILE];
    a_header_longer_than_any: bytes(100_000_001u64.to_le_bytes().to_vec()), E::TooLarge { .. }, [FILE, "100000001"];
    a_header_length_of_all_ones: bytes(vec![0xff; 64]), E::TooLarge { found: u64::MAX, .. }, [FILE];
    a_header_past_the_end: bytes(1000u64.to_le_bytes().to_vec()), E::HeaderTruncated { expected: 1008, .. }, [FILE];
    a_header_that_is_an_array: file("[]", 0), E::Header { .. }, [FILE, "'{'"];
    a_header_behind_a_space: file(" {}", 0), E::Header { .. }, [FILE, "'{'"];
    an_empty_header: file("", 0), E::Header { .. }, [FILE];
    a_header_that_is_not_utf8: file(b"{\"a\xff\":1}", 0), E::Header { .. }, [FILE];
    an_ignored_field_that_is_not_utf8: file(b"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0],\"x\":\"\xff\"}}", 0), E::Header { .. }, [FILE, "utf-8"];
    a_header_cut_short: file("{\"a\":{\"dtype\":\"F32\"", 0), E::Header { .. }, [FILE, "\"a\""];
    bytes_behind_the_header: file("{}x", 0), E::Header { .. }, [FILE];
    a_nul_behind_the_header: file(b"{}\0", 0), E::Header { .. }, [FILE];
    a_recursion_bomb: file(format!("{{\"a\":{{\"x\":{}", "[".repeat(100_000)), 0), E::Header { .. }, [FILE, "\"a\""];
    metadata_that_are_not_strings: file("{\"__metadata__\":{\"a\":1}}", 0), E::Header { .. }, [FILE, "__metadata__"];
    metadata_keys_twice: file("{\"__metadata__\":{\"a\":\"\",\"a\":\"\"}}", 0), E::DuplicateKey { .. }, [FILE, "\"a\""];
    metadata_twice: file("{\"__metadata__\":{},\"__metadata__\":{}}", 0), E::DuplicateKey { .. }, [FILE, "__metadata__"];
}

// ---- entries ------------------------------------------------------------------------------------------------

/// One tensor `t` with this entry.
fn one(entry: &str, data: usize) -> E {
    file(format!("{{\"t.weight\":{entry}}}"), data)
}

refuses! {
    an_entry_that_is_a_number: one("3", 0), E::Header { .. }, [FILE, "t.weight"];
    an_entry_that_is_an_array: one("[\"F32\",[1],[0,4]]", 4), E::Header { .. }, [FILE, "t.weight"];
    an_entry_without_dtype: one("{\"shape\":[1],\"data_offsets\":[0,4]}", 4), E::Header { .. }, [FILE, "t.weight", "dtype"];
    an_entry_without_shape: one("{\"dtype\":\"F32\",\"data_offsets\":[0,4]}", 4), E::Header { .. }, ["t.weight", "shape"];
    an_entry_without_offsets: one("{\"dtype\":\"F32\",\"shape\":[1]}", 4), E::Header { .. }, ["t.weight", "data_offsets"];
    a_field_twice: one("{\"dtype\":\"F32\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,4]}", 4), E::DuplicateKey { .. }, [FILE, "dtype"];
    a_negative_dimension: one(&entry("F32", "[-1]", 0, 4), 4), E::Header { .. }, [FILE, "t.weight"];
    a_fractional_dimension: one(&entry("F32", "[1.5]", 0, 4), 4), E::Header { .. }, [FILE, "t.weight"];
    a_dimension_as_text: one(&entry("F32", "[\"1\"]", 0, 4), 4), E::Header { .. }, [FILE, "t.weight"];
    a_dimension_beyond_64_bits: one(&entry("F32", "[18446744073709551616]", 0, 4), 4), E::Header { .. }, [FILE, "t.weight"];
    three_offsets: one("{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}", 4), E::Header { .. }, [FILE, "t.weight"];
    an_unknown_dtype: one(&entry("F33", "[1]", 0, 4), 4), E::UnknownDtype { .. }, [FILE, "t.weight", "F33"];
    an_endless_dtype: one(&entry(&"F".repeat(100_000), "[1]", 0, 4), 4), E::UnknownDtype { .. }, [FILE, "t.weight"];
    rank_nine: one(&entry("F32", "[1,1,1,1,1,1,1,1,1]", 0, 4), 4), E::Rank { found: 9, .. }, [FILE, "t.weight"];
    rank_one_hundred_thousand: one(&entry("U8", &format!("[{}1]", "1,".repeat(99_999)), 0, 1), 1), E::Rank { found: 100_000, .. }, [FILE, "t.weight"];
    a_dimension_of_2_to_40: one(&entry("F32", "[1099511627776]", 0, 4), 4), E::ShapeOverflow { .. }, [FILE, "t.weight"];
    an_absurd_dimension_beside_a_zero: one(&entry("F32", "[0,18446744073709551615,2]", 0, 0), 0), E::ShapeOverflow { .. }, [FILE, "t.weight"];
    a_product_that_overflows: one(&entry("U8", "[1099511627775,1099511627775]", 0, 4), 4), E::ShapeOverflow { .. }, [FILE, "t.weight"];
    a_product_that_wraps_to_the_size: one(&entry("F32", "[1073741824,1073741824,16]", 0, 0), 0), E::ShapeOverflow { .. }, [FILE, "t.weight"];
    a_size_of_another_shape: one(&entry("F32", "[2,2]", 0, 12), 12), E::SizeMismatch { found: 12, .. }, [FILE, "t.weight", "16 bytes"];
    a_size_of_another_dtype: one(&entry("BF16", "[2,2]", 0, 16), 16), E::SizeMismatch { .. }, [FILE, "t.weight", "8 bytes"];
    half_a_byte: one(&entry("F4", "[3]", 0, 2), 2), E::SizeMismatch { .. }, [FILE, "t.weight", "12 bits"];
    reversed_offsets: one(&entry("F32", "[1]", 4, 0), 4), E::ReversedOffsets { begin: 4, end: 0, .. }, [FILE, "t.weight"];
    an_empty_name: file(format!("{{\"\":{}}}", entry("U8", "[1]", 0, 1)), 1), E::TensorName { .. }, [FILE, "empty"];
    an_endless_name: file(format!("{{\"{}\":{}}}", "n".repeat(513), entry("U8", "[1]", 0, 1)), 1), E::TensorName { .. }, [FILE, "nnn"];
    a_control_character: file(format!("{{\"a\\u001b[2J\":{}}}", entry("U8", "[1]", 0, 1)), 1), E::TensorName { .. }, [FILE, "a\\u{1b}"];
    a_name_beyond_ascii: file(format!("{{\"wéight\":{}}}", entry("U8", "[1]", 0, 1)), 1), E::TensorName { .. }, [FILE, "wéight"];
    a_name_with_a_space: file(format!("{{\"a b\":{}}}", entry("U8", "[1]", 0, 1)), 1), E::TensorName { .. }, [FILE, "a b"];
}

// ---- layout -------------------------------------------------------------------------------------------------

/// Tensors `a` and `b` of U8 with these offsets.
fn two(a: (u64, u64), b: (u64, u64), data: usize) -> E {
    let u8s = |(begin, end): (u64, u64)| entry("U8", &format!("[{}]", end - begin), begin, end);
    file(format!("{{\"a\":{},\"b\":{}}}", u8s(a), u8s(b)), data)
}

refuses! {
    two_tensors_of_one_name: file(format!("{{\"a\":{},\"a\":{}}}", entry("U8", "[4]", 0, 4), entry("F32", "[1]", 0, 4)), 4), E::DuplicateTensor { .. }, [FILE, "tensor a"];
    one_name_in_two_spellings: file(format!("{{\"a\":{},\"\\u0061\":{}}}", entry("U8", "[4]", 0, 4), entry("U8", "[4]", 4, 8)), 8), E::DuplicateTensor { .. }, [FILE, "tensor a"];
    tensors_that_overlap: two((0, 8), (4, 12), 12), E::Overlap { .. }, [FILE, "tensor b", "tensor a"];
    tensors_at_one_place: two((0, 8), (0, 8), 8), E::Overlap { .. }, [FILE, "tensor b", "tensor a"];
    a_tensor_inside_another: two((0, 8), (2, 4), 8), E::Overlap { .. }, [FILE, "tensor b", "tensor a"];
    a_hole_in_front: two((4, 8), (8, 12), 12), E::Hole { expected: 0, found: 4, .. }, [FILE, "tensor a"];
    a_hole_between: two((0, 4), (8, 12), 12), E::Hole { expected: 4, found: 8, .. }, [FILE, "tensor b"];
    a_truncated_file: two((0, 4), (4, 12), 11), E::Truncated { .. }, [FILE, "tensor b"];
    no_data_at_all: two((0, 4), (4, 12), 0), E::Truncated { .. }, [FILE, "tensor a"];
    trailing_bytes: two((0, 4), (4, 12), 13), E::TrailingBytes { .. }, [FILE, "trailing"];
    trailing_bytes_without_tensors: file("{}", 1), E::TrailingBytes { .. }, [FILE];
    offsets_at_the_end_of_the_numbers: two((0, 4), (u64::MAX - 4, u64::MAX), 8), E::Hole { .. }, [FILE, "tensor b"];
}

#[test]
fn odd_files_that_are_valid() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), small().build().config.to_string()).unwrap();
    let header = format!(
        "{{\"z\":{},\"odd\":{},\"f\":{},\"x\":{{\"shape\":[1],\"later\":[{{}}],\"data_offsets\":[7,8],\"dtype\":\"U8\"}}}}   ",
        entry("F32", "[0,3]", 0, 0),
        entry("U8", "[3]", 0, 3),
        entry("F32", "[]", 3, 7),
    );
    raw::write_file(&dir.path().join(FILE), header.as_bytes(), &[&[1, 2, 3, 0, 0, 128, 63, 9]]).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.read_tensor("f").unwrap(), 1f32.to_le_bytes(), "misaligned");
    assert_eq!(checkpoint.read_tensor("z").unwrap(), [0; 0], "no elements");
    assert_eq!(checkpoint.read_tensor("x").unwrap(), [9], "fields in any order, unknown ones ignored");
    assert_eq!(checkpoint.moe_layers(), [0; 0]);
}

// ---- folder and index ---------------------------------------------------------------------------------------

refuses! {
    no_tensors: refused(|_| {}), E::NotACheckpoint { .. }, ["no safetensors files"];
    several_files_without_an_index: indexed(|raw| raw.index = None), E::NotACheckpoint { .. }, ["2 safetensors files"];
    no_config: refused(|dir| fs::remove_file(dir.join("config.json")).unwrap()), E::Io { .. }, ["config.json"];
    a_folder_as_config: refused(|dir| {
        fs::remove_file(dir.join("config.json")).unwrap();
        fs::create_dir(dir.join("config.json")).unwrap();
    }), E::NotAFile { .. }, ["config.json"];
    a_folder_as_tensors: refused(|dir| fs::create_dir(dir.join(FILE)).unwrap()), E::NotAFile { .. }, [FILE];
    a_huge_config: refused(|dir| {
        fs::File::create(dir.join("config.json")).unwrap().set_len(1 << 40).unwrap();
    }), E::TooLarge { .. }, ["config.json"];
    a_huge_index: refused(|dir| {
        fs::File::create(dir.join(INDEX)).unwrap().set_len(1 << 40).unwrap();
    }), E::TooLarge { .. }, [INDEX];
    an_index_that_is_not_json: index_text("weight_map"), E::Json { .. }, [INDEX];
    an_index_that_is_not_utf8: {
        let raw = small().build();
        refused(|dir| {
            raw.write(dir).unwrap();
            fs::write(dir.join(INDEX), b"{\"weight_map\":{},\"x\":\"\xff\"}").unwrap();
        })
    }, E::Json { .. }, [INDEX, "utf-8"];
    an_index_without_a_map: index_text("{\"metadata\":{}}"), E::Json { .. }, [INDEX, "weight_map"];
    a_map_of_numbers: index_text("{\"weight_map\":{\"a\":1}}"), E::Json { .. }, [INDEX];
    a_map_as_an_array: index_text("{\"weight_map\":[]}"), E::Json { .. }, [INDEX];
    a_tensor_twice_in_the_index: index_text("{\"weight_map\":{\"t\":\"a.safetensors\",\"t\":\"b.safetensors\"}}"), E::DuplicateKey { .. }, [INDEX, "\"t\""];
    two_maps: index_text("{\"weight_map\":{},\"weight_map\":{}}"), E::DuplicateKey { .. }, [INDEX, "weight_map"];
    two_metadata: index_text("{\"metadata\":{},\"metadata\":{},\"weight_map\":{}}"), E::DuplicateKey { .. }, [INDEX, "metadata"];
    too_many_shards: index_text(&format!("{{\"weight_map\":{{{}}}}}", (0..5000).map(|i| format!("\"t{i}\":\"{i}.safetensors\"")).collect::<Vec<_>>().join(","))), E::Json { .. }, [INDEX, "shards"];
    a_shard_in_the_parent: shard_name("../x.safetensors"), E::ShardName { .. }, [INDEX, "../x.safetensors", "another folder"];
    a_shard_by_absolute_path: shard_name("/tmp/x.safetensors"), E::ShardName { .. }, [INDEX, "/tmp/x.safetensors"];
    a_shard_in_a_subfolder: shard_name("a/x.safetensors"), E::ShardName { .. }, [INDEX, "a/x.safetensors"];
    a_shard_by_windows_path: shard_name("..\\x.safetensors"), E::ShardName { .. }, [INDEX];
    a_shard_on_a_drive: shard_name("C:x.safetensors"), E::ShardName { .. }, [INDEX, "C:x.safetensors"];
    a_shard_with_a_nul: shard_name("x\0.safetensors"), E::ShardName { .. }, [INDEX];
    a_shard_without_a_name: shard_name(""), E::ShardName { .. }, [INDEX];
    a_shard_that_is_the_parent: shard_name(".."), E::ShardName { .. }, [INDEX];
    a_hidden_shard: shard_name(".x.safetensors"), E::ShardName { .. }, [INDEX];
    a_shard_of_another_kind: shard_name("pytorch_model.bin"), E::ShardName { .. }, [INDEX, "pytorch_model.bin"];
    a_shard_of_endless_name: shard_name(&format!("{}.safetensors", "x".repeat(300))), E::ShardName { .. }, [INDEX];
    a_missing_shard: shard_name("lost.safetensors"), E::MissingShard { .. }, [INDEX, "lost.safetensors"];
    a_listed_tensor_that_is_nowhere: indexed(|raw| {
        let file = raw.shards[1].file.clone();
        raw.index.as_mut().unwrap()["weight_map"]["ghost.weight"] = json!(file);
    }), E::NotInShard { .. }, [INDEX, "ghost.weight", "model-00002-of-00002"];
    a_tensor_that_is_not_listed: indexed(|raw| {
        raw.index.as_mut().unwrap()["weight_map"].as_object_mut().unwrap().remove("embed.weight");
    }), E::NotInIndex { listed: None, .. }, ["model-00001-of-00002", "embed.weight"];
    a_tensor_listed_elsewhere: indexed(|raw| {
        raw.index.as_mut().unwrap()["weight_map"]["embed.weight"] = json!("model-00002-of-00002.safetensors");
    }), E::NotInIndex { listed: Some(_), .. }, ["model-00001-of-00002", "embed.weight", "model-00002-of-00002"];
    a_tensor_in_two_shards: indexed(|raw| {
        let index = raw.index.clone();
        raw.push(RawTensor::new("embed.weight", "U8", &[1], vec![0]));
        raw.index = index;
    }), E::NotInIndex { listed: Some(_), .. }, ["model-00002-of-00002", "embed.weight"];
    a_broken_shard_among_good_ones: indexed(|raw| {
        raw.shards[1].tensors[0].dtype = "F99".to_owned();
    }), E::UnknownDtype { .. }, ["model-00002-of-00002", "F99"];
}

#[cfg(unix)]
#[test]
fn a_device_as_a_shard() {
    let error = refused(|dir| std::os::unix::fs::symlink("/dev/zero", dir.join(FILE)).unwrap());
    assert!(matches!(error, E::NotAFile { .. }), "{error:?}");
}

/// Caches keep the files elsewhere and link to them.
#[cfg(unix)]
#[test]
fn linked_files_are_files() {
    let (store, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    small().write(store.path()).unwrap();
    for entry in fs::read_dir(store.path()).unwrap() {
        let entry = entry.unwrap();
        std::os::unix::fs::symlink(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.load_layer(1, &Default::default()).unwrap(), small().layer(1));
}
