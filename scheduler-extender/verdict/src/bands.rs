//! What the place of a node is worth for one volume, in thousandths of a point.
//!
//! | where the node is | points | what decides inside |
//! |---|---|---|
//! | a certified copy is on it | 8–10 | health of the site; who would take the volume over; leaving copies have 8 |
//! | another copy is on it | what its place is worth, at most 5; or 5 × how much is verified | |
//! | a certified copy in its rack | 6–7 | health of the site |
//! | in its zone | 4–5 | health of the site |
//! | in its site | 3–4 | health of the site |
//! | in another site | 1–2 | round trip to the nearest; 1 if it was not measured |
//! | none can be reached | 0 | |
//!
//! For a claim without a volume, "a certified copy" is a node that could be given one, and what decides inside
//! the first band is, instead of the order of taking over, how much is free.

use lockstep_types::{Nanos, millis};
use smallvec::SmallVec;

use crate::filter::extents;
use crate::storage::{LinkState, NOWHERE, Place, Storage, Stored};
use crate::wanted::Wish;

/// Thousandths of a point.
pub type Milli = i64;

/// The most that a node can get.
pub const MOST: Milli = 10_000;
/// The most for a copy that is not certified.
pub const OTHER_COPY: Milli = 5_000;
/// Round trips up to this are as good as they get, and from the other on as bad.
const NEAR: Nanos = millis(1);
const FAR: Nanos = millis(10);

/// How a node stands to a volume, best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Band {
    /// A certified copy is there, or could be placed there.
    Copy,
    /// A copy is there that is not certified, or cannot serve.
    OtherCopy,
    /// In the rack of one.
    Rack,
    /// In the zone of one.
    Zone,
    /// In the site of one.
    Site,
    /// In another site.
    Away,
    /// None can be reached from there.
    Nothing,
}

/// What a node gets for one volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Why.
    pub band: Band,
    /// How much, 0 to [`MOST`].
    pub milli: Milli,
}

/// What places are worth for a volume or for a claim without one.
pub(crate) enum Bands<'a> {
    Volume(VolumeBands<'a>),
    Wish(WishBands<'a>),
}

impl<'a> Bands<'a> {
    pub(crate) fn of_volume(storage: &'a Storage, volume: &'a Stored) -> Self {
        Self::Volume(VolumeBands::new(storage, volume))
    }

    pub(crate) fn of_wish(storage: &'a Storage, wish: &'a Wish, bytes: u64) -> Self {
        Self::Wish(WishBands::new(storage, wish, bytes))
    }

    pub(crate) fn standing(&self, member: u32) -> Standing {
        match self {
            Self::Volume(bands) => bands.standing(member),
            Self::Wish(bands) => bands.standing(member),
        }
    }
}

/// The places that matter for a volume: its copies' nodes, racks and zones, and every site.
pub(crate) struct VolumeBands<'a> {
    storage: &'a Storage,
    pub(crate) sites: Vec<Standing>,
    pub(crate) zones: SmallVec<[u32; 4]>,
    pub(crate) racks: SmallVec<[u32; 4]>,
    pub(crate) copies: SmallVec<[(u32, Standing); 4]>,
}

impl<'a> VolumeBands<'a> {
    fn new(storage: &'a Storage, volume: &Stored) -> Self {
        let serving = || volume.copies.iter().filter(|copy| copy.serves);
        let mut near: SmallVec<[u32; 4]> = SmallVec::new();
        let (mut zones, mut racks) = (SmallVec::new(), SmallVec::new());
        for copy in serving() {
            let place = storage.place(copy.member);
            for (at, list) in [
                (place.site, &mut near),
                (place.zone, &mut zones),
                (place.rack, &mut racks),
            ] {
                if at != NOWHERE && !list.contains(&at) {
                    list.push(at);
                }
            }
        }
        let site = |site: u32| of_site(storage, site, &near);
        let sites = (0..).take(storage.sites().len()).map(site).collect();
        let mut bands = Self {
            storage,
            sites,
            zones,
            racks,
            copies: SmallVec::new(),
        };
        for copy in &volume.copies {
            let place = storage.place(copy.member);
            let standing = if copy.serves {
                let ahead = 1000 / (1 + 2 * i64::from(copy.rank));
                let inside = if copy.leaving {
                    0
                } else {
                    storage.health(place.site) + ahead
                };
                standing(Band::Copy, 8000 + inside)
            } else {
                let earned = OTHER_COPY * i64::from(copy.verified) / 1000;
                let by_place = bands.by_place(place).milli.min(OTHER_COPY);
                standing(Band::OtherCopy, earned.max(by_place))
            };
            bands.copies.push((copy.member, standing));
        }
        bands
    }

