//! Devices and files, driven by fio: what everyone knows, and has at hand to check us.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use lockstep_floor::report::Report;
use serde_json::Value;

use super::file::{Engine, Extent, Kind, Load};
use crate::interrupt;

const PROGRAM: &str = "fio";

/// Why it cannot be used; none if it can.
pub fn unavailable() -> Option<String> {
    let version = Command::new(PROGRAM).arg("--version").output();
    match version {
        Ok(output) if output.status.success() => None,
        _ => Some(format!(
            "{PROGRAM} is not installed, and devices and files are measured with it: install it \
             (Debian, Ubuntu: apt install fio; Fedora, RHEL: dnf install fio), or name NBD exports only"
        )),
    }
}

/// Writes everything once, so that nothing that was never written is measured.
///
/// # Errors
/// It fails, or the process is asked to end.
pub fn fill(path: &Path, bytes: u64, engine: Engine) -> anyhow::Result<()> {
    let mut command = command(path, bytes, engine);
    command.args(["--rw=write", "--bs=1M", "--iodepth=8", "--end_fsync=1"]);
    run(&mut command).map(drop)
}

/// Measures one load.
///
/// # Errors
/// It fails, or the process is asked to end.
pub fn measure(path: &Path, bytes: u64, load: &Load, extent: &Extent) -> anyhow::Result<Report> {
    let mut command = command(path, bytes, extent.engine);
    command.args(arguments(load, extent));
    report(&run(&mut command)?, load)
}

fn command(path: &Path, bytes: u64, engine: Engine) -> Command {
    let mut command = Command::new(PROGRAM);
    // A colon would separate two names.
    let name = path.to_string_lossy().replace(':', "\\:");
    let engine = match engine {
        Engine::IoUring => "io_uring",
        Engine::Libaio => "libaio",
    };
    // A thread, no process of its own that could outlive it.
    command.args([
        "--name=bench",
        "--thread",
        "--direct=1",
        "--output-format=json",
    ]);
    command.args(["--randrepeat=0", "--norandommap", "--refill_buffers"]);
    command.arg(format!("--filename={name}"));
    command.arg(format!("--size={bytes}"));
    command.arg(format!("--ioengine={engine}"));
    command
}

fn arguments(load: &Load, extent: &Extent) -> Vec<String> {
    let order = if load.sequential { "" } else { "rand" };
    let action = match load.kind {
        Kind::Write | Kind::Log => "write",
        Kind::Read => "read",
        Kind::Mixed => "rw",
    };
    let mut arguments = vec![
        format!("--rw={order}{action}"),
        format!("--bs={}", load.block),
        format!("--iodepth={}", load.depth),
        format!("--runtime={}", extent.seconds),
        format!("--ramp_time={}", extent.warm),
        "--time_based".into(),
        // The whole of a request, from when it is issued; both kinds of a mix together.
        "--lat_percentiles=1".into(),
        "--clat_percentiles=0".into(),
        "--percentile_list=50:99:99.9".into(),
        "--unified_rw_reporting=1".into(),
    ];
    if load.kind == Kind::Mixed {
        arguments.push(format!("--rwmixread={}", load.reads));
    }
    if load.kind != Kind::Read {
        // Each write is durable when it returns: on a device with a cache, a flush or FUA each.
        arguments.push("--sync=dsync".into());
    }
    arguments
}

fn run(command: &mut Command) -> anyhow::Result<Value> {
    let output = interrupt::output(command)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?}: {}: {}; if io_uring is forbidden here, say engine = \"libaio\" in [run]",
        output.status,
        errors.trim()
    );
    // Warnings may stand before it.
    let said = String::from_utf8_lossy(&output.stdout);
    let from = said.find('{').context("fio gave no JSON")?;
    serde_json::from_str(&said[from..]).context("fio's JSON")
}

fn report(said: &Value, load: &Load) -> anyhow::Result<Report> {
    let job = &said["jobs"][0];
    ensure!(job["error"] == 0, "fio ended with error {}", job["error"]);
    let all = &job["mixed"];
    let number = |value: &Value, what: &str| {
        value
            .as_f64()
            .with_context(|| format!("fio's JSON tells no {what}; version 3.30 and later do"))
    };
    let percentiles = &all["lat_ns"]["percentile"];
    let micros = |value: &Value, what: &str| Ok::<_, anyhow::Error>(number(value, what)? / 1000.0);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(Report {
        what: format!("fio {} B, {}", load.block, load.name),
        depth: load.depth,
        seconds: number(&all["runtime"], "time")? / 1000.0,
        requests: number(&all["total_ios"], "number of requests")? as u64,
        iops: number(&all["iops"], "IOPS")?,
        megabytes: number(&all["bw_bytes"], "bandwidth")? / 1e6,
        p50: micros(&percentiles["50.000000"], "p50")?,
        p99: micros(&percentiles["99.000000"], "p99")?,
        p999: micros(&percentiles["99.900000"], "p99.9")?,
        max: micros(&all["lat_ns"]["max"], "maximum")?,
        cpu: 0.0,
        cpu_of: "not measured: who serves a device is not known".into(),
        written: 0.0,
        pinned: Vec::new(),
        cpus: lockstep_floor::cpu::count(),
        kernel: kernel.trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(kind: Kind) -> Load {
        Load {
            name: "x".into(),
            kind,
            block: 4096,
            depth: 16,
            reads: 70,
            sequential: kind == Kind::Log,
        }
    }

    #[test]
    fn writes_are_durable_and_reads_need_not_be() {
        let of = |kind| arguments(&load(kind), &Extent::default()).join(" ");
        assert!(of(Kind::Write).contains("--rw=randwrite") && of(Kind::Write).contains("dsync"));
        assert!(of(Kind::Read).contains("--rw=randread") && !of(Kind::Read).contains("dsync"));
        assert!(of(Kind::Mixed).contains("--rw=randrw") && of(Kind::Mixed).contains("=70"));
        assert!(of(Kind::Log).contains("--rw=write "));
    }

    #[test]
    fn what_fio_says_becomes_a_report() {
        let said = serde_json::json!({"jobs": [{"error": 0, "mixed": {
            "runtime": 2000, "total_ios": 4000, "iops": 2000.0, "bw_bytes": 8_192_000,
            "lat_ns": {"max": 9_000_000, "percentile":
                {"50.000000": 400_000, "99.000000": 1_000_000, "99.900000": 5_000_000}}}}]});
        let report = report(&said, &load(Kind::Write)).expect("all is there");
        assert_eq!(
            (report.iops, report.p50, report.max),
            (2000.0, 400.0, 9000.0)
        );
        let broken = serde_json::json!({"jobs": [{"error": 5}]});
        assert!(super::report(&broken, &load(Kind::Write)).is_err());
    }
}
