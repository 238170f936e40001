//! Requests of the volumes that are attached here.

use lockstep_types::Nanos;

use super::text::{Kind, Text};
use crate::plane::VolumeTally;
use crate::plane::exports::{BOUNDS, Kind as Requests};

const SECONDS: &str = "lockstep_volume_request_seconds";

pub(super) fn describe(volumes: &[VolumeTally], text: &mut Text) {
    text.family(
        SECONDS,
        Kind::Histogram,
        "From a request of a client to its answer, of those that did not fail",
    );
    for (volume, kind) in every_kind(volumes) {
        histogram(volume, kind, text);
    }
    let name = "lockstep_volume_request_bytes_total";
    text.family(name, Kind::Counter, "Bytes of requests that did not fail");
    for (volume, kind) in every_kind(volumes) {
        let labels = [("volume", volume.name.as_str()), ("op", kind.name())];
        text.sample(name, &labels, volume.tally.of(kind).bytes);
    }
    let name = "lockstep_volume_request_errors_total";
    text.family(name, Kind::Counter, "Requests answered with an error");
    for (volume, kind) in every_kind(volumes) {
        let labels = [("volume", volume.name.as_str()), ("op", kind.name())];
        text.sample(name, &labels, volume.tally.of(kind).failed);
    }
    let name = "lockstep_volume_waiting_seconds";
    text.family(
        name,
        Kind::Gauge,
        "How long the oldest request has waited that is not answered; 0 if none is under way",
    );
    for volume in volumes {
        text.sample(name, &[("volume", &volume.name)], seconds(volume.waits));
    }
}

fn every_kind(volumes: &[VolumeTally]) -> impl Iterator<Item = (&VolumeTally, Requests)> {
    volumes
        .iter()
        .flat_map(|volume| Requests::ALL.into_iter().map(move |kind| (volume, kind)))
}

fn histogram(volume: &VolumeTally, kind: Requests, text: &mut Text) {
    let requests = volume.tally.of(kind);
    let (name, op) = (volume.name.as_str(), kind.name());
    let bucket = format!("{SECONDS}_bucket");
    let mut within = 0;
    for (bound, count) in BOUNDS.iter().zip(requests.within) {
        within += count;
        let le = seconds(*bound).to_string();
        let labels = [("volume", name), ("op", op), ("le", &le)];
        text.sample(&bucket, &labels, within);
    }
    let labels = [("volume", name), ("op", op), ("le", "+Inf")];
    text.sample(&bucket, &labels, requests.done);
    let labels = [("volume", name), ("op", op)];
    text.sample(&format!("{SECONDS}_sum"), &labels, seconds(requests.took));
    text.sample(&format!("{SECONDS}_count"), &labels, requests.done);
}

fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}