    fn standing(&self, member: u32) -> Standing {
        let copy = self.copies.iter().find(|(at, _)| *at == member);
        copy.map_or_else(|| self.by_place(self.storage.place(member)), |copy| copy.1)
    }

    /// What a place is worth without a copy there.
    pub(crate) fn by_place(&self, place: &Place) -> Standing {
        if self.racks.contains(&place.rack) {
            self.of_rack(place.site)
        } else if self.zones.contains(&place.zone) {
            self.of_zone(place.site)
        } else {
            self.sites[place.site as usize]
        }
    }

    pub(crate) fn of_rack(&self, site: u32) -> Standing {
        standing(Band::Rack, 6000 + self.storage.health(site))
    }

    pub(crate) fn of_zone(&self, site: u32) -> Standing {
        standing(Band::Zone, 4000 + self.storage.health(site))
    }
}

/// The places that matter for a claim without a volume: where its copies could be.
pub(crate) struct WishBands<'a> {
    storage: &'a Storage,
    extents: u64,
    /// By site: what it is worth, and whether the class wants a copy there or leaves that open.
    sites: Vec<(Standing, bool)>,
    /// What an extent is worth, of the most that is free on a node anywhere: a product where a quotient for each
    /// node and claim would cost the most of all.
    an_extent: f64,
}

impl<'a> WishBands<'a> {
    fn new(storage: &'a Storage, wish: &Wish, bytes: u64) -> Self {
        let extents = extents(bytes);
        let wants = |name: &str| wish.copies.wanted_in(name) != Some(0);
        let takes = |at: &u32| {
            let site = storage.site(*at);
            wants(&site.name) && site.room >= extents
        };
        let all = (0..).take(storage.sites().len());
        let near: SmallVec<[u32; 4]> = all.clone().filter(takes).collect();
        let site = |site: u32| {
            let standing = of_site(storage, site, &near);
            (standing, wants(&storage.site(site).name))
        };
        let most = storage.sites().iter().map(|site| site.room).max();
        Self {
            storage,
            extents,
            sites: all.map(site).collect(),
            an_extent: 1000.0 / most.unwrap_or(0).max(1) as f64,
        }
    }

    pub(crate) fn standing(&self, member: u32) -> Standing {
        let place = self.storage.place(member);
        let (of_site, wanted) = self.sites[place.site as usize];
        if !wanted {
            return of_site;
        }
        let health = self.storage.health(place.site);
        if place.room >= self.extents {
            let free = (place.room - self.extents) as f64 * self.an_extent;
            let free = (free as Milli).min(1000);
            standing(Band::Copy, 8000 + health + free)
        } else if self.storage.rack_room(place.rack) >= self.extents {
            standing(Band::Rack, 6000 + health)
        } else if self.storage.zone_room(place.zone) >= self.extents {
            standing(Band::Zone, 4000 + health)
        } else {
            of_site
        }
    }
}

/// What a site is worth, if copies are near in these.
fn of_site(storage: &Storage, site: u32, near: &[u32]) -> Standing {
    if near.contains(&site) {
        return standing(Band::Site, 3000 + storage.health(site));
    }
    let away = near
        .iter()
        .filter_map(|other| match storage.link(site, *other) {
            Some(LinkState::Cut) => None,
            Some(LinkState::RoundTrip(time)) => Some(2000 - slowness(time)),
            None => Some(1000),
        });
    away.max().map_or(standing(Band::Nothing, 0), |milli| {
        standing(Band::Away, milli)
    })
}

/// 0 for a near site, 1000 for a far one.
fn slowness(round_trip: Nanos) -> Milli {
    let beyond = round_trip.clamp(NEAR, FAR) - NEAR;
    i64::try_from(beyond * 1000 / (FAR - NEAR)).unwrap_or(1000)
}

const fn standing(band: Band, milli: Milli) -> Standing {
    Standing { band, milli }
}
