//! Bytes that processes caused to be written to disks.

use anyhow::Context;

/// Bytes written by a process, all its threads together, as the block layer took them.
pub fn written_by(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/io");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    let bytes = line.with_context(|| format!("{path} does not tell the bytes written"))?;
    Ok(bytes.parse()?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_written_is_counted() {
        let before = super::written_by(std::process::id()).expect("our own");
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).expect("a file");
        std::io::Write::write_all(&mut file, &vec![7; 1 << 20]).expect("room");
        file.sync_all().expect("syncs");
        let after = super::written_by(std::process::id()).expect("our own");
        assert!(after >= before + (1 << 20), "{before} and then {after}");
    }
}
