//! The ledger: every interval in which an acknowledged write could stand in one site only, although
//! its volume was promised two. Derived from committed in-sync changes, so that no node can forget
//! to write it down.

use crate::command::Bound;
use lockstep_types::{Stamp, VolumeId};
use std::collections::{BTreeMap, VecDeque};

/// Closed intervals that are kept.
const MAX_CLOSED: usize = 4096;

/// A time in which writes were acknowledged, or could be, on copies in one site only.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Interval {
    /// The volume.
    pub volume: VolumeId,
    /// Its name then.
    pub name: String,
    /// The site.
    pub site: String,
    /// The entry that began it.
    pub begin_index: u64,
    /// The proposer's clock then.
    pub begin_unix_ms: u64,
    /// The first write that may stand there only, once the primary has said it.
    pub begin: Option<Stamp>,
    /// The entry that ended it; none while it lasts.
    pub end_index: Option<u64>,
    /// The proposer's clock then.
    pub end_unix_ms: Option<u64>,
    /// The last such write, once the primary has said it.
    pub end: Option<Stamp>,
}

/// All intervals: the open ones by volume, the closed ones oldest first (the last 4,096).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ledger {
    pub(crate) open: BTreeMap<VolumeId, Interval>,
    pub(crate) closed: VecDeque<Interval>,
    pub(crate) forgotten: u64,
}

impl Ledger {
    /// The interval that lasts, if the volume stands in one site only now.
    pub fn open(&self, volume: VolumeId) -> Option<&Interval> {
        self.open.get(&volume)
    }

    /// All intervals of all volumes, closed ones first, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Interval> {
        self.closed.iter().chain(self.open.values())
    }

    /// Closed intervals that were pushed out.
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Brings a volume's interval in line: `site` is the one site of its certified copies, none if
    /// they stand as promised.
    pub(crate) fn refresh(
        &mut self,
        volume: VolumeId,
        name: &str,
        site: Option<&str>,
        index: u64,
        at: u64,
    ) {
        if let Some(open) = self.open.get(&volume)
            && Some(open.site.as_str()) != site
        {
            let mut ended = self.open.remove(&volume).expect("it was just there");
            ended.end_index = Some(index);
            ended.end_unix_ms = Some(at);
            if self.closed.len() == MAX_CLOSED {
                self.closed.pop_front();
                self.forgotten += 1;
            }
            self.closed.push_back(ended);
        }
        if let Some(site) = site {
            self.open.entry(volume).or_insert_with(|| Interval {
                volume,
                name: name.to_owned(),
                site: site.to_owned(),
                begin_index: index,
                begin_unix_ms: at,
                begin: None,
                end_index: None,
                end_unix_ms: None,
                end: None,
            });
        }
    }

    /// Notes the stamp at an end of the volume's newest interval that lacks it; whether one did.
    pub(crate) fn note(&mut self, volume: VolumeId, bound: Bound, stamp: Stamp) -> bool {
        let newest_closed = self
            .closed
            .iter_mut()
            .rev()
            .find(|interval| interval.volume == volume);
        let interval = match bound {
            Bound::Begin => self.open.get_mut(&volume).or(newest_closed),
            Bound::End => newest_closed,
        };
        let place = interval.map(|interval| match bound {
            Bound::Begin => &mut interval.begin,
            Bound::End => &mut interval.end,
        });
        match place {
            Some(place @ None) => {
                *place = Some(stamp);
                true
            }
            _ => false,
        }
    }
}
