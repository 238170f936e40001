//! Files, the minimal replicator, the peer and a cluster with a few volumes: all stand beside each other
//! from the beginning, so that they can be measured in turn.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use lockstep_floor::report::Report;

use crate::beside;
use crate::cluster::Cluster;
use crate::floor::Floor;
use crate::load::{Client, Workload};
use crate::peer::Quorum;
use crate::plan::{Measurement, PEER, QUIET, RESYNCED, THREE, VOLUMES, WORN, What};
use crate::results::Figures;
use crate::run::Options;
use crate::size;

/// MiB of the volume that is resynced, and of the quiet one.
const SMALL: u64 = 128;
/// How many times deeper than it was a load may become that is paced, and falls behind.
const MOST_BEHIND: usize = 16;
/// How much of the pool the volume takes that wears it, in percent.
const WEARING: u64 = 60;
/// How often the pool is overwritten before its steady state is measured.
const TIMES: u64 = 2;

/// All of it.
pub struct MainRoom {
    floor: Floor,
    cluster: Cluster,
    quorum: Option<Quorum>,
    clients: BTreeMap<&'static str, Client>,
    seconds: u64,
    pool: u64,
    is_worn: bool,
}

impl MainRoom {
    /// Makes what the plan needs.
    pub fn open(
        options: &Options,
        plan: &[&Measurement],
        floor: Floor,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let cluster = Cluster::start(
            options.program()?,
            &directory.join("cluster"),
            &options.pool,
        )?;
        let mut room = Self {
            floor,
            cluster,
            quorum: None,
            clients: BTreeMap::new(),
            seconds: options.seconds(),
            pool: size::parse(&options.pool)?,
            is_worn: false,
        };
        let needs = |name: &str| plan.iter().any(|it| it.what.export() == Some(name));
        for (volume, copies) in VOLUMES {
            // The quiet one's neighbour is one of them.
            if needs(volume) || (volume == THREE && needs(QUIET)) {
                room.add_volume(volume, options.set, copies)?;
            }
        }
        for volume in [QUIET, RESYNCED] {
            if needs(volume) {
                room.add_volume(volume, SMALL.min(options.set), "a=2,b=1")?;
            }
        }
        // Beside the others from the beginning: it costs nothing while it is not asked.
        if needs(PEER) {
            let bytes = options.set << 20;
            let quorum = Quorum::start(&directory.join(PEER), bytes)?;
            let mut client = Client::connect(&quorum.socket, "")?;
            client.fill(bytes)?;
            room.clients.insert(PEER, client);
            room.quorum = Some(quorum);
        }
        Ok(room)
    }

    /// Measures once.
    pub fn measure(&mut self, measurement: &Measurement) -> anyhow::Result<(Report, Figures)> {
        self.cluster.settle()?;
        self.dispatch(&measurement.what)
            .with_context(|| format!("measuring {}", measurement.name))
    }

    fn dispatch(&mut self, what: &What) -> anyhow::Result<(Report, Figures)> {
        let alone = |report: Report| (report, Figures::new());
        match what {
            What::Floor(arguments) => self.floor.measure(arguments, self.seconds).map(alone),
            What::Lockstep(volume, workload) => self.drive(volume, workload).map(alone),
            What::Quiet(workload, None) => self.drive(QUIET, &small(workload)).map(alone),
            What::Quiet(workload, Some(noise)) => self.beside(&small(workload), noise).map(alone),
            What::Paced(percent, workload) => self.paced(*percent, workload),
            What::Resync(workload) => {
                let client = self.clients.get_mut(RESYNCED).expect("made for it");
                let workload = small(workload);
                beside::a_resync(&mut self.cluster, client, RESYNCED, &workload)
            }
            What::Worn(workload) => {
                self.wear()?;
                self.drive(WORN, workload).map(alone)
            }
            What::Peer(workload) => {
                let pids = self.quorum.as_ref().map(Quorum::pids).unwrap_or_default();
                let client = self.clients.get_mut(PEER).expect("made for it");
                client.drive(workload, &pids).map(alone)
            }
            What::Idle(_) | What::Many(..) | What::Postgres(_) => {
                unreachable!("measured in another room")
            }
        }
    }

    fn drive(&mut self, volume: &str, workload: &Workload) -> anyhow::Result<Report> {
        let client = self.clients.get_mut(volume);
        let client = client.expect("every volume that is needed has a client");
        client.drive(workload, &self.cluster.pids)
    }

    /// As fast as it goes, and then at a part of that rate.
    fn paced(&mut self, percent: u8, workload: &Workload) -> anyhow::Result<(Report, Figures)> {
        let unpaced = self.drive(THREE, workload)?.iops;
        let rate = unpaced * f64::from(percent) / 100.0;
        let paced = Workload {
            // What waits its turn counts from when it was due, however deep that makes it.
            depth: workload.depth * MOST_BEHIND,
            rate: Some(rate),
            ..workload.clone()
        };
        let report = self.drive(THREE, &paced)?;
        let figures = Figures::from([("unpaced, requests a second".to_owned(), unpaced)]);
        Ok((report, figures))
    }

    fn beside(&mut self, workload: &Workload, noise: &Workload) -> anyhow::Result<Report> {
        // Two at once cannot be borrowed out of one map.
        let mut loud = self.clients.remove(THREE).expect("made for it");
        let quiet = self.clients.get_mut(QUIET).expect("made for it");
        let pids = &self.cluster.pids;
        let report = beside::a_neighbour(quiet, workload, &mut loud, noise, pids);
        self.clients.insert(THREE, loud);
        report
    }

    /// Overwrites the pool the first time that it is asked for.
    fn wear(&mut self) -> anyhow::Result<()> {
        if self.is_worn {
            return Ok(());
        }
        let mib = (self.pool >> 20) * WEARING / 100;
        let socket = self.cluster.attach(WORN, &format!("{mib}MiB"), "a=2,b=1")?;
        let mut client = Client::connect(&socket, WORN)?;
        beside::wear(&mut client, TIMES * self.pool)?;
        self.clients.insert(WORN, client);
        self.is_worn = true;
        self.cluster.settle()
    }

    fn add_volume(&mut self, volume: &'static str, mib: u64, copies: &str) -> anyhow::Result<()> {
        let size = format!("{mib}MiB");
        let socket = self.cluster.attach(volume, &size, copies)?;
        let mut client = Client::connect(&socket, volume)?;
        client.fill(mib << 20)?;
        self.clients.insert(volume, client);
        Ok(())
    }
}

/// On all of a volume that is smaller than the others.
fn small(workload: &Workload) -> Workload {
    Workload {
        range: None,
        ..workload.clone()
    }
}
