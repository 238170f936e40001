//! Daemons that end and come again under a file system that is written to: nobody above notices more than a pause.
//!
//! `LOCKSTEP_RESTARTS`: how often in each test, 4 by default.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use e2e::device::{Mounted, possible, run, text};
use e2e::{Cluster, binary, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);

fn restarts() -> u32 {
    std::env::var("LOCKSTEP_RESTARTS").map_or(4, |text| text.parse().expect("a number"))
}

/// A volume with ext4 on its device, a file that stays as it is, and fio that writes and verifies another.
struct Load {
    cluster: Cluster,
    device: PathBuf,
    mounted: Mounted,
    kept: Vec<u8>,
    stop: PathBuf,
    fio: Child,
}

/// fio, again and again, until the file `$1` is there; each round writes all of its file and reads all of it back.
const ROUNDS: &str = r#"
rounds=0
while [ ! -e "$1" ]; do
    timeout --kill-after=5 300 fio --name=load --directory="$2" --rw=randwrite --bs=4k --size=64M --iodepth=16 \
        --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 --end_fsync=1 || exit 1
    rounds=$((rounds + 1))
done
echo "$rounds rounds"
"#;

impl Load {
    fn begin() -> Self {
        let cluster = Cluster::up(1);
        let create = [
            "volume", "create", "busy", "--size", "256MiB", "--copies", "*=1",
        ];
        cluster.good(&create);
        let device = cluster.attach_device("busy", "a1");
        run("mkfs.ext4", &["-q", &text(&device)]);
        let mounted = Mounted::new(&device, "discard,errors=remount-ro");
        let kept: Vec<u8> = (0_u32..4 << 20)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        fs::write(mounted.path().join("kept"), &kept).expect("written");
        let stop = cluster.path().join("stop");
        let fio = Command::new("bash")
            .args(["-c", ROUNDS, "rounds", &text(&stop), &text(mounted.path())])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("bash runs");
        Self {
            cluster,
            device,
            mounted,
            kept,
            stop,
            fio,
        }
    }

    fn epoch(&self) -> serde_json::Value {
        self.cluster.json(&["volume", "show", "busy"])["epoch"].clone()
    }

    /// After the daemon of a1 ended and another was started: until the volume is open and takes a write.
    fn goes_on(&mut self, before: &serde_json::Value) {
        wait_for("the volume being open again", PATIENCE, || {
            let shown = self.cluster.run(&["volume", "show", "busy", "-o", "json"]);
            let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).ok()?;
            (shown["primary"] == "a1" && shown["epoch"] != *before).then_some(())
        });
        write_through(self.mounted.path());
        let ended = self.fio.try_wait().expect("asked");
        assert!(ended.is_none(), "fio ended: {ended:?}");
    }

    /// Ends the load, and looks at everything.
    fn end(self, what: &str, pauses: &[Duration]) {
        fs::write(&self.stop, "").expect("written");
        let output = self.fio.wait_with_output().expect("fio ends");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}{errors}");
        assert!(
            !said.contains("verify: bad") && errors.is_empty(),
            "{said}{errors}"
        );
        run("sync", &[]);
        let found = fs::read(self.mounted.path().join("kept")).expect("read");
        assert!(
            found == self.kept,
            "the file that nobody touched has other bytes"
        );
        self.mounted.unmount();
        run("e2fsck", &["-fn", &text(&self.device)]);
        self.cluster.good(&["volume", "detach", "busy"]);
        assert!(self.cluster.leaves_no_device());
        let longest = pauses.iter().max().copied().unwrap_or_default();
        let mean = pauses.iter().sum::<Duration>() / pauses.len().max(1) as u32;
        let rounds = said.lines().last().unwrap_or_default();
        println!(
            "{}: {what}, {rounds} of fio, 0 errors, 0 wrong bytes; from the end to a write again {mean:?}, at most {longest:?}",
            pauses.len()
        );
        self.cluster.down();
    }
}

/// One block, synchronously; it comes back when the volume serves again.
fn write_through(directory: &Path) {
    let target = format!("of={}", text(&directory.join("probe")));
    let flags = [
        "bs=4k",
        "count=1",
        "oflag=direct,sync",
        "conv=notrunc",
        "status=none",
    ];
    run(
        "dd",
        &[&["if=/dev/zero", target.as_str()][..], &flags[..]].concat(),
    );
}

fn reap(daemons: &mut Vec<Child>) {
    daemons.retain_mut(|daemon| daemon.try_wait().expect("asked").is_none());
}

#[test]
fn daemons_that_are_killed_cost_a_mounted_file_system_a_pause() {
    if !possible() {
        return;
    }
    let mut load = Load::begin();
    let (mut pauses, mut daemons) = (Vec::new(), Vec::new());
    for round in 0..restarts() {
        // Somewhere else in what the daemon does each time.
        std::thread::sleep(Duration::from_millis(u64::from(round * 137 % 500)));
        let epoch = load.epoch();
        let begin = Instant::now();
        load.cluster.kill("a1");
        daemons.push(load.cluster.restart("a1"));
        load.goes_on(&epoch);
        pauses.push(begin.elapsed());
        reap(&mut daemons);
    }
    load.end("kill -9 and start again", &pauses);
}

#[test]
fn daemons_that_are_replaced_by_another_binary_cost_a_mounted_file_system_a_pause() {
    if !possible() {
        return;
    }
    let mut load = Load::begin();
    let program = load.cluster.path().join("lockstep");
    let (mut pauses, mut daemons) = (Vec::new(), Vec::<Child>::new());
    for _ in 0..restarts() {
        let epoch = load.epoch();
        // As packages do it: another file under the same name, beside the old one that runs.
        let fresh = program.with_extension("new");
        fs::copy(binary(), &fresh).expect("copied");
        fs::rename(&fresh, &program).expect("renamed");
        let begin = Instant::now();
        load.cluster.signal("a1", "-TERM");
        load.cluster.await_end("a1");
        daemons.push(load.cluster.restart_with("a1", &program));
        load.goes_on(&epoch);
        pauses.push(begin.elapsed());
        reap(&mut daemons);
    }
    load.end("replaced by another binary", &pauses);
}
