//! Progress of what takes long: on standard error, and only where a person looks at it.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Output;

/// How often it is drawn while nothing changes.
const TICK: Duration = Duration::from_millis(120);

/// A line that changes, and is gone once this is dropped.
pub struct Progress {
    bar: ProgressBar,
}

/// How far something is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Of [`Share::total`].
    pub done: u64,
    /// All.
    pub total: u64,
}

impl Progress {
    /// Begins. Where programs read, or nobody looks, nothing is drawn.
    pub fn begin(output: &Output) -> Self {
        // indicatif draws nothing by itself unless standard error is a terminal.
        let target = match output.is_json() {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(spinner());
        bar.enable_steady_tick(TICK);
        Self { bar }
    }

    /// Says what is going on, and how far it is if that is known.
    pub fn tell(&self, text: impl Into<String>, share: Option<Share>) {
        match share.filter(|share| share.total > 0) {
            Some(share) => {
                self.bar.set_style(gauge());
                self.bar.set_length(share.total);
                self.bar.set_position(share.done.min(share.total));
            }
            None => self.bar.set_style(spinner()),
        }
        self.bar.set_message(text.into());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {elapsed:>4} {wide_msg}")
        .expect("the template is well-formed")
}

fn gauge() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {elapsed:>4} [{bar:24}] {percent:>3} % {wide_msg}")
        .expect("the template is well-formed")
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_from_a_spinner_to_a_gauge_and_back() {
        let progress = Progress {
            bar: ProgressBar::hidden(),
        };
        progress.tell("waits", None);
        assert_eq!(progress.bar.message(), "waits");
        progress.tell("resyncs", Some(Share { done: 7, total: 5 }));
        assert_eq!(
            (progress.bar.position(), progress.bar.length()),
            (5, Some(5))
        );
        progress.tell("nothing to count", Some(Share { done: 0, total: 0 }));
        assert_eq!(progress.bar.message(), "nothing to count");
    }
}
