//! Hashes the sources of the cores, so that the ledger of seeds knows what they ran against.

use std::fs;
use std::path::{Path, PathBuf};

/// What the simulator runs of the product.
const CORES: [&str; 8] = [
    "engine/types",
    "engine/store",
    "engine/logic",
    "replication/wire",
    "replication/protocol",
    "replication/placement",
    "replication/control",
    "replication/consensus",
];

fn main() {
    // Asked when it runs: checkouts that share their artifacts share the compiled script, too.
    let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo says where the crate is");
    let root = Path::new(&here).join("../..");
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut take = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for core in CORES {
        let folder = root.join(core).join("src");
        println!("cargo::rerun-if-changed={}", folder.display());
        let mut files = Vec::new();
        walk(&folder, &mut files);
        files.sort();
        for file in files {
            let name = file.strip_prefix(&folder).expect("it was found there");
            take(core.as_bytes());
            take(name.to_string_lossy().as_bytes());
            take(&fs::read(&file).expect("a source can be read"));
        }
    }
    println!("cargo::rustc-env=SIM_CORES={hash:016x}");
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the cores stand beside the simulator") {
        let path = entry.expect("a folder can be read").path();
        if path.is_dir() {
            walk(&path, files);
        } else {
            files.push(path);
        }
    }
}
