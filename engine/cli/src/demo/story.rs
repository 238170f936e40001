//! What the demo does, step by step.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lockstep_api::{Client, proto};
use lockstep_drive::{Load, Plan};
use lockstep_node::mint;
use lockstep_types::{BLOCK, VolumeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::files::{self, Files};
use super::place::Place;
use super::{DemoArgs, Summary, Teller};
use crate::connect::words;
use crate::local::{Layout, LocalCluster};
use crate::volume::VolumeView;

/// How long any one step may take.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(100);
const THREE: &str = "three-copies";
const TWO: &str = "two-copies";
const FILES: &str = "files";
const FILES_BYTES: u64 = 64 << 20;
/// Where the volumes are attached first, and where they are opened after its site has died.
const FIRST_HOME: &str = "a1";
const SECOND_HOME: &str = "b1";

/// Wherever it ends, it is put away in the order of its fields: the loads let go of the volumes, the
/// file system is unmounted before its device goes, and the daemons stop.
struct Story<'a> {
    args: &'a DemoArgs,
    teller: &'a Teller,
    summary: Summary,
    loads: Vec<Running>,
    /// With root: a file system on a third volume.
    files: Option<Files>,
    cluster: LocalCluster,
}

/// A volume and the load on it.
struct Running {
    name: &'static str,
    load: Load,
}

/// Runs the demo from an empty directory to nothing left behind.
pub async fn run(args: &DemoArgs, teller: &Teller) -> anyhow::Result<Summary> {
    let place = Place::new(args.within.as_deref(), args.keep)?;
    teller.tell("two sites of two nodes and a witness, each a process of its own (mTLS, raft, pools in files)");
    let layout = Layout::new(place.path(), 2, args.pool_size.0)?;
    layout.write()?;
    let cluster = LocalCluster::start(layout, &|text| teller.tell(text)).await?;
    let seed = args.seed.unwrap_or_else(mint::number);
    let summary = Summary {
        seed,
        ..Summary::default()
    };
    let mut story = Story {
        args,
        teller,
        summary,
        loads: Vec::new(),
        files: None,
        cluster,
    };
    if let Err(error) = story.tell().await {
        if args.keep {
            teller.tell("the logs of the nodes are in the directory that is kept");
        }
        return Err(error);
    }
    Ok(story.summary.clone())
}

