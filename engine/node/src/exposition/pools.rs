//! Pools of this node.

use lockstep_logic::PoolInspection;
use lockstep_types::EXTENT;

use super::text::{Kind, Text};

pub(super) fn describe(pools: &[PoolInspection], text: &mut Text) {
    let mut family = |name: &str, help: &str, value: fn(&PoolInspection) -> f64| {
        text.family(name, Kind::Gauge, help);
        for pool in pools {
            text.sample(name, &[("device", &pool.device.to_string())], value(pool));
        }
    };
    family(
        "lockstep_pool_serves",
        "1 if the pool is recovered and its device has not failed",
        |pool| f64::from(u8::from(pool.ready && pool.failed.is_none())),
    );
    family(
        "lockstep_pool_free_bytes",
        "Bytes of the pool that nobody was promised",
        |pool| f64::from(pool.free_extents) * EXTENT as f64,
    );
    family(
        "lockstep_pool_size_bytes",
        "Bytes of the pool for data",
        |pool| f64::from(pool.total_extents) * EXTENT as f64,
    );
    family(
        "lockstep_pool_journal_fill_ratio",
        "How full the journal is: writers are slowed from a half on",
        |pool| f64::from(pool.fill) / 65_536.0,
    );
}
