//! Which daemon's pod is replaced next by its DaemonSet's new revision. A DaemonSet by itself would not wait for copies:
//! each daemon's end takes its copies out of their in-sync sets for a while, and the next may hold the last.

/// A daemon's pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Daemon {
    /// The node of Kubernetes that it is on.
    pub machine: String,
    /// Its name.
    pub pod: String,
    /// Its unique id.
    pub uid: String,
    /// Its DaemonSet has a newer revision.
    pub outdated: bool,
    /// It serves.
    pub ready: bool,
    /// It has been told to end.
    pub ending: bool,
}

/// All daemons, as far as they are of interest.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Daemons {
    /// Their pods.
    pub pods: Vec<Daemon>,
    /// How many pods there should be.
    pub wanted: usize,
    /// Every node of the cluster is heard, and every volume has all its copies certified.
    pub settled: bool,
}

impl Daemons {
    /// The pod to be deleted now: its DaemonSet makes another. None while anything is under way or amiss, but for a
    /// daemon that does not serve anyway, whose new revision may be what mends it.
    pub fn next(&self) -> Option<&Daemon> {
        let complete = self.pods.len() == self.wanted && self.pods.iter().all(|it| !it.ending);
        let outdated = || self.pods.iter().filter(|it| it.outdated);
        let broken: Vec<&Daemon> = self.pods.iter().filter(|it| !it.ready).collect();
        match broken[..] {
            _ if !complete => None,
            [] if self.settled => outdated().min_by(|a, b| a.machine.cmp(&b.machine)),
            [one] if one.outdated => Some(one),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemons(all: &[(&str, bool, bool)]) -> Daemons {
        let daemon = |(machine, outdated, ready): &(&str, bool, bool)| Daemon {
            machine: (*machine).into(),
            pod: format!("node-{machine}"),
            uid: format!("uid-{machine}"),
            outdated: *outdated,
            ready: *ready,
            ending: false,
        };
        Daemons {
            pods: all.iter().map(daemon).collect(),
            wanted: all.len(),
            settled: true,
        }
    }

    fn next(daemons: &Daemons) -> &str {
        daemons.next().map_or("", |it| &it.machine)
    }

    #[test]
    fn one_by_one_and_only_when_all_is_well() {
        let mut all = daemons(&[("b1", true, true), ("a1", true, true), ("w1", false, true)]);
        assert_eq!(next(&all), "a1");
        all.settled = false;
        assert_eq!(next(&all), "");
        all.settled = true;
        all.pods[2].ending = true;
        assert_eq!(next(&all), "");
        all.pods[2].ending = false;
        all.wanted = 4;
        assert_eq!(next(&all), "", "one that was deleted is not there again");
        assert_eq!(next(&daemons(&[("a1", false, true)])), "");
    }

    #[test]
    fn a_broken_one_is_mended_and_the_others_wait() {
        let mut broken = daemons(&[("a1", true, true), ("b1", true, false)]);
        broken.settled = false;
        assert_eq!(next(&broken), "b1");
        let new_and_broken = daemons(&[("a1", true, true), ("b1", false, false)]);
        assert_eq!(next(&new_and_broken), "");
        let two = daemons(&[("a1", true, false), ("b1", true, false)]);
        assert_eq!(next(&two), "", "somebody should look");
    }
}
