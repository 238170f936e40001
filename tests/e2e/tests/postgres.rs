//! PostgreSQL on a volume, through the kill of the site that holds the other copy.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use e2e::device::{Mounted, possible, run, text};
use e2e::{Cluster, wait_for};

const PATIENCE: Duration = Duration::from_secs(120);

/// Where Debian keeps the programs of a PostgreSQL.
fn programs() -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is installed (Debian's package postgresql)")
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|path| path.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().expect("PostgreSQL's programs are there")
}

/// A server on a data directory, reached by a socket beside it only; stopped when it is dropped.
struct Server {
    programs: PathBuf,
    data: PathBuf,
}

impl Server {
    fn new(directory: &Path) -> Self {
        let owned = Command::new("chown")
            .arg("postgres")
            .arg(directory)
            .status();
        assert!(owned.expect("chown runs").success());
        let server = Self {
            programs: programs(),
            data: directory.join("data"),
        };
        server.good(
            "initdb",
            &[
                "--data-checksums",
                "--auth=trust",
                "--no-instructions",
                "-D",
                &text(&server.data),
            ],
        );
        server
    }

    fn start(&self) {
        let directory = text(self.data.parent().expect("it lies in the file system"));
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories={directory} -c shared_buffers=32MB -c max_wal_size=256MB"
        );
        self.good(
            "pg_ctl",
            &[
                "-D",
                &text(&self.data),
                "-w",
                "-l",
                &format!("{directory}/log"),
                "-o",
                &options,
                "start",
            ],
        );
    }

    fn stop(&self) {
        self.good(
            "pg_ctl",
            &["-D", &text(&self.data), "-w", "-m", "fast", "stop"],
        );
    }

    /// A program of PostgreSQL's, as the user who must not be root.
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let directory = text(self.data.parent().expect("it lies in the file system"));
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=5", "180", "runuser", "-u", "postgres", "--"])
            .arg(self.programs.join(program))
            .args(arguments)
            .env("PGHOST", directory)
            .env("PGDATABASE", "postgres")
            .current_dir("/")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program, arguments).output().expect("it runs")
    }

    fn good(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {said}\n{}\n{}",
            String::from_utf8_lossy(&output.stderr),
            std::fs::read_to_string(self.data.with_file_name("log")).unwrap_or_default()
        );
        said
    }

    fn spawn(&self, program: &str, arguments: &[&str]) -> Child {
        let mut command = self.command(program, arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("it runs")
    }

    fn ask(&self, query: &str) -> String {
        self.good("psql", &["-XAtc", query]).trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.data.join("postmaster.pid").exists() {
            self.run(
                "pg_ctl",
                &["-D", &text(&self.data), "-m", "immediate", "stop"],
            );
        }
    }
}

#[test]
fn a_database_runs_through_the_kill_of_the_other_site() {
    if !possible() {
        return;
    }
    let cluster = Cluster::up(1);
    cluster.good(&[
        "volume", "create", "pg", "--size", "400MiB", "--copies", "*=1",
    ]);
    let device = cluster.attach_device("pg", "a1");
    run("mkfs.ext4", &["-q", &text(&device)]);
    let mounted = Mounted::new(&device, "errors=remount-ro");
    let server = Server::new(mounted.path());
    server.start();
    server.good("pgbench", &["-i", "-q", "-s", "4"]);
    let load = server.spawn(
        "pgbench",
        &["-c", "4", "-j", "2", "-T", "20", "--max-tries=1"],
    );
    let done = || {
        server
            .ask("select count(*) from pgbench_history")
            .parse::<u64>()
            .expect("a number")
    };
    wait_for("the first transactions", PATIENCE, || {
        (done() > 50).then_some(())
    });
    cluster.kill("b1");
    let before = done();
    wait_for("transactions without the other site", PATIENCE, || {
        (done() > before + 50).then_some(())
    });
    let mut daemon = cluster.restart("b1");
    let output = load.wait_with_output().expect("pgbench ends");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("number of failed transactions: 0"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    cluster.wait_until_healthy("pg");
    // What pgbench moves between accounts, tellers and branches must add up.
    let sums = server.ask(
        "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), \
         (select sum(bbalance) from pgbench_branches), (select sum(delta) from pgbench_history)",
    );
    let sums: Vec<&str> = sums.split('|').collect();
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    server.ask("create extension amcheck");
    server.good("pg_amcheck", &["--heapallindexed", "--database=postgres"]);
    server.stop();
    let said = server.good("pg_checksums", &["--check", "-D", &text(&server.data)]);
    assert!(said.contains("Bad checksums:  0"), "{said}");
    drop(server);
    mounted.unmount();
    run("e2fsck", &["-fn", &text(&device)]);
    cluster.good(&["volume", "detach", "pg"]);
    cluster.down();
    daemon.wait().expect("reaped");
}
