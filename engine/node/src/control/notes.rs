//! Events about certificates. What strangers can bring about is told once an hour, and not more than
//! so much of it: the log is no place to be flooded.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lockstep_control::{Command, Fate};
use lockstep_net::{PeerIdentity, Refusal};

use super::Control;

/// Before the same is told again.
const AGAIN: Duration = Duration::from_secs(3600);
/// So many different ones are told within that time.
const MOST: usize = 32;

/// What was told of late.
#[derive(Debug, Default)]
pub(super) struct Told {
    when: BTreeMap<(String, String), Instant>,
}

impl Told {
    /// Whether this is worth an event; then it has been told.
    fn is_news(&mut self, now: Instant, whose: &str, detail: &str) -> bool {
        self.when
            .retain(|_, at| now.saturating_duration_since(*at) < AGAIN);
        let key = (whose.to_owned(), detail.to_owned());
        if self.when.contains_key(&key) || self.when.len() == MOST {
            return false;
        }
        self.when.insert(key, now);
        true
    }
}

impl Control {
    /// Has an event say what became of a certificate. It is in the log of the daemon in any case.
    pub async fn note_certificate(&self, fate: Fate, whose: String, detail: String) {
        let by_strangers = matches!(fate, Fate::Refused | Fate::Denied);
        if by_strangers
            && !self
                .inner
                .told
                .lock()
                .is_news(Instant::now(), &whose, &detail)
        {
            return;
        }
        let command = Command::NoteCertificate {
            teller: self.node(),
            fate,
            whose,
            detail,
        };
        if let Err(error) = self.propose_patiently(command).await {
            tracing::info!(%error, "no event tells of a certificate");
        }
    }

    /// As [`Self::note_certificate`], for what handshakes refused.
    pub async fn note_refusals(&self, refusals: Vec<Refusal>) {
        for Refusal { whose, why } in refusals {
            let whose = match whose {
                Some(identity) => self.holder(identity),
                None => "a stranger".to_owned(),
            };
            self.note_certificate(Fate::Refused, whose, why).await;
        }
    }

    /// Whose a certificate says that it is, by name where there is one.
    fn holder(&self, identity: PeerIdentity) -> String {
        let state = self.state();
        let ours = state
            .cluster
            .as_ref()
            .is_some_and(|c| c.id == identity.cluster);
        match state.nodes.get(&identity.node).filter(|_| ours) {
            Some(node) => format!("node '{}'", node.name),
            None if ours => format!("{} {}", identity.role, identity.node),
            None => format!(
                "{} {} of cluster {}",
                identity.role, identity.node, identity.cluster
            ),
        }
    }
}

/// For how long a certificate is good, in words.
pub fn good_for(seconds: u64) -> String {
    match seconds / 86_400 {
        0 => format!("good for {} minutes", seconds / 60),
        days => format!("good for {days} days"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_once_an_hour_and_a_flood_is_not() {
        let (mut told, now) = (Told::default(), Instant::now());
        assert!(told.is_news(now, "a stranger", "expired"));
        assert!(!told.is_news(now + AGAIN / 2, "a stranger", "expired"));
        assert!(told.is_news(now + AGAIN / 2, "node 'b1'", "expired"));
        assert!(told.is_news(now + AGAIN, "a stranger", "expired"));
        let later = now + 3 * AGAIN;
        let news = (0..1000).filter(|n| told.is_news(later, "a stranger", &n.to_string()));
        assert_eq!(news.count(), MOST);
    }

    #[test]
    fn a_life_is_said_in_days() {
        assert_eq!(good_for(365 * 86_400 + 5), "good for 365 days");
        assert_eq!(good_for(600), "good for 10 minutes");
    }
}
