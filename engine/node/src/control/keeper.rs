//! The leader's work on the voters: what is to be done is decided by `lockstep_consensus::electorate`, and
//! carried out here.

use std::time::{Duration, Instant};

use lockstep_consensus::electorate::{Electorate, Generation, Heard, Seated, Step};
use lockstep_consensus::voters::{GONE_AFTER, Seat};
use lockstep_consensus::{ConfState, Status};
use lockstep_control::{Command, Node, State};
use lockstep_types::{Nanos, NodeRole};

use super::heartbeat::When;
use super::{Control, ProposeError};

const EVERY: Duration = Duration::from_millis(500);

/// Works until the control plane stops.
pub async fn keep_voters(control: Control) {
    let began = Instant::now();
    let mut leading_since = None;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last_tick = Instant::now();
    loop {
        ticks.tick().await;
        // R22: silence counts only while this process itself ran.
        let slept = last_tick.elapsed() > EVERY * 4;
        last_tick = Instant::now();
        if !control.role().borrow().leading {
            leading_since = None;
            continue;
        }
        if slept {
            leading_since = None;
        }
        let since = *leading_since.get_or_insert_with(Instant::now);
        if let Err(error) = step(&control, began, since).await {
            tracing::debug!(%error, "the voters are looked after again later");
        }
    }
}

/// One look, at most one change.
async fn step(
    control: &Control,
    began: Instant,
    leading_since: Instant,
) -> Result<(), ProposeError> {
    let status = control.status().await?;
    if is_news(&control.state(), &status.conf) {
        control.propose(Command::NoteVoters).await?;
    }
    match look(control, &status, began, leading_since) {
        None => {}
        Some(Step::Bind { raft_id, node }) => {
            control.propose(Command::PutVoter { raft_id, node }).await?;
        }
        Some(Step::Release { raft_id }) => {
            control.propose(Command::RemoveVoter { raft_id }).await?;
        }
        Some(Step::Reconfigure(change)) => {
            tracing::info!(voters = ?change.voters, learners = ?change.learners, leaving = ?change.remove, "changing the voters");
            control.inner.consensus.reconfigure(change).await?;
        }
    }
    Ok(())
}

/// Whether others vote than an event has last said. A joint configuration is on its way to another.
fn is_news(state: &State, conf: &ConfState) -> bool {
    let voters = &state.voters;
    conf.voters_outgoing.is_empty()
        && voters.voting.iter().all(|id| voters.bound.contains_key(id))
        && !voters.voting.iter().eq(voters.told.keys())
}

/// Hands all that is known to the decision.
fn look(
    control: &Control,
    status: &Status,
    began: Instant,
    leading_since: Instant,
) -> Option<Step> {
    let at = |instant| nanos(instant, began);
    let heard = |when: &When| Heard {
        raft_id: when.raft_id,
        last: at(when.last),
        since: at(when.since),
        generation: when.generation.map(|number| Generation {
            number,
            rebuilt: when.rebuilt,
        }),
    };
    let heard = control
        .inner
        .heard
        .lock()
        .when()
        .iter()
        .map(|(node, when)| (*node, heard(when)))
        .collect();
    let state = control.state();
    let electorate = Electorate {
        now: at(Instant::now()),
        leading_since: at(leading_since),
        leader: (control.node(), control.raft_id()),
        generation: Generation {
            number: state.generation,
            rebuilt: state.rebuilt_unix_ms,
        },
        nodes: state
            .nodes
            .iter()
            .map(|(id, node)| (*id, seated(&state, node)))
            .collect(),
        bound: &state.voters.bound,
        barred: &state.voters.barred,
        heard,
        conf: &status.conf,
        progress: &status.progress,
        last: status.last,
    };
    electorate.decide()
}

fn seated(state: &State, node: &Node) -> Seated {
    let sites = state.data_sites();
    let seat = match sites.iter().position(|site| *site == node.site) {
        _ if node.role == NodeRole::Witness => Some(Seat::W),
        Some(0) => Some(Seat::A),
        Some(1) => Some(Seat::B),
        _ => None,
    };
    Seated {
        seat,
        cordoned: node.cordoned,
    }
}

/// Instants as nanoseconds, with room below for what is long gone.
fn nanos(instant: Instant, began: Instant) -> Nanos {
    const ROOM: Nanos = 2 * GONE_AFTER;
    let since = instant.saturating_duration_since(began);
    ROOM + u64::try_from(since.as_nanos()).unwrap_or(u64::MAX - ROOM)
}