impl Story<'_> {
    async fn tell(&mut self) -> anyhow::Result<()> {
        self.create_volumes().await?;
        self.create_file_system().await?;
        self.run_load().await;
        self.lose_the_secondary_site().await?;
        self.bring_it_back().await?;
        self.run_load().await;
        self.lose_the_primary_site().await?;
        self.carry_the_file_over().await?;
        self.run_load().await;
        self.read_back().await
    }

    async fn create_volumes(&mut self) -> anyhow::Result<()> {
        let client = self.cluster.client(FIRST_HOME).await?;
        for (lanes, name, copies, bytes) in [
            (8, THREE, "a=2,b=1", self.args.volume_size.0),
            (2, TWO, "*=1", self.args.volume_size.0 / 4),
        ] {
            let bytes = bytes.next_multiple_of(1 << 20);
            let id = self.create_volume(&client, name, copies, bytes).await?;
            self.attach(&client, name, FIRST_HOME).await?;
            let socket = self.socket(FIRST_HOME, name)?;
            let seed = self.summary.seed.wrapping_add(lanes.into());
            let plan = Plan::new(id, bytes / BLOCK as u64, lanes, seed);
            let load = Load::start(plan, &socket);
            self.loads.push(Running { name, load });
            self.show(&client, name).await?;
        }
        self.wait_for_writes("the first write is acknowledged")
            .await
            .map(drop)
    }

    async fn create_volume(
        &self,
        client: &Client,
        name: &str,
        copies: &str,
        bytes: u64,
    ) -> anyhow::Result<VolumeId> {
        let policy = proto::Policy {
            copies: Some(copies.into()),
            ..Default::default()
        };
        let request = proto::CreateVolumeRequest {
            name: name.into(),
            bytes,
            policy: Some(policy),
            local_node: FIRST_HOME.into(),
            local_required: false,
            wait_seconds: 30,
        };
        let reply = client
            .volumes()
            .create(request)
            .await
            .map_err(words)?
            .into_inner();
        let volume = reply.volume.context("a volume that was made is shown")?;
        Ok(volume.id.parse()?)
    }

    /// With root, a file system on a block device, with a file on it.
    async fn create_file_system(&mut self) -> anyhow::Result<()> {
        if let Some(why) = files::unavailable() {
            self.teller
                .tell(&format!("no file system is carried over: {why}"));
            return Ok(());
        }
        let client = self.cluster.client(FIRST_HOME).await?;
        self.create_volume(&client, FILES, "*=1", FILES_BYTES)
            .await?;
        self.attach(&client, FILES, FIRST_HOME).await?;
        let device = self.device(&client, FILES).await?;
        let mount = self.cluster.layout.root().join("mounted");
        let seed = self.summary.seed;
        let files = tokio::task::block_in_place(|| Files::create(&device, mount, seed))?;
        self.files = Some(files);
        self.teller.tell(&format!(
            "ext4 on volume {FILES} at {}, and a synced file on it",
            device.display()
        ));
        Ok(())
    }

    /// The file system is mounted in the surviving site, and its file read.
    async fn carry_the_file_over(&mut self) -> anyhow::Result<()> {
        let Some(files) = self.files.take() else {
            return Ok(());
        };
        // Its device went with the site.
        files.give_up();
        let client = self.cluster.client(SECOND_HOME).await?;
        self.detach(&client, FILES).await?;
        self.attach(&client, FILES, SECOND_HOME).await?;
        let device = self.device(&client, FILES).await?;
        let whole = tokio::task::block_in_place(|| {
            files.mount(&device)?;
            let whole = files.is_whole();
            files.unmount()?;
            whole
        })?;
        self.summary.file_whole = Some(whole);
        self.teller.tell(&format!(
            "ext4 mounted on {SECOND_HOME}: the file is {}",
            if whole { "whole" } else { "WRONG" }
        ));
        Ok(())
    }

    /// The block device of a volume attached to the node asked, as soon as it is open.
    async fn device(&self, client: &Client, volume: &str) -> anyhow::Result<PathBuf> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = proto::OpenDeviceRequest {
                volume: volume.into(),
                front_end: proto::FrontEnd::Loop.into(),
                ..Default::default()
            };
            let device = client.devices().open(request).await.map_err(words)?;
            let device = device.into_inner();
            if !device.path.is_empty() {
                return Ok(device.path.into());
            }
            if Instant::now() > deadline {
                bail!(
                    "volume {volume} has no device after {} s: {}",
                    PATIENCE.as_secs(),
                    device.waiting
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn lose_the_secondary_site(&mut self) -> anyhow::Result<()> {
        self.teller
            .tell("killing site b, which holds a secondary copy (kill -9)");
        self.loads
            .iter()
            .for_each(|running| running.load.begin_counting_changes());
        self.cluster.kill_site("b")?;
        let stall = self.wait_for_writes("I/O goes on").await?;
        self.teller.tell(&format!(
            "the longest of the volumes stood still for {} ms",
            stall.as_millis()
        ));
        let client = self.cluster.client(FIRST_HOME).await?;
        for name in [THREE, TWO] {
            self.show(&client, name).await?;
        }
        self.run_load().await;
        Ok(())
    }

    async fn bring_it_back(&mut self) -> anyhow::Result<()> {
        let before = self.resynced_bytes().await?;
        self.teller.tell("starting site b again");
        self.cluster.start_site("b")?;
        let client = self.cluster.client(FIRST_HOME).await?;
        for name in [THREE, TWO] {
            self.wait_until_healthy(&client, name).await?;
        }
        for running in &self.loads {
            self.summary.changed_bytes += running.load.changed_blocks() * BLOCK as u64;
        }
        self.summary.resynced_bytes = self.resynced_bytes().await? - before;
        self.teller.tell(&format!(
            "certified again: {} KiB copied for {} KiB changed meanwhile",
            self.summary.resynced_bytes >> 10,
            self.summary.changed_bytes >> 10
        ));
        Ok(())
    }

    async fn lose_the_primary_site(&mut self) -> anyhow::Result<()> {
        self.teller
            .tell("killing site a, which holds the primaries (kill -9)");
        // What stood still before counts; from here on the volumes are open nowhere.
        for running in &self.loads {
            running.load.lose_target();
        }
        let died = Instant::now();
        self.cluster.kill_site("a")?;
        let client = self.cluster.client(SECOND_HOME).await?;
        for running in &self.loads {
            self.detach(&client, running.name).await?;
            self.attach(&client, running.name, SECOND_HOME).await?;
            running
                .load
                .reopen(&self.socket(SECOND_HOME, running.name)?);
            self.teller
                .tell(&format!("volume {} is open on {SECOND_HOME}", running.name));
        }
        self.wait_for_writes("I/O goes on in site b").await?;
        self.summary.reopen_ms = died.elapsed().as_millis() as u64;
        for name in [THREE, TWO] {
            self.show(&client, name).await?;
        }
        Ok(())
    }

    async fn read_back(&mut self) -> anyhow::Result<()> {
        self.teller
            .tell("reading every block ever written back from site b");
        for running in std::mem::take(&mut self.loads) {
            let socket = self.socket(SECOND_HOME, running.name)?;
            let seen = tokio::task::spawn_blocking(move || running.load.finish(&socket)).await??;
            self.summary.acknowledged += seen.acknowledged;
            self.summary.verified += seen.verified_blocks;
            self.summary.lost += seen.wrong;
            self.summary.unknown += seen.unknown;
            let stall = seen.longest_stall.as_millis() as u64;
            self.summary.longest_stall_ms = self.summary.longest_stall_ms.max(stall);
            for violation in &seen.violations {
                self.teller
                    .tell(&format!("WRONG, volume {}: {violation}", running.name));
            }
        }
        Ok(())
    }

    async fn run_load(&self) {
        let end = Instant::now() + Duration::from_secs(self.args.seconds);
        while Instant::now() < end {
            tokio::time::sleep(Duration::from_secs(1).min(end - Instant::now())).await;
        }
        let counts: Vec<String> = self
            .loads
            .iter()
            .map(|running| {
                let seen = running.load.seen();
                format!(
                    "{}: {} writes acknowledged, {} wrong",
                    running.name, seen.acknowledged, seen.wrong
                )
            })
            .collect();
        self.teller.tell(&counts.join("; "));
    }

    /// Until each volume has acknowledged something new; the longest wait.
    async fn wait_for_writes(&self, what: &str) -> anyhow::Result<Duration> {
        let mut longest = Duration::ZERO;
        for running in &self.loads {
            let began = Instant::now();
            let quiet = running.load.quiet_for();
            // A short wait at a time, so that a signal is heard in between.
            while tokio::task::block_in_place(|| running.load.wait_for_write(LOOK)).is_none() {
                if began.elapsed() > PATIENCE {
                    bail!(
                        "volume {} acknowledged nothing within {} s",
                        running.name,
                        PATIENCE.as_secs()
                    );
                }
                tokio::task::yield_now().await;
            }
            longest = longest.max(quiet + began.elapsed());
        }
        self.teller.tell(what);
        Ok(longest)
    }

    async fn attach(&self, client: &Client, volume: &str, node: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = proto::AttachVolumeRequest {
                volume: volume.into(),
                node: node.into(),
            };
            match client.volumes().attach(request).await {
                Ok(_) => return Ok(()),
                Err(status) if Instant::now() > deadline => {
                    return Err(words(status)
                        .context(format!("volume {volume} cannot be attached to {node}")));
                }
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    async fn detach(&self, client: &Client, volume: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = proto::DetachVolumeRequest {
                volume: volume.into(),
                ..Default::default()
            };
            match client.volumes().detach(request).await {
                Ok(_) => return Ok(()),
                Err(status) if Instant::now() > deadline => {
                    return Err(
                        words(status).context(format!("volume {volume} cannot be detached"))
                    );
                }
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    async fn show(&self, client: &Client, name: &str) -> anyhow::Result<VolumeView> {
        let request = proto::ShowVolumeRequest {
            volume: name.into(),
        };
        let view = VolumeView::from(
            client
                .volumes()
                .show(request)
                .await
                .map_err(words)?
                .into_inner(),
        );
        let copies: Vec<String> = view
            .replicas
            .iter()
            .map(|replica| {
                format!(
                    "{}{}",
                    replica.node,
                    if replica.certified { "*" } else { "" }
                )
            })
            .collect();
        self.teller.tell(&format!(
            "volume {name}: epoch {}, primary {}, copies {} (* in sync), {}",
            view.epoch,
            if view.primary.is_empty() {
                "none"
            } else {
                &view.primary
            },
            copies.join(" "),
            view.status
        ));
        Ok(view)
    }

    async fn wait_until_healthy(&self, client: &Client, name: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut told = String::new();
        loop {
            let request = proto::ShowVolumeRequest {
                volume: name.into(),
            };
            let view = VolumeView::from(
                client
                    .volumes()
                    .show(request)
                    .await
                    .map_err(words)?
                    .into_inner(),
            );
            if view.status == "healthy" {
                self.show(client, name).await?;
                return Ok(());
            }
            for replica in view.replicas.iter().filter(|replica| !replica.certified) {
                let now = format!("volume {name}: {}: {}", replica.node, replica.text);
                if now != told {
                    self.teller.tell(&now);
                    told = now;
                }
            }
            if Instant::now() > deadline {
                bail!(
                    "volume {name} is not healthy after {} s: {}",
                    PATIENCE.as_secs(),
                    view.headline
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn socket(&self, node: &str, volume: &str) -> anyhow::Result<PathBuf> {
        let layout = &self.cluster.layout;
        Ok(layout.directory(layout.node(node)?).export(volume))
    }

    /// What primaries on the first home have copied to joiners, from its metrics.
    async fn resynced_bytes(&self) -> anyhow::Result<u64> {
        let port = self.cluster.layout.node(FIRST_HOME)?.metrics_port;
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let values = text
            .lines()
            .filter_map(|line| line.strip_prefix("lockstep_resynced_bytes_total"));
        Ok(values
            .filter_map(|rest| rest.split_whitespace().last()?.parse::<f64>().ok())
            .sum::<f64>() as u64)
    }
}
